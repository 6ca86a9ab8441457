"""A server's disk: a real SQLite file that outlives the server's processes, and the ways in which it fails.

Owns: :class:`FaultyEngine`, whose disk can be full, and :class:`Disk`, the database of one process on it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import attrs
from twisted.internet.base import DelayedCall

from lmatrix.storage.engine import Connection
from lmatrix.storage.group_commit import Failed, Outcome, Work
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.sqlite_engine import SqliteEngine
from tests.simulation.reactor import ServerReactor

_NO_LIMIT = 2**30


@attrs.define(slots=True)
class Speed:
    """How fast the disk is: mean seconds of each step; drawn anew each time."""

    commit: float = 0.004
    news: float = 0.001
    read: float = 0.001


class FaultyEngine(SqliteEngine):
    """SQLite on a disk that can be full: no file grows any more, and SQLite says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, durable=False)
        self._full = False
        self._connection: Connection | None = None

    def connect(self, *, read_only: bool) -> Connection:
        """See :class:`~lmatrix.storage.engine.Engine`."""
        self._connection = connection = super().connect(read_only=read_only)
        self._limit(connection)
        return connection

    def fill(self, full: bool) -> None:
        """The disk is full from now on, or is not any more. To be called while the database is open."""
        self._full = full
        if self._connection is not None:
            self._limit(self._connection)

    def _limit(self, connection: Connection) -> None:
        pages = _NO_LIMIT
        if self._full:
            [(pages,)] = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()


class Disk(InlineDatabase):
    """The database of one process.

    Args:
        path: the file.
        reactor: the process's.
        speed: how fast it is; may change.
        rng: varies it.
        committed: called after each commit that took place, whether or not it is then reported as failed.
        dies_at: asked before and after each commit whether the process has died.
    """

    def __init__(
        self,
        path: Path,
        reactor: ServerReactor,
        speed: Speed,
        rng: Random,
        committed: Callable[[Disk], None],
        dies_at: Callable[[str], bool],
    ) -> None:
        self.engine = FaultyEngine(path)
        self._committed = committed
        self._dies_at = dies_at
        self._buried: list[object] = []
        super().__init__(
            path,
            clock=reactor,
            commit_seconds=lambda: rng.expovariate(1 / speed.commit),
            answer_seconds=lambda: rng.expovariate(1 / speed.news),
            read_seconds=lambda: rng.expovariate(1 / speed.read),
            engine=self.engine,
        )

    async def start(self) -> None:
        """It is open already."""

    async def stop(self) -> None:
        """See :class:`lmatrix.storage.database.SqliteDatabase`."""
        self.close()

    def crash(self) -> None:
        """See :meth:`InlineDatabase.crash`. Who waited for a read is kept, too: a dead process does not clean up."""
        self._buried = [(timer.func, timer.args) for timer in self._timers if isinstance(timer, DelayedCall)]
        super().crash()

    def look(self, sql: str, *parameters: Any) -> list[Any]:
        """What is on the disk, at once."""
        return self._writer.connection.execute(sql, parameters).fetchall()

    def now(self, work: Callable[[Any], Any]) -> Any:
        """What a store finds on the disk, at once."""
        outcome = self._read(work)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome.value

    @property
    def is_open(self) -> bool:
        """Whether the process has it open."""
        return self._open

    def _commit(self) -> None:
        # It is the clock that calls this, and nobody else: a process that dies here is between two turns.
        if self._open and self._waiting:
            if self._dies_at("before a commit"):
                return
            super()._commit()
            self._dies_at("after a commit")
        else:
            super()._commit()

    def _run(self, works: list[Work]) -> list[Outcome]:
        outcomes = super()._run(works)
        self._committed(self)
        return outcomes
