"""One destination's queue: what is sent to it next, and when (I-D "PUT /send/:txnId").

Owns: the state machine of one destination. Its states:

* *idle*: nothing is owed, or what is owed has its alarm set;
* *sending*: reading what is owed, or waiting for the answer to the one transaction in flight;
* *backing off*: the last attempt failed; an alarm is set for the next one.

============= ================================= ==========================================================
state         what happens                      then
============= ================================= ==========================================================
idle          wake, alarm                       sending
sending       wake                              sending; looks again before it rests
sending       200                               sending: the next transaction
sending       nothing is owed                   idle; the queue is dropped once nothing is outstanding
sending       failure                           backing off
backing off   wake                              backing off
backing off   alarm                             sending
backing off   the destination shows life        backing off, no longer than the shortest interval after the last try,
                                                or than it asked for
any           stop                              what is in flight ends, then nothing more
============= ================================= ==========================================================

Invariants: one request in flight at a time; a transaction is sent again under the same ID with the same body until it
is answered 200, or until an LPDU in it is not pending any more (a peer that did not answer must not get what has gone
to another hub since: it may be the hub again by then); cursors move after a 200 only; nothing is ever given up.

A peer may answer 200 and say of an event that it is to be sent again (:data:`TRY_LATER`): the room's cursor then stays
before it, and the room is held back for a while. An LPDU that is to be sent again, or that another hub should get
(:data:`WRONG_SERVER`), stays pending, and with it those that come after it: where a hub has just changed, we may know
of it before the new hub itself does, or after the old one.

What a peer refuses (4xx, for the content's sake) is sent again in halves, until a single event is found that the peer
does not take. That event's room, its *lane*, is then held back (``held_back.py``), so that the other rooms go on. A
transaction that large and that old (:data:`RELEASE_BYTES`, :data:`RELEASE_MS`) is not kept in memory while its
destination is down: what it carried is sent later under a new ID, and recognised by event ID and LPDU hash. The same
goes for one that finds no room among those that other failing destinations' queues keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from lmatrix.errors import PeerError, PeerRefused
from lmatrix.federation.awaited_echoes import AwaitedEchoes
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.delivery_tools import DeliveryTools
from lmatrix.federation.destination_health import DestinationHealth
from lmatrix.federation.held_back import HeldBack
from lmatrix.federation.live_tail import LiveTail
from lmatrix.federation.outgoing import MAX_EVENTS, EduLane, Found, Kind, LogLane, LpduLane, Outgoing, Wish, assemble
from lmatrix.federation.settling import LpduAnswers, Settling
from lmatrix.rooms.interfaces import LogGrowth

TRY_LATER = "org.lmatrix.try_later"
"""Our addition to an entry of ``failed_pdus``: the peer cannot take the event yet, and it is to be sent again."""

WRONG_SERVER = "M_WRONG_SERVER"
"""The peer is not the LPDU's hub, or does not know yet that it is."""

UNTIL_IT_IS_THE_HUB = BackoffPolicy(min_ms=200, max_ms=30_000)
"""How often a peer is sent the LPDUs of a room that it is not the hub of, as long as we think that it is."""

ACCEPTED = "org.lmatrix.accepted"
"""Our addition to the answer, never relied upon: LPDU event ID → event ID of the PDU made from it."""

BUSY_MS = 100
"""First pause after ``M_BAD_STATE``: the peer is still at an earlier request of ours."""

BUSY_TRIES = 10
"""``M_BAD_STATE`` this many times in a row counts as a failure."""

RELEASE_BYTES = 64 * 1024
"""A body of up to this many bytes is kept for as long as its destination fails."""

RELEASE_MS = 60_000
"""A longer one is kept only while the pauses are shorter than this many milliseconds."""

MAX_KNOWN_FORMS = 10_000

MAX_FLEETING = 200
"""EDUs that may wait without being owed; the oldest give way."""

_ABOUT_THE_CONTENT = frozenset({400, 403, 413, 422})


class State(Enum):
    """See the module's table."""

    IDLE = "idle"
    SENDING = "sending"
    BACKING_OFF = "backing off"


@attrs.define(slots=True, eq=False)
class _Held:
    """The transaction that is to be answered next."""

    transaction_id: str
    outgoing: Outgoing
    busy: int = 0


