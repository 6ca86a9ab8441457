"""Shares and turns."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.fairness import FairShare, TurnQueue

_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no fault of what is tested."""


class FairShareTests(SynchronousTestCase):
    """Places that callers share."""

    def test_one_alone_gets_half(self) -> None:
        """Whatever a caller asks for, as much as it has stays free."""
        share: FairShare[str] = FairShare(100)
        self.assertEqual(sum(share.take("a") for _ in range(100)), 50)

    def test_everybody_finds_room_beside_a_flood(self) -> None:
        """Ten callers that take what they can, one after the other, leave places for the next, and for an eleventh."""
        share: FairShare[int] = FairShare(1024)
        got = [sum(share.take(caller) for _ in range(2000)) for caller in range(11)]
        self.assertNotIn(0, got[:10])
        self.assertTrue(share.take(11) or got[10], got)

    def test_what_is_given_back_is_free(self) -> None:
        """Nothing stays counted, and nobody is remembered."""
        share: FairShare[str] = FairShare(10)
        self.assertTrue(share.take("a", 4))
        self.assertFalse(share.take("a", 4))
        share.give_back("a", 4)
        self.assertEqual((share.taken, len(share)), (0, 0))

    def test_what_nobody_holds_cannot_be_given_back(self) -> None:
        """A mistake in counting shows at once."""
        share: FairShare[str] = FairShare(10)
        share.take("a", 2)
        with self.assertRaises(ValueError):
            share.give_back("a", 3)
        with self.assertRaises(ValueError):
            share.give_back("b")

    @_PATIENT
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.booleans()), max_size=80))
    def test_nobody_holds_more_than_is_left(self, steps: list[tuple[int, int, bool]]) -> None:
        """At the moment in which a caller gets something, it holds no more than was left; the sum is never exceeded."""
        share: FairShare[int] = FairShare(20)
        held = dict.fromkeys(range(4), 0)
        for caller, amount, take in steps:
            free = 20 - sum(held.values())
            if not take:
                amount = min(amount, held[caller])
                share.give_back(caller, amount)
                held[caller] -= amount
            elif share.take(caller, amount):
                held[caller] += amount
                self.assertLessEqual(held[caller], free)
            self.assertEqual(share.taken, sum(held.values()))
            self.assertEqual(len(share), sum(1 for amount in held.values() if amount))


class TurnQueueTests(SynchronousTestCase):
    """Callers that take turns."""

    def take(self, queue: TurnQueue[str, int], limit: int) -> list[tuple[str, int]]:
        return [(key, item) for key, item, _ in queue.take(limit)]

    def test_the_one_with_least_comes_next(self) -> None:
        """A caller with heavy things waits until the others have had as much."""
        queue: TurnQueue[str, int] = TurnQueue()
        for number in range(3):
            queue.put("heavy", number, 5)
        for number in range(6):
            queue.put("light", number, 1)
        self.assertEqual([key for key, _ in self.take(queue, 12)], ["heavy", *["light"] * 5])
        self.assertEqual(self.take(queue, 12), [("heavy", 1), ("light", 5), ("heavy", 2)])
        self.assertEqual(len(queue), 0)

    def test_more_callers_than_fit_come_around(self) -> None:
        """Whoever got something stands behind those who did not."""
        queue: TurnQueue[str, int] = TurnQueue()
        for caller in "abcde":
            for number in range(2):
                queue.put(caller, number, 1)
        seen = "".join(key for _ in range(5) for key, _ in self.take(queue, 2))
        self.assertEqual(seen, "abcdeabcde")

    def test_something_too_large_comes_alone(self) -> None:
        """A thing that is heavier than the limit is not stuck."""
        queue: TurnQueue[str, int] = TurnQueue()
        queue.put("a", 1, 100)
        queue.put("b", 2, 1)
        self.assertEqual(self.take(queue, 10), [("a", 1)])
        self.assertEqual(self.take(queue, 10), [("b", 2)])
        self.assertEqual(self.take(queue, 10), [])

    @_PATIENT
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60), st.integers(1, 12))
    def test_nothing_is_lost_and_each_stays_in_order(self, puts: list[tuple[int, int]], limit: int) -> None:
        """Everything comes out once, each caller's things in the order in which they were put in."""
        queue: TurnQueue[int, int] = TurnQueue()
        for number, (caller, weight) in enumerate(puts):
            queue.put(caller, number, weight)
        self.assertEqual(sorted(queue), list(range(len(puts))))
        out: list[tuple[int, int]] = []
        while queue:
            batch = queue.take(limit)
            self.assertTrue(len(batch) == 1 or sum(weight for _, _, weight in batch) <= limit)
            out.extend((key, item) for key, item, _ in batch)
        self.assertEqual(len(out), len(puts))
        for caller in range(5):
            mine = [item for key, item in out if key == caller]
            self.assertEqual(mine, [number for number, (who, _) in enumerate(puts) if who == caller])
