"""What is owed to other servers: cursors, destinations' back-off, the EDU outbox.

Owns: :class:`SqlDeliveryStore`, which implements :class:`~lmatrix.rooms.delivery_store.DeliveryStore`. Finding out
what a destination is owed compares its cursors with the heads of rooms and the ends of its spans; no event is read for
it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.canonical_json import encode, parse_object
from lmatrix.rooms.delivery_store import DestinationState, OwedRoom
from lmatrix.rooms.interfaces import JsonObject, StoredEvent
from lmatrix.storage.engine import Row, Transaction
from lmatrix.storage.rows import EVENT, need_room, stored_events

# A cursor for which there is log beyond it that lies within a span: since <= head, and the span ends beyond the cursor.
_OWED = (
    "FROM delivery_cursors AS c JOIN rooms AS r ON r.room_nid = c.room_nid AND r.head_position > c.position"
    " JOIN server_spans AS s ON s.room_nid = c.room_nid AND s.server = c.destination"
    " AND s.since_position <= r.head_position AND (s.until_position IS NULL OR s.until_position > c.position)"
)


class SqlDeliveryStore:
    """See :class:`~lmatrix.rooms.delivery_store.DeliveryStore`."""

    def owed_rooms(self, tx: Transaction, destination: str) -> list[OwedRoom]:
        """Rooms with log beyond the cursor, within the destination's spans; the longest untouched room first."""
        rows = tx.rows(
            f"SELECT r.room_id, c.position, s.until_position {_OWED} WHERE c.destination = ?"
            " ORDER BY r.head_stream, s.since_position",
            (destination,),
        )
        rooms: dict[str, OwedRoom] = {}
        for room_id, cursor, until in rows:  # of several spans in one room, the last one says until when
            rooms[room_id] = OwedRoom(room_id, cursor, until)
        return list(rooms.values())

    def owed_events(
        self, tx: Transaction, destination: str, room_id: str, limit: int, after: int = 0
    ) -> list[StoredEvent]:
        """Ascending, after the cursor and after the position ``after``, within the spans, at most ``limit``."""
        events: list[StoredEvent] = []
        for room_nid, low, high in self._owed_ranges(tx, destination, room_id, after):
            if len(events) >= limit:
                break
            rows = tx.rows(
                f"SELECT e.position, {EVENT} FROM events AS e"  # noqa: S608
                " WHERE e.room_nid = ? AND e.position > ? AND e.position <= ? ORDER BY e.position LIMIT ?",
                (room_nid, low, high, limit - len(events)),
            )
            events += stored_events(room_id, rows)
        return events

    def advance(self, tx: Transaction, destination: str, room_id: str, position: int) -> None:
        """Move a cursor forwards. Raises :class:`NotFound` for an unknown room."""
        tx.execute(
            "INSERT INTO delivery_cursors (destination, room_nid, position) VALUES (?, ?, ?)"
            " ON CONFLICT (destination, room_nid) DO UPDATE SET position = excluded.position"
            " WHERE excluded.position > delivery_cursors.position",
            (destination, need_room(tx, room_id), position),
        )

    def all_owing(self, tx: Transaction) -> list[str]:
        """Every destination that is owed an event or an EDU. Looks at every cursor: for start-up."""
        rows = tx.rows(f"SELECT DISTINCT c.destination {_OWED} UNION SELECT destination FROM edu_outbox")  # noqa: S608
        return sorted(destination for (destination,) in rows)

    def lag(self, tx: Transaction, destination: str) -> int:
        """How many events it is owed.

        Counted by position; of a room whose log has holes only the current run counts, so that this never looks at
        events.
        """
        rows = tx.rows(
            f"SELECT c.position, s.since_position, s.until_position, r.first_position, r.head_position {_OWED}"
            " WHERE c.destination = ?",
            (destination,),
        )
        total = 0
        for cursor, since, until, first, head in rows:
            low = max(cursor, since - 1, first - 1)
            high = head if until is None else min(until, head)
            total += max(0, high - low)
        return total

    def destination(self, tx: Transaction, name: str) -> DestinationState | None:
        """What is kept of a destination."""
        row = tx.row(
            "SELECT retry_at_ms, failing_since_ms, interval_ms, last_success_ms, path_form, bare_get_signature"
            " FROM destinations WHERE destination = ?",
            (name,),
        )
        if row is None:
            return None
        retry_at_ms, failing_since_ms, interval_ms, last_success_ms, path_form, bare = row
        return DestinationState(retry_at_ms, failing_since_ms, interval_ms, last_success_ms, path_form, bool(bare))

    def put_destination(self, tx: Transaction, name: str, state: DestinationState) -> None:
        """Replace what is kept of a destination."""
        tx.execute(
            "INSERT INTO destinations (destination, retry_at_ms, failing_since_ms, interval_ms, last_success_ms,"
            " path_form, bare_get_signature) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (destination) DO UPDATE SET retry_at_ms = excluded.retry_at_ms,"
            " failing_since_ms = excluded.failing_since_ms, interval_ms = excluded.interval_ms,"
            " last_success_ms = excluded.last_success_ms, path_form = excluded.path_form,"
            " bare_get_signature = excluded.bare_get_signature",
            (
                name,
                state.retry_at_ms,
                state.failing_since_ms,
                state.interval_ms,
                state.last_success_ms,
                state.path_form,
                int(state.bare_get_signature),
            ),
        )

    def add_edu(self, tx: Transaction, destination: str, edu: JsonObject, subject: str | None = None) -> None:
        """Put an EDU in the outbox. What waits there under the same subject is void, and in flight perhaps: the new one
        gets a number of its own, and goes out after it.
        """
        if subject is not None:
            tx.execute("DELETE FROM edu_outbox WHERE destination = ? AND subject = ?", (destination, subject))
        tx.execute(
            "INSERT INTO edu_outbox (destination, edu, subject) VALUES (?, ?, ?)", (destination, encode(edu), subject)
        )

    def edus_waiting(self, tx: Transaction, destination: str) -> int:
        """How many are in the outbox."""
        [(count,)] = tx.rows("SELECT COUNT(*) FROM edu_outbox WHERE destination = ?", (destination,))
        return int(count)

    def edus(self, tx: Transaction, destination: str, limit: int) -> list[tuple[int, JsonObject]]:
        """The oldest EDUs in the outbox, with their numbers."""
        rows = tx.rows(
            "SELECT edu_nid, edu FROM edu_outbox WHERE destination = ? ORDER BY edu_nid LIMIT ?", (destination, limit)
        )
        return [(number, parse_object(edu)) for number, edu in rows]

    def remove_edus(self, tx: Transaction, edu_ids: Sequence[int]) -> None:
        """Take EDUs out, by number."""
        tx.executemany("DELETE FROM edu_outbox WHERE edu_nid = ?", [(number,) for number in edu_ids])

    def _owed_ranges(self, tx: Transaction, destination: str, room_id: str, after: int) -> list[tuple[int, int, int]]:
        """The room's number, the position before the first event and that of the last, for each span."""
        rows: list[Row] = tx.rows(
            f"SELECT r.room_nid, c.position, s.since_position, s.until_position, r.head_position {_OWED}"
            " WHERE c.destination = ? AND r.room_id = ? ORDER BY s.since_position",
            (destination, room_id),
        )
        ranges = [
            (room_nid, max(cursor, since - 1, after), head if until is None else min(until, head))
            for room_nid, cursor, since, until, head in rows
        ]
        return [(room_nid, low, high) for room_nid, low, high in ranges if low < high]
