"""What others say of how far they hold a room, and what follows when they hold something that we do not.

Owns: :class:`HeadListener`: the checks on head statements of other servers, the patience with a hub that is only slow,
and the finding out. A statement by itself accuses nobody. It says where to look:

* The hub is asked for the event. If it gives it, we were only behind, and are no longer; or what it gives contradicts
  what we hold, which is a fork: two events with one predecessor, both signed by the hub
  (:meth:`~lmatrix.rooms.participant.Participant.reach` keeps them as evidence).
* If it says that there is no such event, the server that named it is asked. What bears the hub's signature and follows
  our log is appended, and that the hub kept it from us is kept as evidence (``withheld``) with the statement, and with
  the hub's own statement of its head. What contradicts our log is a fork again. And what nobody can show is nothing.
* If the hub does not answer, what the other server gives is taken all the same, and nobody is accused.

If this server is the hub and the event bears our own signature, we have forgotten it: the room is held and recovered
(:mod:`lmatrix.rooms.recovery`).

In rooms whose version tolerates forks a difference is logged, and that is all.

Invariants: a statement counts only if it is properly signed, recent, newer than the last one of its server, and both
its server and whoever passed it on are in the room. What is remembered and what goes on at one time is bounded; a
server that names what it cannot show is not listened to for a while.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.canonical_json import encode
from lmatrix.errors import (
    BadRequest,
    BadSignature,
    LMatrixError,
    PeerError,
    PeerRefused,
    UnsupportedRoomVersion,
)
from lmatrix.events.forms import Pdu
from lmatrix.metrics import Metrics
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.evidence_judgement import hub_of
from lmatrix.rooms.head_statements import HeadStatement, check
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, JsonObject, Keyring, Peers, RoomStore
from lmatrix.rooms.participant import Participant, Reached
from lmatrix.rooms.recovery import Recovery
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.room import Room
from lmatrix.rooms.stating import may_hear

T = TypeVar("T")

MAX_AGE_MS = 60 * 60 * 1000
MAX_AHEAD_MS = 5 * 60 * 1000
"""How old a statement may be, and how far ahead of our clock."""

GRACE_SECONDS = 30.0
"""How long the hub may take to send us an event that somebody else has."""

DEAF_SECONDS = 600.0
"""For how long a server is not listened to, in a room, that named what came to nothing."""

MAX_REMEMBERED = 10_000
"""Statements, the last of each server in each room, and servers that are not listened to."""

MAX_CHECKS = 100
MAX_CHECKS_EACH = 10
"""Statements that are being checked at one time, in all and of one origin."""

MAX_WAITING = 1000
"""Differences that wait for the hub,"""

MAX_WAITING_EACH = 20
"""of which one server may have named so many,"""

AT_A_TIME = 2
"""and that are looked into at one time."""


@attrs.frozen(slots=True)
class Heard:
    """The last that was heard of a server about a room.

    Attributes:
        statement: it.
        agrees: whether we held what it names then, or have got it since; ``None`` while that is not known.
    """

    statement: HeadStatement
    agrees: bool | None


class HeadListener:
    """Listens.

    Args:
        identity: who we are.
        rooms: the rooms.
        participant: gets what is missing, and keeps evidence.
        recovery: for rooms whose hub we are.
        checker, keyring: verify.
        database, store: what we hold.
        peers: who is asked.
        clock: for the time, and patience.
        metrics: ``head_statements``.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        participant: Participant,
        recovery: Recovery,
        checker: EventChecker,
        keyring: Keyring,
        database: Database,
        store: RoomStore,
        peers: Peers,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._participant = participant
        self._recovery = recovery
        self._checker = checker
        self._keyring = keyring
        self._database = database
        self._store = store
        self._peers = peers
        self._clock = clock
        self._metrics = metrics
        self._heard: OrderedDict[tuple[str, str], Heard] = OrderedDict()
        self._deaf_until: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._checking: Counter[str] = Counter()
        self._waiting: dict[tuple[str, str], Deferred[None]] = {}
        self._looking = DeferredSemaphore(AT_A_TIME)
        self._stopped = False

    def heard(self, origin: str, raw: object) -> None:
        """Another server sent a statement, its own or somebody else's. Never blocks, never raises."""
        if self._stopped or self._checking.total() >= MAX_CHECKS or self._checking[origin] >= MAX_CHECKS_EACH:
            self._count("too_many")
            return
        self._checking[origin] += 1

        def failed(failure: Failure) -> None:
            if not failure.check(LMatrixError):
                self.log.failure("a head statement of {origin}", failure=failure, origin=origin)

        def done(_: None) -> None:
            self._checking[origin] -= 1
            if not self._checking[origin]:
                del self._checking[origin]

        Deferred.fromCoroutine(self._take(origin, raw)).addErrback(failed).addCallback(done)

    def last_heard(self, room_id: str) -> list[Heard]:
        """The last statement of each server about a room, as far as they are remembered, by server."""
        return [heard for (of, _), heard in sorted(self._heard.items()) if of == room_id]

    async def stop(self) -> None:
        """Listen no more."""
        self._stopped = True
        for waiting in list(self._waiting.values()):
            waiting.cancel()

    # -- Whether it counts ---------------------------------------------------------------------------------------------

    async def _take(self, origin: str, raw: object) -> None:
        try:
            statement = HeadStatement.parse(raw if isinstance(raw, dict) else {})
        except BadRequest:
            self._count("malformed")
            return
        loaded = await self._loaded(statement.room_id)
        key = (statement.room_id, statement.server)
        outcome = self._refusal(origin, statement, loaded)
        if outcome is None:
            try:
                await check(statement, self._keyring)
            except BadSignature:
                outcome = "forged"
            else:
                # Another one may have overtaken it.
                outcome = self._refusal(origin, statement, loaded)
        if outcome is not None or loaded is None:
            self._count(outcome or "forbidden")
            return
        _remember(self._heard, key, Heard(statement, None))
        self._count(await self._compare(loaded, statement))

    def _refusal(self, origin: str, statement: HeadStatement, loaded: LoadedRoom | None) -> str | None:
        """Why a statement does not count, in a word for the metric; ``None`` when nothing speaks against it."""
        if loaded is None or not loaded.room.is_participating or statement.server == self._identity.server_name:
            return "forbidden"
        if not may_hear(loaded.room, origin) or not may_hear(loaded.room, statement.server):
            return "forbidden"
        last = self._heard.get((statement.room_id, statement.server))
        now_ms = self._clock.seconds() * 1000
        if not now_ms - MAX_AGE_MS <= statement.ts <= now_ms + MAX_AHEAD_MS:
            return "old"
        return "old" if last is not None and statement.ts <= last.statement.ts else None

    async def _loaded(self, room_id: str) -> LoadedRoom | None:
        try:
            return await self._rooms.loaded(room_id)
        except UnsupportedRoomVersion:
            return None

    # -- What it says --------------------------------------------------------------------------------------------------

    async def _compare(self, loaded: LoadedRoom, statement: HeadStatement) -> str:
        """Look whether we hold the head; if not, find out in the background why. In a word, for the metric."""
        room, key = loaded.room, (statement.room_id, statement.server)
        if await self._holds(room, statement.head):
            self._agrees(statement, True)
            return "agrees"
        if not room.version.enforces_chain:
            self.log.info(
                "{room_id}: {server} names {head} as its head, which is not held here",
                room_id=room.room_id,
                server=statement.server,
                head=statement.head,
            )
            return "differs"
        if room.held:
            return "differs"  # everybody is being asked already
        if self._deaf_until.get(key, 0.0) > self._clock.seconds():
            return "deaf"
        if key in self._waiting or len(self._waiting) >= MAX_WAITING:
            return "differs"
        if sum(server == statement.server for _, server in self._waiting) >= MAX_WAITING_EACH:
            return "too_many"

        def done(result: object) -> None:
            self._waiting.pop(key, None)
            if isinstance(result, Failure) and not result.check(LMatrixError) and not self._stopped:
                self.log.failure("{room_id}: heads were not compared", failure=result, room_id=room.room_id)

        finding_out = Deferred.fromCoroutine(self._find_out(loaded, statement))
        if not finding_out.called:
            self._waiting[key] = finding_out
        finding_out.addBoth(done)
        return "differs"

    async def _find_out(self, loaded: LoadedRoom, statement: HeadStatement) -> None:
        room = loaded.room
        if not room.is_hub and statement.server != room.hub_server:
            await deferLater(self._clock, GRACE_SECONDS)
        await self._looking.acquire()
        try:
            if await self._holds(room, statement.head):
                reached = Reached.HELD
            elif room.is_hub:
                reached = await self._as_hub(loaded, statement)
            else:
                reached = await self._as_participant(loaded, statement)
        finally:
            self._looking.release()
        self._agrees(statement, reached in (Reached.HELD, Reached.EARLIER))
        self._count(f"found_{reached.name.lower()}")
        if reached not in (Reached.HELD, Reached.EARLIER):
            deaf_until = self._clock.seconds() + DEAF_SECONDS
            _remember(self._deaf_until, (statement.room_id, statement.server), deaf_until)

    async def _as_participant(self, loaded: LoadedRoom, statement: HeadStatement) -> Reached:
        room, hub, head = loaded.room, loaded.room.hub_server, statement.head
        given = await self._gives(room, hub, head)
        reached = Reached.NOT_YET
        if given:
            reached = await self._participant.reach(loaded, head, hub)
        if reached in (Reached.HELD, Reached.EARLIER):
            self.log.info("{room_id}: had not had {head} from {hub}", room_id=room.room_id, head=head, hub=hub)
            return reached
        if reached is Reached.CONTRADICTED or statement.server == hub:
            return reached
        hubs = None if given is None else await self._statement_of(hub, room)
        before = room.head_position
        reached = await self._participant.reach(loaded, head, statement.server)
        if reached is Reached.HELD and given is not None and await self._is_by(room, head, hub):
            await self._withheld(loaded, before, statement, hubs)
        elif reached is Reached.HELD:
            self.log.info(
                "{room_id}: {hub} does not give it, or is not the hub any more; {server} gave what was missing up to"
                " {head}",
                room_id=room.room_id,
                hub=hub,
                server=statement.server,
                head=head,
            )
        elif reached in (Reached.DENIED, Reached.NOT_YET):
            self.log.info(
                "{room_id}: {server} names {head} as its head, which neither it nor {hub} shows",
                room_id=room.room_id,
                server=statement.server,
                head=head,
                hub=hub,
            )
        return reached

    async def _is_by(self, room: Room, event_id: str, hub: str) -> bool:
        """Whether that hub put the event into the room. Who was the hub, and is not any more, need not have it."""
        stored = await self._database.read(lambda tx: self._store.event(tx, event_id))
        return stored is not None and hub_of(Pdu.from_canonical(stored.canonical, room.version)) == hub

    async def _withheld(
        self, loaded: LoadedRoom, before: int, statement: HeadStatement, hubs: HeadStatement | None
    ) -> None:
        """What came after that position was kept from us."""
        room_id = loaded.room.room_id
        after = await self._database.read(lambda tx: self._store.events_between(tx, room_id, before, before + 1, 1))
        statements = [one.json for one in (statement, hubs) if one is not None]
        reason = f"it does not give it to us, and {statement.server} has it"
        for first in after:
            await self._participant.keep_withheld(loaded, first, encode({"statements": statements}), reason)

    async def _as_hub(self, loaded: LoadedRoom, statement: HeadStatement) -> Reached:
        room, server, head = loaded.room, statement.server, statement.head
        try:
            if await self._recovery.named(room, server, head):
                return Reached.NOT_YET
        except PeerError as error:
            self.log.info(
                "{room_id}: {server} does not show {head}: {error}",
                room_id=room.room_id,
                server=server,
                head=head,
                error=error,
            )
            return Reached.NOT_YET
        # Made by another hub, if it is one: perhaps we have forgotten that we gave the room away.
        return await self._participant.reach(loaded, head, server)

    async def _holds(self, room: Room, event_id: str) -> bool:
        if room.head_event_id == event_id:
            return True
        held = await self._database.read(lambda tx: self._store.event(tx, event_id))
        return held is not None and held.room_id == room.room_id and held.position > 0

    async def _gives(self, room: Room, server: str, event_id: str) -> bool | None:
        """Whether a server gives an event; ``None`` when it does not say."""
        try:
            raws = await self._peers.backfill(server, room.version, room.room_id, event_id, 1)
        except PeerRefused as error:
            return False if error.status in (403, 404) else None
        except PeerError:
            return None
        return any(pdu.event_id == event_id for pdu in self._checker.parse_pdus(raws, room.version))

    async def _statement_of(self, server: str, room: Room) -> HeadStatement | None:
        try:
            raw: JsonObject | None = await self._peers.head(server, room.room_id)
            if raw is None:
                return None
            statement = HeadStatement.parse(raw)
            await check(statement, self._keyring)
        except (PeerError, BadRequest, BadSignature):
            return None
        return statement if statement.server == server and statement.room_id == room.room_id else None

    def _agrees(self, statement: HeadStatement, agrees: bool) -> None:
        key = (statement.room_id, statement.server)
        heard = self._heard.get(key)
        if heard is not None and heard.statement is statement:
            self._heard[key] = Heard(statement, agrees)

    def _count(self, outcome: str) -> None:
        self._metrics.head_statements.labels(outcome=outcome).inc()


def _remember(memory: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
