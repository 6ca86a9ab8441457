"""How far users have read.

Owns: :class:`SqlReceiptStore`, which implements :class:`~lmatrix.devices.interfaces.ReceiptStore` and what ``/sync``
reads of it. Invariants: a receipt only ever moves forwards, as far as the two events' order is known here; of one user
and room a bounded number of receipts is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmatrix.canonical_json import encode
from lmatrix.devices.edus import Receipt
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.storage.engine import Transaction
from lmatrix.storage.rows import find_room, select_in
from lmatrix.storage.side_stream import next_place

MAX_THREADS = 20
"""Receipts of one user and kind in one room, one for each thread; the oldest give way."""


class SqlReceiptStore:
    """See :class:`~lmatrix.devices.interfaces.ReceiptStore`."""

    def put(self, tx: Transaction, receipt: Receipt) -> int | None:
        """Keep a receipt; returns its stream position, ``None`` when it says nothing new."""
        room_nid = find_room(tx, receipt.room_id)
        if room_nid is None:
            return None
        place = (room_nid, receipt.user_id, receipt.kind, receipt.thread_id or "")
        before = tx.row(
            "SELECT event_id FROM receipts WHERE room_nid = ? AND user_id = ? AND kind = ? AND thread_id = ?", place
        )
        if before is not None and not self._is_later(tx, receipt.event_id, before[0]):
            return None
        stream = next_place(tx)
        tx.execute(
            "INSERT INTO receipts (room_nid, user_id, kind, thread_id, event_id, ts, stream)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (room_nid, user_id, kind, thread_id) DO UPDATE SET"
            " event_id = excluded.event_id, ts = excluded.ts, stream = excluded.stream",
            (*place, receipt.event_id, receipt.ts, stream),
        )
        if before is None:
            tx.execute(
                "DELETE FROM receipts WHERE room_nid = ? AND user_id = ? AND kind = ? AND thread_id IN"
                " (SELECT thread_id FROM receipts WHERE room_nid = ? AND user_id = ? AND kind = ?"
                " ORDER BY stream DESC LIMIT 1000 OFFSET ?)",
                (*place[:3], *place[:3], MAX_THREADS),
            )
        return stream

    def put_account_data(self, tx: Transaction, user_id: str, room_id: str, data_type: str, content: JsonObject) -> int:
        """Keep what a user notes about a room, in place of what was there; returns its stream position."""
        stream = next_place(tx)
        tx.execute(
            "INSERT INTO room_account_data (user_id, room_id, type, content, stream) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, stream = excluded.stream",
            (user_id, room_id, data_type, encode(content), stream),
        )
        return stream

    # -- What /sync reads ---------------------------------------------------------------------------------------------

    def changed_receipts(self, tx: Transaction, room_ids: Sequence[str], since: int, up_to: int) -> Iterator[Receipt]:
        """Receipts of rooms at stream positions ``since < s <= up_to``."""
        rows = select_in(
            tx,
            "SELECT r.room_id, x.user_id, x.kind, x.event_id, x.ts, x.thread_id FROM receipts AS x"
            " JOIN rooms AS r ON r.room_nid = x.room_nid WHERE x.stream > ? AND x.stream <= ? AND r.room_id IN {in}",
            (since, up_to),
            sorted(set(room_ids)),
        )
        for room_id, user_id, kind, event_id, ts, thread_id in rows:
            yield Receipt(room_id, user_id, kind, event_id, ts, thread_id or None)

    def changed_account_data(
        self, tx: Transaction, user_id: str, since: int, up_to: int
    ) -> list[tuple[str, str, bytes]]:
        """``(room_id, type, canonical JSON of the content)`` of what was noted at ``since < s <= up_to``."""
        return [
            (room_id, data_type, content)
            for room_id, data_type, content in tx.rows(
                "SELECT room_id, type, content FROM room_account_data WHERE user_id = ? AND stream > ? AND stream <= ?"
                " ORDER BY stream",
                (user_id, since, up_to),
            )
        ]

    def _is_later(self, tx: Transaction, event_id: str, before: str) -> bool:
        if event_id == before:
            return False
        rows: dict[str, int | None] = dict(
            tx.rows("SELECT event_id, position FROM events WHERE event_id IN (?, ?)", (event_id, before))
        )
        new, old = rows.get(event_id), rows.get(before)
        return new is None or old is None or new > old
