"""Works that share a commit, and what happens to them when one of them or the commit fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import NotFound, ShuttingDown, StorageFailed
from lmatrix.storage.engine import Numbering, Transaction
from lmatrix.storage.group_commit import Done, Failed, Writer
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine


def put(name: str) -> Callable[[Transaction], str]:
    """A work that stores a name."""

    def work(tx: Transaction) -> str:
        tx.execute("INSERT INTO users (user_id, password_hash, created_ts) VALUES (?, '', 0)", (name,))
        return name

    return work


def names(tx: Transaction) -> list[str]:
    """Those that are stored."""
    return [name for (name,) in tx.rows("SELECT user_id FROM users ORDER BY user_id")]


class WriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.commit_errors: list[Exception] = []
        self.path = Path(self.mktemp())
        self.writer = Writer(SqliteEngine(self.path, durable=False), self.before_commit)
        self.writer.open(schema_steps())
        self.addCleanup(self.writer.close)

    def before_commit(self) -> None:
        if self.commit_errors:
            raise self.commit_errors.pop()

    def stored(self) -> list[str]:
        [outcome] = self.writer.run([names])
        assert isinstance(outcome, Done)
        return list(outcome.value)

    def test_a_failing_work_fails_alone(self) -> None:
        """What a failing work did is undone, what the others did is not, and each gets its own outcome in order."""

        def spoilt(tx: Transaction) -> None:
            put("spoilt")(tx)
            raise NotFound("on purpose")

        outcomes = self.writer.run([put("a"), spoilt, put("b"), put("a"), put("c")])
        self.assertEqual([type(outcome) for outcome in outcomes], [Done, Failed, Done, Failed, Done])
        self.assertIsInstance(outcomes[1].error, NotFound)  # type: ignore[union-attr]
        self.assertEqual(self.stored(), ["a", "b", "c"])

    def test_works_see_those_before_them(self) -> None:
        """Works run in order, each on what the ones before it left."""
        outcomes = self.writer.run([put("a"), names, put("b"), names])
        self.assertEqual([outcome.value for outcome in outcomes], ["a", ["a"], "b", ["a", "b"]])  # type: ignore[union-attr]

    def test_a_failed_commit_fails_all(self) -> None:
        """When the commit fails, its works fail with a typed error and nothing is stored; the next one works."""
        self.commit_errors.append(OSError("no space left"))
        outcomes = self.writer.run([put("a"), put("b")])
        for outcome in outcomes:
            assert isinstance(outcome, Failed)
            self.assertIsInstance(outcome.error, StorageFailed)
        self.assertEqual(self.stored(), [])
        self.assertEqual(self.writer.run([put("c")]), [Done("c")])
        self.assertEqual(self.stored(), ["c"])

    def test_a_full_disk(self) -> None:
        """A disk that is full fails what does not fit, with a typed error; there is room again, and all works again."""

        def fill(tx: Transaction) -> None:
            [(pages,)] = tx.rows("PRAGMA page_count")
            tx.rows(f"PRAGMA max_page_count = {pages + 2}")
            tx.execute("INSERT INTO users (user_id, password_hash, created_ts) VALUES ('big', ?, 0)", ("x" * 100_000,))

        outcomes = self.writer.run([put("a"), fill])
        failed = outcomes[1]
        assert isinstance(failed, Failed)
        self.assertIsInstance(failed.error, StorageFailed)
        self.assertIn("full", failed.error.reason)  # type: ignore[attr-defined]
        kept = [outcome.value for outcome in outcomes if isinstance(outcome, Done)]
        self.assertEqual(self.stored(), kept)
        self.writer.run([lambda tx: tx.rows("PRAGMA max_page_count = 1000000")])
        self.assertEqual(self.writer.run([put("b")]), [Done("b")])
        self.assertEqual(self.stored(), [*kept, "b"])

    def test_a_transaction_that_ends_by_itself(self) -> None:
        """When the database gives up the whole transaction, works before that moment fail too: their effect is gone."""

        def give_up(tx: Transaction) -> None:
            tx.execute("ROLLBACK")
            raise OSError("disk I/O error")

        outcomes = self.writer.run([put("a"), give_up, put("b")])
        self.assertEqual([type(outcome) for outcome in outcomes], [Failed, Failed, Failed])
        self.assertEqual(self.stored(), [])

    def test_the_database_cannot_be_opened_again(self) -> None:
        """While the file cannot be opened every work fails with a typed error; when it can, all is as before."""
        self.writer.run([put("a")])
        self.commit_errors.append(OSError("gone"))
        self.writer.run([put("b")])
        aside = self.path.with_suffix(".aside")
        self.path.rename(aside)
        self.path.mkdir()
        [outcome] = self.writer.run([put("c")])
        assert isinstance(outcome, Failed)
        self.assertIsInstance(outcome.error, StorageFailed)
        self.path.rmdir()
        aside.rename(self.path)
        self.assertEqual(self.stored(), ["a"])

    def test_numbers_are_given_out_once(self) -> None:
        """Numbers of a transaction that failed are not given out again, and a new writer goes on after the last."""

        def take(tx: Transaction) -> int:
            return tx.take_numbers(Numbering.STREAM, 3)

        self.assertEqual(self.writer.run([take, take]), [Done(1), Done(4)])
        self.commit_errors.append(OSError())
        self.writer.run([take])
        self.assertEqual(self.writer.run([take]), [Done(10)])

        def invite(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO invites (user_id, room_id, room_version, hub_server, stream, pending, canonical,"
                " stripped_state) VALUES ('u', 'r', 'v', 'h', 12, 0, x'', x'')"
            )

        self.writer.run([invite])
        self.writer.close()
        self.writer = Writer(SqliteEngine(self.path, durable=False))
        self.writer.open(schema_steps())
        self.assertEqual(self.writer.run([take]), [Done(13)])

    def test_readers_give_out_no_numbers(self) -> None:
        """Only a write may take numbers, and only a write may write."""
        database = InlineDatabase()
        self.failureResultOf(database.read(lambda tx: tx.take_numbers(Numbering.EVENT, 1)), RuntimeError)


class InlineDatabaseTests(SynchronousTestCase):
    def result(self, answer: Deferred[Any]) -> Any:
        return self.successResultOf(answer)

    def test_at_once(self) -> None:
        """Without a clock a write is committed when the call returns."""
        database = InlineDatabase()
        self.assertEqual(self.result(database.write(put("a"))), "a")
        self.assertEqual(self.result(database.read(names)), ["a"])
        self.assertEqual(database.commits, 1)

    def test_simulated_commit_failure(self) -> None:
        """A commit that is told to fail stores nothing, also in memory, and the next one works."""
        database = InlineDatabase()
        self.result(database.write(put("a")))
        database.fail_commits = 1
        self.failureResultOf(database.write(put("b")), StorageFailed)
        self.assertEqual(self.result(database.write(put("c"))), "c")
        self.assertEqual(self.result(database.read(names)), ["a", "c"])

    def test_group_commit_takes_its_time(self) -> None:
        """With a clock, what comes before a commit's time shares it, and nothing is seen or answered before."""
        clock = Clock()
        database = InlineDatabase(clock=clock, commit_seconds=lambda: 2.0)
        answers = [database.write(put("a")), database.write(put("a")), database.write(put("b"))]
        clock.advance(1.9)
        self.assertNoResult(answers[0])
        self.assertEqual(self.result(database.read(names)), [])
        clock.advance(0.1)
        self.assertEqual(self.result(answers[0]), "a")
        self.failureResultOf(answers[1])
        self.assertEqual(self.result(answers[2]), "b")
        self.assertEqual(database.commits, 1)

    def test_crash(self) -> None:
        """A crash loses what was not committed and nothing else, and nobody hears of what it lost."""
        clock, path = Clock(), Path(self.mktemp())
        database = InlineDatabase(path, clock=clock, commit_seconds=lambda: 1.0)
        kept = database.write(put("a"))
        clock.advance(1)
        self.assertEqual(self.result(kept), "a")
        lost = database.write(put("b"))
        database.crash()
        clock.advance(10)
        self.assertNoResult(lost)
        self.failureResultOf(database.write(put("c")), ShuttingDown)
        self.failureResultOf(database.read(names), ShuttingDown)
        again = InlineDatabase(path)
        self.assertEqual(self.result(again.read(names)), ["a"])
        again.close()

    def test_close(self) -> None:
        """Closing commits what waits."""
        clock, path = Clock(), Path(self.mktemp())
        database = InlineDatabase(path, clock=clock, commit_seconds=lambda: 1.0)
        answer = database.write(put("a"))
        database.close()
        self.assertEqual(self.result(answer), "a")
        database.close()
        self.assertEqual(clock.getDelayedCalls(), [])
