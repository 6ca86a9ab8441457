"""The room aliases of this server.

Owns: :class:`SqlAliasStore`, which implements :class:`~lmatrix.directory.interfaces.AliasStore`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.directory.interfaces import StoredAlias
from lmatrix.errors import AliasTaken
from lmatrix.storage.engine import Transaction


class SqlAliasStore:
    """See :class:`~lmatrix.directory.interfaces.AliasStore`."""

    def alias(self, tx: Transaction, alias: str) -> StoredAlias | None:
        """One alias."""
        row = tx.row("SELECT alias, room_id, creator FROM room_aliases WHERE alias = ?", (alias,))
        return None if row is None else StoredAlias(*row)

    def put_alias(self, tx: Transaction, alias: StoredAlias, now_ms: int) -> None:
        """Make an alias. Raises :class:`AliasTaken` when there is one of that name."""
        rows = tx.rows(
            "INSERT INTO room_aliases (alias, room_id, creator, created_ts) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (alias) DO NOTHING RETURNING alias",
            (alias.alias, alias.room_id, alias.creator, now_ms),
        )
        if not rows:
            raise AliasTaken(alias.alias)

    def remove_alias(self, tx: Transaction, alias: str) -> None:
        """Remove an alias, if it is there."""
        tx.execute("DELETE FROM room_aliases WHERE alias = ?", (alias,))

    def aliases_of_room(self, tx: Transaction, room_id: str) -> list[str]:
        """A room's aliases, sorted."""
        rows = tx.rows("SELECT alias FROM room_aliases WHERE room_id = ? ORDER BY alias", (room_id,))
        return [alias for (alias,) in rows]

    def aliases_by(self, tx: Transaction, creator: str) -> int:
        """How many a user has made that there are."""
        [(count,)] = tx.rows("SELECT COUNT(*) FROM room_aliases WHERE creator = ?", (creator,))
        return int(count)

    def aliases_after(self, tx: Transaction, alias: str, limit: int) -> Sequence[StoredAlias]:
        """Aliases in the order of their names, after that one (``""``: from the first)."""
        rows = tx.rows(
            "SELECT alias, room_id, creator FROM room_aliases WHERE alias > ? ORDER BY alias LIMIT ?", (alias, limit)
        )
        return [StoredAlias(*row) for row in rows]
