"""Other servers' published signing keys.

Owns: :class:`SqlServerKeyStore`, which implements :class:`~lmatrix.rooms.key_store.ServerKeyStore`. Invariant: a key
that was once stored is never forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.rooms.key_store import StoredKey, StoredResponse, StoredServerKeys
from lmatrix.storage.engine import Transaction


class SqlServerKeyStore:
    """See :class:`~lmatrix.rooms.key_store.ServerKeyStore`."""

    def get(self, tx: Transaction, server_name: str) -> StoredServerKeys | None:
        """Every key of a server, with its last answer."""
        found = tx.row("SELECT fetched_ts, response FROM server_key_responses WHERE server_name = ?", (server_name,))
        rows = tx.rows(
            "SELECT key_id, public, valid_until_ts, expired_ts, notary FROM server_keys WHERE server_name = ?"
            " ORDER BY key_id",
            (server_name,),
        )
        if found is None and not rows:
            return None
        return StoredServerKeys(server_name, tuple(StoredKey(*row) for row in rows), *(found or (0, None)))

    def put(self, tx: Transaction, keys: StoredServerKeys) -> None:
        """Replace the answer, if there is one, and the keys that are given; other keys stay."""
        if keys.response is not None:
            tx.execute(
                "INSERT INTO server_key_responses (server_name, fetched_ts, response) VALUES (?, ?, ?)"
                " ON CONFLICT (server_name) DO UPDATE SET fetched_ts = excluded.fetched_ts,"
                " response = excluded.response",
                (keys.server_name, keys.fetched_ts, keys.response),
            )
        tx.executemany(
            "INSERT INTO server_keys (server_name, key_id, public, valid_until_ts, expired_ts, notary)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (server_name, key_id) DO UPDATE SET public = excluded.public,"
            " valid_until_ts = excluded.valid_until_ts, expired_ts = excluded.expired_ts, notary = excluded.notary",
            [
                (keys.server_name, key.key_id, key.public, key.valid_until_ts, key.expired_ts, key.notary)
                for key in keys.keys
            ],
        )

    def responses(self, tx: Transaction, server_name: str) -> Sequence[StoredResponse]:
        """The last answer, then the past ones, newest first."""
        rows = tx.rows("SELECT fetched_ts, response FROM server_key_responses WHERE server_name = ?", (server_name,))
        rows += tx.rows(
            "SELECT fetched_ts, response FROM server_key_past_responses WHERE server_name = ? ORDER BY age",
            (server_name,),
        )
        return [StoredResponse(*row) for row in rows]

    def put_past(self, tx: Transaction, server_name: str, responses: Sequence[StoredResponse]) -> None:
        """Replace the past answers."""
        tx.execute("DELETE FROM server_key_past_responses WHERE server_name = ?", (server_name,))
        tx.executemany(
            "INSERT INTO server_key_past_responses (server_name, age, fetched_ts, response) VALUES (?, ?, ?, ?)",
            [(server_name, age, one.fetched_ts, one.response) for age, one in enumerate(responses)],
        )
