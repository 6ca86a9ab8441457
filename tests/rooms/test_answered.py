"""Which transactions have an answer on disk: what is looked up, and what is known without looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import StorageFailed
from lmatrix.rooms.answered import MAX_REMEMBERED_IDS, MAX_REMEMBERED_PEERS, AnsweredTransactions
from lmatrix.rooms.interfaces import StoredAnswer
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.transactions import SqlTransactionStore

PEER = "peer.example"


class CountingDatabase(InlineDatabase):
    """Counts the reads."""

    reads = 0

    def read(self, work: Callable[[Any], Any]) -> Deferred[Any]:
        self.reads += 1
        return super().read(work)


class AnsweredTransactionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.read_seconds = 0.0
        self.database = CountingDatabase(clock=self.clock, read_seconds=lambda: self.read_seconds)
        self.store = SqlTransactionStore(kept_per_origin=10)
        self.answered = AnsweredTransactions(self.database, self.store)

    def ask(self, transaction_id: str, *in_flight: str, origin: str = PEER) -> Deferred[StoredAnswer | None]:
        return Deferred.fromCoroutine(self.answered.answer(origin, "send", transaction_id, in_flight))

    def asked(self, transaction_id: str, *in_flight: str, origin: str = PEER) -> StoredAnswer | None:
        return self.successResultOf(self.ask(transaction_id, *in_flight, origin=origin))

    def put(self, transaction_id: str) -> StoredAnswer:
        answer = StoredAnswer("hash", 200, b'{"for":"%b"}' % transaction_id.encode("ascii"))
        writing = self.database.write(lambda tx: self.store.put_answer(tx, PEER, "send", transaction_id, answer, 0))
        self.clock.advance(0)
        self.successResultOf(writing)
        return answer

    def test_what_is_stored_is_found(self) -> None:
        """An answer from before the start is found, and one that was stored since."""
        old = self.put("old")
        self.assertIsNone(self.asked("new"))
        new = self.put("new")
        self.assertEqual([old, new], [self.asked("old"), self.asked("new")])

    def test_new_ones_are_known_as_such(self) -> None:
        """Once a peer is known, a new transaction of its costs no look."""
        self.put("old")
        self.asked("1")
        before = self.database.reads
        for number in range(2, 50):
            self.assertIsNone(self.asked(str(number)))
        self.assertEqual(before, self.database.reads)

    def test_what_is_in_flight_while_reading(self) -> None:
        """An answer that is stored while a peer's IDs are being read is found afterwards."""
        self.asked("first")
        self.answered = AnsweredTransactions(self.database, self.store)
        self.read_seconds = 2.0
        reading = self.ask("2", "first", "2")
        self.clock.advance(1.5)  # the read is carried out half-way
        stored = self.put("first")
        self.clock.advance(1)
        self.assertIsNone(self.successResultOf(reading))
        self.read_seconds = 0.0
        self.assertEqual(stored, self.asked("first"))

    def test_two_at_a_time(self) -> None:
        """Those that come while a peer's IDs are being read wait for that, and are known afterwards."""
        old = self.put("old")
        self.read_seconds = 2.0
        asking = [self.ask(transaction_id) for transaction_id in ("1", "2", "old")]
        self.clock.pump([1] * 6)
        self.assertEqual([None, None, old], [self.successResultOf(one) for one in asking])
        self.assertEqual(2, self.database.reads)
        self.read_seconds = 0.0
        stored = self.put("2")
        self.assertEqual(stored, self.asked("2"))

    def test_a_failed_read(self) -> None:
        """What cannot be known is an error, and the next one reads again."""
        old = self.put("old")
        self.database.fail_reads = 1
        self.failureResultOf(self.ask("1"), StorageFailed)
        self.assertEqual(old, self.asked("old"))

    def test_what_is_remembered_is_bounded(self) -> None:
        """However many transactions and peers there are, what has an answer is found."""
        kept = self.put("kept")
        for number in range(MAX_REMEMBERED_IDS + 10):
            self.asked(str(number))
        self.assertLessEqual(self.database.reads, 2)
        self.assertEqual(kept, self.asked("kept"))
        for number in range(MAX_REMEMBERED_PEERS + 1):
            self.asked("1", origin=f"peer{number}.example")
        before = self.database.reads
        self.assertEqual(kept, self.asked("kept"))
        self.asked("another")
        self.assertEqual(before + 1, self.database.reads)
