"""Reading a server's database beside the server, from another process.

Owns: :func:`reading`, :class:`Reading` and :func:`integrity_problems`. Nothing here changes anything in the database,
or keeps its writer waiting: SQLite's readers see one moment of it. While they do, though, the write-ahead log cannot
be emptied, and grows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from lmatrix.errors import StorageFailed
from lmatrix.storage.engine import Connection, Transaction
from lmatrix.storage.group_commit import run_read
from lmatrix.storage.migrations import missing_steps, schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

T = TypeVar("T")

_MAX_PROBLEMS = 20


class Reading:
    """A database that another process may be writing.

    Args:
        engine: the database.
        connection: to it, for reading only.
    """

    def __init__(self, engine: SqliteEngine, connection: Connection) -> None:
        self._engine = engine
        self._connection = connection

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a work on one moment of the database.

        Raises:
            StorageFailed: the database cannot be read.
            what ``work`` raises.
        """
        result: T = run_read(self._connection, self._engine, work)
        return result

    def copy_to(self, copy: sqlite3.Connection) -> None:
        """Copy all pages, of one moment. Raises :class:`sqlite3.Error`."""
        cast(sqlite3.Connection, self._connection).backup(copy)

    def integrity_problems(self) -> list[str]:
        """See :func:`integrity_problems`."""
        return integrity_problems(self._connection)


@contextmanager
def reading(path: Path, *, up_to_date: bool = True) -> Iterator[Reading]:
    """Open a server's database to read it, whether or not the server runs.

    Args:
        up_to_date: whether its schema must be this version's; else that of an earlier version will do.

    Raises:
        StorageFailed: it is not there, or no such database.
    """
    if not path.exists():
        raise StorageFailed(f"{path} does not exist")
    engine = SqliteEngine(path)
    connection = engine.connect(read_only=True)
    try:
        missing = missing_steps(connection, engine, schema_steps())
        if missing and up_to_date:
            raise StorageFailed(f"{path} was made by an older version of lmatrix; start the server once, to upgrade it")
        yield Reading(engine, connection)
    finally:
        connection.close()


def integrity_problems(connection: Connection) -> list[str]:
    """What SQLite finds wrong with a database file, in its words; empty when it is sound. Reads all of it."""
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MAX_PROBLEMS})").fetchall()]
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()[:_MAX_PROBLEMS]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    problems = [] if found == ["ok"] else found
    return problems + [
        f"a row of {table} refers to one of {parent} that is not there" for table, _, parent, _ in orphans
    ]
