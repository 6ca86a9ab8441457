"""The participant's role: following the hub's order, and checking it.

Owns: the way of PDUs from their arrival to the log, the filling of gaps from the hub, and the evidence that is kept
when the hub does what it must not. The hub's answer to a transaction waits until its events are on disk here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.canonical_json import encode
from lmatrix.errors import EventDropped, UnknownKey
from lmatrix.events.forms import Pdu
from lmatrix.events.state import StateEvent
from lmatrix.metrics import Metrics
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.following import Fate, Followed, follow
from lmatrix.rooms.gaps import Closing, GapCloser
from lmatrix.rooms.interfaces import Database, Evidence, Peers, RoomStore, StoredEvent
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.registry import LoadedRoom
from lmatrix.rooms.room import RoomDraft


class Reached(Enum):
    """What came of the attempt to get as far as an event."""

    HELD = "held"
    EARLIER = "earlier"  # it lies before our log begins
    CONTRADICTED = "contradicted"  # the way to it leaves our log before its end: a fork, kept as evidence
    DENIED = "denied"  # whoever was asked does not give it, or what leads to it
    NOT_YET = "not yet"  # whoever was asked did not answer, or keys could not be had


class Participant:
    """Takes PDUs for rooms whose hub is another server.

    Args:
        checker: verifies PDUs.
        database, store: the log.
        peers: to fetch what is missing.
        outbox: is told of the echoes of our own LPDUs.
        clock: for the time of evidence.
        metrics: ``events_refused``, ``evidence``.
        uneasy: told of a room whose hub sent what is old, or what is kept as evidence.
    """

    log = Logger()

    def __init__(
        self,
        checker: EventChecker,
        database: Database,
        store: RoomStore,
        peers: Peers,
        outbox: Outbox,
        clock: IReactorTime,
        metrics: Metrics,
        uneasy: Callable[[str], None],
    ) -> None:
        self._checker = checker
        self._database = database
        self._store = store
        self._gaps = GapCloser(checker, database, store, peers, clock)
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._uneasy = uneasy

    async def take_pdus(
        self,
        loaded: LoadedRoom,
        pdus: Sequence[Pdu],
        source: str,
        beside: Callable[[Any, list[Followed]], None] | None = None,
    ) -> list[Followed]:
        """Continue the room's log with PDUs from its hub.

        Args:
            loaded: the room.
            pdus: well-formed PDUs of that room from its hub, not yet verified, in the order in which they came.
            source: who sent them, and is asked for what is missing: the hub, or who became it without our knowing yet.
            beside: writes the answer in the same database transaction as the events.

        Returns:
            the fate of each that verified, once what was appended is on disk.

        Raises:
            StorageFailed, Overloaded: trying again later makes sense.
        """
        verified, unverified = await self._verified(loaded, pdus)
        fates = await self._append(loaded, (), verified, unverified, beside)
        closing, missing = None, 0
        gap = next((one for one in fates if one.fate is Fate.GAP), None)
        if gap is not None:
            before = gap.pdu.prev_events[0]
            closing = await self._gaps.close(loaded, before, source)
            if closing.too_long and await self._walk(loaded, before, source) is Reached.HELD:
                closing = Closing((), frozenset(), answered=True)
            fates = await self._append(loaded, closing.missing, verified, unverified, beside, closing)
            missing = len(closing.missing)
        forked = any(one.fate is Fate.FORK for one in fates)
        for followed in fates:
            # What comes after a fork is missing because of that.
            if followed.fate is not Fate.GAP or (_is_withheld(loaded, closing, source) and not forked):
                await self._report(loaded, followed)
        fates = fates[missing:]
        old = bool(fates) and all(one.fate is Fate.HELD for one in fates)
        if old and fates[-1].pdu.event_id != loaded.room.head_event_id:
            # It may have forgotten the rest.
            self._uneasy(loaded.room.room_id)
        came = {pdu.event_id: pdu for pdu in pdus}
        for followed in fates:
            as_it_came = came.get(followed.pdu.event_id, followed.pdu)
            if followed.fate is Fate.APPENDED and as_it_came.canonical != followed.pdu.canonical:
                await self._keep_evidence(loaded, "altered", as_it_came, "its content is not what its hashes say")
        return fates

    async def _verified(self, loaded: LoadedRoom, pdus: Sequence[Pdu]) -> tuple[list[Pdu], list[Followed]]:
        """The events that verify; and from the first on that cannot be verified yet, those that must wait."""
        checked = await self._checker.check(pdus, loaded.room.hub_server)
        unknown = {one.received.event_id for one in checked if isinstance(one.event, UnknownKey)}
        if unknown:
            held = await self._database.read(lambda tx: self._store.events(tx, sorted(unknown)))
            unknown.difference_update(event_id for event_id, event in held.items() if event.position > 0)
        verified: list[Pdu] = []
        unverified: list[Followed] = []
        for one in checked:
            if unverified or one.received.event_id in unknown:
                why = str(one.event) if isinstance(one.event, EventDropped) else "what it follows is not verified yet"
                unverified.append(Followed(one.received, Fate.UNVERIFIED, why))
            elif isinstance(one.event, UnknownKey):
                verified.append(one.received)  # it was here before, and only that will be said of it
            elif isinstance(one.event, EventDropped):
                await self._keep_evidence(loaded, "dropped", one.received, str(one.event))
            else:
                verified.append(one.event)
        return verified, unverified

    async def _append(
        self,
        loaded: LoadedRoom,
        missing: Sequence[Pdu],
        received: Sequence[Pdu],
        waiting: Sequence[Followed],
        beside: Callable[[Any, list[Followed]], None] | None,
        closing: Closing | None = None,
    ) -> list[Followed]:
        """Append what follows; the fates of ``missing`` and ``received``, and those of ``waiting`` as they are.

        Args:
            closing: what was found out about a gap; ``None`` while nobody has looked.
        """
        fill_gaps = closing is None or not closing.answered
        pdus = [*missing, *received]
        first = len(missing)
        while True:
            head = loaded.room.head_event_id
            held = (await self._held(loaded, pdus)).union(closing.earlier if closing is not None else ())
            cited = await self._cited(loaded, pdus)

            def decide(
                draft: RoomDraft,
                head: str | None = head,
                held: Collection[str] = held,
                cited: Mapping[str, StateEvent | None] = cited,
            ) -> list[Followed] | None:
                if draft.head_event_id != head:
                    return None  # what is held has become more since that was looked up
                return follow(draft, pdus, held, fill_gaps=fill_gaps, cited=cited)

            def settle(tx: Any, fates: list[Followed] | None) -> None:
                if fates is None:
                    return
                self._outbox.settle_echoes(tx, [one.pdu for one in fates if one.fate is not Fate.GAP])
                final = closing is not None or all(one.fate is not Fate.GAP for one in fates)
                if beside is not None and final:
                    beside(tx, [*fates[first:], *waiting])

            fates = await loaded.sequencer.submit(decide, events=len(pdus), beside=settle)
            if fates is not None:
                return [*fates, *waiting]

    async def _held(self, loaded: LoadedRoom, pdus: Sequence[Pdu]) -> set[str]:
        """Which of the events and their predecessors the log holds; nothing needs looking up when they simply
        follow.
        """
        expected = loaded.room.head_event_id
        for pdu in pdus:
            if tuple(pdu.prev_events) != (expected,):
                break
            expected = pdu.event_id
        else:
            return set()
        wanted = {pdu.event_id for pdu in pdus}.union(*(pdu.prev_events for pdu in pdus))
        events = await self._database.read(lambda tx: self._store.events(tx, sorted(wanted)))
        return {event_id for event_id, event in events.items() if event.position > 0}

    async def _cited(self, loaded: LoadedRoom, pdus: Sequence[Pdu]) -> Mapping[str, StateEvent | None]:
        """The auth events of events, as far as we have them, where they cannot be told from the state alone."""
        room = loaded.room
        wanted = {event_id for pdu in pdus for event_id in pdu.auth_events}
        if room.version.enforces_chain or not wanted:
            return {}
        stored = await self._database.read(lambda tx: self._store.events(tx, sorted(wanted)))
        found: dict[str, StateEvent | None] = {}
        for event_id, event in stored.items():
            pdu = Pdu.from_canonical(event.canonical, room.version, event_id)
            if pdu.room_id == room.room_id:
                found[event_id] = None if pdu.state_key is None else StateEvent.from_pdu(pdu)
        return found

    async def catch_up(self, loaded: LoadedRoom, event_id: str, source: str) -> bool:
        """Fetch what is missing up to and including an event; whether the log then has it. It may go on beyond it:
        events come in meanwhile.

        Raises:
            StorageFailed, Overloaded: trying again later makes sense.
        """
        return await self.reach(loaded, event_id, source) is Reached.HELD

    async def reach(self, loaded: LoadedRoom, event_id: str, source: str) -> Reached:
        """As :meth:`catch_up`, with what came of it. What is wrong with what ``source`` gives is kept as evidence; that
        it gives nothing is not, unless it is the hub.

        Args:
            source: whom to ask. It need not be the hub: what it gives must bear the hub's signature.
        """
        if await self._has(loaded, event_id):
            return Reached.HELD
        closing = await self._gaps.close(loaded, event_id, source)
        if closing.too_long:
            return await self._walk(loaded, event_id, source)
        return await self._take(loaded, closing, event_id, source)

    async def _walk(self, loaded: LoadedRoom, event_id: str, source: str) -> Reached:
        """Across a gap that is too long to be held in memory, a step after the other."""
        for step in await self._gaps.steps(loaded, event_id, source):
            if not await self._has(loaded, step):
                reached = await self._take(loaded, await self._gaps.close(loaded, step, source), step, source)
                if reached is not Reached.HELD:
                    return reached
        return Reached.HELD if await self._has(loaded, event_id) else Reached.NOT_YET

    async def _take(self, loaded: LoadedRoom, closing: Closing, event_id: str, source: str) -> Reached:
        fates = await self._append(loaded, (), closing.missing, (), None, closing)
        astray = next((one for one in fates if one.fate in (Fate.FORK, Fate.GAP, Fate.FOREIGN)), None)
        for one in fates:
            # What comes after one that leads astray is no more than that.
            kept_from_us = one.fate is not Fate.GAP or _is_withheld(loaded, closing, source)
            if one.fate is Fate.REJECTED or (one is astray and kept_from_us):
                await self._report(loaded, one)
        if await self._has(loaded, event_id):
            return Reached.HELD
        if event_id in closing.earlier:
            return Reached.EARLIER
        if astray is not None and astray.fate is Fate.FORK:
            return Reached.CONTRADICTED
        return Reached.DENIED if closing.answered else Reached.NOT_YET

    async def _has(self, loaded: LoadedRoom, event_id: str) -> bool:
        if loaded.room.head_event_id == event_id:
            return True
        event = await self._database.read(lambda tx: self._store.event(tx, event_id))
        return event is not None and event.room_id == loaded.room.room_id and event.position > 0

    async def _report(self, loaded: LoadedRoom, one: Followed) -> None:
        if one.fate in (Fate.APPENDED, Fate.HELD, Fate.UNVERIFIED):
            return
        if one.fate is Fate.FOREIGN:
            self.log.info(
                "{room_id}: dropped {event}: {reason}",
                room_id=loaded.room.room_id,
                event=one.pdu.event_id,
                reason=one.reason,
            )
            return
        self._metrics.events_refused.labels(outcome=one.fate.value, reason="hub").inc()
        await self._keep_evidence(loaded, one.fate.value, one.pdu, one.reason)

    async def keep_withheld(self, loaded: LoadedRoom, first: StoredEvent, statements: bytes, reason: str) -> None:
        """Keep as evidence that the hub kept an event of its own from us.

        Args:
            first: the first of those events, which somebody else has given us.
            statements: canonical JSON, ``{"statements": [<head statement>, …]}``.
        """
        pdu = Pdu.from_canonical(first.canonical, loaded.room.version, first.event_id)
        await self._keep_evidence(loaded, "withheld", pdu, reason, statements)

    async def _keep_evidence(
        self, loaded: LoadedRoom, kind: str, pdu: Pdu, reason: str, against: bytes | None = None
    ) -> None:
        room = loaded.room
        now_ms = int(self._clock.seconds() * 1000)
        store = self._store

        def work(tx: Any) -> bool:
            if store.has_evidence(tx, room.room_id, kind, pdu.event_id):
                return False
            other = against
            if kind == "fork" and pdu.prev_events:
                held = store.event(tx, pdu.prev_events[0])
                after = store.events_between(tx, room.room_id, held.position, held.position + 1, 1) if held else ()
                other = after[0].canonical if after else None
            event = encode(dict(pdu.fields))
            store.add_evidence(tx, Evidence(room.room_id, kind, pdu.event_id, event, other, reason, now_ms))
            return True

        if await self._database.write(work):
            self._metrics.evidence.labels(kind=kind).inc()
            self.log.warn(
                "{room_id}: {hub} signed {event_id}, which is kept as evidence ({kind}): {reason}",
                room_id=room.room_id,
                hub=room.hub_server,
                event_id=pdu.event_id,
                kind=kind,
                reason=reason,
            )
            self._uneasy(room.room_id)


def _is_withheld(loaded: LoadedRoom, closing: Closing | None, source: str) -> bool:
    """Whether a gap that stays open is the hub's doing. A gap for want of an answer says nothing, and somebody who only
    claims to be the hub says nothing of it either.
    """
    return closing is not None and closing.answered and source == loaded.room.hub_server
