"""The database of a running server: one writer thread with group commit, a few reader threads.

Owns: :class:`SqliteDatabase`, its threads and their queues. Invariants: works are written in the order in which
:meth:`SqliteDatabase.write` was called; a write's Deferred fires after the commit that holds it is on disk, and a read
that is asked for after that sees it; a lone work never waits for company unless it was said to be patient, but whatever
queues up during a commit shares the next one; queues are bounded; what was accepted is finished before
:meth:`SqliteDatabase.stop` is; Deferreds fire in the reactor thread, and connections never leave the threads that
opened them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger

from lmatrix.errors import Overloaded, ShuttingDown, StorageFailed
from lmatrix.metrics import Metrics
from lmatrix.storage.engine import Connection, Engine, Transaction
from lmatrix.storage.group_commit import Done, Failed, Outcome, Work, Writer, run_read
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

T = TypeVar("T")

MAX_GROUP = 256
"""Works that share a commit at most."""

MAX_WAITING = 10_000
"""Works that may wait, for writing and for reading each."""

PATIENCE_SECONDS = 0.1
"""How long a patient work waits for company."""

READERS = 3
"""Threads that read. The interpreter runs one thread at a time, and passing its turn to another costs more than a short
read does: all but the first only help out."""

HELP_AFTER_SECONDS = 0.02
"""How long a read may take before the other readers take those that wait behind it."""

RETRY_AFTER_MS = 1_000


class _Job(NamedTuple):
    work: Work
    answer: Deferred[Any]
    patient: bool


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
        patience_seconds: how long a patient work waits for another to share its commit with.
        help_after_seconds: how long a read may take before the other readers take those that wait behind it.
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
        patience_seconds: float = PATIENCE_SECONDS,
        help_after_seconds: float = HELP_AFTER_SECONDS,
    ) -> None:
        self._engine: Engine = SqliteEngine(path)
        self._path = path
        self._reactor: IReactor = reactor
        self._metrics = metrics
        self._writing = _Lane("database_write", metrics, max_waiting)
        self._reading = _Lane("database_read", metrics, max_waiting)
        self._reader_count = readers
        self._calls_for_help: SimpleQueue[bool] = SimpleQueue()
        self._patience_seconds = patience_seconds
        self._help_after_seconds = help_after_seconds
        self._threads: list[tuple[Thread, Deferred[None]]] = []
        self._state = "new"

    async def start(self) -> None:
        """Open the database and bring its schema up to date.

        Raises:
            StorageFailed: it cannot be opened or upgraded.
        """
        if self._state != "new":
            raise RuntimeError("the database was started before")
        self._state = "starting"
        applied = await self._start_thread("writer", self._write_forever)
        for step in applied:
            self.log.info("{path}: applied schema step {name}", path=str(self._path), name=step.name)
        try:
            for number in range(self._reader_count):
                await self._start_thread(f"reader-{number}", self._help_reading if number else self._read_forever)
        except BaseException:
            await self._end_threads()
            raise
        self._state = "running"

    async def stop(self) -> None:
        """Finish what was accepted, take nothing new, and close. Safe to call when it never started."""
        was_running, self._state = self._state == "running", "stopped"
        if was_running:
            await self._end_threads()

    def write(self, work: Callable[[Transaction], T], *, patient: bool = False) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. The Deferred fails with what ``work`` raised, or with:

        Raises:
            StorageFailed: the commit failed; nothing was written.
            Overloaded: too much is waiting.
            ShuttingDown: the database is not running.
        """
        return self._submit(self._writing, work, patient)

    def read(self, work: Callable[[Transaction], T]) -> Deferred[T]:
        """See :class:`~lmatrix.rooms.interfaces.Database`. Fails as :meth:`write` does."""
        answer = self._submit(self._reading, work)
        lane = self._reading
        if lane.waiting > 1 and self._reactor.seconds() - lane.moved >= self._help_after_seconds:
            self._calls_for_help.put(True)
        return answer

    def _submit(self, lane: _Lane, work: Callable[[Transaction], T], patient: bool = False) -> Deferred[T]:
        if self._state != "running":
            return fail(ShuttingDown("the database is closed"))
        if lane.waiting >= lane.max_waiting:
            lane.shed.inc()
            return fail(Overloaded(RETRY_AFTER_MS, "The database has too much to do. Try again later."))
        answer: Deferred[T] = Deferred()
        lane.accepted(self._reactor.seconds())
        lane.queue.put(_Job(work, answer, patient))
        return answer

    async def _start_thread(self, name: str, target: Callable[[Deferred[Any], Deferred[None]], None]) -> Any:
        """Start a thread and wait until it says that it is ready; returns what it says."""
        ready: Deferred[Any] = Deferred()
        ended: Deferred[None] = Deferred()
        thread = Thread(target=target, args=(ready, ended), name=f"lmatrix-database-{name}", daemon=True)
        thread.start()
        answer = await ready
        self._threads.append((thread, ended))
        return answer

    async def _end_threads(self) -> None:
        """End the readers, then the writer: the last connection to close empties the write-ahead log."""
        [(writer, writer_ended), *readers] = self._threads
        for _ in readers[1:]:
            self._calls_for_help.put(False)
        for _, ended in readers[1:]:
            await ended
        self._reading.queue.put(None)
        for _, ended in readers[:1]:
            await ended
        self._writing.queue.put(None)
        await writer_ended
        for thread in (writer, *(reader for reader, _ in readers)):
            thread.join()  # it has said that it is at its end

    # -- In the writer thread -----------------------------------------------------------------------------------------

    def _write_forever(self, ready: Deferred[Any], ended: Deferred[None]) -> None:
        writer = Writer(self._engine)
        try:
            applied = writer.open(schema_steps())
        except Exception as error:
            self._reactor.callFromThread(ready.errback, error)
            return
        self._reactor.callFromThread(ready.callback, applied)
        ending = False
        while not ending:
            group, ending = self._next_group()
            if group:
                started = self._reactor.seconds()
                outcomes = self._run(writer, group)
                self._metrics.commit_seconds.observe(self._reactor.seconds() - started)
                self._metrics.batch_size.labels(what="commit").observe(len(group))
                self._reactor.callFromThread(self._deliver, self._writing, group, outcomes)
        writer.close()
        self._reactor.callFromThread(ended.callback, None)

    def _run(self, writer: Writer, group: Sequence[_Job]) -> Sequence[Outcome]:
        try:
            return writer.run([job.work for job in group])
        except BaseException as error:
            # A work tried to end the thread, which others need.
            self.log.failure("a group of {count} works was given up", count=len(group))
            return [Failed(StorageFailed(f"{type(error).__name__}: {error}")) for _ in group]

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a work, and take what is there besides; and whether that was the last."""
        queue = self._writing.queue
        job = queue.get()
        group: list[_Job] = []
        until = self._reactor.seconds() + self._patience_seconds
        wait = self._patience_seconds
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return group, False
            # The clock may be set meanwhile.
            wait = min(wait, max(0.0, until - self._reactor.seconds())) if job.patient else 0.0
            try:
                job = queue.get(timeout=wait)
            except Empty:
                return group, False
        return group, True

    # -- In a reader thread -------------------------------------------------------------------------------------------

    def _read_forever(self, ready: Deferred[Any], ended: Deferred[None]) -> None:
        """Read whatever there is to read."""

        def read_all(connection: Connection) -> None:
            while (job := self._reading.queue.get()) is not None:
                self._read_one(connection, job)

        self._with_connection(read_all, ready, ended)

    def _help_reading(self, ready: Deferred[Any], ended: Deferred[None]) -> None:
        """Read what the first reader has left lying, whenever help is called for."""

        def help_out(connection: Connection) -> None:
            while self._calls_for_help.get():
                with suppress(Empty):
                    while (job := self._reading.queue.get_nowait()) is not None:
                        self._read_one(connection, job)

        self._with_connection(help_out, ready, ended)

    def _with_connection(self, read: Callable[[Connection], None], ready: Deferred[Any], ended: Deferred[None]) -> None:
        try:
            connection = self._engine.connect(read_only=True)
        except Exception as error:
            self._reactor.callFromThread(ready.errback, error)
            return
        self._reactor.callFromThread(ready.callback, None)
        read(connection)
        connection.close()
        self._reactor.callFromThread(ended.callback, None)

    def _read_one(self, connection: Connection, job: _Job) -> None:
        outcome: Outcome
        try:
            outcome = Done(run_read(connection, self._engine, job.work))
        except BaseException as error:
            # Whatever it was, somebody waits for an answer, and others need this thread.
            outcome = Failed(error)
        self._reactor.callFromThread(self._deliver, self._reading, [job], [outcome])

    # -- In the reactor thread ----------------------------------------------------------------------------------------

    def _deliver(self, lane: _Lane, group: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        lane.finished(len(group), self._reactor.seconds())
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Failed):
                job.answer.errback(outcome.error)
            else:
                job.answer.callback(outcome.value)


class _Lane:
    """A queue towards a thread; ``None`` in it means "no more". Only the queue itself is touched by that thread."""

    def __init__(self, name: str, metrics: Metrics, max_waiting: int) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.max_waiting = max_waiting
        self.waiting = 0
        self.moved = 0.0  # when something was finished, or came when nothing was waiting
        self.shed = metrics.shed.labels(what=name)
        self._gauge = metrics.queue_length.labels(queue=name)

    def accepted(self, now: float) -> None:
        if not self.waiting:
            self.moved = now
        self.waiting += 1
        self._gauge.set(self.waiting)

    def finished(self, count: int, now: float) -> None:
        self.moved = now
        self.waiting -= count
        self._gauge.set(self.waiting)
