"""A stored room, checked again from the first event that is held.

Owns: :func:`examine_room`. It goes through the log once, in pieces, and believes nothing that was concluded when the
events came in. What it finds is a list of :class:`Finding`; a room of which there are none holds together.

A log need not begin with the room. What is checked, then:

* a *stay* begins with the state that the hub gave us when we joined. Each event of that state is checked by itself;
  that it was the room's state is the hub's word, so the replay takes it as given, and goes on from there;
* history that was fetched later lies below. Where it reaches down to the create event, or to the end of an earlier
  stay, it is replayed too, and must lead to the very state that the hub gave us. Where it does not, the state that it
  was sent into is not known: chain, hashes and signatures are checked, the auth rules cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.signatures import KnownKey, keys_wanted
from lmatrix.events.state import StateEvent
from lmatrix.ids import server_of
from lmatrix.rooms.event_examination import examine_event, parse_event
from lmatrix.rooms.examined import ExaminationStore, ExaminedEvent, ExaminedRoom, ExaminedRun
from lmatrix.rooms.interfaces import Standing
from lmatrix.rooms.positions import Position
from lmatrix.rooms.redaction_examination import RedactionExamination
from lmatrix.rooms.replay import Replay

PIECE = 500
"""Events that are in memory at one time."""

MEMBER = "m.room.member"

KeysOf = Callable[[str], Mapping[str, KnownKey]]
"""All keys that are known of a server, by key ID."""


@attrs.frozen(slots=True)
class Finding:
    """Something that is wrong with a room.

    Attributes:
        position: where in the log; ``None`` for the room as a whole, and for events that are in no log.
        event_id: the event, where it is about one.
        reason: what is wrong, in words.
    """

    position: Position | None
    event_id: str | None
    reason: str

    def __str__(self) -> str:
        place = "" if self.position is None else f"event {self.position} "
        event = "" if self.event_id is None else f"{self.event_id} "
        return f"{place}{event}".rstrip() + (": " if place or event else "") + self.reason


@attrs.define(slots=True)
class Examined:
    """What was looked at.

    Attributes:
        room_id: the room.
        events: how many events of the log.
        unjudged: how many of them the auth rules could not be asked about, because the state before them is not held.
        from_the_beginning: whether the log reaches down to the create event without a hole.
    """

    room_id: str
    events: int = 0
    unjudged: int = 0
    from_the_beginning: bool = False


def examine_room(
    tx: Any, store: ExaminationStore, room_id: str, server_name: str, keys_of: KeysOf, examined: Examined
) -> Iterator[Finding]:
    """Check a room; everything that is wrong with it, in the order of the log.

    Args:
        tx: a transaction that sees one moment of the database.
        server_name: ours.
        keys_of: the keys to check signatures with.
        examined: is filled in as the examination goes on.
    """
    room = store.room(tx, room_id)
    if room is None:
        yield Finding(None, None, "this server does not hold the room")
        return
    try:
        version = room_version(room.room_version)
    except UnsupportedRoomVersion as error:
        yield Finding(None, None, f"it cannot be checked: {error}")
        return
    yield from _Examination(tx, store, room, version, server_name, keys_of, examined).findings()


class _Examination:
    """One room's examination."""

    def __init__(
        self,
        tx: Any,
        store: ExaminationStore,
        room: ExaminedRoom,
        version: RoomVersion,
        server_name: str,
        keys_of: KeysOf,
        examined: Examined,
    ) -> None:
        self._tx = tx
        self._store = store
        self._room = room
        self._version = version
        self._server_name = server_name
        self._keys_of = keys_of
        self._examined = examined
        changes = store.state_changes(tx, room.room_id)
        self._changes = {(change.position, change.type, change.state_key): change.event_id for change in changes}
        self._snapshots: dict[int, list[str]] = {run.first_position - 1: [] for run in room.runs}
        for change in changes:
            if change.position in self._snapshots:
                self._snapshots[change.position].append(change.event_id)
        self._replay: Replay | None = None
        self._last: tuple[int, str] | None = None
        self._redactions = RedactionExamination(self._is_live, self._known)

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong."""
        for row in self._store.without_place(self._tx, self._room.room_id):
            yield from self._by_itself(row)[1]
        above = 0
        for run in self._room.runs:
            if not run.joined:
                self._replay, self._last = None, None
                self._examined.from_the_beginning = False
            end = self._room.head_position if run.end_position is None else run.end_position
            yield from self._part(above, run.first_position - 1, run.low_position)
            yield from self._begin_stay(run)
            yield from self._part(max(above, run.first_position - 1), end, run.low_position)
            above = end
        yield from self._beyond_the_head(above)
        for row, reason in self._redactions.findings(all_seen=not self._examined.unjudged):
            yield _finding(row, reason)
        if self._version.enforces_chain:
            for sender, event_ids in self._store.doubled_lpdus(self._tx, self._room.room_id):
                yield Finding(None, event_ids[-1], f"what {sender} sent once is in the room as {event_ids[0]} too")
        yield from self._leftover_changes()
        yield from self._room_row()
        yield from self._current_state()

    # -- The log -------------------------------------------------------------------------------------------------------

    def _part(self, after: int, up_to: int, lowest: int) -> Iterator[Finding]:
        """A part of the log of a run whose lowest event is at ``lowest``."""
        while events := self._store.log(self._tx, self._room.room_id, after, up_to, PIECE):
            for row in events:
                yield from self._in_the_log(row, lowest)
            after = _position(events[-1])

    def _in_the_log(self, row: ExaminedEvent, lowest: int) -> Iterator[Finding]:
        self._examined.events += 1
        position = _position(row)
        pdu, findings = self._by_itself(row)
        yield from findings
        expected = lowest if self._last is None else max(lowest, self._last[0] + 1)
        if position != expected:
            yield _finding(row, f"nothing is held at {Position.of(expected)}, which should be before it")
        if pdu is not None:
            if self._last is None and not pdu.prev_events:
                self._replay = Replay(self._room.room_id, self._version)
                self._examined.from_the_beginning = True
            yield from self._in_the_chain(row, pdu)
            yield from self._its_change(row, pdu)
        self._last = position, row.event_id

    def _in_the_chain(self, row: ExaminedEvent, pdu: Pdu) -> Iterator[Finding]:
        rejected = row.standing is Standing.REJECTED
        known_before = self._last is not None and self._version.enforces_chain
        in_replay = self._replay is not None and self._replay.head is not None
        if known_before and not in_replay and self._last is not None and pdu.prev_events != (self._last[1],):
            yield _finding(row, f"it follows {', '.join(pdu.prev_events) or 'nothing'}, not {self._last[1]}")
        if self._replay is None:
            self._examined.unjudged += 1
            return
        if not rejected:
            self._redactions.seen(row, pdu, self._replay.state)
        ids = frozenset({pdu.event_id}) if rejected else frozenset()
        yield from (_finding(row, problem.reason) for problem in self._replay.take([pdu], rejected=ids))

    def _by_itself(self, row: ExaminedEvent) -> tuple[Pdu | None, list[Finding]]:
        pdu, fault = parse_event(row, self._version)
        if pdu is None:
            return None, [_finding(row, fault or "it cannot be read")]
        keys = {server: self._keys_of(server) for server in keys_wanted(pdu)}
        examination = examine_event(row, pdu, self._room.room_id, keys)
        self._redactions.held(row, pdu)
        return pdu, [_finding(row, fault) for fault in examination.faults]

    def _beyond_the_head(self, above: int) -> Iterator[Finding]:
        for row in self._store.log(self._tx, self._room.room_id, above, 2**62, 1):
            yield _finding(row, "it lies beyond the end of the log")

    # -- State ---------------------------------------------------------------------------------------------------------

    def _its_change(self, row: ExaminedEvent, pdu: Pdu) -> Iterator[Finding]:
        """What the history of the state has for an event, which is taken off it."""
        if pdu.state_key is None or row.standing is Standing.REJECTED:
            return
        recorded = self._changes.pop((_position(row), pdu.type, pdu.state_key), None)
        if recorded != pdu.event_id:
            yield _finding(row, f"the history of the state has {recorded or 'nothing'} in its place")

    def _begin_stay(self, run: ExaminedRun) -> Iterator[Finding]:
        """The state that we were given when this stay began."""
        snapshot = self._snapshots[run.first_position - 1]
        if not snapshot:
            return  # we made the room
        if self._replay is None:
            self._replay = Replay(self._room.room_id, self._version, self._state_of(snapshot))
            return
        if not self._version.enforces_chain:
            return
        replayed = {event.event_id for event in self._replay.state}
        place = Position.of(run.first_position)
        for event_id in sorted(set(snapshot) - replayed):
            yield Finding(place, event_id, "the hub gave it to us as state; by the history before, it is not")
        for event_id in sorted(replayed - set(snapshot)):
            yield Finding(place, event_id, "by the history before it is state; the hub did not give it to us")

    def _state_of(self, event_ids: Sequence[str]) -> Iterator[StateEvent]:
        for row in self._store.events(self._tx, self._room.room_id, event_ids):
            pdu, _ = parse_event(row, self._version)
            if pdu is not None and pdu.state_key is not None:
                yield StateEvent.from_pdu(pdu)

    def _leftover_changes(self) -> Iterator[Finding]:
        for (position, event_type, state_key), event_id in sorted(self._changes.items()):
            if position not in self._snapshots:
                reason = f"the history of the state has it for ({event_type}, {state_key!r}); the log does not"
                yield Finding(Position.of(position), event_id, reason)

    def _room_row(self) -> Iterator[Finding]:
        room = self._room
        if not room.runs:
            yield Finding(None, None, "its log is missing")
            return
        if self._last is None or self._last != (room.head_position, room.head_event_id):
            last = "nothing" if self._last is None else f"{self._last[1]} at {Position.of(self._last[0])}"
            head = f"{room.head_event_id} at {Position.of(room.head_position)}"
            yield Finding(None, None, f"its head is said to be {head}; its log ends with {last}")
        if room.first_position != room.runs[-1].first_position:
            yield Finding(None, None, "it is said to begin elsewhere than its last stay")

    def _current_state(self) -> Iterator[Finding]:
        if self._replay is None:
            return
        state = self._replay.state
        held = {(row.type, row.state_key): row for row in self._store.current_state(self._tx, self._room.room_id)}
        for event in state:
            row = held.pop((event.type, event.state_key), None)
            key = f"({event.type}, {event.state_key!r})"
            if row is None or row.event_id != event.event_id:
                stands = "nothing" if row is None else row.event_id
                yield Finding(None, None, f"current state: {key} is {stands}; replayed it is {event.event_id}")
            elif event.type == MEMBER and row.membership != _membership(event):
                yield Finding(None, None, f"current state: {key} says {row.membership!r} in its column")
        for row in held.values():
            key = f"({row.type}, {row.state_key!r})"
            yield Finding(None, None, f"current state: {key} is {row.event_id}; replayed it is nothing")
        yield from self._spans()

    def _spans(self) -> Iterator[Finding]:
        """Whom the room's log will be sent to: as its hub, to every server that has somebody in it."""
        assert self._replay is not None  # noqa: S101 - narrowed by the caller
        state = self._replay.state
        if state.get("m.room.create") is None:
            return
        expected: set[str] = set()
        if self._version.hub_server(state) == self._server_name:
            joined = (event.state_key for event in state.members() if _membership(event) == "join")
            expected = {server_of(user_id) for user_id in joined} - {self._server_name}
        owed = set(self._store.servers_owed(self._tx, self._room.room_id))
        for server in sorted(expected - owed):
            yield Finding(None, None, f"{server} takes part, and its log would not be sent there")
        for server in sorted(owed - expected):
            yield Finding(None, None, f"its log would be sent to {server}, which it is not owed")

    def _is_live(self, row: ExaminedEvent) -> bool:
        if row.position is None:
            return True
        return any(
            run.first_position <= row.position and (run.end_position is None or row.position <= run.end_position)
            for run in self._room.runs
        )

    def _known(self, event_id: str) -> ExaminedEvent | None:
        found = self._store.events(self._tx, self._room.room_id, [event_id])
        return found[0] if found else None


def _position(row: ExaminedEvent) -> int:
    return 0 if row.position is None else row.position


def _membership(event: StateEvent) -> str | None:
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else None


def _finding(row: ExaminedEvent, reason: str) -> Finding:
    return Finding(None if row.position is None else Position.of(row.position), row.event_id, reason)
