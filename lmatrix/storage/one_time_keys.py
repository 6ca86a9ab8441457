"""One-time keys: uploaded, counted, handed out once.

Owns: :class:`SqlOneTimeKeyStore`, which implements :class:`~lmatrix.devices.interfaces.OneTimeKeyStore` and what
``/sync`` reads of it. Invariants: there is one writer, so that two claims never meet; a key that was handed out stays
on record (without its value) until it has expired, so that it is not taken for a new one when it is uploaded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.devices.interfaces import ClaimedKey, KeyConflict
from lmatrix.devices.key_uploads import UploadedKey
from lmatrix.storage.engine import Transaction
from lmatrix.storage.side_stream import next_place

_REMOVED_AT_ONCE = 16


class SqlOneTimeKeyStore:
    """See :class:`~lmatrix.devices.interfaces.OneTimeKeyStore`."""

    def add(self, tx: Transaction, user_id: str, device_id: str, keys: Sequence[UploadedKey]) -> None:
        """Keep keys. Raises :class:`KeyConflict` for one that contradicts what was uploaded before."""
        for key in keys:
            if key.is_last_resort:
                self._add_last_resort(tx, user_id, device_id, key)
            else:
                self._add_one_time(tx, user_id, device_id, key)

    def left(self, tx: Transaction, user_id: str, device_id: str) -> int:
        """How many are kept for use, expired ones included."""
        [(count,)] = tx.rows(
            "SELECT COUNT(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? AND value IS NOT NULL",
            (user_id, device_id),
        )
        return int(count)

    def counts(self, tx: Transaction, user_id: str, device_id: str, now_ms: int) -> dict[str, int]:
        """How many can be handed out, by algorithm."""
        rows = tx.rows(
            "SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? AND value IS NOT NULL"
            " AND (expires_ts IS NULL OR expires_ts > ?) GROUP BY algorithm",
            (user_id, device_id, now_ms),
        )
        return dict(rows)

    def unused_last_resort(self, tx: Transaction, user_id: str, device_id: str, now_ms: int) -> list[str]:
        """Algorithms whose last-resort key has not been needed yet."""
        rows = tx.rows(
            "SELECT algorithm FROM last_resort_keys WHERE user_id = ? AND device_id = ? AND used = 0"
            " AND (expires_ts IS NULL OR expires_ts > ?) ORDER BY algorithm",
            (user_id, device_id, now_ms),
        )
        return [algorithm for (algorithm,) in rows]

    def claim(self, tx: Transaction, user_id: str, device_id: str, algorithm: str, now_ms: int) -> ClaimedKey | None:
        """The oldest one-time key that has not expired; else the last-resort key; else ``None``."""
        row = tx.row(
            "SELECT key_nid, version, value FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?"
            " AND value IS NOT NULL AND (expires_ts IS NULL OR expires_ts > ?) ORDER BY key_nid LIMIT 1",
            (user_id, device_id, algorithm, now_ms),
        )
        if row is not None:
            key_nid, version, value = row
            tx.execute("UPDATE one_time_keys SET value = NULL WHERE key_nid = ?", (key_nid,))
            return ClaimedKey(version, value)
        rows = tx.rows(
            "UPDATE last_resort_keys SET used = 1 WHERE user_id = ? AND device_id = ? AND algorithm = ?"
            " AND (expires_ts IS NULL OR expires_ts > ?) RETURNING version, value",
            (user_id, device_id, algorithm, now_ms),
        )
        return ClaimedKey(*rows[0]) if rows else None

    def claimed(self, tx: Transaction, user_id: str, device_id: str) -> int:
        """Note that the device should hear how many are left."""
        stream = next_place(tx)
        tx.execute(
            "INSERT INTO key_claims (user_id, device_id, stream) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id, device_id) DO UPDATE SET stream = excluded.stream",
            (user_id, device_id, stream),
        )
        return stream

    def claimed_at(self, tx: Transaction, user_id: str, device_id: str) -> int:
        """Stream position at which keys were last handed out; 0 for never."""
        row = tx.row("SELECT stream FROM key_claims WHERE user_id = ? AND device_id = ?", (user_id, device_id))
        return 0 if row is None else int(row[0])

    def remove_devices(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Forget devices' keys, but not that some were handed out, as long as these have not expired."""
        for device_id in device_ids:
            device = (user_id, device_id)
            tx.execute(
                "DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ?"
                " AND (value IS NOT NULL OR expires_ts IS NULL)",
                device,
            )
            tx.execute("DELETE FROM last_resort_keys WHERE user_id = ? AND device_id = ?", device)
            tx.execute("DELETE FROM key_claims WHERE user_id = ? AND device_id = ?", device)

    def remove_expired(self, tx: Transaction, now_ms: int) -> None:
        """Forget some of the one-time keys that have expired, whosever they are."""
        tx.execute(
            "DELETE FROM one_time_keys WHERE key_nid IN (SELECT key_nid FROM one_time_keys"
            " WHERE expires_ts IS NOT NULL AND expires_ts <= ? ORDER BY expires_ts LIMIT ?)",
            (now_ms, _REMOVED_AT_ONCE),
        )

    def _add_one_time(self, tx: Transaction, user_id: str, device_id: str, key: UploadedKey) -> None:
        known = tx.rows(
            "SELECT algorithm, version, digest FROM one_time_keys WHERE user_id = ? AND device_id = ?"
            " AND ((algorithm = ? AND version = ?) OR digest = ?)",
            (user_id, device_id, key.algorithm, key.version, key.digest),
        )
        if known == [(key.algorithm, key.version, key.digest)]:
            return
        if known:
            raise KeyConflict(
                f"{key.algorithm}:{key.version} was uploaded with another value, or this under another ID"
            )
        row = tx.row(
            "SELECT digest FROM last_resort_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?",
            (user_id, device_id, key.algorithm),
        )
        if row is not None and row[0] == key.digest:
            raise KeyConflict(f"{key.algorithm}:{key.version} is there as a key of last resort")
        tx.execute(
            "INSERT INTO one_time_keys (user_id, device_id, algorithm, version, digest, value, expires_ts)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (user_id, device_id, key.algorithm, key.version, key.digest, key.value, key.expires_ts),
        )

    def _add_last_resort(self, tx: Transaction, user_id: str, device_id: str, key: UploadedKey) -> None:
        row = tx.row(
            "SELECT 1 FROM one_time_keys WHERE user_id = ? AND device_id = ? AND digest = ?",
            (user_id, device_id, key.digest),
        )
        if row is not None:
            raise KeyConflict(f"{key.algorithm}:{key.version} was uploaded for use once")
        tx.execute(
            "INSERT INTO last_resort_keys (user_id, device_id, algorithm, version, digest, value, expires_ts, used)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET"
            " version = excluded.version, digest = excluded.digest, value = excluded.value,"
            " expires_ts = excluded.expires_ts, used = 0 WHERE excluded.digest <> last_resort_keys.digest",
            (user_id, device_id, key.algorithm, key.version, key.digest, key.value, key.expires_ts),
        )
