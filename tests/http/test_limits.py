"""How much one caller may ask for."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import Overloaded
from lmatrix.http.limits import ConcurrencyLimit, RateLimiter


class RateTests(SynchronousTestCase):
    """Token buckets."""

    def setUp(self) -> None:
        self.clock = Clock()

    def _taken(self, limiter: RateLimiter, key: str, tries: int) -> int:
        taken = 0
        for _ in range(tries):
            try:
                limiter.take(key)
            except Overloaded:
                continue
            taken += 1
        return taken

    def test_a_burst_and_then_the_rate(self) -> None:
        """A full bucket at once, then as much as comes back."""
        limiter = RateLimiter(2, 5, self.clock)
        self.assertEqual(self._taken(limiter, "a", 10), 5)
        self.clock.advance(1)
        self.assertEqual(self._taken(limiter, "a", 10), 2)
        self.clock.advance(1000)
        self.assertEqual(self._taken(limiter, "a", 10), 5)

    def test_keys_do_not_share(self) -> None:
        """One caller's excess is not another's."""
        limiter = RateLimiter(1, 1, self.clock)
        self.assertEqual([self._taken(limiter, key, 3) for key in ("a", "b")], [1, 1])

    def test_the_time_told_is_enough(self) -> None:
        """After retry_after_ms the same request is let through, and not before."""
        limiter = RateLimiter(4, 10, self.clock)
        limiter.take("a", 10)
        wait = self.assertRaises(Overloaded, limiter.take, "a", 3).retry_after_ms
        self.assertEqual(wait, 750)
        self.clock.advance(0.749)
        self.assertRaises(Overloaded, limiter.take, "a", 3)
        self.clock.advance(0.001)
        limiter.take("a", 3)

    def test_a_cost_beyond_the_burst_takes_a_full_bucket(self) -> None:
        """Nothing is impossible for ever."""
        limiter = RateLimiter(1, 5, self.clock)
        limiter.take("a", 50)
        self.assertEqual(self.assertRaises(Overloaded, limiter.take, "a", 50).retry_after_ms, 5000)

    def test_a_refusal_takes_nothing(self) -> None:
        """Trying in vain does not put the next success off."""
        limiter = RateLimiter(1, 2, self.clock)
        limiter.take("a", 2)
        self.clock.advance(1)
        self.assertRaises(Overloaded, limiter.take, "a", 2)
        limiter.take("a", 1)

    def test_a_clock_that_is_set_back_costs_nothing(self) -> None:
        """Wall clocks jump; buckets do not lose tokens to it."""
        clock = Clock()
        clock.advance(1000)
        limiter = RateLimiter(1, 2, clock)
        limiter.take("a")
        clock.rightNow = 0
        limiter.take("a")
        self.assertRaises(Overloaded, limiter.take, "a")

    def test_limits_must_be_positive(self) -> None:
        """A limiter that lets nothing through is a mistake in the configuration."""
        for rate, burst, keys in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
            with self.assertRaises(ValueError):
                RateLimiter(rate, burst, self.clock, max_keys=keys)

    @given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 5), st.floats(0.1, 20)), max_size=60))
    def test_memory_is_bounded_and_the_rate_holds(self, steps: list[tuple[str, float, float]]) -> None:
        """However it is used: never more buckets than allowed, and never more tokens than burst and rate give."""
        clock = Clock()
        limiter = RateLimiter(2, 5, clock, max_keys=3)
        taken = 0.0
        for key, pause, cost in steps:
            clock.advance(pause)
            try:
                limiter.take(key, cost)
            except Overloaded as refused:
                self.assertGreater(refused.retry_after_ms, 0)
            else:
                taken += min(cost, 5) if key == "a" else 0
            self.assertLessEqual(len(limiter), 3)
        if len({key for key, _, _ in steps}) <= 3:
            self.assertLessEqual(taken, 5 + 2 * clock.seconds() + 1e-6)


class ConcurrencyTests(SynchronousTestCase):
    """So many at one time."""

    def _start(self, slot: AbstractAsyncContextManager[None], until: Deferred[None]) -> Deferred[None]:
        async def work() -> None:
            async with slot:
                await until

        return Deferred.fromCoroutine(work())

    def test_beyond_the_limit_is_refused(self) -> None:
        """Without a line, one too many is refused at once; others' keys are not touched."""
        limit = ConcurrencyLimit(1)
        until: Deferred[None] = Deferred()
        first = self._start(limit.slot("a"), until)
        self.failureResultOf(self._start(limit.slot("a"), Deferred()), Overloaded)
        self.assertNoResult(self._start(limit.slot("b"), Deferred()))
        until.callback(None)
        self.successResultOf(first)
        self.assertEqual(limit.in_flight("a"), 0)
        self.assertNoResult(self._start(limit.slot("a"), Deferred()))

    def test_the_line_moves_in_order(self) -> None:
        """Whoever waits longest goes next, one at a time, and the line has an end."""
        limit = ConcurrencyLimit(1, max_waiting_per_key=2)
        order: list[int] = []
        until: list[Deferred[None]] = [Deferred() for _ in range(3)]

        async def work(number: int) -> None:
            async with limit.slot("a"):
                order.append(number)
                await until[number]

        for number in range(3):
            Deferred.fromCoroutine(work(number))
        self.failureResultOf(self._start(limit.slot("a"), Deferred()), Overloaded)
        self.assertEqual((order, limit.in_flight("a")), ([0], 1))
        until[0].callback(None)
        self.assertEqual((order, limit.in_flight("a")), ([0, 1], 1))
        until[1].callback(None)
        until[2].callback(None)
        self.assertEqual((order, limit.in_flight("a")), ([0, 1, 2], 0))

    def test_a_place_is_given_back_on_failure(self) -> None:
        """Work that fails frees its place."""
        limit = ConcurrencyLimit(1)

        async def work() -> None:
            async with limit.slot("a"):
                raise RuntimeError

        self.failureResultOf(Deferred.fromCoroutine(work()), RuntimeError)
        self.assertEqual(limit.in_flight("a"), 0)

    def test_who_gives_up_waiting_leaves_the_line(self) -> None:
        """A cancelled waiter takes no place, and the one behind it moves up."""
        limit = ConcurrencyLimit(1, max_waiting_per_key=2)
        until: Deferred[None] = Deferred()
        self._start(limit.slot("a"), until)
        quitter = self._start(limit.slot("a"), Deferred())
        patient = self._start(limit.slot("a"), Deferred())
        quitter.cancel()
        self.failureResultOf(quitter, CancelledError)
        until.callback(None)
        self.assertNoResult(patient)
        self.assertEqual(limit.in_flight("a"), 1)

    def test_keys_are_bounded(self) -> None:
        """A key too many is refused while the others are busy, and only then."""
        limit = ConcurrencyLimit(1, max_keys=2)
        until: Deferred[None] = Deferred()
        self._start(limit.slot("a"), until)
        self._start(limit.slot("b"), Deferred())
        self.failureResultOf(self._start(limit.slot("c"), Deferred()), Overloaded)
        until.callback(None)
        self.assertNoResult(self._start(limit.slot("c"), Deferred()))

    def test_limits_must_make_sense(self) -> None:
        """No places, a line of negative length, and no keys are mistakes."""
        for places, waiting, keys in ((0, 0, 1), (1, -1, 1), (1, 0, 0)):
            with self.assertRaises(ValueError):
                ConcurrencyLimit(places, max_waiting_per_key=waiting, max_keys=keys)
