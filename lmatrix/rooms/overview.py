"""What an operator is told of rooms and destinations, and where it comes from: the values and the store's interface.

Owns: :class:`RoomOverview`, :class:`DestinationOverview`, :class:`KeptEvidence` and the protocol
:class:`OverviewStore`. They answer "what is here, and how is it doing?" for many rooms at once, without loading any of
them: a room's state may be large, and nobody is about to change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.events.state import StateEvent, StateMap
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.interfaces import Evidence, StoredEvent


@attrs.frozen(slots=True)
class RoomOverview:
    """A room, as far as a list of rooms shows it.

    Attributes:
        first_position: first position of the current run.
        head_position, head_event_id: the last event of the log; the event ID is ``None`` when there is none.
        hub_state: the state events by which a room's hub is known (create and hub), those of them that there are.
        joined: number of joined users of each server that has any.
    """

    room_id: str
    room_version: str
    first_position: int
    head_position: int
    head_event_id: str | None
    hub_state: Sequence[StoredEvent]
    joined: Mapping[str, int]

    def hub_server(self) -> str | None:
        """The room's hub; ``None`` where that cannot be told: an unknown room version, or no create event."""
        try:
            version = room_version(self.room_version)
        except UnsupportedRoomVersion:
            return None
        state = StateMap(
            StateEvent.from_pdu(Pdu.from_canonical(event.canonical, version), event.position)
            for event in self.hub_state
        )
        return None if state.get("m.room.create") is None else version.hub_server(state)

    def role_of(self, server_name: str) -> str:
        """What a server is in the room: ``"hub"``, ``"participant"``, or ``"left"``."""
        if self.hub_server() == server_name:
            return "hub"
        return "participant" if self.joined.get(server_name, 0) > 0 else "left"


@attrs.frozen(slots=True)
class RoomBacklog:
    """What waits, or was kept, for one room.

    Attributes:
        pending_lpdus: LPDUs of local users for which the hub has not answered yet.
        evidence: pieces of evidence against hubs.
    """

    pending_lpdus: int
    evidence: int


@attrs.frozen(slots=True)
class DestinationOverview:
    """Another server, and what it is owed.

    Attributes:
        owed_events: events of rooms whose hub this server is (or was), over all rooms.
        owed_rooms: in how many rooms.
        pending_lpdus: LPDUs that wait for it as their hub.
        edus: EDUs in its outbox.
        state: its back-off.
    """

    destination: str
    owed_events: int
    owed_rooms: int
    pending_lpdus: int
    edus: int
    state: DestinationState


@attrs.frozen(slots=True)
class KeptEvidence:
    """A piece of evidence with its number, by which lists of them are paged."""

    number: int
    evidence: Evidence


class OverviewStore(Protocol):
    """Reading for operators. A method takes the transaction first, and changes nothing."""

    def rooms_after(self, tx: Any, room_id: str, limit: int) -> Sequence[RoomOverview]:
        """Rooms in the order of their IDs, after ``room_id`` (``""``: from the first)."""

    def room(self, tx: Any, room_id: str) -> RoomOverview | None:
        """One room."""

    def backlog(self, tx: Any, room_id: str) -> RoomBacklog:
        """What waits for a room."""

    def evidence_after(self, tx: Any, room_id: str, number: int, limit: int) -> Sequence[KeptEvidence]:
        """A room's evidence in the order in which it was found, after that ``number`` (0: from the first)."""

    def owed_after(self, tx: Any, destination: str, limit: int) -> Sequence[DestinationOverview]:
        """Destinations that are owed something or do not answer, in the order of their names, after that one."""
