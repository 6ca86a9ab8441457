"""The database of a running server, with its threads, on a real disk."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from lmatrix.errors import NotFound, Overloaded, ShuttingDown, StorageFailed
from lmatrix.metrics import Metrics
from lmatrix.storage.database import SqliteDatabase
from lmatrix.storage.engine import Transaction
from tests.storage.test_group_commit import names, put

WAIT_SECONDS = 20


class DatabaseTestCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.metrics = Metrics()
        self.path = Path(self.mktemp()).absolute()

    async def started(self, **options: Any) -> SqliteDatabase:
        database = SqliteDatabase(self.path, reactor=reactor, metrics=self.metrics, **options)
        await database.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(database.stop()))
        return database

    async def held(self, database: SqliteDatabase) -> Event:
        """Keep the writer busy until the event is set."""
        entered, leave = Event(), Event()
        self.addCleanup(leave.set)

        def work(tx: Transaction) -> None:
            entered.set()
            leave.wait(WAIT_SECONDS)

        self.holding = database.write(work)
        self.assertTrue(entered.wait(WAIT_SECONDS))
        return leave

    def commits(self) -> float:
        return self.metrics.registry.get_sample_value("lmatrix_batch_size_count", {"what": "commit"}) or 0.0

    def files(self) -> list[str]:
        """The database's files."""
        return sorted(path.name for path in self.path.parent.iterdir() if path.name.startswith(self.path.name))

    def stored(self) -> list[str]:
        """What another process would find in the file."""
        connection = sqlite3.connect(self.path)
        try:
            return [name for (name,) in connection.execute("SELECT user_id FROM users ORDER BY user_id")]
        finally:
            connection.close()


