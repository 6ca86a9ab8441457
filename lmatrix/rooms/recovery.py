"""Rooms of which this server may have forgotten something: held until what is missing is back.

Owns: :class:`Recovery`: which rooms are held, asking those who are in them how far they hold them, and the way back to
one history. A database that is an older copy does not know what was appended since. A hub that went on from there
would give its last event a second successor.

How a room comes to be held: the database bears the mark of a copy (:mod:`lmatrix.storage.restoration`), and then all
rooms are, before anybody is let in; or somebody names an event that we have signed and do not hold. Some are asked for
that: before a hub puts the first event into a room since it was started, it asks a few of those who are in it for
their heads (:meth:`Recovery.confirm`), for a copy may bear no mark. That takes a request's time, once, and two seconds
at most.

While a room is held and we are its hub, nothing new is put into it, and nothing is signed for it (:attr:`Room.held`,
looked at in :mod:`lmatrix.rooms.sequencing`); what comes is answered "later". Every server with a joined user is asked
for its head (``org.lmatrix.head``), and what we do not hold of it is fetched from that server and appended, just as a
participant appends what its hub sends: each event must follow, keep the rules, and bear our own signature. Who joined
by what came back is asked too. When all have answered the room goes on; what came back is delivered to those who lack
it. As a participant we only ask the hub, and nothing has to wait.

A server that does not answer is asked again and again, and the room waits for it: it may be the only one that holds
what we had appended last. Only the operator can say that it will not come back (:meth:`Recovery.go_on`). One that has
never heard of the question, or says that it is not in the room, is not waited for.

If the room has gone on before anybody knew (the mark was missing), what comes back contradicts what we hold: two
successors of one event, both signed by us. That cannot be mended. Both are kept as evidence, it is logged as critical,
and the room is released, since every further event is a fork for those who hold the other history whatever we do.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import (
    BadRequest,
    BadSignature,
    EventDropped,
    LMatrixError,
    NotFound,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    ShuttingDown,
    UnsupportedRoomVersion,
)
from lmatrix.metrics import Metrics
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.evidence_judgement import hub_of
from lmatrix.rooms.head_statements import HeadStatement, check
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, Keyring, Peers, RoomStore
from lmatrix.rooms.participant import Participant, Reached
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.resending import Resender
from lmatrix.rooms.restoration_store import HeldRoom, RestorationStore
from lmatrix.rooms.room import Room

FIRST_PAUSE_SECONDS = 2.0
"""How long to wait before those who did not answer are asked again; doubled each time,"""

LONGEST_PAUSE_SECONDS = 60.0
"""up to this."""

SOON_SECONDS = 1.0
"""How soon a server is asked again that shows life."""

CONFIRMED_BY = 3
"""How many servers are asked before the first event,"""

CONFIRM_SECONDS = 2.0
"""and for how long."""

ROOMS_AT_A_TIME = 4
SERVERS_AT_A_TIME = 16
REMEMBERED_OUTCOMES = 1000
RESTORED = "the database was restored from a copy"


@attrs.define(slots=True, eq=False)
class RecoveringRoom:
    """How far the recovery of a room is.

    Attributes:
        held: since when, and why.
        answered: servers that have nothing more.
        waiting_for: those that have not answered, and why.
        without: those that the operator does not wait for.
    """

    held: HeldRoom
    answered: set[str] = attrs.field(factory=set)
    waiting_for: dict[str, str] = attrs.field(factory=dict)
    without: set[str] = attrs.field(factory=set)
    wake: Deferred[None] | None = None
    alarm: IDelayedCall | None = None


class Recovery:
    """Recovers rooms.

    Args:
        identity: who we are.
        rooms: holds and releases them.
        participant: appends what comes back.
        resender: told when a room is released: pending LPDUs may have waited for that.
        database, store, room_store: what is held back, and what we hold, on disk.
        checker, keyring, peers: to ask others, and to verify what they say.
        clock: for the pauses.
        rng: who is asked.
        metrics: ``held_rooms``.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        participant: Participant,
        resender: Resender,
        database: Database,
        store: RestorationStore,
        room_store: RoomStore,
        checker: EventChecker,
        keyring: Keyring,
        peers: Peers,
        clock: IReactorTime,
        rng: Random,
        metrics: Metrics,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._participant = participant
        self._resender = resender
        self._database = database
        self._store = store
        self._room_store = room_store
        self._checker = checker
        self._keyring = keyring
        self._peers = peers
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._recovering: dict[str, RecoveringRoom] = {}
        self._forked: dict[str, str] = {}
        self._rooms_at_a_time = DeferredSemaphore(ROOMS_AT_A_TIME)
        self._stopping = False

    # -- Beginning and end ---------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """At start, before anybody is let in: hold what must be held.

        Raises:
            StorageFailed: the database could not be read or written.
        """
        store = self._store
        copied_ts = await self._database.read(store.copied_ts)
        if copied_ts is not None:
            now_ms = self._now_ms()
            await self._database.write(lambda tx: store.begin(tx, RESTORED, now_ms))
            self.log.critical(
                "THE DATABASE IS A COPY, made {age:.0f} minutes ago. Rooms of which this server is the hub take nothing"
                " new before everybody in them was asked for what the copy lacks",
                age=max(0, now_ms - copied_ts) / 60_000,
            )
        for held in await self._database.read(store.held):
            self._hold(held)

    def start(self) -> None:
        """Begin to ask. Never raises."""
        for room_id in list(self._recovering):
            self._begin(room_id)

    async def stop(self) -> None:
        """Ask no further; what is held stays held."""
        self._stopping = True
        for recovering in list(self._recovering.values()):
            self._wake(recovering)

    # -- Copies without a mark -----------------------------------------------------------------------------------------

    async def confirm(self, room: Room) -> None:
        """Before the first event that we put into a room since we were started: whether somebody holds more of it than
        we do. If so, the room is held when this returns. Bounded in time; never raises for what others do.
        """
        if self._stopping or room.held or not room.is_hub or not room.version.enforces_chain:
            return
        others = sorted(room.destinations())
        asking = []
        for server in self._rng.sample(others, min(len(others), CONFIRMED_BY)):
            one = Deferred.fromCoroutine(self._confirmed_by(room, server))
            asking.append(one.addTimeout(CONFIRM_SECONDS, self._clock))
        await DeferredList(asking, consumeErrors=True)

    async def _confirmed_by(self, room: Room, server: str) -> None:
        raw = await self._peers.head(server, room.room_id)
        if raw is None:
            return
        head = HeadStatement.parse(raw).head
        if not await self._holds(room, head):
            await self.named(room, server, head)

    async def named(self, room: Room, server: str, head: str) -> bool:
        """Another server names an event as its head that we do not hold. If it bears our signature, as the room's hub,
        the room is held, and recovered; whether that is so.

        Raises:
            PeerError: the server does not show the event.
            StorageFailed: as :meth:`hold`.
        """
        raws = await self._peers.backfill(server, room.version, room.room_id, head, 1)
        for pdu in self._checker.parse_pdus(raws, room.version):
            if pdu.event_id != head or pdu.room_id != room.room_id:
                continue
            checked = (await self._checker.check([pdu]))[0].event
            if isinstance(checked, EventDropped) or hub_of(checked) != self._identity.server_name:
                return False
            if not await self._holds(room, head):
                await self.hold(room.room_id, f"{server} holds {head}, which this server has signed and does not hold")
            return True
        return False

    async def _holds(self, room: Room, event_id: str) -> bool:
        held = await self._database.read(lambda tx: self._room_store.event(tx, event_id))
        return held is not None and held.room_id == room.room_id and held.position > 0

    # -- What others tell us -------------------------------------------------------------------------------------------

    async def hold(self, room_id: str, reason: str) -> None:
        """Somebody holds more than we do: hold the room, and recover it.

        Raises:
            StorageFailed: that could not be written; the room is held as long as we run.
        """
        if room_id in self._recovering or self._stopping:
            return
        held = HeldRoom(room_id, self._now_ms(), reason)
        self._hold(held)
        self.log.critical("{room_id} IS HELD: {reason}", room_id=room_id, reason=reason)
        try:
            await self._database.write(lambda tx: self._store.hold(tx, held))
        finally:
            self._begin(room_id)

    def status(self, room_id: str) -> RecoveringRoom | None:
        """How far the recovery of a room is; ``None`` when it is not held."""
        return self._recovering.get(room_id)

    def all_held(self) -> Sequence[RecoveringRoom]:
        """Every room that is held, by room ID."""
        return [self._recovering[room_id] for room_id in sorted(self._recovering)]

    def forked(self, room_id: str) -> str | None:
        """Whether this server, since it was started, has found out that it gave the room two histories: in words."""
        return self._forked.get(room_id)

    async def go_on(self, room_id: str, without: Collection[str]) -> None:
        """The operator: these servers will not come back, do not wait for them. Whatever they alone hold is lost.

        Raises:
            NotFound: the room is not held.
            BadRequest: none of it is waited for.
        """
        recovering = self._recovering.get(room_id)
        if recovering is None:
            raise NotFound(f"{room_id} is not held")
        strangers = set(without) - recovering.waiting_for.keys()
        if strangers or not without:
            waiting_for = ", ".join(sorted(recovering.waiting_for)) or "nobody"
            raise BadRequest(f"{room_id} waits for {waiting_for}")
        self.log.warn(
            "{room_id}: the operator goes on without {servers}", room_id=room_id, servers=", ".join(sorted(without))
        )
        recovering.without.update(without)
        self._wake(recovering)

    def heard_from(self, server: str) -> None:
        """The server shows life: ask it soon. Never raises."""
        for recovering in self._recovering.values():
            alarm = recovering.alarm
            if alarm is None or server not in recovering.waiting_for or not alarm.active():
                continue
            if alarm.getTime() > self._clock.seconds() + SOON_SECONDS:
                alarm.reset(SOON_SECONDS)

    # -- The work ------------------------------------------------------------------------------------------------------

    def _hold(self, held: HeldRoom) -> None:
        self._recovering[held.room_id] = RecoveringRoom(held)
        self._rooms.hold(held.room_id)
        self._metrics.held_rooms.set(len(self._recovering))

    def _begin(self, room_id: str) -> None:
        def failed(failure: Failure) -> None:
            if not failure.check(ShuttingDown):
                self.log.failure("{room_id}: its recovery failed", failure=failure, room_id=room_id)

        Deferred.fromCoroutine(self._recover(room_id)).addErrback(failed)

    async def _recover(self, room_id: str) -> None:
        recovering = self._recovering[room_id]
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping:
            try:
                if await self._rooms_at_a_time.run(lambda: Deferred.fromCoroutine(self._round(recovering))):
                    return
            except ShuttingDown:
                return
            except LMatrixError as error:
                self.log.warn("{room_id}: its recovery waits: {error}", room_id=room_id, error=error)
            except Exception:
                # Whatever it was, the room must not wait for ever.
                self.log.failure("{room_id}: its recovery waits", room_id=room_id)
            if not self._stopping:
                await self._pause(recovering, pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _round(self, recovering: RecoveringRoom) -> bool:
        """Ask everybody who has not answered; whether the room was released."""
        room_id = recovering.held.room_id
        try:
            loaded = await self._rooms.loaded(room_id)
        except UnsupportedRoomVersion:
            return await self._release(recovering, "it has a version that is not known here")
        if loaded is None or not loaded.room.is_participating:
            return await self._release(recovering, "this server is not in it")
        asked: set[str] = set()
        while True:
            missing = self._to_ask(loaded) - recovering.answered - recovering.without
            recovering.waiting_for = {
                server: why for server, why in recovering.waiting_for.items() if server in missing
            }
            if not missing:
                return await self._release(recovering, "everybody in it was asked")
            fresh = sorted(missing - asked)[:SERVERS_AT_A_TIME]
            if not fresh:
                return False
            asked.update(fresh)
            for server in fresh:
                recovering.waiting_for.setdefault(server, "not asked yet")
            await self._ask_all(recovering, loaded, fresh)

    def _to_ask(self, loaded: LoadedRoom) -> set[str]:
        room = loaded.room
        return room.destinations() if room.is_hub else {room.hub_server}

    async def _ask_all(self, recovering: RecoveringRoom, loaded: LoadedRoom, servers: Sequence[str]) -> None:
        asking = [Deferred.fromCoroutine(self._ask(recovering, loaded, server)) for server in servers]
        for server, (_, result) in zip(servers, await DeferredList(asking, consumeErrors=True), strict=True):
            if isinstance(result, Failure):
                result.raiseException()
            elif result is not None:
                await self._catch_up(recovering, loaded, server, result)

    async def _ask(self, recovering: RecoveringRoom, loaded: LoadedRoom, server: str) -> HeadStatement | None:
        """A server's head statement; ``None`` when there is none to act upon."""
        room_id = loaded.room.room_id
        try:
            raw = await self._peers.head(server, room_id)
            if raw is None:
                self._answered(recovering, server, "does not know the question")
                return None
            statement = HeadStatement.parse(raw)
            if statement.server != server or statement.room_id != room_id:
                raise BadRequest("it is about something else")
            await check(statement, self._keyring)
        except PeerRefused as error:
            if error.status in (403, 404):
                self._answered(recovering, server, "says that it is not in the room")
            else:
                recovering.waiting_for[server] = str(error)
        except (BadRequest, PeerMisbehaved) as error:
            self._answered(recovering, server, f"answers nonsense ({error})")
        except (PeerError, BadSignature) as error:
            recovering.waiting_for[server] = str(error)
        else:
            return statement
        return None

    def _answered(self, recovering: RecoveringRoom, server: str, how: str) -> None:
        recovering.answered.add(server)
        self.log.info("{room_id}: {server} {how}", room_id=recovering.held.room_id, server=server, how=how)

    async def _catch_up(
        self, recovering: RecoveringRoom, loaded: LoadedRoom, server: str, statement: HeadStatement
    ) -> None:
        room, before = loaded.room, loaded.room.head_position
        reached = await self._participant.reach(loaded, statement.head, server)
        if reached is Reached.NOT_YET:
            recovering.waiting_for[server] = f"what it has up to {statement.head} could not be had, or not be verified"
            return
        recovering.answered.add(server)
        if room.head_position > before:
            self.log.info(
                "{room_id}: {count} events came back from {server}",
                room_id=room.room_id,
                count=room.head_position - before,
                server=server,
            )
        if reached is Reached.CONTRADICTED and room.is_hub:
            self._has_forked(room.room_id, server)
        elif reached is Reached.DENIED:
            self.log.warn(
                "{room_id}: {server} names {head} as its head, and has no events of this server's that lead there",
                room_id=room.room_id,
                server=server,
                head=statement.head,
            )

    def _has_forked(self, room_id: str, server: str) -> None:
        words = f"{server} holds another history than this server does, and both bear this server's signature"
        self._forked[room_id] = words
        while len(self._forked) > REMEMBERED_OUTCOMES:
            del self._forked[next(iter(self._forked))]
        self.log.critical(
            '{room_id} HAS TWO HISTORIES: {words}. See `lmatrix audit`, and "When it is too late" in docs/operations',
            room_id=room_id,
            words=words,
        )

    async def _release(self, recovering: RecoveringRoom, why: str) -> bool:
        room_id = recovering.held.room_id
        await self._database.write(lambda tx: self._store.release(tx, room_id))
        del self._recovering[room_id]
        self._rooms.release(room_id)
        self._metrics.held_rooms.set(len(self._recovering))
        self.log.info("{room_id} is held no longer: {why}", room_id=room_id, why=why)
        await self._resender.hub_changed(room_id)
        return True

    # -- Pauses --------------------------------------------------------------------------------------------------------

    async def _pause(self, recovering: RecoveringRoom, seconds: float) -> None:
        recovering.wake = Deferred()
        recovering.alarm = self._clock.callLater(seconds, self._wake, recovering)
        await recovering.wake

    def _wake(self, recovering: RecoveringRoom) -> None:
        wake, alarm = recovering.wake, recovering.alarm
        recovering.wake = recovering.alarm = None
        if alarm is not None and alarm.active():
            alarm.cancel()
        if wake is not None:
            wake.callback(None)

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)


def recovery_json(recovering: RecoveringRoom) -> dict[str, Any]:
    """What operators are shown."""
    return {
        "room_id": recovering.held.room_id,
        "since_ts": recovering.held.since_ts,
        "reason": recovering.held.reason,
        "answered": sorted(recovering.answered),
        "waiting_for": dict(sorted(recovering.waiting_for.items())),
        "without": sorted(recovering.without),
    }
