"""What is written down after a destination has answered ``200 OK``.

Owns: moving a destination's cursors and emptying its EDU outbox, and handing the hub's answers for LPDUs to the
rooms, both beside the sending: the next transaction does not wait for these commits.

Invariants: a cursor is only moved after the 200 that it stands for; a busy destination's cursors are written a few
times in a second, not after each answer; what is answered but not stored yet is known
(:attr:`Settling.reached`), so that it is not sent again meanwhile; a write that fails is logged and tried again until
it succeeds; the answers for LPDUs are handed on in the order in which they came; what is outstanding is bounded,
because the sender waits (:meth:`Settling.caught_up`) when it is too much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lmatrix.federation.outgoing import Outgoing, Reached
from lmatrix.rooms.delivery_store import DeliveryStore
from lmatrix.rooms.interfaces import Database, PendingLpdu, PendingOutcomes

MAX_UNSTORED_EVENTS = 1000
"""Answered events whose cursors may be unstored before the sender waits."""

MAX_UNHANDED_ANSWERS = 10
"""Answers for LPDUs that may wait to be handed on before the sender waits."""

RETRY_SECONDS = 1.0
"""How long to wait before a failed write is tried again."""

REST_SECONDS = 0.25
"""How long after a write the next one may wait for more to be written with it. What a crash makes us forget by that is
sent again, and known to the destination.
"""


@attrs.frozen(slots=True)
class LpduAnswers:
    """A hub's answer for the LPDUs of one transaction.

    Attributes:
        lpdus: those that it answered for.
        failed: LPDU event ID → the reason.
        accepted: LPDU event ID → event ID of the PDU made from it.
        misdirected: LPDU event ID → the words of a server that is not the hub.
    """

    lpdus: Sequence[PendingLpdu]
    failed: Mapping[str, str]
    accepted: Mapping[str, str]
    misdirected: Mapping[str, str]


class Settling:
    """The book-keeping of one destination.

    Args:
        destination: its server name.
        database, store: where cursors and the outbox are.
        outcomes: who is told what became of LPDUs.
        clock: for the pause before a failed write is tried again.
        settled: called with the pending IDs of LPDUs whose outcome the rooms have taken.
        idle: called whenever nothing is outstanding any more.
    """

    log = Logger()

    def __init__(
        self,
        destination: str,
        database: Database,
        store: DeliveryStore,
        outcomes: PendingOutcomes,
        clock: IReactorTime,
        *,
        settled: Callable[[Sequence[int]], None],
        idle: Callable[[], None],
    ) -> None:
        self._destination = destination
        self._database = database
        self._store = store
        self._outcomes = outcomes
        self._clock = clock
        self._settled = settled
        self._idle = idle
        self._reached: dict[str, Reached] = {}
        self._edu_ids: set[int] = set()
        self._answers: deque[LpduAnswers] = deque()
        self._writing = False
        self._rested_at = 0.0
        self._resting: Deferred[None] | None = None
        self._handing = False
        self._running: set[Deferred[None]] = set()
        self._waiters: list[Deferred[None]] = []

    @property
    def reached(self) -> Mapping[str, Reached]:
        """How far the destination has each room's log, where the stored cursor may not say so yet. A snapshot."""
        return dict(self._reached)

    @property
    def edu_ids(self) -> frozenset[int]:
        """The EDUs that were sent, and may still be in the outbox."""
        return frozenset(self._edu_ids)

    @property
    def outstanding(self) -> bool:
        """Whether something is still to be written or handed on."""
        return self._writing or self._handing

    def delivered(self, outgoing: Outgoing, answers: LpduAnswers | None) -> None:
        """The destination answered 200 for a transaction.

        Args:
            outgoing: what was in it.
            answers: what it said of the LPDUs, ``None`` when there is nothing to hand on.
        """
        for room_id, reached in outgoing.reached.items():
            before = self._reached.get(room_id)
            self._reached[room_id] = Reached(reached.position, reached.events + (before.events if before else 0))
        self._edu_ids.update(outgoing.edu_ids)
        if answers is not None:
            self._answers.append(answers)
            if not self._handing:
                self._handing = True
                self._start(self._hand_on())
        if (self._reached or self._edu_ids) and not self._writing:
            self._writing = True
            self._start(self._write())

    async def caught_up(self) -> None:
        """Wait while more is outstanding than may be."""
        while (
            sum(reached.events for reached in self._reached.values()) > MAX_UNSTORED_EVENTS
            or len(self._answers) > MAX_UNHANDED_ANSWERS
        ):
            self._hurry()
            await self._change()

    async def finished(self) -> None:
        """Wait until nothing is outstanding."""
        while self.outstanding:
            self._hurry()
            await self._change()

    def abandon(self) -> None:
        """Give up on what is outstanding: it is done again after the restart, and harmless then."""
        for running in tuple(self._running):
            running.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        running = Deferred.fromCoroutine(work)
        self._running.add(running)
        running.addErrback(self._stopped)
        running.addBoth(lambda _: self._running.discard(running))

    def _stopped(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("{destination}: book-keeping stopped", failure=failure, destination=self._destination)

    def _change(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)
        if not self.outstanding:
            self._idle()

    def _hurry(self) -> None:
        """Somebody waits for the next write."""
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.callback(None)

    async def _rest(self) -> None:
        """Wait until the next write is due, or somebody waits for it."""
        seconds = self._rested_at - self._clock.seconds()
        if seconds <= 0.0:
            return
        resting: Deferred[None] = Deferred()
        self._resting = resting
        alarm = self._clock.callLater(min(seconds, REST_SECONDS), self._hurry)
        try:
            await resting
        finally:
            self._resting = None
            if alarm.active():
                alarm.cancel()

    async def _write(self) -> None:
        try:
            while self._reached or self._edu_ids:
                await self._rest()
                await self._write_once(dict(self._reached), tuple(self._edu_ids))
                self._rested_at = self._clock.seconds() + REST_SECONDS
                if self._reached or self._edu_ids:
                    self._changed()
        finally:
            self._writing = False
            self._changed()

    async def _write_once(self, reached: Mapping[str, Reached], edu_ids: tuple[int, ...]) -> None:
        def work(tx: Any) -> None:
            for room_id, part in reached.items():
                self._store.advance(tx, self._destination, room_id, part.position)
            if edu_ids:
                self._store.remove_edus(tx, edu_ids)

        while True:
            try:
                # No event waits for this, but it would take the disk's time from those that come in now.
                await self._database.write(work, patient=True)
                break
            except CancelledError:
                raise
            except Exception:
                # Whatever the database's trouble is, forgetting how far the peer is would only send everything twice.
                self.log.failure("{destination}: its cursors could not be stored", destination=self._destination)
            await deferLater(self._clock, RETRY_SECONDS)
        for room_id, part in reached.items():
            current = self._reached[room_id]
            if current.position == part.position:
                del self._reached[room_id]
            else:
                self._reached[room_id] = Reached(current.position, current.events - part.events)
        self._edu_ids.difference_update(edu_ids)

    async def _hand_on(self) -> None:
        try:
            while self._answers:
                await self._hand_on_one(self._answers[0])
                self._answers.popleft()
                if self._answers:
                    self._changed()
        finally:
            self._handing = False
            self._changed()

    async def _hand_on_one(self, answers: LpduAnswers) -> None:
        try:
            await self._outcomes.hub_answered(
                self._destination, answers.lpdus, answers.failed, answers.accepted, answers.misdirected
            )
        except CancelledError:
            raise
        except Exception:
            # They are still pending, and sent again after a while; the hub knows them by their hashes.
            self.log.failure("{destination}: its answers for LPDUs were not taken", destination=self._destination)
            return
        answered = answers.failed.keys() | answers.accepted.keys()
        self._settled([lpdu.pending_id for lpdu in answers.lpdus if lpdu.lpdu_event_id in answered])
