"""Rooms as they lie on the disk, for their examination.

Owns: :class:`SqlExaminationStore`, which implements :class:`~lmatrix.rooms.examined.ExaminationStore`: plain reading,
without anything that the other stores know or believe.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.rooms.examined import CurrentState, ExaminedEvent, ExaminedRoom, ExaminedRun, StateChange
from lmatrix.rooms.interfaces import Standing
from lmatrix.storage.engine import Row, Transaction
from lmatrix.storage.rows import need_room, select_in
from lmatrix.storage.runs import runs_of
from lmatrix.storage.spans import servers_owed

_EVENT = (
    "SELECT position, event_id, type, state_key, sender, origin_server_ts, lpdu_hash, standing, redacted_by, canonical"
    " FROM events"
)


class SqlExaminationStore:
    """See :class:`~lmatrix.rooms.examined.ExaminationStore`.

    All methods but the first two raise :class:`~lmatrix.errors.NotFound` for an unknown room.
    """

    def room_ids(self, tx: Transaction) -> Sequence[str]:
        """Every room."""
        return [room_id for (room_id,) in tx.rows("SELECT room_id FROM rooms ORDER BY room_nid")]

    def room(self, tx: Transaction, room_id: str) -> ExaminedRoom | None:
        """A room as a whole."""
        row = tx.row(
            "SELECT room_nid, room_version, first_position, head_position, head_event_id FROM rooms WHERE room_id = ?",
            (room_id,),
        )
        if row is None:
            return None
        runs = [
            ExaminedRun(run.first_position, run.low_position, run.end_position, run.joined)
            for run in runs_of(tx, row[0])
        ]
        room_version, first_position, head_position, head_event_id = row[1:]
        return ExaminedRoom(room_id, room_version, first_position, head_position, head_event_id, runs)

    def log(self, tx: Transaction, room_id: str, after: int, up_to: int, limit: int) -> Sequence[ExaminedEvent]:
        """A part of the log."""
        rows = tx.rows(
            f"{_EVENT} WHERE room_nid = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?",
            (need_room(tx, room_id), after, up_to, limit),
        )
        return [_event(row) for row in rows]

    def without_place(self, tx: Transaction, room_id: str) -> Sequence[ExaminedEvent]:
        """What came with snapshots only: such events are state, or were."""
        rows = tx.rows(
            "SELECT DISTINCT e.position, e.event_id, e.type, e.state_key, e.sender, e.origin_server_ts, e.lpdu_hash,"
            " e.standing, e.redacted_by, e.canonical FROM state_changes AS s"
            " JOIN events AS e ON e.event_nid = s.event_nid WHERE s.room_nid = ? AND e.position IS NULL",
            (need_room(tx, room_id),),
        )
        return [_event(row) for row in rows]

    def events(self, tx: Transaction, room_id: str, event_ids: Sequence[str]) -> Sequence[ExaminedEvent]:
        """Events of a room by their IDs."""
        sql = f"{_EVENT} WHERE room_nid = ? AND event_id IN {{in}}"
        return [_event(row) for row in select_in(tx, sql, (need_room(tx, room_id),), event_ids)]

    def doubled_lpdus(self, tx: Transaction, room_id: str) -> Sequence[tuple[str, Sequence[str]]]:
        """LPDUs that are in the room several times."""
        room_nid = need_room(tx, room_id)
        doubled = tx.rows(
            "SELECT sender, lpdu_hash FROM events WHERE room_nid = ? AND standing = 'accepted'"
            " AND lpdu_hash IS NOT NULL GROUP BY sender, lpdu_hash HAVING COUNT(*) > 1",
            (room_nid,),
        )
        found = []
        for sender, lpdu_hash in doubled:
            rows = tx.rows(
                "SELECT event_id FROM events WHERE room_nid = ? AND sender = ? AND lpdu_hash = ?"
                " AND standing = 'accepted' ORDER BY position",
                (room_nid, sender, lpdu_hash),
            )
            found.append((sender, [event_id for (event_id,) in rows]))
        return found

    def state_changes(self, tx: Transaction, room_id: str) -> Sequence[StateChange]:
        """Changes of state."""
        rows = tx.rows(
            "SELECT s.position, s.type, s.state_key, e.event_id FROM state_changes AS s"
            " JOIN events AS e ON e.event_nid = s.event_nid WHERE s.room_nid = ?",
            (need_room(tx, room_id),),
        )
        return [StateChange(*row) for row in rows]

    def current_state(self, tx: Transaction, room_id: str) -> Sequence[CurrentState]:
        """The current state."""
        rows = tx.rows(
            "SELECT s.type, s.state_key, e.event_id, s.membership FROM current_state AS s"
            " JOIN events AS e ON e.event_nid = s.event_nid WHERE s.room_nid = ?",
            (need_room(tx, room_id),),
        )
        return [CurrentState(*row) for row in rows]

    def servers_owed(self, tx: Transaction, room_id: str) -> Sequence[str]:
        """Servers with an open span."""
        return servers_owed(tx, need_room(tx, room_id))


def _event(row: Row) -> ExaminedEvent:
    position, event_id, event_type, state_key, sender, origin_server_ts, lpdu_hash, standing, redacted_by, raw = row
    return ExaminedEvent(
        position,
        event_id,
        event_type,
        state_key,
        sender,
        origin_server_ts,
        lpdu_hash,
        Standing(standing),
        redacted_by,
        raw,
    )
