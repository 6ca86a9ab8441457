"""How much one caller may ask for.

Owns: :class:`RateLimiter` (how often) and :class:`ConcurrencyLimit` (how many at one time), each counted per key: a
peer's server name, a user ID, a client's address; and :class:`Place`, one request's part of what an API can handle at
one time.

Invariants: memory is bounded by ``max_keys`` however many keys are tried; a limiter never blocks, it refuses with the
time after which trying again makes sense.

Implements the I-D's "Rate Limiting".
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from lmatrix.errors import Overloaded
from lmatrix.fairness import FairShare

_RETRY_AFTER_MS = 1000


@attrs.define(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """A token bucket for each key.

    A key that has not been seen has a full bucket, so a full bucket is the same as none: only buckets that are not full
    are kept. When ``max_keys`` of them are, the one touched longest ago makes room, which is the one nearest to full.

    Args:
        rate: tokens that come back each second.
        burst: tokens that a bucket holds.
        clock: tells the time.
        max_keys: buckets kept, at most.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(self, rate: float, burst: float, clock: IReactorTime, *, max_keys: int = 10_000) -> None:
        if rate <= 0 or burst <= 0 or max_keys <= 0:
            raise ValueError("rate, burst and max_keys must be positive")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, cost: float = 1) -> None:
        """Take tokens out of a key's bucket, all or none.

        Args:
            key: whose bucket.
            cost: how many. More than ``burst`` counts as ``burst``: it takes a full bucket, and is possible at all.

        Raises:
            Overloaded: there are not enough; it says when there will be.
        """
        now = self._clock.seconds()
        cost = min(cost, self._burst)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            tokens = self._burst
        else:
            # The clock may be set back; a bucket never loses tokens to that.
            tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.filled_at) * self._rate)
        enough = tokens >= cost
        remaining = tokens - cost if enough else tokens
        if remaining < self._burst:
            self._buckets[key] = _Bucket(remaining, now)
        self._make_room(now)
        if not enough:
            raise Overloaded(max(1, math.ceil((cost - tokens) / self._rate * 1000)))

    def __len__(self) -> int:
        """Buckets kept now."""
        return len(self._buckets)

    def _make_room(self, now: float) -> None:
        """Forget buckets that are full again, oldest first, and the oldest of all when there are too many."""
        while self._buckets:
            key, oldest = next(iter(self._buckets.items()))
            full_again = oldest.tokens + (now - oldest.filled_at) * self._rate >= self._burst
            if not full_again and len(self._buckets) <= self._max_keys:
                return
            del self._buckets[key]


@attrs.define(slots=True)
class _Lane:
    running: int = 0
    waiting: deque[Deferred[None]] = attrs.field(factory=deque)


class ConcurrencyLimit:
    """At most so many at one time for each key; some more wait in line, in order; the rest are refused.

    Args:
        max_in_flight_per_key: running at one time for one key.
        max_waiting_per_key: waiting in line for one key. 0: refuse at once.
        max_keys: keys that have something running, at most.

    Raises:
        ValueError: a limit that makes no sense.
    """

    def __init__(self, max_in_flight_per_key: int, *, max_waiting_per_key: int = 0, max_keys: int = 10_000) -> None:
        if max_in_flight_per_key <= 0 or max_waiting_per_key < 0 or max_keys <= 0:
            raise ValueError("a concurrency limit must be positive")
        self._max_in_flight = max_in_flight_per_key
        self._max_waiting = max_waiting_per_key
        self._max_keys = max_keys
        self._lanes: dict[str, _Lane] = {}

    def slot(self, key: str) -> AbstractAsyncContextManager[None]:
        """Hold one of the key's places: ``async with limit.slot(origin): ...``.

        Entering it raises :class:`~lmatrix.errors.Overloaded` when the key's line, or the table of keys, is full.
        """
        return _Slot(self, key)

    def in_flight(self, key: str) -> int:
        """How many are running for a key."""
        lane = self._lanes.get(key)
        return 0 if lane is None else lane.running

    async def _enter(self, key: str) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= self._max_keys:
                raise Overloaded(_RETRY_AFTER_MS)
            lane = self._lanes[key] = _Lane()
        if lane.running < self._max_in_flight:
            lane.running += 1
            return
        if len(lane.waiting) >= self._max_waiting:
            raise Overloaded(_RETRY_AFTER_MS)
        # Whoever leaves hands its place over, so `running` already counts us when this fires. Whoever is cancelled
        # while waiting gives up its place in the line, and holds no other.
        turn: Deferred[None] = Deferred(lane.waiting.remove)
        lane.waiting.append(turn)
        await turn

    def _leave(self, key: str) -> None:
        lane = self._lanes[key]
        if lane.waiting:
            lane.waiting.popleft().callback(None)
            return
        lane.running -= 1
        if not lane.running:
            del self._lanes[key]


class _Slot(AbstractAsyncContextManager[None]):
    def __init__(self, limit: ConcurrencyLimit, key: str) -> None:
        self._limit = limit
        self._key = key

    async def __aenter__(self) -> None:
        await self._limit._enter(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._limit._leave(self._key)


class Place:
    """One of the places that an API's requests share, held by one request until it is answered.

    At first it counts for the address that the request came from. Whoever finds out who made the request passes it on
    to them, so that what somebody does in another's name never uses up the other's share.

    Args:
        share: all places.
        holder: whom it counts for.
        shed: called when there is none for a holder.

    Raises:
        Overloaded: there is none for this holder.
    """

    def __init__(self, share: FairShare[Hashable], holder: Hashable, shed: Callable[[], None]) -> None:
        self._share = share
        self._shed = shed
        self._holder: Hashable | None = None
        self._take(holder)

    def pass_to(self, holder: Hashable) -> None:
        """From now on it counts for somebody else.

        Raises:
            Overloaded: they have as many as they may; the place is given back.
        """
        if holder != self._holder:
            self.give_back()
            self._take(holder)

    def give_back(self) -> None:
        """The request has been answered; nothing happens when the place was given back before."""
        if self._holder is not None:
            self._share.give_back(self._holder)
            self._holder = None

    def _take(self, holder: Hashable) -> None:
        if not self._share.take(holder):
            self._shed()
            raise Overloaded(_RETRY_AFTER_MS)
        self._holder = holder
