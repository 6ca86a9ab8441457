"""What a database engine must offer, and the transaction that every store is handed.

Owns: :class:`Engine`, the seam behind which SQLite is (and PostgreSQL can be); :class:`Transaction`; and
:class:`Sequences`, the numbers that the writer gives out.

Invariants: stores write one dialect, with ``?`` for parameters and nothing that only one engine understands
(``INSERT … ON CONFLICT`` and ``RETURNING`` are understood by both); what differs is translated here. A transaction is
used by one thread at a time and never commits itself. Numbers that were once given out are never given out again while
the process lives, whether or not their transaction was committed: there may be gaps, never repetitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from lmatrix.errors import StorageFailed

Row = tuple[Any, ...]


class Cursor(Protocol):
    """The part of a DB-API cursor that stores use."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """The part of a DB-API connection that is used here. It is in autocommit mode: transactions are begun by hand."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """One kind of database.

    Attributes:
        schema_words: what to put for the words with a dollar sign in schema files.
        begin_write, begin_read: statements that begin a transaction of either kind.
        can_reconnect: whether a new connection sees the same data.
    """

    @property
    def schema_words(self) -> Mapping[str, str]: ...

    @property
    def begin_write(self) -> str: ...

    @property
    def begin_read(self) -> str: ...

    @property
    def can_reconnect(self) -> bool: ...

    def connect(self, *, read_only: bool) -> Connection:
        """A new connection, to be used by the calling thread. Raises :class:`StorageFailed`."""

    def translate(self, sql: str) -> str:
        """A store's SQL in the engine's own parameter style."""

    def in_transaction(self, connection: Connection) -> bool:
        """Whether a transaction is open; some errors end it without being asked."""

    def failure_of(self, error: BaseException) -> StorageFailed | None:
        """The typed error for one of the driver's that is the database's fault; ``None`` for any other."""

    def before_close(self, connection: Connection) -> None:
        """Tidy up with the writer's connection before it is closed for good."""


class Numbering(Enum):
    """What the writer numbers, each with the query for the highest number in the database."""

    EVENT = "SELECT MAX(event_nid) FROM events"
    STREAM = (
        "SELECT MAX(highest) FROM (SELECT MAX(stream) AS highest FROM events WHERE stream IS NOT NULL"
        " UNION ALL SELECT MAX(stream) AS highest FROM invites"
        " UNION ALL SELECT position AS highest FROM side_stream WHERE only_row = 1) AS all_kinds"
    )


class Numbers:
    """The numbers given out so far. Belongs to the writer, and outlives its transactions."""

    def __init__(self) -> None:
        self._last: dict[Numbering, int] = {}

    def take(self, connection: Connection, numbering: Numbering, count: int) -> int:
        """Give out ``count`` numbers in a row; returns the first. They begin with 1 in an empty database."""
        last = self._last.get(numbering)
        if last is None:
            (highest,) = connection.execute(numbering.value).fetchall()[0]
            last = highest or 0
        self._last[numbering] = last + count
        return last + 1


class Transaction:
    """What a store works on.

    Args:
        connection: with a transaction open.
        engine: for the translation of statements.
        numbers: the writer's; ``None`` in a reader.
    """

    __slots__ = ("_connection", "_numbers", "_translate")

    def __init__(self, connection: Connection, engine: Engine, numbers: Numbers | None) -> None:
        self._connection = connection
        self._translate = engine.translate
        self._numbers = numbers

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement. Read the rows of one that changes something to the end."""
        return self._connection.execute(self._translate(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of several sets of parameters."""
        return self._connection.executemany(self._translate(sql), parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        return self._connection.execute(self._translate(sql), parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or ``None``. The query is run to its end: let it find one row at most."""
        found = self._connection.execute(self._translate(sql), parameters).fetchall()
        return found[0] if found else None

    def take_numbers(self, numbering: Numbering, count: int) -> int:
        """Give out ``count`` new numbers in a row; returns the first. Only in a write."""
        if self._numbers is None:
            raise RuntimeError("a reading transaction cannot give out numbers")
        return self._numbers.take(self._connection, numbering, count)
