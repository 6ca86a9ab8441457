"""Messages to devices: those that wait for a local device, and by what repetitions are recognised.

Owns: :class:`SqlToDeviceStore`, which implements :class:`~lmatrix.devices.interfaces.ToDeviceStore` and what ``/sync``
reads of it. Invariants: a message stays until its device has acknowledged it, or is gone; what is remembered of
messages and requests is bounded by age, and for each server by number, and every new one pays for removing a few old
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.canonical_json import encode
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.storage.engine import Transaction
from lmatrix.storage.side_stream import next_place

RECEIVED_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a message of another server is remembered at least, unless there are too many of that server."""

RECEIVED_KEPT_PER_ORIGIN = 20_000
SENT_KEPT_MS = 24 * 3600 * 1000
"""How long a local device's request is remembered at least."""

_SURPLUS = 500
_REMOVED_AT_ONCE = 8


class SqlToDeviceStore:
    """See :class:`~lmatrix.devices.interfaces.ToDeviceStore`.

    Args:
        received_kept_ms, received_kept_per_origin, sent_kept_ms: see the constants of this module.
    """

    def __init__(
        self,
        received_kept_ms: int = RECEIVED_KEPT_MS,
        received_kept_per_origin: int = RECEIVED_KEPT_PER_ORIGIN,
        sent_kept_ms: int = SENT_KEPT_MS,
    ) -> None:
        self._received_kept_ms = received_kept_ms
        self._received_kept_per_origin = received_kept_per_origin
        self._sent_kept_ms = sent_kept_ms

    def put(self, tx: Transaction, user_id: str, device_id: str, origin: str, message: JsonObject) -> int:
        """Keep a message for a device; returns its stream position."""
        stream = next_place(tx)
        tx.execute(
            "INSERT INTO to_device_messages (stream, user_id, device_id, origin, message) VALUES (?, ?, ?, ?, ?)",
            (stream, user_id, device_id, origin, encode(message)),
        )
        return stream

    def waiting(self, tx: Transaction, user_id: str, device_id: str, origin: str) -> tuple[int, int]:
        """How many wait, and how many of them are from one server. Counts them."""
        [(total, of_origin)] = tx.rows(
            "SELECT COUNT(*), COUNT(CASE WHEN origin = ? THEN 1 END) FROM to_device_messages"
            " WHERE user_id = ? AND device_id = ?",
            (origin, user_id, device_id),
        )
        return int(total), int(of_origin)

    def page(
        self, tx: Transaction, user_id: str, device_id: str, after: int, up_to: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """``(stream, canonical JSON)`` of messages at stream positions ``after < s <= up_to``, ascending."""
        return [
            (stream, message)
            for stream, message in tx.rows(
                "SELECT stream, message FROM to_device_messages"
                " WHERE user_id = ? AND device_id = ? AND stream > ? AND stream <= ? ORDER BY stream LIMIT ?",
                (user_id, device_id, after, up_to, limit),
            )
        ]

    def has_up_to(self, tx: Transaction, user_id: str, device_id: str, up_to: int) -> bool:
        """Whether there is anything to :meth:`acknowledge`."""
        row = tx.row(
            "SELECT 1 FROM to_device_messages WHERE user_id = ? AND device_id = ? AND stream <= ? LIMIT 1",
            (user_id, device_id, up_to),
        )
        return row is not None

    def acknowledge(self, tx: Transaction, user_id: str, device_id: str, up_to: int) -> None:
        """Forget what the device has."""
        tx.execute(
            "DELETE FROM to_device_messages WHERE user_id = ? AND device_id = ? AND stream <= ?",
            (user_id, device_id, up_to),
        )

    def is_new(self, tx: Transaction, origin: str, digest: str, now_ms: int) -> bool:
        """Remember a message of another server; whether it was not remembered before."""
        rows = tx.rows(
            "INSERT INTO received_messages (origin, digest, received_ts) VALUES (?, ?, ?)"
            " ON CONFLICT (origin, digest) DO NOTHING RETURNING message_nid",
            (origin, digest, now_ms),
        )
        if not rows:
            return False
        tx.execute(
            "DELETE FROM received_messages WHERE message_nid IN"
            " (SELECT message_nid FROM received_messages ORDER BY message_nid LIMIT ?) AND received_ts < ?",
            (_REMOVED_AT_ONCE, now_ms - self._received_kept_ms),
        )
        if rows[0][0] % _SURPLUS == 0:
            self._remove_surplus(tx, origin)
        return True

    def begin_request(self, tx: Transaction, user_id: str, device_id: str, request: str, now_ms: int) -> int | None:
        """Remember a request of a local device; its number, ``None`` when it was remembered before."""
        rows = tx.rows(
            "INSERT INTO sent_to_device (user_id, device_id, request, created_ts) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (user_id, device_id, request) DO NOTHING RETURNING request_nid",
            (user_id, device_id, request, now_ms),
        )
        tx.execute(
            "DELETE FROM sent_to_device WHERE request_nid IN"
            " (SELECT request_nid FROM sent_to_device ORDER BY request_nid LIMIT ?) AND created_ts < ?",
            (_REMOVED_AT_ONCE, now_ms - self._sent_kept_ms),
        )
        return int(rows[0][0]) if rows else None

    def remove_devices(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Forget what waits for devices that are gone."""
        for device_id in device_ids:
            device = (user_id, device_id)
            tx.execute("DELETE FROM to_device_messages WHERE user_id = ? AND device_id = ?", device)
            tx.execute("DELETE FROM sent_to_device WHERE user_id = ? AND device_id = ?", device)

    def _remove_surplus(self, tx: Transaction, origin: str) -> None:
        # Counting costs, and is therefore done now and then only: there may be some more than asked for.
        [(count,)] = tx.rows("SELECT COUNT(*) FROM received_messages WHERE origin = ?", (origin,))
        if count > self._received_kept_per_origin:
            tx.execute(
                "DELETE FROM received_messages WHERE message_nid IN (SELECT message_nid FROM received_messages"
                " WHERE origin = ? ORDER BY message_nid LIMIT ?)",
                (origin, count - self._received_kept_per_origin),
            )
