"""A room as it lies on the disk, for whoever checks it: the values and the store's interface.

Owns: :class:`ExaminedRoom`, :class:`ExaminedRun`, :class:`ExaminedEvent`, :class:`StateChange` and the protocol
:class:`ExaminationStore`. Unlike what the rooms themselves read, nothing here is made of anything else: what is in the
database twice (an event's type, in a column and in its JSON) is read twice, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import attrs

from lmatrix.rooms.interfaces import Standing


@attrs.frozen(slots=True)
class ExaminedRun:
    """A stay of this server in a room, and the part of the log that belongs to it.

    Attributes:
        first_position: where the log began when the run was opened; what is below was fetched later.
        low_position: its lowest position.
        end_position: its last position; ``None`` for the current run.
        joined: whether its lowest event follows the last event of the run before.
    """

    first_position: int
    low_position: int
    end_position: int | None
    joined: bool


@attrs.frozen(slots=True)
class ExaminedRoom:
    """What the database says of a room as a whole.

    Attributes:
        runs: oldest first.
    """

    room_id: str
    room_version: str
    first_position: int
    head_position: int
    head_event_id: str | None
    runs: Sequence[ExaminedRun]


@attrs.frozen(slots=True)
class ExaminedEvent:
    """A row for one event.

    Attributes:
        position: its place in the log; ``None`` for one that is known from a snapshot of the state only.
        event_id, type, state_key, sender, origin_server_ts, lpdu_hash: what the columns say.
        redacted_by: event ID of the redaction that took effect on it.
        canonical: the event itself.
    """

    position: int | None
    event_id: str
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    lpdu_hash: str | None
    standing: Standing
    redacted_by: str | None
    canonical: bytes


class StateChange(NamedTuple):
    """A row that says: from this position on, this event is the state for this key."""

    position: int
    type: str
    state_key: str
    event_id: str


class CurrentState(NamedTuple):
    """A row of the current state; ``membership`` is what its column says."""

    type: str
    state_key: str
    event_id: str
    membership: str | None


class ExaminationStore(Protocol):
    """Reading a room for its examination. A method takes the transaction first, and changes nothing."""

    def room_ids(self, tx: Any) -> Sequence[str]:
        """Every room, the oldest first."""

    def room(self, tx: Any, room_id: str) -> ExaminedRoom | None:
        """A room as a whole."""

    def log(self, tx: Any, room_id: str, after: int, up_to: int, limit: int) -> Sequence[ExaminedEvent]:
        """Events at positions ``after < p <= up_to``, ascending."""

    def without_place(self, tx: Any, room_id: str) -> Sequence[ExaminedEvent]:
        """Events that are known from snapshots only."""

    def events(self, tx: Any, room_id: str, event_ids: Sequence[str]) -> Sequence[ExaminedEvent]:
        """Those of the events that are held in the room, in no particular order."""

    def doubled_lpdus(self, tx: Any, room_id: str) -> Sequence[tuple[str, Sequence[str]]]:
        """LPDUs from which several accepted events were made: the sender, and the events, the earliest first."""

    def state_changes(self, tx: Any, room_id: str) -> Sequence[StateChange]:
        """All state changes, in no particular order."""

    def current_state(self, tx: Any, room_id: str) -> Sequence[CurrentState]:
        """The current state."""

    def servers_owed(self, tx: Any, room_id: str) -> Sequence[str]:
        """Servers that are owed whatever the room's log will get."""
