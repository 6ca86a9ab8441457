"""Local users: accounts, devices, access tokens, client transactions, filters.

Owns: :class:`SqlAccountStore`. Invariants: tokens are only ever seen and kept as hashes, which the caller makes; a
device has one token at most; what became of a client transaction is kept for a bounded time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmatrix.devices.interfaces import DeviceInfo
from lmatrix.errors import Forbidden
from lmatrix.storage.engine import Transaction
from lmatrix.storage.rows import select_in

KEPT_MS = 24 * 3600 * 1000
"""How long a client transaction is remembered at least."""

_REMOVED_AT_ONCE = 4


class SqlAccountStore:
    """Implements the account store of the client API, :class:`~lmatrix.devices.interfaces.DeviceAccounts` and, for the
    rooms, :class:`~lmatrix.rooms.interfaces.AccountLookup` and
    :class:`~lmatrix.rooms.interfaces.ClientTransactionStore`.

    Args:
        kept_ms: age in milliseconds beyond which a client transaction is forgotten.
    """

    def __init__(self, kept_ms: int = KEPT_MS) -> None:
        self._kept_ms = kept_ms

    def user_exists(self, tx: Transaction, user_id: str) -> bool:
        """Whether there is an account."""
        return tx.row("SELECT 1 FROM users WHERE user_id = ?", (user_id,)) is not None

    def create_user(self, tx: Transaction, user_id: str, password_hash: str, now_ms: int) -> None:
        """Make an account. Raises :class:`Forbidden` when there is one."""
        rows = tx.rows(
            "INSERT INTO users (user_id, password_hash, created_ts) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id) DO NOTHING RETURNING user_id",
            (user_id, password_hash, now_ms),
        )
        if not rows:
            raise Forbidden(f"{user_id} has an account already")

    def password_hash(self, tx: Transaction, user_id: str) -> str | None:
        """As it was given to :meth:`create_user`; ``None`` for an unknown user."""
        row = tx.row("SELECT password_hash FROM users WHERE user_id = ?", (user_id,))
        return None if row is None else str(row[0])

    def add_token(
        self, tx: Transaction, user_id: str, device_id: str, token_hash: str, now_ms: int, display_name: str | None
    ) -> None:
        """Log a device in, made if need be; a token that it had is void. A display name of ``None`` keeps the old."""
        tx.execute(
            "INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (user_id, device_id) DO UPDATE SET"
            " display_name = COALESCE(excluded.display_name, devices.display_name)",
            (user_id, device_id, display_name, now_ms),
        )
        tx.execute("DELETE FROM access_tokens WHERE user_id = ? AND device_id = ?", (user_id, device_id))
        tx.execute(
            "INSERT INTO access_tokens (token_hash, user_id, device_id, created_ts) VALUES (?, ?, ?, ?)",
            (token_hash, user_id, device_id, now_ms),
        )

    def user_of_token(self, tx: Transaction, token_hash: str) -> tuple[str, str] | None:
        """``(user_id, device_id)``."""
        row = tx.row("SELECT user_id, device_id FROM access_tokens WHERE token_hash = ?", (token_hash,))
        return None if row is None else (row[0], row[1])

    def device_ids(self, tx: Transaction, user_id: str) -> list[str]:
        """A user's devices, sorted."""
        return [device.device_id for device in self.devices(tx, user_id)]

    def devices(self, tx: Transaction, user_id: str) -> list[DeviceInfo]:
        """A user's devices, sorted by ID."""
        rows = tx.rows(
            "SELECT device_id, display_name, created_ts FROM devices WHERE user_id = ? ORDER BY device_id", (user_id,)
        )
        return [DeviceInfo(*row) for row in rows]

    def rename_device(self, tx: Transaction, user_id: str, device_id: str, display_name: str | None) -> bool:
        """Set what a user calls a device; whether there is such a device."""
        rows = tx.rows(
            "UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ? RETURNING device_id",
            (display_name, user_id, device_id),
        )
        return bool(rows)

    def remove_devices(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Log devices out: their tokens are void, and they are gone."""
        for device_id in device_ids:
            tx.execute("DELETE FROM access_tokens WHERE user_id = ? AND device_id = ?", (user_id, device_id))
            tx.execute("DELETE FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))

    def client_transaction(
        self, tx: Transaction, user_id: str, device_id: str, room_id: str, txn_id: str
    ) -> str | None:
        """The reference; see :class:`~lmatrix.rooms.interfaces.ClientTransactionStore`."""
        row = tx.row(
            "SELECT reference FROM client_transactions"
            " WHERE user_id = ? AND device_id = ? AND room_id = ? AND txn_id = ?",
            (user_id, device_id, room_id, txn_id),
        )
        return None if row is None else str(row[0])

    def put_client_transaction(
        self, tx: Transaction, user_id: str, device_id: str, room_id: str, txn_id: str, reference: str, now_ms: int
    ) -> None:
        """Remember what a client transaction led to, in place of what was remembered.

        One whose LPDU is still pending is not forgotten, however long its hub cannot be reached.
        """
        tx.execute(
            "INSERT INTO client_transactions (user_id, device_id, room_id, txn_id, reference, created_ts)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, device_id, room_id, txn_id) DO UPDATE SET"
            " reference = excluded.reference, created_ts = excluded.created_ts",
            (user_id, device_id, room_id, txn_id, reference, now_ms),
        )
        tx.execute(
            "DELETE FROM client_transactions WHERE transaction_nid IN"
            " (SELECT transaction_nid FROM client_transactions ORDER BY transaction_nid LIMIT ?) AND created_ts < ?"
            " AND NOT EXISTS (SELECT 1 FROM pending_lpdus AS p WHERE p.lpdu_event_id = client_transactions.reference)",
            (_REMOVED_AT_ONCE, now_ms - self._kept_ms),
        )

    def resolve_client_transaction(self, tx: Transaction, lpdu_event_id: str, event_id: str | None) -> None:
        """The LPDU became this event; ``None``: it was refused, and the client may use the transaction ID anew."""
        if event_id is None:
            tx.execute("DELETE FROM client_transactions WHERE reference = ?", (lpdu_event_id,))
        else:
            tx.execute("UPDATE client_transactions SET reference = ? WHERE reference = ?", (event_id, lpdu_event_id))

    def transactions_behind(
        self, tx: Transaction, user_id: str, device_id: str, event_ids: Sequence[str]
    ) -> Mapping[str, str]:
        """For those of the events that this device sent: the client transaction that it did so with."""
        rows = select_in(
            tx,
            "SELECT reference, txn_id, user_id, device_id FROM client_transactions WHERE reference IN {in}",
            (),
            event_ids,
        )
        return {event_id: txn_id for event_id, txn_id, *sender in rows if sender == [user_id, device_id]}

    def put_filter(self, tx: Transaction, user_id: str, definition: bytes) -> str:
        """Keep a filter; returns its ID, which is the same for the same definition."""
        known = tx.row("SELECT filter_id FROM filters WHERE user_id = ? AND filter = ?", (user_id, definition))
        if known is not None:
            return str(known[0])
        [(filter_id,)] = tx.rows(
            "INSERT INTO filters (user_id, filter_id, filter)"
            " SELECT ?, COALESCE(MAX(filter_id), -1) + 1, ? FROM filters WHERE user_id = ? RETURNING filter_id",
            (user_id, definition, user_id),
        )
        return str(filter_id)

    def filter(self, tx: Transaction, user_id: str, filter_id: str) -> bytes | None:
        """A filter as it was put; ``None`` for an unknown or malformed ID."""
        if not (filter_id.isascii() and filter_id.isdigit() and len(filter_id) <= 15):
            return None
        row = tx.row("SELECT filter FROM filters WHERE user_id = ? AND filter_id = ?", (user_id, int(filter_id)))
        return None if row is None else row[0]
