"""Two small tools that every look-up of this package needs.

Owns: :class:`BoundedCache`, a mapping that forgets what was used longest ago, and :class:`SingleFlight`, which makes
one piece of work out of many simultaneous requests for the same thing. What peers can make us remember is bounded by
the first, what they can make us do by the second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A mapping with at most ``size`` entries; the one that was neither read nor written for longest gives way.

    Args:
        size: greatest number of entries, at least 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a cache needs room for one entry at least")
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry, which becomes the most recently used one; ``None`` when there is none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: K, value: V) -> None:
        """Set an entry, and drop the least recently used one if there are now too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def discard(self, key: K) -> None:
        """Forget an entry, if there is one."""
        self._entries.pop(key, None)


class SingleFlight(Generic[K, V]):
    """At most one piece of work for each key at any time; whoever asks meanwhile shares its outcome.

    The work goes on when one who waits for it is cancelled: the others, and whatever it caches, still want the result.
    """

    def __init__(self) -> None:
        self._waiting: dict[K, list[Deferred[V]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def do(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> Deferred[V]:
        """The outcome of ``work()``, or of the same work if it is under way already.

        Args:
            key: what makes two pieces of work the same.
            work: starts it.
        """
        mine: Deferred[V] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(mine)
            return mine
        self._waiting[key] = [mine]
        # Cancelled or not, every waiter is called back below: Twisted swallows the one call after a cancellation.
        Deferred.fromCoroutine(work()).addBoth(self._finished, key)
        return mine

    def _finished(self, outcome: V | Failure, key: K) -> None:
        for waiting in self._waiting.pop(key):
            if isinstance(outcome, Failure):
                waiting.errback(outcome)
            else:
                waiting.callback(outcome)
