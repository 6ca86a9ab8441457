"""What one user may see in one room.

Owns: :class:`RoomView`, the history of the user's membership and of the room's visibility, against which every event
that is shown to a client is held. It is loaded once for a room and a request, and is pure from then on. Invariants: an
event that was rejected or soft-failed is never shown; a user always sees what concerns its own membership. Source:
Client-Server API v1.11, "Room History Visibility"; the rules themselves are :mod:`lmatrix.events.visibility`'s.

A participant knows some state only from the snapshot that it joined with. Such state held for all of the history that
was fetched since, down to where the event that set it is found; below that, and above what was set before it, the
value is not known. An unknown visibility counts as ``joined``, until the log reaches down to the room's creation.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import attrs

from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.interfaces import TimelineStore
from lmatrix.events.visibility import HISTORY_VISIBILITY, Visibility, user_may_see, visibility_at, visibility_of
from lmatrix.rooms.interfaces import RoomStore, Standing, StoredEvent

MEMBER = "m.room.member"
CREATE = "m.room.create"
NEVER = "leave"
"""The membership of somebody who has none (I-D "m.room.member")."""


@attrs.frozen(slots=True)
class RoomView:
    """One user's eyes on one room.

    Attributes:
        member_positions: token positions from which on the user's membership had a value, ascending.
        member_values: those values.
        visibility_positions, visibility_values: the same for the room's history visibility.
        unknown_below: whether the visibility below the first of those positions is not known.
    """

    user_id: str
    member_positions: Sequence[int]
    member_values: Sequence[str]
    visibility_positions: Sequence[int]
    visibility_values: Sequence[Visibility]
    unknown_below: bool

    @classmethod
    def load(cls, tx: Any, store: RoomStore, timeline: TimelineStore, room_id: str, user_id: str) -> RoomView:
        """Look the histories up."""

        def history(event_type: str, state_key: str) -> list[tuple[int, LogEvent]]:
            found = store.state_history(tx, room_id, event_type, state_key)
            return [(_holds_from(tx, store, timeline, event), LogEvent.of(event)) for event in found]

        members = history(MEMBER, user_id)
        visibilities = history(HISTORY_VISIBILITY, "")
        return cls(
            user_id=user_id,
            member_positions=[position for position, _ in members],
            member_values=[membership_in(event) for _, event in members],
            visibility_positions=[position for position, _ in visibilities],
            visibility_values=[visibility_of(event.content) for _, event in visibilities],
            unknown_below=bool(visibilities) and _is_open_below(tx, store, visibilities[0][1].stored),
        )

    def membership_before(self, position: int) -> str:
        """The user's membership just before a position."""
        index = bisect_left(self.member_positions, position)
        return self.member_values[index - 1] if index else NEVER

    def membership_after(self, position: int) -> str:
        """The user's membership once the event at a position has happened."""
        return self.membership_before(position + 1)

    @property
    def was_ever_joined(self) -> bool:
        """Whether the user is or was in the room."""
        return "join" in self.member_values

    @property
    def is_world_readable(self) -> bool:
        """Whether anybody may read what is happening now."""
        return bool(self.visibility_values) and self.visibility_values[-1] is Visibility.WORLD_READABLE

    def memberships_between(self, after: int, up_to: int) -> Sequence[str]:
        """What the membership was set to at positions ``after < p <= up_to``."""
        return self.member_values[
            bisect_right(self.member_positions, after) : bisect_right(self.member_positions, up_to)
        ]

    def end_of_last_stay(self, position: int) -> int:
        """Where, at or before a position, the user's last stay in the room ended; 0 when there was none."""
        index = bisect_right(self.member_positions, position)
        for later in range(index - 1, 0, -1):
            if self.member_values[later] != "join" and self.member_values[later - 1] == "join":
                return self.member_positions[later]
        return 0

    def next_change(self, position: int) -> int:
        """Where, after a position, the user's membership was set next; the position after it when it was not."""
        index = bisect_right(self.member_positions, position)
        return self.member_positions[index] if index < len(self.member_positions) else position + 1

    def joined_after(self, position: int) -> bool:
        """Whether the user joined at any time after a position."""
        first = bisect_right(self.member_positions, position)
        return any(value == "join" for value in self.member_values[first:])

    def visibility_before(self, position: int) -> Visibility:
        """What held just before a position."""
        index = bisect_left(self.visibility_positions, position)
        if index:
            return self.visibility_values[index - 1]
        return Visibility.JOINED if self.unknown_below else Visibility.SHARED

    def may_see(self, event: LogEvent) -> bool:
        """Whether the user may see an event of the log."""
        if event.stored.standing is not Standing.ACCEPTED:
            return False
        if event.type == MEMBER and event.state_key == self.user_id:
            # Somebody who is invited, kicked or banned has to learn of it, whatever else the user may read.
            return True
        position = event.position
        visibility = visibility_at(event.type, event.state_key, event.content, self.visibility_before(position))
        memberships = (self.membership_before(position),)
        return user_may_see(event.type, visibility, memberships, self.joined_after(position))


def membership_in(event: LogEvent) -> str:
    """The membership that a member event sets."""
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else NEVER


def _is_placed(tx: Any, store: RoomStore, event: StoredEvent) -> bool:
    """Whether an event has a place of its own in the log."""
    if event.stream is not None:
        return True
    stored = store.event(tx, event.event_id)
    return stored is not None and stored.position > 0


def _is_open_below(tx: Any, store: RoomStore, first: StoredEvent) -> bool:
    """Whether there may have been another value before the first one that is known.

    Not when that was set by a live event (a log or snapshot without a value came before), nor when it came with a
    snapshot and has no place yet (it holds for all that is held); only when it was found in fetched history that has
    no beginning.
    """
    if first.stream is not None or not _is_placed(tx, store, first):
        return False
    creation = store.state_history(tx, first.room_id, CREATE, "")
    return not (creation and _is_placed(tx, store, creation[0]))


def _holds_from(tx: Any, store: RoomStore, timeline: TimelineStore, event: StoredEvent) -> int:
    """The token position from which on a state event is known to have held.

    For an event that came with a snapshot and has no place in the log, that is the end of the run before the
    snapshot's: if it had been set in history that is held, it would have its place there.
    """
    if _is_placed(tx, store, event):
        return event.position
    snapshot = event.position
    first = store.events_between(tx, event.room_id, snapshot, snapshot + 1, 1)
    if not first or first[0].stream is None:
        return snapshot
    return timeline.position_at(tx, event.room_id, first[0].stream - 1)
