"""The database without threads, for deterministic tests and simulations.

Owns: :class:`InlineDatabase`, which runs the same engine, the same group commit and the same stores as the real one,
on the calling thread. Without a clock every write is committed at once. With one, writes wait as they do for a real
disk: what is accepted before the commit's time comes shares it, and a :meth:`InlineDatabase.crash` meanwhile loses it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from lmatrix.errors import ShuttingDown, StorageFailed
from lmatrix.storage.engine import Transaction
from lmatrix.storage.group_commit import Failed, Outcome, Work, Writer, run_read
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

T = TypeVar("T")


class InlineDatabase:
    """A :class:`~lmatrix.rooms.interfaces.Database` without threads. Open as soon as it is made.

    Args:
        path: a file, or ``":memory:"``. A file may be opened again after :meth:`crash` or :meth:`close`.
        clock: when given, a commit takes place ``commit_seconds()`` after its first write.
        commit_seconds: how long a commit takes; at once by default.

    Attributes:
        fail_commits: the next so many commits fail as if the disk were full.
        commits: how many commits succeeded.
    """

    def __init__(
        self,
        path: Path | str = ":memory:",
        *,
        clock: IReactorTime | None = None,
        commit_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.fail_commits = 0
        self.commits = 0
        self._clock = clock
        self._commit_seconds = commit_seconds
        self._engine = SqliteEngine(path, durable=False)
        self._writer = Writer(self._engine, self._before_commit)
        self._writer.open(schema_steps())
        self._waiting: list[tuple[Work, Deferred[Any]]] = []
        self._timer: IDelayedCall | None = None
        self._open = True

    def write(self, work: Callable[[Transaction], T], *, patient: bool = False) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. Without a clock nothing is gained by patience."""
        if not self._open:
            return fail(ShuttingDown("the database is closed"))
        answer: Deferred[T] = Deferred()
        if self._clock is None:
            [outcome] = self._run([work])
            _fire(answer, outcome)
            return answer
        self._waiting.append((work, answer))
        if self._timer is None:
            self._timer = self._clock.callLater(self._commit_seconds(), self._commit)
        return answer

    def read(self, work: Callable[[Transaction], T]) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. Always answers at once."""
        if not self._open:
            return fail(ShuttingDown("the database is closed"))
        answer: Deferred[T] = Deferred()
        try:
            value = run_read(self._writer.connection, self._engine, work)
        except Exception:
            answer.errback()
        else:
            answer.callback(value)
        return answer

    def crash(self) -> None:
        """The process dies: nothing that waits is committed, and nobody hears of it ever again."""
        self._stop_timer()
        self._waiting.clear()
        self._open = False
        self._writer.crash()

    def close(self) -> None:
        """Commit what waits, and disconnect."""
        if not self._open:
            return
        self._stop_timer()
        self._commit()
        self._open = False
        self._writer.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _commit(self) -> None:
        self._timer = None
        group, self._waiting = self._waiting, []
        if not group:
            return
        outcomes = self._run([work for work, _ in group])
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            _fire(answer, outcome)

    def _run(self, works: list[Work]) -> list[Outcome]:
        before = self.fail_commits
        outcomes = self._writer.run(works)
        if self.fail_commits == before:
            self.commits += 1
        return outcomes

    def _before_commit(self) -> None:
        if self.fail_commits > 0:
            self.fail_commits -= 1
            raise StorageFailed("the disk is full (simulated)")


def _fire(answer: Deferred[Any], outcome: Outcome) -> None:
    if isinstance(outcome, Failed):
        answer.errback(outcome.error)
    else:
        answer.callback(outcome.value)
