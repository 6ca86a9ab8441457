"""The arithmetic of the back-off."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.backoff import BackoffPolicy, Trouble, after_failure, stored_trouble
from lmatrix.rooms.delivery_store import DestinationState

NOW = 1_700_000_000_000


class BackoffTests(SynchronousTestCase):
    """Runs of failures."""

    def test_doubles_up_to_the_maximum(self) -> None:
        """Each interval is twice the one before, from the minimum to the maximum, and stays there."""
        policy = BackoffPolicy(min_ms=1000, max_ms=10_000)
        trouble: Trouble | None = None
        intervals = []
        for _ in range(6):
            trouble = after_failure(policy, trouble, NOW, random.Random(1))
            intervals.append(trouble.interval_ms)
        self.assertEqual([1000, 2000, 4000, 8000, 10_000, 10_000], intervals)

    def test_remembers_its_beginning(self) -> None:
        """A run of failures began with the first of them."""
        first = after_failure(BackoffPolicy(), None, NOW, random.Random(1))
        second = after_failure(BackoffPolicy(), first, NOW + 5000, random.Random(1))
        self.assertEqual(NOW, second.failing_since_ms)

    @given(st.integers(0, 10**8), st.integers(), st.integers(0, 10**12))
    def test_bounds(self, interval: int, seed: int, asked: int) -> None:
        """A delay is within the jitter around its interval, or what the peer asked for up to the maximum."""
        policy = BackoffPolicy()
        trouble = after_failure(policy, Trouble(NOW, interval, NOW), NOW, random.Random(seed), at_least_ms=asked)
        delay = trouble.retry_at_ms - NOW
        self.assertTrue(policy.min_ms <= trouble.interval_ms <= policy.max_ms)
        self.assertGreaterEqual(delay, min(asked, policy.max_ms))
        self.assertGreaterEqual(delay, int(trouble.interval_ms * (1 - policy.jitter)))
        self.assertLessEqual(delay, max(min(asked, policy.max_ms), trouble.interval_ms * (1 + policy.jitter)))

    def test_stored(self) -> None:
        """What was stored is taken up again, brought nearer when the clock was set back."""
        policy = BackoffPolicy(max_ms=60_000)
        self.assertIsNone(stored_trouble(policy, None, NOW))
        self.assertIsNone(stored_trouble(policy, DestinationState(last_success_ms=NOW), NOW))
        state = DestinationState(retry_at_ms=NOW + 10**9, failing_since_ms=NOW - 5, interval_ms=30_000)
        self.assertEqual(Trouble(NOW - 5, 30_000, NOW + 60_000), stored_trouble(policy, state, NOW))
