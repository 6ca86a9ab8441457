"""The sequencer: one for each room, strictly serial, the only place where a room changes.

Owns: the queue of a room, the forming of batches, and the commit that makes a batch real. It does no I/O but that
    commit
and knows no rules: each ticket brings its own decision, a function of the room's draft.

Who sends much does not make others wait: the queue is shared among the servers that events come from, and a batch takes
from each of them in turn. What comes from one of them stays in order.

The way of a ticket: it waits; a batch of tickets is decided one after the other on one :class:`RoomDraft`; one
transaction writes all of it, together with whatever the tickets want written beside it; then, and not before, the
room in memory changes, the tickets' Deferreds fire, and the listeners hear of it. A commit that fails undoes the
whole batch and fails its tickets; the room is usable at once, as it was before. While a commit is under way the queue
grows, so that a busy room pays for one commit with many events.

What a decision must know of the disk beyond the room in memory, it assumes, and the commit looks (:class:`Premise`):
nearly always the assumption is right, and a look beforehand would cost every batch a journey to another thread.

An error is no proof that a commit did not take place: the disk may have failed while saying that it had. So after one
the sequencer looks at what is there, and decides nothing more until it has seen it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.errors import LMatrixError, Overloaded
from lmatrix.fairness import FairShare, TurnQueue
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Database, RoomStore, StoredEvent
from lmatrix.rooms.room import Room, RoomDraft

T = TypeVar("T")

MAX_BATCH = 200
"""Events in one transaction at most: what is decided in one turn of the reactor must not take long."""

MAX_QUEUED = 10_000
"""Events that may wait for one room. Whoever sends them may have as many waiting as there is room left for others, so
that one server alone fills half of it; beyond it callers are told to come back.
"""


@attrs.frozen(slots=True)
class Commit:
    """What a listener hears after a batch is on disk.

    Attributes:
        room: the room, already changed.
        draft: what was committed.
        streams: the stream position of each of the draft's events.
    """

    room: Room
    draft: RoomDraft
    streams: Sequence[int]


class Premise(Protocol):
    """What a decision assumes of the disk.

    A batch with a decision whose premise does not hold is not written. It is decided anew, after that decision has
    learnt what is there instead.
    """

    def contradiction(self, tx: Any) -> object | None:
        """What is on disk otherwise than assumed, ``None`` when nothing is. Called in the transaction that writes the
        batch, before anything of it is written, off the reactor thread.
        """

    def learn(self, contradiction: Any) -> None:
        """Take it into account from now on. A premise must not be contradicted without end."""


DOUBT_SECONDS = 1.0
"""How long to wait before looking again whether a commit took place."""


class Sequencer:
    """Puts the events of one room in order.

    Args:
        room: the room; nobody else may change it.
        database, store: where a batch goes.
        clock: for looking again at a disk that could not be read.
        metrics: ``queue_length``, ``batch_size``, ``shed``.
        committed: called after each commit that appended something; it must not block.
        first: awaited before the first batch is decided; bounded in time. ``None``: nothing is to be waited for.
    """

    log = Logger()

    def __init__(
        self,
        room: Room,
        database: Database,
        store: RoomStore,
        clock: IReactorTime,
        metrics: Metrics,
        committed: Callable[[Commit], None],
        first: Callable[[Room], Awaitable[None]] | None = None,
    ) -> None:
        self._room = room
        self._database = database
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._committed = committed
        self._first = first
        self._queue: TurnQueue[str, _Ticket[Any]] = TurnQueue()
        self._share: FairShare[str] = FairShare(MAX_QUEUED)
        self._running = False
        self._idle: list[Deferred[None]] = []
        self._hold = DeferredLock()
        self._held = False
        self._rested: Deferred[None] | None = None
        self._doubtful: RoomDraft | None = None
        self._will_look = False

    @property
    def busy(self) -> bool:
        """Whether there is unfinished work."""
        return self._running or self._held or bool(self._queue)

    def submit(
        self,
        decide: Callable[[RoomDraft], T],
        *,
        events: int = 1,
        source: str | None = None,
        ahead: Callable[[Any], None] | None = None,
        beside: Callable[[Any, T], None] | None = None,
        premise: Premise | None = None,
    ) -> Deferred[T]:
        """Queue a decision.

        Args:
            decide: looks at the draft, appends to it what it allows, and returns its outcome. It must not keep the
                draft. What it raises fails this ticket alone; whatever it had appended by then is undone.
            events: how many events it may append, for the bounds.
            source: the server whose events these are: sources take turns. By default this server itself.
            ahead: called with the transaction before the batch's events are written.
            beside: called with the transaction and the outcome, to write what must be on disk together with the events.
            premise: what ``decide`` assumes of the disk. If that is wrong, it is called again.

        Returns:
            fires with the outcome when it is on disk; fails with what ``decide`` raised, or with the commit's error.

        Raises:
            Overloaded: (in the Deferred) too much is waiting for this room.
        """
        ticket: _Ticket[T] = _Ticket(decide, events, ahead, beside, premise, Deferred())
        source = source or self._room.server_name
        if not self._share.take(source, events):
            self._metrics.shed.labels(what="sequencer").inc()
            ticket.answer.errback(Overloaded(1000, f"too many events are waiting for {self._room.room_id}"))
            return ticket.answer
        self._queue.put(source, ticket, events)
        self._metrics.queue_length.labels(queue="sequencer").inc(events)
        self._wake()
        return ticket.answer

    async def hold(self) -> None:
        """Wait until what is being committed is on disk, and then decide nothing more until :meth:`release`.

        What is submitted meanwhile queues. Several who want to hold do so one after the other.
        """
        await self._hold.acquire()
        self._held = True
        if self._running:
            self._rested = Deferred()
            await self._rested

    def release(self) -> None:
        """Go on with what has queued."""
        self._held = False
        self._hold.release()
        self._wake()
        self._tell_idle()

    async def decide_held(self, decide: Callable[[RoomDraft], T]) -> T:
        """Carry out a decision while the others are held; as :meth:`submit` otherwise."""
        if not self._held or self._running:
            raise RuntimeError("the sequencer is not held")
        ticket: _Ticket[T] = _Ticket(decide, 1, None, None, None, Deferred())
        await self._run_batch([ticket])
        return await ticket.answer

    def _wake(self) -> None:
        if not self._running and not self._held and self._queue:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(self._stopped_unexpectedly)

    def idle(self) -> Deferred[None]:
        """Fires when nothing is queued or being committed."""
        waiter: Deferred[None] = Deferred()
        if self.busy:
            self._idle.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    async def _run(self) -> None:
        try:
            await self._begin()
            while self._queue and not self._held:
                await self._run_batch(self._next_batch())
        finally:
            self._running = False
            rested, self._rested = self._rested, None
            if rested is not None:
                rested.callback(None)
            self._tell_idle()

    async def _begin(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            try:
                await first(self._room)
            except Exception:
                # Nothing that waits is worse off for that than it would be without.
                self.log.failure("{room_id}: before its first batch", room_id=self._room.room_id)

    def _tell_idle(self) -> None:
        if not self.busy:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiter.callback(None)

    def _next_batch(self) -> list[_Ticket[Any]]:
        batch = self._queue.take(MAX_BATCH)
        for source, _, events in batch:
            self._share.give_back(source, events)
        self._metrics.queue_length.labels(queue="sequencer").dec(sum(events for _, _, events in batch))
        return [ticket for _, ticket, _ in batch]

    async def _run_batch(self, batch: list[_Ticket[Any]]) -> None:
        if self._doubtful is not None:
            try:
                await self._took_place(self._doubtful)
            except Exception as error:
                self._doubt(self._doubtful)
                for ticket in batch:
                    ticket.answer.errback(error)
                return
        while True:
            decided = self._decide(batch)
            if decided.changes_nothing:
                break
            try:
                streams = await self._database.write(self._work(decided))
            except _Contradicted as contradicted:
                for premise, contradiction in contradicted.found:
                    premise.learn(contradiction)
                continue
            except Exception as error:
                if not await self._took_place_after_all(decided.draft, error):
                    # Even what was refused was refused in view of events that there are not.
                    for ticket in batch:
                        ticket.answer.errback(error)
                    return
            else:
                self._become(decided.draft, streams)
            break
        for ticket, reason in decided.refused:
            ticket.answer.errback(reason)
        for ticket, outcome in decided.taken:
            ticket.answer.callback(outcome)

    def _become(self, draft: RoomDraft, streams: Sequence[int]) -> None:
        """The draft is on disk."""
        if not draft.events:
            return
        self._metrics.batch_size.labels(what="events").observe(len(draft.events))
        draft.apply()
        try:
            self._committed(Commit(self._room, draft, streams))
        except Exception:
            # The events are on disk and acknowledged; whoever failed to hear of them catches up from there.
            self.log.failure("{room_id}: a listener failed", room_id=self._room.room_id)

    async def _took_place_after_all(self, draft: RoomDraft, error: Exception) -> bool:
        """Whether a commit that failed took place all the same. Where nobody can tell, it counts as failed for now."""
        self.log.error(
            "{room_id}: a batch of {count} events could not be committed: {error}",
            room_id=self._room.room_id,
            count=len(draft.events),
            error=error,
        )
        try:
            return await self._took_place(draft)
        except Exception as unreadable:
            self.log.error(
                "{room_id}: whether it took place cannot be seen: {error}",
                room_id=self._room.room_id,
                error=unreadable,
            )
            self._doubt(draft)
            return False

    async def _took_place(self, draft: RoomDraft) -> bool:
        """Look whether a draft is on disk; if so, it becomes the room. Raises when the disk cannot be read."""
        expected = {appended.pdu.event_id: appended.position for appended in draft.events}
        held = await self._database.read(lambda tx: self._store.events(tx, list(expected)))
        self._doubtful = None
        there = [held[event_id] for event_id, position in expected.items() if _is_at(held.get(event_id), position)]
        if not there:
            return False
        self.log.warn("{room_id}: … and it took place all the same", room_id=self._room.room_id)
        self._become(draft, [event.stream for event in there if event.stream is not None])
        return True

    def _doubt(self, draft: RoomDraft) -> None:
        """Nothing is decided until it is known whether this took place; if nobody else asks, we do."""
        self._doubtful = draft
        if not self._will_look:
            self._will_look = True
            self._clock.callLater(DOUBT_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._will_look = False
        if self._doubtful is not None:
            # If the disk still cannot be read, that says so in the log, and comes back here.
            self.submit(lambda _: None, events=0).addErrback(lambda _: None)

    def _work(self, decided: _Decided) -> Callable[[Any], Sequence[int]]:
        append = decided.draft.as_append()
        store = self._store
        premises = decided.premises
        ahead = [ticket.ahead for ticket, _ in decided.taken if ticket.ahead is not None]

        def work(tx: Any) -> Sequence[int]:
            found = [(premise, premise.contradiction(tx)) for premise in premises]
            contradictions = [(premise, contradiction) for premise, contradiction in found if contradiction is not None]
            if contradictions:
                raise _Contradicted(contradictions)
            for first in ahead:
                first(tx)
            streams = store.append(tx, append) if append.events else ()
            for ticket, outcome in decided.taken:
                if ticket.beside is not None:
                    ticket.beside(tx, outcome)
            return streams

        return work

    def _decide(self, batch: Sequence[_Ticket[Any]]) -> _Decided:
        spoilt: dict[_Ticket[Any], Exception] = {}
        while True:
            decided = _Decided(RoomDraft(self._room), [], list(spoilt.items()))
            for ticket in batch:
                if ticket in spoilt:
                    continue
                before = len(decided.draft.events)
                try:
                    outcome = ticket.decide(decided.draft)
                except Exception as error:
                    if isinstance(error, LMatrixError) and len(decided.draft.events) == before:
                        decided.refused.append((ticket, error))
                        continue
                    if not isinstance(error, LMatrixError):
                        self.log.failure("{room_id}: a decision failed", room_id=self._room.room_id)
                    # The draft may hold half of what the decision did: decide the others again, on a clean one.
                    spoilt[ticket] = error
                    break
                decided.taken.append((ticket, outcome))
            else:
                return decided

    def _stopped_unexpectedly(self, failure: Any) -> None:
        self.log.failure("{room_id}: the sequencer stopped", failure=failure, room_id=self._room.room_id)
        for ticket in self._queue:
            ticket.answer.errback(failure)
        self._metrics.queue_length.labels(queue="sequencer").dec(self._share.taken)
        self._queue.clear()
        self._share = FairShare(MAX_QUEUED)


def _is_at(event: StoredEvent | None, position: int) -> bool:
    return event is not None and event.position == position


class _Contradicted(Exception):
    """The disk says otherwise than some premises.

    Args:
        found: what it says of each of them.
    """

    def __init__(self, found: Sequence[tuple[Premise, object]]) -> None:
        super().__init__(f"{len(found)} premises do not hold")
        self.found = found


@attrs.frozen(slots=True, eq=False)
class _Ticket(Generic[T]):
    decide: Callable[[RoomDraft], T]
    events: int
    ahead: Callable[[Any], None] | None
    beside: Callable[[Any, T], None] | None
    premise: Premise | None
    answer: Deferred[T]


@attrs.frozen(slots=True, eq=False)
class _Decided:
    """What came of deciding a batch: who is to hear what, once the draft is on disk."""

    draft: RoomDraft
    taken: list[tuple[_Ticket[Any], Any]]
    refused: list[tuple[_Ticket[Any], Exception]]

    @property
    def premises(self) -> list[Premise]:
        """What all of this rests on: a refusal may rest on it, too."""
        return [ticket.premise for ticket, _ in (*self.taken, *self.refused) if ticket.premise is not None]

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to be written, and nothing to be looked up."""
        return not (self.draft.events or self.premises or any(t.beside or t.ahead for t, _ in self.taken))
