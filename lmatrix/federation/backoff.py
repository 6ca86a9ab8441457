"""How long to leave a destination alone after failures.

Owns: the arithmetic of exponential back-off. Pure: the time and the source of randomness come in as arguments.

Invariants: the interval doubles (by the policy's factor) with every failure in a row and never leaves the policy's
bounds; a delay is the interval with some jitter, so that many servers which lost the same peer do not come back in
one moment; a wait that the peer itself asked for is honoured, up to the policy's maximum.
"""

from __future__ import annotations

import random

import attrs

from lmatrix.rooms.delivery_store import DestinationState


@attrs.frozen(slots=True)
class BackoffPolicy:
    """The bounds of the back-off.

    Attributes:
        min_ms: the first interval, milliseconds.
        max_ms: the longest interval, milliseconds.
        factor: by how much an interval is longer than the one before.
        jitter: how far a delay may be from its interval, as a fraction of it.
    """

    min_ms: int = 1_000
    max_ms: int = 3_600_000
    factor: float = 2.0
    jitter: float = 0.2

    def next_interval(self, interval_ms: int) -> int:
        """The interval that follows ``interval_ms`` (0: there was none)."""
        if interval_ms <= 0:
            return self.min_ms
        return max(self.min_ms, min(self.max_ms, int(interval_ms * self.factor)))

    def delay(self, interval_ms: int, rng: random.Random) -> int:
        """A delay for an interval: milliseconds, within the jitter around it."""
        return int(interval_ms * rng.uniform(1 - self.jitter, 1 + self.jitter))


@attrs.frozen(slots=True)
class Trouble:
    """A run of failures.

    Attributes:
        failing_since_ms: when the first of them happened, milliseconds since the epoch.
        interval_ms: the current interval.
        retry_at_ms: when to try again, milliseconds since the epoch.
    """

    failing_since_ms: int
    interval_ms: int
    retry_at_ms: int


def after_failure(
    policy: BackoffPolicy, before: Trouble | None, now_ms: int, rng: random.Random, *, at_least_ms: int = 0
) -> Trouble:
    """The run of failures with one more.

    Args:
        policy: the bounds.
        before: the run so far, ``None`` when the last request succeeded.
        now_ms: milliseconds since the epoch.
        rng: for the jitter.
        at_least_ms: the wait that the peer asked for; the policy's maximum bounds it.
    """
    interval = policy.next_interval(before.interval_ms if before else 0)
    delay = max(policy.delay(interval, rng), min(at_least_ms, policy.max_ms))
    return Trouble(before.failing_since_ms if before else now_ms, interval, now_ms + delay)


def stored_trouble(policy: BackoffPolicy, state: DestinationState | None, now_ms: int) -> Trouble | None:
    """The run of failures that a restart finds in the store, ``None`` for a destination in good order.

    A ``retry_at_ms`` further away than the policy's maximum (the wall clock was set back meanwhile) is brought nearer.
    """
    if state is None or state.failing_since_ms is None:
        return None
    retry_at = state.retry_at_ms if state.retry_at_ms is not None else now_ms
    return Trouble(state.failing_since_ms, state.interval_ms, min(retry_at, now_ms + policy.max_ms))
