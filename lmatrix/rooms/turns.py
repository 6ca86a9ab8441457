"""Turns at what keeps the processor busy.

Owns: :class:`Turns`. Checking signatures is the one thing that every server can make us do much of at once: hundreds
of requests may have arrived by the time in which one is looked at. In one turn of the reactor no more is done than a
fixed amount, whoever asks, so that everything else (other connections, health checks, timers) is never far behind; what
has to wait is taken from its sources in turn.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from lmatrix.fairness import TurnQueue
from lmatrix.metrics import Metrics


class Turns:
    """Says when the next piece of work may be done.

    What waits is bounded by who asks: each waits for one piece at a time.

    Args:
        amount: how much is done in one turn of the reactor.
        clock: the reactor.
        metrics: ``queue_length``.
        name: of the queue, for metrics.
    """

    def __init__(self, amount: int, *, clock: IReactorTime, metrics: Metrics, name: str) -> None:
        self._amount = amount
        self._clock = clock
        self._waiting: TurnQueue[str, Deferred[None]] = TurnQueue()
        self._length = metrics.queue_length.labels(queue=name)
        self._spent = 0

    async def take(self, source: str, amount: int) -> None:
        """Wait until so much may be done for a source. A cancelled waiter's turn passes unused."""
        if not self._waiting and (not self._spent or self._spent + amount <= self._amount):
            self._spend(amount)
            return
        turn: Deferred[None] = Deferred()
        self._waiting.put(source, turn, amount)
        self._length.inc()
        await turn

    def _spend(self, amount: int) -> None:
        if not self._spent and amount:
            self._clock.callLater(0, self._next)
        self._spent += amount

    def _next(self) -> None:
        self._spent = 0
        for _, turn, amount in self._waiting.take(self._amount):
            self._length.dec()
            self._spend(amount)
            turn.callback(None)
