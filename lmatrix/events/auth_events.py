"""Which state events prove that an event may be sent.

Owns: the auth events selection algorithm, in a fixed order: create, power levels, sender's membership, target's
membership, join rules, hub.

Source: I-D "Auth Events Selection"; protocol notes, "Hub transfer (I.1)", for the hub event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmatrix.events.candidate import Candidate
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.state import StateView

if TYPE_CHECKING:
    from lmatrix.events.room_versions import RoomVersion

StateKeyPair = tuple[str, str]


def auth_event_keys(
    version: RoomVersion,
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
    hub_server: str | None,
) -> tuple[StateKeyPair, ...]:
    """The (type, state key) pairs that an event's auth events may have, without repetition."""
    if event_type == "m.room.create":
        return ()
    # 1, 2, 3
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
    if event_type == "m.room.member":
        # 4.1
        if state_key is not None and state_key != sender:
            keys.append(("m.room.member", state_key))
        # 4.2
        membership = content.get("membership")
        if membership == "join" or membership == "invite":
            keys.append(("m.room.join_rules", ""))
    # Ours: the event that says who the hub is.
    if hub_server is not None and version.hub_is_state:
        keys.append((HUB_EVENT, ""))
    return tuple(keys)


def select_auth_events(event: Candidate, state: StateView) -> tuple[str, ...]:
    """The event IDs of an event's auth events in ``state`` (the state before the event)."""
    keys = auth_event_keys(
        event.room_version, event.type, event.sender, event.state_key, event.content, event.hub_server
    )
    found = [state.get(event_type, state_key) for event_type, state_key in keys]
    return tuple([event.event_id for event in found if event is not None])


def are_selected(auth_events: Sequence[str], event: Candidate, state: StateView) -> bool:
    """Whether a list of event IDs is what :func:`select_auth_events` gives, in whatever order, and each of them once.

    In a linear room nothing else passes rules 4.1 to 4.3: there is one state before an event.
    """
    return sorted(auth_events) == sorted(select_auth_events(event, state))
