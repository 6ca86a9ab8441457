"""Delivery: what is owed to other servers gets there (I-D "Sending Events").

Owns: one :class:`~lmatrix.federation.destination_queue.DestinationQueue` for each destination that is owed something,
their start after a restart and their end. Implements :class:`lmatrix.rooms.interfaces.Delivery`.

How it hangs together. A room is a log, and what a destination is owed is the range of positions after its cursor, so
nothing is queued here but the knowledge *that* something is owed: a wake. Wakes that come while a request is in
flight are one wake. A pass of a queue (``outgoing.py``) reads what is owed and makes one transaction of it; the queue
(``destination_queue.py``) sends it until it is answered; ``settling.py`` then moves the cursors. Whether a
destination is up to date, was down for a week, or this server was just restarted makes no difference to any of this.
Only, what is committed while a queue has all that is owed in its hands need not be read again (``live_tail.py``).

Invariants: destinations never wait for one another; a destination that is up to date costs no memory; a failing one is
left alone for longer and longer (``backoff.py``), across restarts too, until it shows life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix import canonical_json
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.delivery_tools import DeliveryTools, TransactionSender
from lmatrix.federation.destination_queue import DestinationQueue
from lmatrix.federation.outgoing import Stores
from lmatrix.metrics import Metrics
from lmatrix.rooms.delivery_store import DeliveryStore
from lmatrix.rooms.interfaces import (
    Database,
    JsonObject,
    LogGrowth,
    PendingLpduStore,
    PendingOutcomes,
    RoomStore,
)

GRACE_SECONDS = 10.0
"""How long stopping waits for requests in flight."""

STAGGER_SECONDS_EACH = 0.02
"""At start the destinations begin spread over this much time for each of them,"""

MAX_STAGGER_SECONDS = 30.0
"""but over no more than this."""


class TransactionIds:
    """Transaction IDs that were never used before, not by an earlier life of this server either.

    Args:
        clock: for the time of this life's beginning.
        rng: tells two lives apart that begin in the same millisecond, or after the clock was set back.
    """

    def __init__(self, clock: IReactorTime, rng: random.Random) -> None:
        self._prefix = f"{int(clock.seconds() * 1000):x}-{rng.getrandbits(48):012x}"
        self._count = 0

    def next(self) -> str:
        """Another one."""
        self._count += 1
        return f"{self._prefix}-{self._count}"


class FederationDelivery:
    """Sends every destination what it is owed.

    Args:
        server_name: this server; it is no destination.
        database: where the stores read and write.
        delivery_store, pending_store, room_store: cursors and back-off, pending LPDUs, the rooms' logs.
        sender: makes the requests.
        outcomes: told what hubs answered for LPDUs.
        clock: time and alarms.
        rng: jitter and transaction IDs.
        metrics: ``delivery_lag_events``, ``delivery_failures``, ``delivery_seconds``.
        policy: the bounds of the back-off.
        one_event_per_transaction: whether a destination takes one event in a transaction only (configuration).
    """

    log = Logger()

    def __init__(
        self,
        *,
        server_name: str,
        database: Database,
        delivery_store: DeliveryStore,
        pending_store: PendingLpduStore,
        room_store: RoomStore,
        sender: TransactionSender,
        outcomes: PendingOutcomes,
        clock: IReactorTime,
        rng: random.Random,
        metrics: Metrics,
        policy: BackoffPolicy,
        one_event_per_transaction: Callable[[str], bool] = lambda destination: False,
    ) -> None:
        self._server_name = server_name
        self._rng = rng
        self._clock = clock
        self._metrics = metrics
        self._tools = DeliveryTools(
            database=database,
            stores=Stores(delivery_store, pending_store, room_store),
            sender=sender,
            outcomes=outcomes,
            clock=clock,
            rng=rng,
            metrics=metrics,
            policy=policy,
            forms={},
            next_transaction_id=TransactionIds(clock, rng).next,
            one_event=one_event_per_transaction,
        )
        self._queues: dict[str, DestinationQueue] = {}
        self._stopping = False

    @property
    def destinations(self) -> frozenset[str]:
        """Those with something owed or outstanding; a destination that is caught up is not among them."""
        return frozenset(self._queues)

    # -- lmatrix.rooms.interfaces.Delivery -----------------------------------------------------------------------------

    def room_advanced(self, room_id: str, destinations: Iterable[str], growth: LogGrowth | None = None) -> None:
        """The room's log grew, and these servers are owed some of it. Never blocks, never raises."""
        for destination in destinations:
            self._wake(destination, growth)

    def lpdus_pending(self, hub_server: str) -> None:
        """There are new pending LPDUs for this hub. Never blocks, never raises."""
        self._wake(hub_server)

    def heard_from(self, destination: str) -> None:
        """The destination shows life: its back-off ends early."""
        queue = self._queues.get(destination)
        if queue is not None:
            queue.heard_from()

    # -- The rest ------------------------------------------------------------------------------------------------------

    def edus_pending(self, destination: str) -> None:
        """There are new EDUs in the destination's outbox. Never blocks, never raises."""
        self._wake(destination)

    def offer_edu(self, destination: str, subject: str, edu: JsonObject) -> None:
        """Send an EDU soon, or never: it is in no outbox. A newer one under the same subject takes its place. Never
        blocks, never raises.
        """
        if destination == self._server_name or self._stopping:
            return
        try:
            self._queue(destination).offer(subject, canonical_json.encode(edu))
        except Exception:
            # As in waking; and it is nothing that anybody is owed.
            self.log.failure("{destination}: an EDU could not be offered", destination=destination)

    async def start(self) -> None:
        """Wake every destination that is owed something, one after the other; reaches out to nobody by itself.

        Raises:
            StorageFailed: what is owed could not be read.
        """
        stores = self._tools.stores

        def work(tx: Any) -> set[str]:
            return {*stores.delivery.all_owing(tx), *stores.pending.hubs(tx)}

        owing = sorted(await self._tools.database.read(work))
        spread = min(MAX_STAGGER_SECONDS, STAGGER_SECONDS_EACH * len(owing))
        for destination in owing:
            if destination != self._server_name:
                self._queue(destination).wake_later(self._rng.uniform(0, spread))
        if owing:
            self.log.info("{count} destinations are owed something from before", count=len(owing))

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Start no further transaction, and wait for those in flight, but no longer than the grace."""
        self._stopping = True
        queues = list(self._queues.values())
        ending = DeferredList([Deferred.fromCoroutine(queue.stop()) for queue in queues], consumeErrors=True)
        cut_off = self._clock.callLater(grace_seconds, self._cut_off, queues)
        try:
            for success, result in await ending:
                if not success:
                    self.log.failure("a destination's queue did not stop in order", failure=result)
        finally:
            if cut_off.active():
                cut_off.cancel()

    def _cut_off(self, queues: Iterable[DestinationQueue]) -> None:
        for queue in queues:
            queue.abandon()

    def _wake(self, destination: str, growth: LogGrowth | None = None) -> None:
        if destination == self._server_name or self._stopping:
            return
        try:
            self._queue(destination).wake(growth)
        except Exception:
            # Whoever reports an event as committed must not fail for what delivery makes of it; the cursor knows the
            # rest.
            self.log.failure("{destination}: could not be woken", destination=destination)

    def _queue(self, destination: str) -> DestinationQueue:
        queue = self._queues.get(destination)
        if queue is None:
            queue = self._queues[destination] = DestinationQueue(destination, self._tools, self._dropped)
        return queue

    def _dropped(self, queue: DestinationQueue) -> None:
        if self._queues.get(queue.destination) is queue:
            del self._queues[queue.destination]
            self._metrics.forget_destination(queue.destination)
