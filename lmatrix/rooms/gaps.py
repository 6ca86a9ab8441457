"""What lies between the events that a participant holds and one that its hub sent (PROTOCOL notes "Order").

Owns: asking for it, and telling the two cases apart. Mostly something is missing: it is fetched, from the newest back
to our head. But the event may also lie *before* our log: a hub that let us in and was not heard owes us the room from
then on, while our log begins where we came in at last. Such an event is history, and no fault of anybody's.

Neither case can be told by looking at the event; so both ways are walked a page at a time, one beside the other: from
the event back, to see whether our log is on the way, and from the beginning of our log back, to see whether the event
is. Our log may go on meanwhile, and even reach the event by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lmatrix.errors import EventDropped, PeerError, PeerRefused, UnknownKey
from lmatrix.events.forms import Pdu
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.following import leading_to
from lmatrix.rooms.interfaces import Database, JsonObject, Peers, RoomStore
from lmatrix.rooms.registry import LoadedRoom
from lmatrix.rooms.room import Room

BACKFILL_PAGE = 100
MAX_MISSING = 10_000
"""Events that one gap may lack: they are held in memory until the gap is closed."""

PATIENCE = 5
"""How often in a row a server may ask us to wait, and we do,"""

MAX_WAIT_MS = 10_000
"""when it is for no longer than this."""

MAX_STEPS = 50_000
"""Pages across a gap that is longer than that."""


@attrs.frozen(slots=True)
class Closing:
    """What could be found out about a gap.

    Attributes:
        missing: verified events that lead from our log up to the one that was to be reached, itself included, oldest
            first, without those that we have; none unless they reach our log.
        earlier: event IDs that turned out to lie before our log.
        answered: whether whoever was asked gave us all that could be asked for. What is missing then is being kept
            from us, or does not exist; otherwise asking again later makes sense.
        too_long: whether more is missing than is held in memory at one time; then the gap is no finding about anybody,
            and :meth:`GapCloser.steps` is the way across.
    """

    missing: Sequence[Pdu]
    earlier: frozenset[str]
    answered: bool
    too_long: bool = False


class GapCloser:
    """Closes gaps.

    Args:
        checker: verifies what comes.
        database, store: the log.
        peers: who is asked.
        clock: for the pause that whoever is asked may want.
    """

    log = Logger()

    def __init__(
        self, checker: EventChecker, database: Database, store: RoomStore, peers: Peers, clock: IReactorTime
    ) -> None:
        self._checker = checker
        self._database = database
        self._store = store
        self._pages = _Pages(peers, clock)

    async def close(self, loaded: LoadedRoom, last: str, source: str) -> Closing:
        """Find what is missing up to and including an event.

        Args:
            last: its event ID.
            source: the server to ask.

        Raises:
            StorageFailed: our log could not be read.
        """
        room = loaded.room
        back = _WayBack(self._checker, self._pages, room, source, last, self._held)
        down = await self._way_down(room, source)
        while not back.arrived and (back.goes_on or down is not None):
            if back.goes_on:
                await back.page()
            if down is None or back.arrived:
                continue
            await down.page(last)
            if last in down.passed:
                return Closing((), frozenset(down.passed), answered=True)
            if not down.goes_on:
                back.answered = back.answered and down.answered
                down = None
        too_long = not back.arrived and back.too_long
        return Closing(back.line if back.arrived else (), frozenset(), back.answered and not too_long, too_long)

    async def steps(self, loaded: LoadedRoom, last: str, source: str) -> list[str]:
        """Stepping stones across a gap of any length: event IDs from our log up to ``last``, oldest first, of which
        each lies a page at most after the one before it. None when the way does not lead to our log.

        Each event names the one before it by its hash: if ``last`` is what the hub signed, so is the whole way.

        Args:
            last, source: as for :meth:`close`.
        """
        room, stones = loaded.room, [last]
        while len(stones) <= MAX_STEPS:
            try:
                raws = await self._pages.before(room, source, stones[-1])
            except PeerError as error:
                self.log.warn(
                    "{room_id}: not recovered from {source}: {error}", room_id=room.room_id, source=source, error=error
                )
                return []
            found = {pdu.event_id: pdu for pdu in self._checker.parse_pdus(raws, room.version)}
            line = leading_to(stones[-1], found, stop_at=None)
            before = line[0].prev_events[:1] if line else ()
            if await self._held(room, [*before, *(pdu.event_id for pdu in line)]):
                return stones[::-1]
            if not before or before[0] == stones[-1]:
                return []
            stones.append(before[0])
        return []

    async def _held(self, room: Room, event_ids: Sequence[str]) -> set[str]:
        """Which of the events came in since we came in. What is from an earlier stay lies before a hole."""
        events = await self._database.read(lambda tx: self._store.events(tx, event_ids))
        return {
            event_id
            for event_id, event in events.items()
            if event.position >= room.first_position and event.room_id == room.room_id
        }

    async def _way_down(self, room: Room, source: str) -> _WayDown | None:
        room_id, head = room.room_id, room.head_position
        oldest = await self._database.read(lambda tx: self._store.oldest_before(tx, room_id, head))
        prev_events = () if oldest is None else Pdu.from_canonical(oldest.canonical, room.version).prev_events
        return _WayDown(self._checker, self._pages, room, source, prev_events[0]) if prev_events else None


class _Pages:
    """Asks for history a page at a time, no faster than it is given."""

    def __init__(self, peers: Peers, clock: IReactorTime) -> None:
        self._peers = peers
        self._clock = clock

    async def before(self, room: Room, source: str, event_id: str) -> Sequence[JsonObject]:
        """Up to a page of events that ends with that one. Raises :class:`PeerError`."""
        for _ in range(PATIENCE):
            try:
                return await self._peers.backfill(source, room.version, room.room_id, event_id, BACKFILL_PAGE)
            except PeerRefused as error:
                asked = error.body.get("retry_after_ms")
                if error.status != 429 or not isinstance(asked, int) or not 0 <= asked <= MAX_WAIT_MS:
                    raise
                await deferLater(self._clock, asked / 1000)
        return await self._peers.backfill(source, room.version, room.room_id, event_id, BACKFILL_PAGE)


class _WayBack:
    """From an event back to our log.

    Attributes:
        line: what was found and is not in our log, oldest first.
        arrived: whether it follows our log.
        goes_on: whether asking for more makes sense.
        answered, too_long: see :class:`Closing`.
    """

    log = Logger()

    def __init__(
        self,
        checker: EventChecker,
        pages: _Pages,
        room: Room,
        source: str,
        last: str,
        held: Callable[[Room, Sequence[str]], Awaitable[set[str]]],
    ) -> None:
        self.line: Sequence[Pdu] = ()
        self.arrived = False
        self.goes_on = True
        self.answered = True
        self.too_long = False
        self._checker = checker
        self._pages = pages
        self._room = room
        self._source = source
        self._last = last
        self._wanted = last
        self._found: dict[str, Pdu] = {}
        self._held = held

    async def page(self) -> None:
        """Go a page further."""
        room = self._room
        try:
            raws = await self._pages.before(room, self._source, self._wanted)
        except PeerError as error:
            self.log.warn(
                "{room_id}: events up to {event_id} are missing and could not be fetched: {error}",
                room_id=room.room_id,
                event_id=self._last,
                error=error,
            )
            self.goes_on = False
            # That there is no such event is an answer, and a lie of whoever has just named it as a predecessor.
            self.answered = self.answered and _is_final(error)
            return
        parsed = [pdu for pdu in self._checker.parse_pdus(raws, room.version) if pdu.room_id == room.room_id]
        fresh = 0
        for checked in await self._checker.check([pdu for pdu in parsed if pdu.event_id not in self._found]):
            if isinstance(checked.event, UnknownKey):
                self.answered = False
            elif not isinstance(checked.event, EventDropped):
                self._found[checked.event.event_id] = checked.event
                fresh += 1
        line = leading_to(self._last, self._found, stop_at=None)
        before = line[0].prev_events if line else ()
        held = await self._held(room, [*before, *(pdu.event_id for pdu in line)])
        self.arrived = bool(held)
        self.line = list(takewhile(lambda pdu: pdu.event_id not in held, line[::-1]))[::-1]
        further = bool(fresh and before) and before[0] != self._wanted
        self.too_long = further and len(self._found) >= MAX_MISSING
        self.goes_on = further and not self.too_long
        if self.goes_on:
            self._wanted = before[0]


class _WayDown:
    """From the beginning of our log further back. Each event names the next by its hash: nothing need be verified."""

    def __init__(self, checker: EventChecker, pages: _Pages, room: Room, source: str, first: str) -> None:
        self.passed: set[str] = set()
        self.goes_on = True
        self.answered = True
        self._checker = checker
        self._pages = pages
        self._room = room
        self._source = source
        self._wanted = first

    async def page(self, until: str) -> None:
        """Go a page further, or as far as an event."""
        room = self._room
        try:
            raws = await self._pages.before(room, self._source, self._wanted)
        except PeerError as error:
            # What was before we came may not be ours to see. Then this way leads nowhere.
            self.goes_on = False
            self.answered = _is_final(error)
            return
        found = {pdu.event_id: pdu for pdu in self._checker.parse_pdus(raws, room.version)}
        self.goes_on = self._wanted in found
        while self._wanted in found and until not in self.passed:
            self.passed.add(self._wanted)
            prev_events = found[self._wanted].prev_events
            if not prev_events or len(self.passed) >= MAX_MISSING:
                self.goes_on = False
                return
            self._wanted = prev_events[0]


def _is_final(error: PeerError) -> bool:
    """Whether asking again would give the same: the peer has understood, and says no."""
    return isinstance(error, PeerRefused) and 400 <= error.status < 500 and error.status not in (401, 429)
