"""SQLite, the embedded engine.

Owns: connections and their settings. Write-ahead log with ``synchronous=FULL``: a commit that returned is on disk, and
readers never wait for the writer. Foreign keys are enforced. Connections are in autocommit mode, so that transactions
begin where this package says and not where the ``sqlite3`` module guesses.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast
from urllib.parse import quote

from lmatrix.errors import StorageFailed
from lmatrix.storage.engine import Connection

BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process that holds the file (a backup, an administrator's shell)."""

CACHED_STATEMENTS = 512
CACHE_KIB = 65_536
CHECKPOINT_PAGES = 4_000
"""Pages in the write-ahead log after which a commit copies them into the database."""

WAL_SIZE_LIMIT = 64 * 1024 * 1024

_WORDS = MappingProxyType(
    {
        "INT": "INTEGER",
        "BYTES": "BLOB",
        "NUMBERED": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "KEY": "INTEGER PRIMARY KEY",
        "TABLE": "STRICT",
        "CLUSTERED": "STRICT, WITHOUT ROWID",
    }
)


class SqliteEngine:
    """SQLite with one database file.

    Args:
        path: the file, made when it is not there; ``":memory:"`` for a database that ends with its only connection.
        durable: whether a commit waits for the disk. Off only in tests.
    """

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self._path = str(path)
        self._durable = durable

    @property
    def path(self) -> str:
        """Where the data are."""
        return self._path

    @property
    def schema_words(self) -> Mapping[str, str]:
        """See :class:`~lmatrix.storage.engine.Engine`."""
        return _WORDS

    @property
    def begin_write(self) -> str:
        """Takes the lock at once: a transaction that only finds out later cannot be carried on."""
        return "BEGIN IMMEDIATE"

    @property
    def begin_read(self) -> str:
        """The snapshot is taken by the first query."""
        return "BEGIN"

    @property
    def can_reconnect(self) -> bool:
        """Not to a database in memory, which ends with its connection."""
        return self._path != ":memory:"

    def connect(self, *, read_only: bool) -> Connection:
        """A new connection. Raises :class:`StorageFailed`."""
        try:
            return cast(Connection, self._connect(read_only))
        except sqlite3.Error as error:
            raise StorageFailed(f"{self._path} cannot be opened: {error}") from error

    def translate(self, sql: str) -> str:
        """Nothing to translate: the stores' dialect is SQLite's."""
        return sql

    def in_transaction(self, connection: Connection) -> bool:
        """Whether a transaction is open."""
        return cast(sqlite3.Connection, connection).in_transaction

    def failure_of(self, error: BaseException) -> StorageFailed | None:
        """Disk full, I/O error, locked, damaged; not a constraint or a mistake in a statement."""
        if isinstance(error, StorageFailed):
            return error
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return None
        if isinstance(error, sqlite3.DatabaseError):
            failure = StorageFailed(f"{self._path}: {error}")
            failure.__cause__ = error
            return failure
        return None

    def before_close(self, connection: Connection) -> None:
        """Empty the write-ahead log."""
        # No statistics for the planner: every query was written for one index, and shall go on using it.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        in_memory = self._path == ":memory:"
        target = self._path if in_memory else f"file:{quote(self._path)}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(
            target, uri=not in_memory, isolation_level=None, cached_statements=CACHED_STATEMENTS
        )
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").fetchall()
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}").fetchall()
            connection.execute("PRAGMA foreign_keys = ON").fetchall()
            connection.execute("PRAGMA temp_store = MEMORY").fetchall()
            if not read_only:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}").fetchall()
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").fetchall()
                connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE_LIMIT}").fetchall()
        except sqlite3.Error:
            connection.close()
            raise
        return connection
