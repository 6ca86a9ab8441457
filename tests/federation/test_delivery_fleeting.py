"""EDUs that are worth sending now, or not at all."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.destination_queue import MAX_FLEETING
from tests.events.builders import HUB
from tests.federation.delivery_bench import OTHER, PEER, Bench


class FleetingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = Bench()

    def offer(self, number: int, subject: str = "", destination: str = PEER) -> None:
        """An EDU about a subject of its own, unless it is named."""
        edu = {"type": "m.typing", "content": {"number": number}}
        self.bench.delivery.offer_edu(destination, subject or f"subject {number}", edu)

    def numbers(self) -> list[int]:
        """The EDUs in the request that waits for its answer."""
        return [edu["content"]["number"] for edu in self.bench.peers.last().edus]

    def test_at_once(self) -> None:
        """It goes at once, and leaves nothing behind."""
        self.offer(1)
        self.assertEqual(self.numbers(), [1])
        self.assertEqual(self.bench.peers.last().pdus, [])
        self.bench.peers.last().ok()
        self.assertEqual((self.bench.peers.open, self.bench.delivery.destinations), ([], frozenset()))
        self.assertEqual(self.bench.stored_edus(), [])

    def test_with_what_is_owed(self) -> None:
        """It travels with events and with EDUs that are owed, after these."""
        self.offer(0)
        self.offer(1)
        self.bench.edu(5)
        self.bench.advanced(self.bench.room("one"))
        self.bench.peers.last().ok()
        self.assertEqual((len(self.bench.peers.last().pdus), self.numbers()), (1, [5, 1]))

    def test_after_what_is_owed(self) -> None:
        """EDUs that are owed have the first places."""
        for number in range(99):
            self.bench.edu(number)
        self.offer(-1)
        self.bench.peers.last().ok()
        self.offer(1000)
        for number in range(100, 199):
            self.bench.edu(number)
        self.offer(1001)
        self.bench.peers.last().ok()
        self.assertEqual(self.numbers()[-1], 1001)
        self.assertEqual(len(self.numbers()), 100)

    def test_the_newest_of_a_subject(self) -> None:
        """While a request is in flight, only the newest about each subject waits."""
        self.offer(0)
        for number in (1, 2, 3):
            self.offer(number, "a")
            self.offer(number * 10, "b")
        self.bench.peers.last().ok()
        self.assertEqual(self.numbers(), [3, 30])

    def test_a_newer_one_while_it_is_read(self) -> None:
        """What comes while its older one is on its way goes after it."""
        self.offer(1, "a")
        self.offer(2, "a")
        self.assertEqual(self.numbers(), [1])
        self.bench.peers.last().ok()
        self.assertEqual(self.numbers(), [2])

    def test_bounded(self) -> None:
        """A bounded number waits; the oldest give way. They go a hundred at a time."""
        self.offer(-1)
        for number in range(MAX_FLEETING + 50):
            self.offer(number)
        seen = []
        for _ in range(2):
            self.bench.peers.last().ok()
            seen += self.numbers()
        self.assertEqual(seen, list(range(50, MAX_FLEETING + 50)))

    def test_unreachable(self) -> None:
        """When the destination cannot be reached it is lost, and nothing is tried again for it."""
        self.offer(1)
        self.bench.peers.last().unreachable()
        self.offer(2)
        self.bench.clock.advance(24 * 3600)
        self.assertEqual(len(self.bench.peers.requests), 1)
        self.assertEqual(self.bench.delivery.destinations, frozenset())

    def test_unreachable_with_events(self) -> None:
        """A transaction that carries events is repeated as it was; later ones are lost while it fails."""
        self.offer(0)
        self.offer(1)
        self.bench.advanced(self.bench.room("one"))
        self.bench.peers.last().ok()
        first = self.bench.peers.last()
        self.assertEqual((len(first.pdus), self.numbers()), (1, [1]))
        first.unreachable()
        self.offer(2)
        self.bench.clock.advance(60)
        again = self.bench.peers.last()
        self.assertEqual((again.transaction_id, again.body), (first.transaction_id, first.body))
        again.ok()
        self.assertEqual(self.bench.peers.open, [])
        self.offer(3)
        self.assertEqual(self.numbers(), [3])

    def test_back_off_of_before(self) -> None:
        """After a restart, a destination that is left alone is left alone for this too."""
        self.bench.edu(1)
        self.bench.delivery.edus_pending(PEER)
        for _ in range(6):
            self.bench.peers.last().unreachable()
            self.bench.clock.advance(60 * 60)
        self.bench.peers.last().unreachable()
        self.bench.live()
        self.offer(2)
        self.assertEqual(self.bench.peers.requests, [])
        self.bench.clock.advance(24 * 3600)
        self.assertEqual(self.numbers(), [1])

    def test_a_peer_that_takes_no_edus(self) -> None:
        """EDUs that a peer refuses do not keep events from it."""
        self.offer(0)
        self.offer(1)
        self.bench.advanced(self.bench.room("one"))
        self.bench.peers.last().ok()
        self.assertEqual(self.numbers(), [1])
        self.bench.peers.last().refuse(400, "M_BAD_JSON")
        self.bench.clock.advance(60)
        self.assertEqual((len(self.bench.peers.last().pdus), self.numbers()), (1, []))

    def test_only_edus_refused(self) -> None:
        """A peer that refuses a transaction of nothing else is left alone for a while, and then asked anew."""
        self.offer(1)
        self.bench.peers.last().refuse(400, "M_BAD_JSON")
        self.bench.clock.advance(24 * 3600)
        self.assertEqual(len(self.bench.peers.requests), 1)
        self.offer(2)
        self.assertEqual(self.numbers(), [2])

    def test_each_destination_its_own(self) -> None:
        """Destinations do not wait for one another, and this server is none."""
        self.offer(1)
        self.offer(1, destination=OTHER)
        self.offer(1, destination=HUB)
        self.assertEqual([request.destination for request in self.bench.peers.open], [PEER, OTHER])

    def test_stopping(self) -> None:
        """Nothing is begun when the server stops."""
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.stop()))
        self.offer(1)
        self.assertEqual(self.bench.peers.requests, [])
