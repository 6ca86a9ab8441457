"""Who may see an event that is in a room's history.

Owns: reading ``m.room.history_visibility`` and the two questions, may this user see the event, and may this server be
given it. The caller looks up visibility and memberships at the event; nothing here walks a room.

Source: Matrix specification v1.11, client-server API "Room History Visibility" (the I-D leaves the section open, and
the protocol notes' "Transport" says to follow Matrix); ``m.mls.commit`` is visible to every member, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

HISTORY_VISIBILITY: Final = "m.room.history_visibility"
_COMMIT: Final = "m.mls.commit"


class Visibility(Enum):
    """The four values, the most permissive first."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


_BY_VALUE: Final[Mapping[str, Visibility]] = {visibility.value: visibility for visibility in Visibility}
_ORDER: Final = tuple(Visibility)


def visibility_of(content: Mapping[str, Any] | None) -> Visibility:
    """The visibility that a history visibility event's content sets; ``shared`` when there is none or it is unknown."""
    value = None if content is None else content.get("history_visibility")
    return _BY_VALUE.get(value, Visibility.SHARED) if isinstance(value, str) else Visibility.SHARED


def visibility_at(event_type: str, state_key: str | None, content: Mapping[str, Any], before: Visibility) -> Visibility:
    """The visibility that holds for an event, given the one that held just before it.

    A change of visibility is seen by whoever may see either side of it.
    """
    if event_type == HISTORY_VISIBILITY and state_key == "":
        return min(before, visibility_of(content), key=_ORDER.index)
    return before


def user_may_see(event_type: str, visibility: Visibility, memberships: Iterable[str], joined_later: bool) -> bool:
    """Whether a user may see an event.

    Args:
        event_type: the event's type.
        visibility: what held for the event; see :func:`visibility_at`.
        memberships: the user's membership at the event; of the user's own membership events, before and after.
        joined_later: whether the user joined at any time after the event.
    """
    return _may_see(event_type, visibility, frozenset(memberships), joined_later)


def server_may_see(event_type: str, visibility: Visibility, memberships: Iterable[str], joined_later: bool) -> bool:
    """Whether a server may be given an event: some user of it may see it.

    Args:
        event_type: the event's type.
        visibility: what held for the event; see :func:`visibility_at`.
        memberships: the memberships at the event of the server's users; of a membership event of one, before and after.
        joined_later: whether any user of the server joined at any time after the event.
    """
    return _may_see(event_type, visibility, frozenset(memberships), joined_later)


def _may_see(event_type: str, visibility: Visibility, memberships: frozenset[str], joined_later: bool) -> bool:
    # 1
    if visibility is Visibility.WORLD_READABLE:
        return True
    # 2
    if "join" in memberships:
        return True
    # 3, and commits: without them a later member could not follow the group's history at all.
    if visibility is Visibility.SHARED or event_type == _COMMIT:
        return joined_later
    # 4
    if visibility is Visibility.INVITED:
        return "invite" in memberships
    # 5
    return False
