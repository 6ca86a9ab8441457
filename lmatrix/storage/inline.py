"""The database without threads, for deterministic tests and simulations.

Owns: :class:`InlineDatabase`, which runs the same engine, the same group commit and the same stores as the real one,
on the calling thread. Without a clock everything is done at once. With one, it takes time as it does on a real disk:
what is accepted before a commit's time comes shares it; its callers hear of it a while after it is on disk; a read sees
what was committed by the time when it is carried out. A :meth:`InlineDatabase.crash` in between loses what was not
committed, and the news of what was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from lmatrix.errors import ShuttingDown, StorageFailed
from lmatrix.storage.engine import Engine, Transaction
from lmatrix.storage.group_commit import Done, Failed, Outcome, Work, Writer, run_read
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

T = TypeVar("T")


class InlineDatabase:
    """A :class:`~lmatrix.rooms.interfaces.Database` without threads. Open as soon as it is made.

    Args:
        path: a file, or ``":memory:"``. A file may be opened again after :meth:`crash` or :meth:`close`.
        clock: when given, a commit takes place ``commit_seconds()`` after its first write.
        commit_seconds: how long a commit takes; at once by default.
        answer_seconds: how long after the commit its callers hear of it; at once by default.
        read_seconds: how long a read takes. It is carried out half-way. At once by default.
        engine: the database, when it is not simply the file.

    Attributes:
        fail_commits: the next so many commits fail as if the disk were full.
        deny_commits: the next so many commits take place, and are reported as failed: what the disk says after an
            error is not to be trusted.
        fail_reads: the next so many reads fail.
        commits: how many commits succeeded.
    """

    def __init__(
        self,
        path: Path | str = ":memory:",
        *,
        clock: IReactorTime | None = None,
        commit_seconds: Callable[[], float] = lambda: 0.0,
        answer_seconds: Callable[[], float] = lambda: 0.0,
        read_seconds: Callable[[], float] = lambda: 0.0,
        engine: Engine | None = None,
    ) -> None:
        self.fail_commits = 0
        self.deny_commits = 0
        self.fail_reads = 0
        self.commits = 0
        self._clock = clock
        self._commit_seconds = commit_seconds
        self._answer_seconds = answer_seconds
        self._read_seconds = read_seconds
        self._engine = engine or SqliteEngine(path, durable=False)
        self._writer = Writer(self._engine, self._before_commit, self._after_commit)
        self._writer.open(schema_steps())
        self._waiting: list[tuple[Work, Deferred[Any]]] = []
        self._unheard: deque[tuple[Deferred[Any], Outcome]] = deque()
        self._timers: set[IDelayedCall] = set()
        self._commit_due = False
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
        if not self._commit_due:
            self._commit_due = True
            self._later(self._commit_seconds(), self._commit)
        return answer

    def read(self, work: Callable[[Transaction], T]) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`."""
        if not self._open:
            return fail(ShuttingDown("the database is closed"))
        answer: Deferred[T] = Deferred()
        seconds = self._read_seconds() if self._clock is not None else 0.0
        if seconds > 0.0:
            self._later(seconds / 2, self._read_half_way, work, answer, seconds / 2)
        else:
            _fire(answer, self._read(work))
        return answer

    def crash(self) -> None:
        """The process dies: nothing that waits is committed, and nobody hears of it ever again."""
        # What waits is kept: letting go of those who wait for it would run what a dying process never runs.
        self._stop_timers()
        self._open = False
        self._writer.crash()

    def close(self) -> None:
        """Commit what waits, tell everybody, and disconnect."""
        if not self._open:
            return
        self._stop_timers()
        self._commit()
        while self._unheard:
            self._tell()
        self._open = False
        self._writer.close()

    def _later(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        assert self._clock is not None  # noqa: S101 - without one nothing is ever done later
        timer: IDelayedCall

        def run() -> None:
            self._timers.discard(timer)
            do(*args)

        timer = self._clock.callLater(seconds, run)
        self._timers.add(timer)

    def _stop_timers(self) -> None:
        timers, self._timers = self._timers, set()
        for timer in timers:
            timer.cancel()

    def _read(self, work: Work) -> Outcome:
        try:
            if self.fail_reads > 0:
                self.fail_reads -= 1
                raise StorageFailed("the disk cannot be read (simulated)")
            return Done(run_read(self._writer.connection, self._engine, work))
        except Exception as error:
            return Failed(error)

    def _read_half_way(self, work: Work, answer: Deferred[Any], seconds: float) -> None:
        outcome = self._read(work)
        self._later(seconds, lambda: _fire(answer, outcome))

    def _commit(self) -> None:
        self._commit_due = False
        group, self._waiting = self._waiting, []
        if not group:
            return
        outcomes = self._run([work for work, _ in group])
        self._unheard.extend((answer, outcome) for (_, answer), outcome in zip(group, outcomes, strict=True))
        seconds = self._answer_seconds()
        for _ in group:
            # Callers hear in the order of their commits, however long each one's news takes.
            if seconds > 0.0:
                self._later(seconds, self._tell)
            else:
                self._tell()

    def _tell(self) -> None:
        answer, outcome = self._unheard.popleft()
        _fire(answer, outcome)

    def _run(self, works: list[Work]) -> list[Outcome]:
        before = self.fail_commits + self.deny_commits
        outcomes = self._writer.run(works)
        if self.fail_commits + self.deny_commits == before:
            self.commits += 1
        return outcomes

    def _before_commit(self) -> None:
        if self.fail_commits > 0:
            self.fail_commits -= 1
            raise StorageFailed("the disk is full (simulated)")

    def _after_commit(self) -> None:
        if self.deny_commits > 0:
            self.deny_commits -= 1
            raise StorageFailed("the disk does not confirm (simulated)")


def _fire(answer: Deferred[Any], outcome: Outcome) -> None:
    if isinstance(outcome, Failed):
        answer.errback(outcome.error)
    else:
        answer.callback(outcome.value)
