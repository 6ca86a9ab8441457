"""Rooms, their logs and their state: the rooms' view of the database.

Owns: :class:`SqlRoomStore`, which implements :class:`~lmatrix.rooms.interfaces.RoomStore`. What it writes is in
:mod:`~lmatrix.storage.log_writing`, what it knows of state in :mod:`~lmatrix.storage.state_history`, of runs in
:mod:`~lmatrix.storage.runs`, of servers' spans in :mod:`~lmatrix.storage.spans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmatrix.events.forms import Pdu
from lmatrix.rooms.interfaces import AppendedEvent, Evidence, RoomAppend, ServerSpan, StoredEvent, StoredRoom
from lmatrix.storage import log_writing, spans, state_history
from lmatrix.storage.engine import Transaction
from lmatrix.storage.rows import EVENT, find_room, select_in, stored_event, stored_events
from lmatrix.storage.runs import open_run, reach_down

MAX_EVIDENCE = 1000
"""Pieces of evidence that are kept about one room."""


class SqlRoomStore:
    """See :class:`~lmatrix.rooms.interfaces.RoomStore`.

    Reading from an unknown room finds nothing; writing to one raises :class:`~lmatrix.errors.NotFound`.
    """

    def load_room(self, tx: Transaction, room_id: str) -> StoredRoom | None:
        """The room with its current state. While its run has no event, its head is one below its first position."""
        row = tx.row(
            "SELECT room_nid, room_version, head_position, head_event_id, first_position FROM rooms WHERE room_id = ?",
            (room_id,),
        )
        if row is None:
            return None
        room_nid, room_version, head_position, head_event_id, first_position = row
        state = state_history.current_state(tx, room_nid, room_id)
        return StoredRoom(room_id, room_version, head_position, head_event_id, first_position, state)

    def insert_room(self, tx: Transaction, room_id: str, room_version: str, first_position: int) -> None:
        """A new room, or a new run of one that is there. Raises :class:`ValueError` unless it is above the last run."""
        row = tx.row("SELECT room_nid, head_position FROM rooms WHERE room_id = ?", (room_id,))
        if row is None:
            [(room_nid,)] = tx.rows(
                "INSERT INTO rooms (room_id, room_version, first_position, head_position, head_stream)"
                " VALUES (?, ?, ?, ?, 0) RETURNING room_nid",
                (room_id, room_version, first_position, first_position - 1),
            )
            open_run(tx, room_nid, first_position, None)
            return
        room_nid, head_position = row
        open_run(tx, room_nid, first_position, head_position)
        tx.execute(
            "UPDATE rooms SET room_version = ?, first_position = ?, head_position = ?, head_event_id = NULL"
            " WHERE room_nid = ?",
            (room_version, first_position, first_position - 1, room_nid),
        )
        state_history.forget_current(tx, room_nid)

    def put_state_snapshot(self, tx: Transaction, room_id: str, position: int, events: Sequence[Pdu]) -> None:
        """See :func:`~lmatrix.storage.log_writing.put_state_snapshot`."""
        log_writing.put_state_snapshot(tx, room_id, position, events)

    def append(self, tx: Transaction, batch: RoomAppend) -> Sequence[int]:
        """See :func:`~lmatrix.storage.log_writing.append`."""
        return log_writing.append(tx, batch)

    def prepend(self, tx: Transaction, room_id: str, events: Sequence[AppendedEvent]) -> None:
        """See :func:`~lmatrix.storage.log_writing.prepend`."""
        log_writing.prepend(tx, room_id, events)

    def put_contents(self, tx: Transaction, events: Sequence[Pdu]) -> None:
        """See :func:`~lmatrix.storage.log_writing.put_contents`."""
        log_writing.put_contents(tx, events)

    def event(self, tx: Transaction, event_id: str) -> StoredEvent | None:
        """One event, wherever it is; position 0 when it has no place in a log (yet)."""
        return self.events(tx, [event_id]).get(event_id)

    def events(self, tx: Transaction, event_ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        """Those of the events that are held, by event ID."""
        rows = select_in(
            tx,
            f"SELECT r.room_id, e.position, {EVENT} FROM events AS e JOIN rooms AS r ON r.room_nid = e.room_nid"  # noqa: S608
            " WHERE e.event_id IN {in}",
            (),
            event_ids,
        )
        return {row[2]: stored_event(row[0], row[1:]) for row in rows}

    def events_between(
        self, tx: Transaction, room_id: str, after: int, up_to: int, limit: int
    ) -> Sequence[StoredEvent]:
        """Positions ``after < p <= up_to``, ascending, at most ``limit``."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return []
        rows = tx.rows(
            f"SELECT e.position, {EVENT} FROM events AS e"  # noqa: S608
            " WHERE e.room_nid = ? AND e.position > ? AND e.position <= ? ORDER BY e.position LIMIT ?",
            (room_nid, after, up_to, limit),
        )
        return stored_events(room_id, rows)

    def oldest_before(self, tx: Transaction, room_id: str, position: int) -> StoredEvent | None:
        """The oldest event that is reached from ``position`` downwards without crossing a hole between two runs."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return None
        lowest = reach_down(tx, room_nid, position)
        events = self.events_between(tx, room_id, lowest - 1, position, 1)
        return events[0] if events else None

    def events_before(self, tx: Transaction, room_id: str, position: int, limit: int) -> Sequence[StoredEvent]:
        """Positions ``p <= position``, descending, at most ``limit``, not across a hole between two runs."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return []
        rows = tx.rows(
            f"SELECT e.position, {EVENT} FROM events AS e"  # noqa: S608
            " WHERE e.room_nid = ? AND e.position >= ? AND e.position <= ? ORDER BY e.position DESC LIMIT ?",
            (room_nid, reach_down(tx, room_nid, position), position, limit),
        )
        return stored_events(room_id, rows)

    def accepted_lpdus(
        self, tx: Transaction, room_id: str, keys: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], str]:
        """Event IDs by (sender, LPDU hash); of several made from one LPDU by a foreign hub, the earliest."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return {}
        found: dict[tuple[str, str], str] = {}
        for sender in {sender for sender, _ in keys}:
            rows = select_in(
                tx,
                "SELECT lpdu_hash, event_id, event_nid FROM events"
                " WHERE room_nid = ? AND sender = ? AND standing = 'accepted' AND lpdu_hash IN {in}",
                (room_nid, sender),
                sorted({lpdu_hash for of, lpdu_hash in keys if of == sender}),
            )
            for lpdu_hash, event_id, _ in sorted(rows, key=lambda row: -int(row[2])):
                found[sender, lpdu_hash] = event_id
        return found

    def state_before(self, tx: Transaction, room_id: str, position: int) -> Sequence[StoredEvent]:
        """See :func:`~lmatrix.storage.state_history.state_before`."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else state_history.state_before(tx, room_nid, room_id, position)

    def state_event_before(
        self, tx: Transaction, room_id: str, position: int, event_type: str, state_key: str
    ) -> StoredEvent | None:
        """See :func:`~lmatrix.storage.state_history.state_event_before`."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return None
        return state_history.state_event_before(tx, room_nid, room_id, position, event_type, state_key)

    def state_history(self, tx: Transaction, room_id: str, event_type: str, state_key: str) -> Sequence[StoredEvent]:
        """See :func:`~lmatrix.storage.state_history.state_history`."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else state_history.state_history(tx, room_nid, room_id, event_type, state_key)

    def spans(self, tx: Transaction, room_id: str, server: str) -> Sequence[ServerSpan]:
        """A server's spans, ascending."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else spans.spans_of(tx, room_nid, server)

    def servers_owed(self, tx: Transaction, room_id: str) -> Sequence[str]:
        """Servers with an open span."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else spans.servers_owed(tx, room_nid)

    def rooms_of_server(self, tx: Transaction) -> Sequence[str]:
        """Every room that this server holds, the oldest first."""
        return [room_id for (room_id,) in tx.rows("SELECT room_id FROM rooms ORDER BY room_nid")]

    def add_evidence(self, tx: Transaction, evidence: Evidence) -> None:
        """Keep evidence against a hub, unless there is more than enough of it: a room's first pieces stay."""
        tx.execute(
            "INSERT INTO evidence (room_id, kind, event_id, event, against, reason, seen_ts)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE (SELECT COUNT(*) FROM evidence WHERE room_id = ?) < ?",
            (
                evidence.room_id,
                evidence.kind,
                evidence.event_id,
                evidence.event,
                evidence.against,
                evidence.reason,
                evidence.seen_ts,
                evidence.room_id,
                MAX_EVIDENCE,
            ),
        )

    def has_evidence(self, tx: Transaction, room_id: str, kind: str, event_id: str) -> bool:
        """Whether such a piece is kept about that event."""
        query = "SELECT 1 FROM evidence WHERE room_id = ? AND event_id = ? AND kind = ? LIMIT 1"
        return tx.row(query, (room_id, event_id, kind)) is not None

    def evidence(self, tx: Transaction, room_id: str) -> Sequence[Evidence]:
        """What is kept, the oldest first."""
        rows = tx.rows(
            "SELECT room_id, kind, event_id, event, against, reason, seen_ts FROM evidence WHERE room_id = ?"
            " ORDER BY evidence_nid",
            (room_id,),
        )
        return [Evidence(*row) for row in rows]
