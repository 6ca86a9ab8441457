"""Sharing something bounded among callers of whom some may want all of it.

Owns: :class:`FairShare`, which says who may have how much of a fixed amount, and :class:`TurnQueue`, in which those who
wait are served in turns. Pure: no clock, no waiting.

Invariants: nobody ever holds more than is left for all others together, so that a newcomer finds room whatever one
caller does; memory is bounded by what is held or queued, since a caller without either is forgotten.

The rule is the one of shared packet buffers with dynamic thresholds: a caller may have one more as long as it would not
hold more than is free. One caller alone gets half of everything, two a third each, n get 1/(n + 1) each, and the rest
stays free for the next one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class FairShare(Generic[K]):
    """A fixed number of places.

    Args:
        places: how many there are.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, places: int) -> None:
        if places <= 0:
            raise ValueError("there must be places to share")
        self._places = places
        self._held: dict[K, int] = {}
        self.taken = 0

    def __len__(self) -> int:
        """Callers that hold something."""
        return len(self._held)

    def held(self, key: K) -> int:
        """How many a caller has."""
        return self._held.get(key, 0)

    def may_take(self, key: K, amount: int = 1) -> bool:
        """Whether :meth:`take` would succeed."""
        return self._held.get(key, 0) + amount <= self._places - self.taken

    def take(self, key: K, amount: int = 1) -> bool:
        """Take places for a caller, all or none; whether there were enough for it."""
        if not self.may_take(key, amount):
            return False
        if amount:
            self._held[key] = self._held.get(key, 0) + amount
            self.taken += amount
        return True

    def give_back(self, key: K, amount: int = 1) -> None:
        """Give places back.

        Raises:
            ValueError: the caller does not have so many.
        """
        held = self._held.get(key, 0)
        if amount > held:
            raise ValueError(f"{amount} places were given back, and {held} were held")
        if amount == held:
            self._held.pop(key, None)
        else:
            self._held[key] = held - amount
        self.taken -= amount


class TurnQueue(Generic[K, T]):
    """A queue whose callers take turns; what one caller puts in stays in order.

    What is taken out at one time is shared out by weight: whoever has got least comes next. Whoever got something this
    time stands behind the others the next time.
    """

    def __init__(self) -> None:
        self._lanes: OrderedDict[K, deque[tuple[T, int]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, by caller."""
        return (item for lane in self._lanes.values() for item, _ in lane)

    def put(self, key: K, item: T, weight: int) -> None:
        """Queue something behind whatever its caller has queued.

        Args:
            weight: what it counts for, 0 or more.
        """
        self._lanes.setdefault(key, deque()).append((item, weight))
        self._length += 1

    def take(self, limit: int) -> list[tuple[K, T, int]]:
        """Take out things (caller, thing, weight) of ``limit`` weight together at most, and one at least if there is
        one.
        """
        # No more callers than this can get something, but for things without weight, which come the next time.
        turns = [(0, place, key) for place, key in enumerate(islice(self._lanes, max(1, limit)))]
        heapify(turns)
        taken: list[tuple[K, T, int]] = []
        total = 0
        while turns:
            got, place, key = turns[0]
            lane = self._lanes[key]
            item, weight = lane[0]
            if taken and total + weight > limit:
                break
            lane.popleft()
            taken.append((key, item, weight))
            total += weight
            if lane:
                heapreplace(turns, (got + weight, place, key))
            else:
                heappop(turns)
                del self._lanes[key]
        self._length -= len(taken)
        for key in dict.fromkeys(key for key, _, _ in taken):
            if key in self._lanes:
                self._lanes.move_to_end(key)
        return taken

    def clear(self) -> None:
        """Forget everything that waits."""
        self._lanes.clear()
        self._length = 0
