"""Other servers' published signing keys.

Owns: :class:`SqlServerKeyStore`, which implements :class:`~lmatrix.rooms.key_store.ServerKeyStore`. Invariant: a key
that was once stored is never forgotten.
"""

from __future__ import annotations

from lmatrix.rooms.key_store import StoredKey, StoredServerKeys
from lmatrix.storage.engine import Transaction


class SqlServerKeyStore:
    """See :class:`~lmatrix.rooms.key_store.ServerKeyStore`."""

    def get(self, tx: Transaction, server_name: str) -> StoredServerKeys | None:
        """Every key of a server, with its last answer."""
        found = tx.row("SELECT fetched_ts, response FROM server_key_responses WHERE server_name = ?", (server_name,))
        if found is None:
            return None
        rows = tx.rows(
            "SELECT key_id, public, valid_until_ts, expired_ts FROM server_keys WHERE server_name = ? ORDER BY key_id",
            (server_name,),
        )
        return StoredServerKeys(server_name, tuple(StoredKey(*row) for row in rows), *found)

    def put(self, tx: Transaction, keys: StoredServerKeys) -> None:
        """Replace the answer and the keys in it; keys that are not in it stay."""
        tx.execute(
            "INSERT INTO server_key_responses (server_name, fetched_ts, response) VALUES (?, ?, ?)"
            " ON CONFLICT (server_name) DO UPDATE SET fetched_ts = excluded.fetched_ts, response = excluded.response",
            (keys.server_name, keys.fetched_ts, keys.response),
        )
        tx.executemany(
            "INSERT INTO server_keys (server_name, key_id, public, valid_until_ts, expired_ts) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (server_name, key_id) DO UPDATE SET public = excluded.public,"
            " valid_until_ts = excluded.valid_until_ts, expired_ts = excluded.expired_ts",
            [(keys.server_name, key.key_id, key.public, key.valid_until_ts, key.expired_ts) for key in keys.keys],
        )
