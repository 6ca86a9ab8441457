"""The database of a running server: one writer thread with group commit, a few reader threads.

Owns: :class:`SqliteDatabase`, its threads and their queues. Invariants: works are written in the order in which
:meth:`SqliteDatabase.write` was called; a write's Deferred fires after the commit that holds it is on disk, and a read
that is asked for after that sees it; a lone work never waits for company, but whatever queues up during a commit
shares the next one; queues are bounded; what was accepted is finished before :meth:`SqliteDatabase.stop` is; Deferreds
fire in the reactor thread, and connections never leave the threads that opened them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger

from lmatrix.errors import Overloaded, ShuttingDown
from lmatrix.metrics import Metrics
from lmatrix.storage.engine import Engine, Transaction
from lmatrix.storage.group_commit import Done, Failed, Outcome, Work, Writer, run_read
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

T = TypeVar("T")

MAX_GROUP = 256
"""Works that share a commit at most."""

MAX_WAITING = 10_000
"""Works that may wait, for writing and for reading each."""

READERS = 3
RETRY_AFTER_MS = 1_000

_Job = tuple[Work, Deferred[Any]]


class IReactor(IReactorTime, IReactorFromThreads):
    """What of the reactor is needed."""


class SqliteDatabase:
    """A :class:`~lmatrix.rooms.interfaces.Database` in one file.

    Args:
        path: the file; it is made when it is not there.
        reactor: for the clock, and for handing results back.
        metrics: for ``commit_seconds``, ``batch_size`` and ``queue_length``.
        readers: number of reader threads.
        max_waiting: how many works may wait, for writing and for reading each.
    """

    log = Logger()

    def __init__(
        self,
        path: Path | str,
        *,
        reactor: Any,
        metrics: Metrics,
        readers: int = READERS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._engine: Engine = SqliteEngine(path)
        self._path = path
        self._reactor: IReactor = reactor
        self._metrics = metrics
        self._writing = _Lane("database_write", metrics, max_waiting)
        self._reading = _Lane("database_read", metrics, max_waiting)
        self._reader_count = readers
        self._threads: list[Thread] = []
        self._state = "new"

    async def start(self) -> None:
        """Open the database and bring its schema up to date.

        Raises:
            StorageFailed: it cannot be opened or upgraded.
        """
        if self._state != "new":
            raise RuntimeError("the database was started before")
        self._state = "started"
        opened: Deferred[Any] = Deferred()
        self._writer_ended: Deferred[None] = Deferred()
        self._start_thread("writer", self._write_forever, opened)
        applied = await opened
        for step in applied:
            self.log.info("applied schema step {name}", name=step.name)
        started: list[Deferred[Any]] = []
        self._readers_ended: list[Deferred[None]] = []
        for number in range(self._reader_count):
            ready: Deferred[Any] = Deferred()
            ended: Deferred[None] = Deferred()
            started.append(ready)
            self._readers_ended.append(ended)
            self._start_thread(f"reader-{number}", self._read_forever, ready, ended)
        await gatherResults(started, consumeErrors=True)
        self._state = "running"

    async def stop(self) -> None:
        """Finish what was accepted, take nothing new, and close. Safe to call when it never started."""
        if self._state != "running":
            self._state = "stopped"
            return
        self._state = "stopped"
        for _ in self._readers_ended:
            self._reading.queue.put(None)
        for ended in self._readers_ended:
            await ended
        self._writing.queue.put(None)
        await self._writer_ended
        for thread in self._threads:
            thread.join()  # they have said that they are at their ends

    def write(self, work: Callable[[Transaction], T]) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. The Deferred fails with what ``work`` raised, or with:

        Raises:
            StorageFailed: the commit failed; nothing was written.
            Overloaded: too much is waiting.
            ShuttingDown: the database is not running.
        """
        return self._submit(self._writing, work)

    def read(self, work: Callable[[Transaction], T]) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. Fails as :meth:`write` does."""
        return self._submit(self._reading, work)

    def _submit(self, lane: _Lane, work: Callable[[Transaction], T]) -> Deferred[T]:
        if self._state != "running":
            return fail(ShuttingDown("the database is closed"))
        if lane.waiting >= lane.max_waiting:
            return fail(Overloaded(RETRY_AFTER_MS, "The database has too much to do. Try again later."))
        answer: Deferred[T] = Deferred()
        lane.accepted()
        lane.queue.put((work, answer))
        return answer

    def _start_thread(self, name: str, target: Callable[..., None], *args: Any) -> None:
        thread = Thread(target=target, args=args, name=f"lmatrix-database-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- In the writer thread -----------------------------------------------------------------------------------------

    def _write_forever(self, opened: Deferred[Any]) -> None:
        writer = Writer(self._engine)
        try:
            applied = writer.open(schema_steps())
        except Exception as error:
            self._reactor.callFromThread(opened.errback, error)
            return
        self._reactor.callFromThread(opened.callback, applied)
        ending = False
        while not ending:
            group, ending = self._next_group()
            if group:
                started = self._reactor.seconds()
                outcomes = writer.run([work for work, _ in group])
                self._metrics.commit_seconds.observe(self._reactor.seconds() - started)
                self._metrics.batch_size.labels(what="commit").observe(len(group))
                self._reactor.callFromThread(self._deliver, self._writing, group, outcomes)
        writer.close()
        self._reactor.callFromThread(self._writer_ended.callback, None)

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a work, and take what is there besides; and whether that was the last."""
        queue = self._writing.queue
        job = queue.get()
        group: list[_Job] = []
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return group, False
            try:
                job = queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    # -- In a reader thread -------------------------------------------------------------------------------------------

    def _read_forever(self, ready: Deferred[Any], ended: Deferred[None]) -> None:
        try:
            connection = self._engine.connect(read_only=True)
        except Exception as error:
            self._reactor.callFromThread(ready.errback, error)
            return
        self._reactor.callFromThread(ready.callback, None)
        while (job := self._reading.queue.get()) is not None:
            outcome: Outcome
            try:
                outcome = Done(run_read(connection, self._engine, job[0]))
            except Exception as error:
                outcome = Failed(error)
            self._reactor.callFromThread(self._deliver, self._reading, [job], [outcome])
        connection.close()
        self._reactor.callFromThread(ended.callback, None)

    # -- In the reactor thread ----------------------------------------------------------------------------------------

    def _deliver(self, lane: _Lane, group: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        lane.finished(len(group))
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Failed):
                answer.errback(outcome.error)
            else:
                answer.callback(outcome.value)


class _Lane:
    """A queue towards a thread; ``None`` in it means "no more". Only the queue itself is touched by that thread."""

    def __init__(self, name: str, metrics: Metrics, max_waiting: int) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.max_waiting = max_waiting
        self.waiting = 0
        self._gauge = metrics.queue_length.labels(queue=name)

    def accepted(self) -> None:
        self.waiting += 1
        self._gauge.set(self.waiting)

    def finished(self, count: int) -> None:
        self.waiting -= count
        self._gauge.set(self.waiting)