class DestinationQueue:
    """Sends one destination what it is owed.

    Args:
        destination: its server name.
        tools: what all queues share.
        dropped: called when nothing is owed and nothing outstanding: the queue may be forgotten.
    """

    log = Logger()

    def __init__(self, destination: str, tools: DeliveryTools, dropped: Callable[[DestinationQueue], None]) -> None:
        self.destination = destination
        self.state = State.IDLE
        self._tools = tools
        self._dropped = dropped
        self._settling = Settling(
            destination,
            tools.database,
            tools.stores.delivery,
            tools.outcomes,
            tools.clock,
            settled=self._lpdus_settled,
            idle=self._drop_if_done,
        )
        self._woken = False
        self._stopping = False
        self._abandoned = False
        self._heard = False
        self._alarm: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._held: _Held | None = None
        self._kept_bytes = 0
        self._health = DestinationHealth(destination, tools)
        self._state_read = False
        self._last_attempt_ms: int | None = None
        self._asked_to_wait_ms = 0
        self._most = 1 if tools.one_event(destination) else MAX_EVENTS
        self._capacity = self._most
        self._echoes = AwaitedEchoes(tools.policy.max_ms)
        self._held_back = HeldBack(tools.policy, tools.rng)
        self._last_kind: Kind | None = None
        self._last_had_lpdus = False
        self._after = ""
        self._fleeting: dict[str, bytes] = {}
        self._tail = LiveTail()

    # -- What others tell it -------------------------------------------------------------------------------------------

    def wake(self, growth: LogGrowth | None = None) -> None:
        """Something new is owed: ``growth``, or who knows what. In back-off it waits like the rest."""
        if growth is None:
            self._tail.lose()
        else:
            self._tail.grow(growth)
        self._woken = True
        if self.state is not State.IDLE or self._stopping:
            return
        if not self._knows_what_is_owed():
            self._start()
        elif self._alarm is None:
            # Whoever made the log grow has his answer first.
            self._alarm = self._tools.clock.callLater(0, self._begin)

    def offer(self, subject: str, edu: bytes) -> None:
        """An EDU (canonical JSON) that is worth sending now, or not at all. A newer one under the same subject takes
        its place; in back-off, and when there is nothing to be sent for now, it is forgotten.
        """
        if self.state is State.BACKING_OFF or self._stopping:
            return
        self._fleeting.pop(subject, None)
        self._fleeting[subject] = edu
        if len(self._fleeting) > MAX_FLEETING:
            del self._fleeting[next(iter(self._fleeting))]
        self.wake()

    def wake_later(self, seconds: float) -> None:
        """Look in a while, unless something happens before."""
        if self.state is State.IDLE and self._alarm is None:
            self._set_alarm(seconds)

    def heard_from(self) -> None:
        """The destination shows life: try again at once, but never more often than the shortest back-off allows, nor
        sooner than it asked us to.
        """
        self._heard = True
        if self.state is not State.BACKING_OFF or self._alarm is None or self._last_attempt_ms is None:
            return
        wait_ms = max(self._tools.policy.min_ms, self._asked_to_wait_ms)
        earliest = max(0.0, (self._last_attempt_ms + wait_ms) / 1000 - self._tools.clock.seconds())
        if earliest < self._alarm.getTime() - self._tools.clock.seconds():
            self._set_alarm(earliest)

    async def stop(self) -> None:
        """Start nothing more; wait for what is in flight and for the book-keeping."""
        self._stopping = True
        self._clear_alarm()
        if self._running is not None:
            ended: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: ended.callback(None))
            await ended
        await self._settling.finished()

    def abandon(self) -> None:
        """Cut off what is in flight. What was sent and not answered is sent again after the restart."""
        self._stopping = self._abandoned = True
        self._clear_alarm()
        if self._running is not None:
            self._running.cancel()
        self._settling.abandon()

    # -- The machine ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._clear_alarm()
        if self._stopping:
            return
        self.state = State.SENDING
        running = Deferred.fromCoroutine(self._run())
        self._running = running
        running.addErrback(self._broke)
        running.addBoth(self._ended, running)

    def _ended(self, _: object, running: Deferred[None]) -> None:
        if self._running is running:
            self._running = None
            self._drop_if_done()

    def _broke(self, failure: Any) -> None:
        if failure.check(CancelledError):
            self.state = State.IDLE
            return
        # An error of ours, or the database's: the destination has nothing to do with it, but what is owed stays owed.
        self.log.failure("{destination}: delivery failed", failure=failure, destination=self.destination)
        self._last_attempt_ms = self._tools.now_ms()
        self._back_off(self._tools.policy.min_ms)

    async def _run(self) -> None:
        probing = everything = False
        while not self._stopping:
            if self._held is not None and await self._is_void(self._held.outgoing):
                self._let_go(self._held.outgoing)
            if self._held is None:
                await self._settling.caught_up()
                self._woken = False
                if self._knows_what_is_owed():
                    self._lag(len(self._tail))
                    self._held = _Held(self._tools.next_transaction_id(), self._tail.take(self._capacity))
                    everything = not self._tail
                else:
                    wish = self._wish(probing)
                    probing = False
                    found = await self._look(wish)
                    everything = found.everything
                    if wish.with_state and self._backs_off_still():
                        return
                    if found.outgoing is None:
                        if wish.only is not None:
                            # What was held back is gone by itself.
                            self._held_back.released(wish.only)
                        elif self._held_back.due(wish.now_ms) is not None:
                            probing = True
                        elif not self._woken:
                            self._rest()
                            return
                        continue
                    self._held = _Held(self._tools.next_transaction_id(), found.outgoing)
                    self._taken(wish, found.outgoing)
            pause_ms = await self._attempt(self._held)
            if pause_ms is not None:
                self._back_off(pause_ms)
                return
            if self._held_back.lanes:
                self._tail.lose()
            if everything and not self._woken and not self._held_back.lanes:
                # That was all, and nothing has come since: there is no need to look.
                self._lag(0)
                self._rest()
                return
        self.state = State.IDLE

    async def _is_void(self, outgoing: Outgoing) -> bool:
        """Whether an LPDU of a transaction that is to be sent again is not pending any more: its room has another hub
        now, to which it went, or its echo has come.
        """
        if not outgoing.lpdus:
            return False
        tools = self._tools
        ids = [lpdu.lpdu_event_id for lpdu in outgoing.lpdus]
        return await tools.database.read(
            lambda tx: any(tools.stores.pending.get(tx, lpdu_event_id) is None for lpdu_event_id in ids)
        )

    def _taken(self, wish: Wish, outgoing: Outgoing) -> None:
        """What is on its way is not offered any more, unless there is a newer one already."""
        for subject in outgoing.fleeting:
            if self._fleeting.get(subject) is wish.fleeting[subject]:
                del self._fleeting[subject]

    def _knows_what_is_owed(self) -> bool:
        """Whether there is something to be sent, and no need to read what."""
        return self._tail.level and bool(self._tail) and not self._echoes and not self._held_back.lanes

    async def _look(self, wish: Wish) -> Found:
        """Read what is owed, and learn from it."""
        tools = self._tools
        self._tail.follow()
        found = await tools.database.read(lambda tx: assemble(tx, tools.stores, wish))
        if found.everything:
            self._tail.has_been_read(found.outgoing)
        else:
            self._tail.lose()
        if len(tools.forms) > MAX_KNOWN_FORMS:
            tools.forms.clear()
        tools.forms.update(found.forms)
        for room_id, form in found.forms.items():
            if form is None:
                self.log.error("{room_id} cannot be delivered: its version is not known", room_id=room_id)
        self._echoes.keep(found.still_sent)
        if wish.with_state:
            self._state_read = True
            self._health.restore(found.state)
        if found.outgoing is not None:
            self._after = found.after
        self._lag(found.lag)
        return found

    def _lag(self, events: int) -> None:
        self._tools.metrics.delivery_lag_events.labels(destination=self.destination).set(events)

    def _wish(self, probing: bool) -> Wish:
        """What to look for. A lane whose back-off has ended: when all else goes well, or ``probing`` asks for it."""
        now = self._tools.now_ms()
        probed = self._held_back.due(now) if probing or self._health.trouble is None else None
        return Wish(
            destination=self.destination,
            capacity=1 if probed is not None else self._capacity,
            now_ms=now,
            reached=self._settling.reached,
            sent=self._echoes.due,
            sent_edus=self._settling.edu_ids,
            fleeting=dict(self._fleeting),
            held_back=self._held_back.lanes,
            only=probed,
            after=self._after,
            last=self._last_kind,
            last_had_lpdus=self._last_had_lpdus,
            known_forms=self._tools.forms,
            with_state=not self._state_read,
        )

    def _backs_off_still(self) -> bool:
        """After a restart: whether the back-off of before has not ended."""
        trouble = self._health.trouble
        if trouble is None or self._heard:
            return False
        left = trouble.retry_at_ms - self._tools.now_ms()
        if left <= 0:
            return False
        self._last_attempt_ms = trouble.retry_at_ms - trouble.interval_ms
        self._back_off(left)
        return True

    async def _attempt(self, held: _Held) -> int | None:
        """Send the transaction. ``None`` when it went well, else how many milliseconds to pause."""
        tools = self._tools
        self._last_attempt_ms = tools.now_ms()
        self._asked_to_wait_ms = 0
        began = tools.clock.seconds()
        try:
            answer = await tools.sender.send_transaction(
                self.destination, held.transaction_id, held.outgoing.body, held.outgoing.kind.path_form
            )
        except PeerRefused as error:
            tools.metrics.delivery_seconds.observe(tools.clock.seconds() - began)
            return self._refused(held, error)
        except CancelledError:
            raise
        except PeerError as error:
            return self._failed(held, error)
        except Exception as error:
            # Not the peer's doing, as far as can be told; but hammering it would help nobody.
            self.log.failure("{destination}: sending failed", destination=self.destination)
            return self._failed(held, error)
        tools.metrics.delivery_seconds.observe(tools.clock.seconds() - began)
        self._succeeded(held.outgoing, answer)
        return None

    def _rest(self) -> None:
        """Nothing can be sent now. Set the alarm for what can be later."""
        self.state = State.IDLE
        self._fleeting.clear()
        due = [at for at in (self._echoes.earliest_ms(), self._held_back.earliest_ms()) if at is not None]
        if due:
            self._set_alarm(max(0.0, min(due) / 1000 - self._tools.clock.seconds()))

    def _back_off(self, pause_ms: int) -> None:
        self.state = State.BACKING_OFF
        self._tail.lose()
        self._fleeting.clear()
        if not self._stopping:
            self._set_alarm(pause_ms / 1000)

    def _drop_if_done(self) -> None:
        if (
            self.state is State.IDLE
            and self._running is None
            and self._alarm is None
            and not self._woken
            and not self._settling.outstanding
        ):
            self._dropped(self)

    # -- What the destination answers ----------------------------------------------------------------------------------

    def _succeeded(self, outgoing: Outgoing, answer: Mapping[str, Any]) -> None:
        self._let_go(outgoing)
        # What another hub should get is not refused: it stays pending until we know that hub, and sign it for it (or
        # until the rooms say that we never shall). What is to be sent again is not refused either.
        failed = {
            event_id: entry["error"]
            for event_id, entry in answer["failed_pdus"].items()
            if entry.get("errcode") not in (WRONG_SERVER, TRY_LATER)
        }
        untaken = [lpdu for lpdu in outgoing.lpdus if _is_untaken(answer["failed_pdus"].get(lpdu.lpdu_event_id))]
        waiting = {LpduLane(lpdu.room_id) for lpdu in untaken}
        later = {event_id for event_id, entry in answer["failed_pdus"].items() if entry.get("errcode") == TRY_LATER}
        self._health.succeeded()
        self._capacity = min(self._most, self._capacity * 2)
        taken = outgoing.taken(later)
        stuck = {LogLane(room_id) for room_id in outgoing.sent if room_id not in taken}
        for lane in outgoing.lanes - stuck - waiting:
            self._held_back.released(lane)
        for lane in waiting:
            self._held_back.refused(lane, self._tools.now_ms(), UNTIL_IT_IS_THE_HUB)
        for room_id, reached in outgoing.reached.items():
            if taken.get(room_id) != reached:
                self._held_back.refused(LogLane(room_id), self._tools.now_ms())
        lpdu_ids = {lpdu.lpdu_event_id for lpdu in outgoing.lpdus}
        for event_id, reason in failed.items():
            if event_id not in lpdu_ids:
                self.log.warn(
                    "{destination} refused {event_id}: {reason}",
                    destination=self.destination,
                    event_id=event_id,
                    reason=reason,
                )
        # Until their outcome is known they must not be read, and sent, again.
        self._echoes.sent([lpdu for lpdu in outgoing.lpdus if lpdu not in untaken], self._tools.now_ms())
        self._echoes.settled([lpdu.pending_id for lpdu in untaken])
        answers = None
        if outgoing.lpdus:
            answers = LpduAnswers(
                outgoing.lpdus,
                {event_id: reason for event_id, reason in failed.items() if event_id in lpdu_ids},
                {
                    event_id: made
                    for event_id, made in answer[ACCEPTED].items()
                    if event_id in lpdu_ids and event_id not in failed
                },
                {
                    event_id: entry["error"]
                    for event_id, entry in answer["failed_pdus"].items()
                    if event_id in lpdu_ids and entry.get("errcode") == WRONG_SERVER
                },
            )
        self._settling.delivered(attrs.evolve(outgoing, reached=taken), answers)

    def _lpdus_settled(self, pending_ids: Sequence[int]) -> None:
        self._echoes.settled(pending_ids)
        if not self._echoes and not self._held_back.lanes and self.state is State.IDLE:
            # What the alarm was set for is done.
            self._clear_alarm()

    def _refused(self, held: _Held, error: PeerRefused) -> int | None:
        """An error status. How many milliseconds to pause; ``None``: go on."""
        self._asked_to_wait_ms = min(error.retry_after_ms, self._tools.policy.max_ms)
        if error.status == 400 and error.errcode == "M_BAD_STATE" and held.busy < BUSY_TRIES:
            # The peer has not finished an earlier request, maybe this very one: the same again, soon.
            held.busy += 1
            return self._tools.policy.delay(BUSY_MS * held.busy, self._tools.rng)
        if error.status in _ABOUT_THE_CONTENT and error.errcode != "M_BAD_STATE":
            return self._narrow(held, error)
        return self._failed(held, error, at_least_ms=error.retry_after_ms)

    def _narrow(self, held: _Held, error: PeerRefused) -> int | None:
        """The peer does not take this content: send less of it next time, under a new transaction ID."""
        outgoing, tools = held.outgoing, self._tools
        probed = outgoing.lanes <= self._held_back.lanes
        self._let_go(outgoing)
        if not probed and outgoing.has_edus and outgoing.events:
            # The EDUs are the first suspects: without them the rooms go on.
            self._held_back.refused(EduLane(), tools.now_ms())
        elif outgoing.events > 1:
            self._capacity = max(1, min(self._capacity, outgoing.events) // 2)
        else:
            for lane in outgoing.lanes:
                self.log.error(
                    "{destination} does not take the next event of {lane}, which is tried again later: {error}",
                    destination=self.destination,
                    lane=lane,
                    error=error,
                )
                self._held_back.refused(lane, tools.now_ms())
            self._capacity = self._most
            if not probed or self._health.trouble is not None:
                # It may well refuse everything: that must become rarer and rarer.
                return self._failed(held, error)
        self._health.count()
        # The peer is there, and takes what else there is.
        return None if probed else tools.policy.delay(tools.policy.min_ms, tools.rng)

    def _let_go(self, outgoing: Outgoing) -> None:
        """The transaction will not be sent again as it is."""
        self._release()
        self._last_kind = outgoing.kind
        self._last_had_lpdus = bool(outgoing.lpdus)

    def _failed(self, held: _Held, error: Exception, *, at_least_ms: int = 0) -> int:
        """A failed attempt. How many milliseconds to pause."""
        if self._abandoned:
            return self._tools.policy.min_ms
        pause_ms = self._health.failed(error, at_least_ms=at_least_ms)
        held.busy = 0
        size = len(held.outgoing.body)
        if not held.outgoing.must_arrive or (pause_ms >= RELEASE_MS and size > RELEASE_BYTES):
            self._release()
        elif not self._kept_bytes and self._tools.kept_bytes.take(self.destination, size):
            self._kept_bytes = size
        elif not self._kept_bytes:
            self._release()
        return pause_ms

    def _release(self) -> None:
        """Keep the transaction in memory no longer."""
        self._held = None
        self._tools.kept_bytes.give_back(self.destination, self._kept_bytes)
        self._kept_bytes = 0

    # -- Alarm ---------------------------------------------------------------------------------------------------------

    def _set_alarm(self, seconds: float) -> None:
        self._clear_alarm()
        self._alarm = self._tools.clock.callLater(seconds, self._alarmed)

    def _clear_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None and alarm.active():
            alarm.cancel()

    def _begin(self) -> None:
        self._alarm = None
        self._start()

    def _alarmed(self) -> None:
        self._tail.lose()
        self._begin()


def _is_untaken(entry: Mapping[str, Any] | None) -> bool:
    """Whether an LPDU with this entry in ``failed_pdus`` is to be sent again, here or elsewhere."""
    return entry is not None and entry.get("errcode") in (WRONG_SERVER, TRY_LATER)