class DatabaseTests(DatabaseTestCase):
    async def test_a_write_is_on_disk_when_it_fires(self) -> None:
        """Once a write has fired, this process and any other one see it; the answer comes in the reactor's thread."""
        database = await self.started()
        self.assertEqual(await database.write(put("a")), "a")
        self.assertIs(current_thread(), main_thread())
        self.assertEqual(await database.read(names), ["a"])
        self.assertEqual(self.stored(), ["a"])

    async def test_what_queues_up_shares_a_commit(self) -> None:
        """Works that come during a commit share the next one, in order; a failing one fails alone."""
        database = await self.started()
        leave = await self.held(database)

        def spoilt(tx: Transaction) -> None:
            put("spoilt")(tx)
            raise NotFound("on purpose")

        answers = [database.write(work) for work in (put("a"), spoilt, names, put("b"))]
        leave.set()
        results = await DeferredList(answers, consumeErrors=True)
        self.assertEqual([succeeded for succeeded, _ in results], [True, False, True, True])
        self.assertEqual([results[i][1] for i in (0, 2, 3)], ["a", ["a"], "b"])
        self.assertIsInstance(results[1][1].value, NotFound)
        self.assertEqual(self.commits(), 2)
        self.assertEqual(self.stored(), ["a", "b"])

    async def test_patient_works_wait_for_company(self) -> None:
        """A patient work shares the commit of the next that is not; that one waits for nobody, nor does the order
        change.
        """
        database = await self.started(patience_seconds=WAIT_SECONDS)
        patient = [database.write(put(name), patient=True) for name in ("a", "b")]
        self.assertEqual(await database.write(names), ["a", "b"])
        await gatherResults(patient)
        self.assertEqual(self.commits(), 1)

    async def test_patience_has_an_end(self) -> None:
        """A patient work that nobody joins is committed all the same, and the end of the database ends its wait."""
        database = await self.started(patience_seconds=0.01)
        await database.write(put("a"), patient=True)
        self.assertEqual(self.stored(), ["a"])
        await database.stop()
        database = await self.started(patience_seconds=1e6)
        last = database.write(put("b"), patient=True)
        await database.stop()
        await last
        self.assertEqual(self.stored(), ["a", "b"])

    async def test_groups_are_bounded(self) -> None:
        """However much is queued, a group has its bound, and the order is kept across groups."""
        database = await self.started()
        leave = await self.held(database)
        order: list[int] = []
        answers = [
            database.write(lambda tx, n=n: n).addCallback(order.append)  # type: ignore[misc]
            for n in range(600)
        ]
        leave.set()
        await gatherResults(answers)
        self.assertEqual(order, list(range(600)))
        self.assertEqual(self.commits(), 4)

    async def test_reads_do_not_wait_for_the_writer(self) -> None:
        """While a write is under way, reads see what was committed before it."""
        database = await self.started()
        await database.write(put("a"))
        leave = await self.held(database)
        waiting = database.write(put("b"))
        self.assertEqual(await database.read(names), ["a"])
        leave.set()
        await waiting
        self.assertEqual(await database.read(names), ["a", "b"])

    async def test_readers_help(self) -> None:
        """While one read takes long, those that come after it are carried out by the other readers."""
        database = await self.started(help_after_seconds=0.0)
        entered, leave = Event(), Event()
        self.addCleanup(leave.set)

        def long(tx: Transaction) -> bool:
            entered.set()
            return leave.wait(WAIT_SECONDS)

        slow = database.read(long)
        self.assertTrue(entered.wait(WAIT_SECONDS))
        await gatherResults([database.read(names) for _ in range(5)])
        self.assertFalse(slow.called)
        leave.set()
        self.assertTrue(await slow)

    async def test_a_reader_cannot_write(self) -> None:
        """A work that was given to ``read`` cannot change anything, and a failing read harms no later one."""
        database = await self.started(readers=1)
        with self.assertRaises(StorageFailed):
            await database.read(put("a"))
        with self.assertRaises(ZeroDivisionError):
            await database.read(lambda tx: 1 // 0)
        self.assertEqual(await database.read(names), [])

    async def test_bounds(self) -> None:
        """Beyond its bound a queue takes nothing more, and says so; later it does again."""
        database = await self.started(max_waiting=3)
        leave = await self.held(database)
        accepted = [database.write(put("a")), database.write(put("b"))]
        with self.assertRaises(Overloaded):
            await database.write(put("c"))
        leave.set()
        await gatherResults(accepted)
        await database.write(put("d"))
        self.assertEqual(await database.read(names), ["a", "b", "d"])

    async def test_a_cancelled_write(self) -> None:
        """Who does not want to wait any more harms nobody."""
        database = await self.started()
        leave = await self.held(database)
        impatient = database.write(put("a"))
        impatient.addErrback(lambda _: None)
        impatient.cancel()
        leave.set()
        await database.write(put("b"))
        self.assertEqual(await database.read(names), ["a", "b"])

    async def test_stop_finishes_what_was_accepted(self) -> None:
        """Everything accepted before the stop is answered and on disk; nothing is accepted after; no log is left."""
        database = await self.started()
        answers = [database.write(put(f"{n:03}")) for n in range(300)]
        reads = [database.read(names) for _ in range(20)]
        await database.stop()
        self.assertTrue(all(answer.called for answer in answers + reads))  # type: ignore[operator]
        with self.assertRaises(ShuttingDown):
            await database.write(put("late"))
        with self.assertRaises(ShuttingDown):
            await database.read(names)
        await database.stop()
        self.assertEqual(self.files(), [self.path.name])
        self.assertEqual(self.stored(), [f"{n:03}" for n in range(300)])

    async def test_a_database_that_cannot_be_opened(self) -> None:
        """Starting fails with a typed error, and stopping is harmless."""
        self.path.mkdir()
        database = SqliteDatabase(self.path, reactor=reactor, metrics=self.metrics)
        with self.assertRaises(StorageFailed):
            await database.start()
        await database.stop()
        with self.assertRaises(ShuttingDown):
            await database.read(names)

    async def test_an_error_of_the_database(self) -> None:
        """A table that is not there, a damaged file: the caller gets a typed error, the next one its answer."""
        database = await self.started()
        with self.assertRaises(StorageFailed):
            await database.write(lambda tx: tx.execute("INSERT INTO nowhere VALUES (1)"))
        self.assertEqual(await database.write(put("a")), "a")

    async def test_a_work_that_exits(self) -> None:
        """A work that tries to end its thread fails, and harms neither the threads nor what was stored."""
        database = await self.started(readers=1)
        await database.write(put("a"))

        def leave(tx: Transaction) -> None:
            put("b")(tx)
            raise SystemExit

        with self.assertRaises(StorageFailed):
            await database.write(leave)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        with self.assertRaises(SystemExit):
            await database.read(lambda tx: sys.exit())
        await database.write(put("c"))
        self.assertEqual(await database.read(names), ["a", "c"])


ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from lmatrix.metrics import Metrics
from lmatrix.storage.database import SqliteDatabase
from tests.storage.test_group_commit import put

async def write(database, lane):
    number = 0
    while True:
        name = f"{lane}-{number:06}"
        await database.write(put(name))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()
        number += 1

async def main():
    database = SqliteDatabase(sys.argv[1], reactor=reactor, metrics=Metrics())
    await database.start()
    for lane in range(8):
        Deferred.fromCoroutine(write(database, lane))

def failed(failure):
    failure.printTraceback(sys.stderr)
    reactor.stop()

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()).addErrback(failed))
reactor.run()
"""


class KilledWriter(ProcessProtocol):
    """Notes what the process acknowledged, and kills it in the midst of it."""

    def __init__(self, kill_after: int) -> None:
        self.acknowledged: list[str] = []
        self.ended: Deferred[BaseException | None] = Deferred()
        self.errors = b""
        self._kill_after = kill_after
        self._rest = b""
        self._killed = False

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.acknowledged += [line.decode() for line in lines]
        if len(self.acknowledged) >= self._kill_after and not self._killed:
            self._killed = True
            self.transport.signalProcess("KILL")

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value)


class CrashTests(DatabaseTestCase):
    async def test_what_was_acknowledged_survives_a_kill(self) -> None:
        """A process that is killed in the midst of its commits has lost nothing that it acknowledged."""
        for round_number, kill_after in enumerate((1, 40, 163)):
            self.path = self.path.with_name(f"killed-{round_number}")
            process = KilledWriter(kill_after)
            reactor.spawnProcess(  # type: ignore[attr-defined]
                process, sys.executable, [sys.executable, "-c", WRITER, str(self.path)], {"PYTHONPATH": str(ROOT)}
            )
            reason = await process.ended
            assert isinstance(reason, ProcessTerminated), process.errors
            self.assertEqual(reason.signal, 9, process.errors)
            self.assertGreaterEqual(len(process.acknowledged), kill_after)
            database = await self.started()
            stored = await database.read(names)
            self.assertEqual(set(process.acknowledged) - set(stored), set(), f"round {round_number}")
            for lane in range(8):
                mine = [name for name in stored if name.startswith(f"{lane}-")]
                self.assertEqual(mine, [f"{lane}-{n:06}" for n in range(len(mine))])
