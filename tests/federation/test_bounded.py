"""The bounds on what is remembered and on what is done at one time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.bounded import BoundedCache, SingleFlight


class BoundedCacheTests(SynchronousTestCase):
    """A mapping that forgets."""

    def test_least_recently_used_gives_way(self) -> None:
        """Reading and writing both keep an entry; the one that had neither for longest goes."""
        cache: BoundedCache[str, int] = BoundedCache(2)
        cache.put("a", 1)
        cache.put("b", 2)
        self.assertEqual(cache.get("a"), 1)
        cache.put("c", 3)
        self.assertIsNone(cache.get("b"))
        cache.put("a", 4)
        cache.put("d", 5)
        self.assertEqual((cache.get("a"), cache.get("c"), cache.get("d")), (4, None, 5))
        self.assertEqual(len(cache), 2)

    def test_discard(self) -> None:
        """An entry can be forgotten, and so can one that is not there."""
        cache: BoundedCache[str, int] = BoundedCache(1)
        cache.put("a", 1)
        cache.discard("a")
        cache.discard("a")
        self.assertIsNone(cache.get("a"))

    def test_needs_room(self) -> None:
        """A cache without room would be a mistake."""
        self.assertRaises(ValueError, BoundedCache, 0)


class SingleFlightTests(SynchronousTestCase):
    """One piece of work for many."""

    def setUp(self) -> None:
        self.flights: SingleFlight[str, int] = SingleFlight()
        self.works: list[Deferred[int]] = []

    async def work(self) -> int:
        """Work that ends when told to."""
        done: Deferred[int] = Deferred()
        self.works.append(done)
        return await done

    def test_shared(self) -> None:
        """The same thing is done once at a time, and the outcome goes to all; other things are done beside it."""
        waiting = [self.flights.do("a", self.work) for _ in range(3)]
        other = self.flights.do("b", self.work)
        self.assertEqual((len(self.works), len(self.flights)), (2, 2))
        self.works[0].callback(1)
        self.assertEqual([self.successResultOf(one) for one in waiting], [1, 1, 1])
        self.assertNoResult(other)
        self.assertNotIn("a", self.flights)
        self.flights.do("a", self.work)
        self.assertEqual(len(self.works), 3)

    def test_failure_is_shared(self) -> None:
        """A failure goes to all, and the next attempt starts anew."""
        waiting = [self.flights.do("a", self.work) for _ in range(2)]
        self.works[0].errback(ZeroDivisionError())
        for one in waiting:
            self.failureResultOf(one, ZeroDivisionError)
        self.assertEqual(len(self.flights), 0)

    def test_cancelling_ends_one_wait_only(self) -> None:
        """Whoever gives up leaves the work and the others alone, the one who began it too."""
        first, second = (self.flights.do("a", self.work) for _ in range(2))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.works[0].callback(1)
        self.assertEqual(self.successResultOf(second), 1)

    def test_work_that_is_done_at_once(self) -> None:
        """Work that does not wait for anything has its outcome at once."""

        async def quick() -> int:
            return 5

        self.assertEqual(self.successResultOf(self.flights.do("a", quick)), 5)
        self.assertEqual(len(self.flights), 0)
