"""All mirrors of a server, put together and kept going.

Owns: :class:`MirrorService`, which is :class:`lmatrix.replication.interfaces.Mirrors`: the order in which the parts are
built, who wakes whom, and start and stop. Each mirror has two workers, one for each direction, which hold up no other
mirror's. The order at a start matters: the DAG server's stream is read to its end; then each LM log is followed to its
end, by which our own events in it are recognised; then what waits is carried inward. In this order nothing is done
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lmatrix.devices.interfaces import EduDelivery, SyncWaker
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, room_version
from lmatrix.metrics import Metrics
from lmatrix.replication.agreement import Agreement
from lmatrix.replication.beginnings import Beginnings
from lmatrix.replication.comparing import DagWords
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.fleeting import Fleeting
from lmatrix.replication.intake import Intake
from lmatrix.replication.interfaces import (
    Comparison,
    DagRefused,
    DagServer,
    MirrorStatus,
    Stage,
)
from lmatrix.replication.inward import Inward
from lmatrix.replication.names import Names
from lmatrix.replication.opening import Opening
from lmatrix.replication.opening_plan import opening_plan
from lmatrix.replication.outward import Outward
from lmatrix.replication.pairs import Pair, Pairs
from lmatrix.replication.sides import INWARD, OUTWARD, Sides
from lmatrix.replication.stopping import Stopper
from lmatrix.replication.store import MirrorStore
from lmatrix.replication.translation import MEMBER
from lmatrix.replication.worker import Worker
from lmatrix.rooms.floor import RoomsFloor
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, EduReceiver, JsonObject, RoomStore

MEASURED_EVERY_S: Final = 30.0
"""How often the lag of all mirrors is measured."""

INVITE_PAUSE_S: Final = 1.0
"""How long an invite rests before it is brought to its user: its hub puts it into the room only after our answer, and
whoever accepts or declines earlier was never invited.
"""

AT_ONCE: Final = 8
"""How many mirrors are followed outward at once: each keeps a piece of a log in memory."""

FORKS_REST_S: Final = 5.0
"""How long after a fork all state is compared, whatever it was that the branches did; and a second more for each so
many pieces of state, so that a large and busy room is not compared all the time:
"""

COMPARED_IN_A_SECOND: Final = 100

COMPARED_AT_ONCE: Final = 4
"""How many are compared at once: each has the whole state of two rooms in memory, after a start."""

INWARD_AT_ONCE: Final = 200
"""How many are carried inward at once: these wait for hubs."""


@attrs.frozen(slots=True, eq=False)
class _Workers:
    outward: Worker
    inward: Worker


class MirrorService:
    """See :class:`lmatrix.replication.interfaces.Mirrors`.

    Args:
        dag: the DAG server.
        database, store, room_store: where everything is kept.
        identity: who signs.
        clock, rng, metrics: time, chance, numbers.

    After it is made, the rooms floor is built with :attr:`audience` and :attr:`edus`, and given to :meth:`attach`.
    """

    log = Logger()

    def __init__(
        self,
        dag: DagServer,
        *,
        identity: ServerIdentity,
        database: Database,
        store: MirrorStore,
        room_store: RoomStore,
        clock: IReactorTime,
        rng: Random,
        metrics: Metrics,
    ) -> None:
        self._dag = dag
        self._identity = identity
        self._database = database
        self._store = store
        self._room_store = room_store
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._pairs = Pairs(database, store)
        self._names = Names(identity.server_name, dag.bot)
        self._workers: dict[int, _Workers] = {}
        self._outward_places = DeferredSemaphore(AT_ONCE)
        self._inward_places = DeferredSemaphore(INWARD_AT_ONCE)
        self._comparing_places = DeferredSemaphore(COMPARED_AT_ONCE)
        self._late: _Parts | None = None
        self._caught_up = False
        self._stopped = False
        self._measuring: IDelayedCall | None = None
        self._inviting: IDelayedCall | None = None
        self._resting: dict[int, IDelayedCall] = {}
        self._reader = Worker("reading the DAG server's stream", self._read, clock)
        self._inviter = Worker("bringing invites", self._bring_invites, clock)

    def attach(self, floor: RoomsFloor, delivery: EduDelivery) -> None:
        """Complete the circle: the rooms need :attr:`audience` and :attr:`edus`, and are needed here."""
        sides = Sides(
            self._dag,
            self._names,
            self._database,
            self._store,
            self._room_store,
            floor.rooms,
            floor.local_users,
            self._pairs,
            self._clock,
            self._metrics,
        )
        self._late = _Parts.build(sides, self._identity, delivery, self._rng, self._arrived)

    @property
    def _parts(self) -> _Parts:
        if self._late is None:
            raise RuntimeError("the mirrors were not attached to the rooms")
        return self._late

    # -- What the rooms are given --

    @property
    def audience(self) -> SyncWaker:
        """See :attr:`~lmatrix.replication.interfaces.Mirrors.audience`."""
        return _Audience(self._log_advanced, self._invites_changed)

    @property
    def edus(self) -> EduReceiver:
        """See :attr:`~lmatrix.replication.interfaces.Mirrors.edus`."""
        return _LateEdus(lambda: self._parts.fleeting)

    async def user_exists(self, user_id: str) -> bool:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.user_exists`."""
        if self._names.is_person(user_id):
            return await self._dag.user_exists(user_id)
        # The ghost of a user of another DAG server stands for that user, who may exist.
        return self._names.to_dag(user_id) != user_id

    def _log_advanced(self, lm_room_id: str) -> None:
        pair = self._pairs.by_lm(lm_room_id)
        if pair is not None and self._caught_up:
            self._of(pair).outward.wake()

    def _invites_changed(self) -> None:
        if self._caught_up and self._inviting is None and not self._stopped:
            self._inviting = self._clock.callLater(INVITE_PAUSE_S, self._bring)

    def _bring(self) -> None:
        self._inviting = None
        self._inviter.wake()

    # -- Running --

    async def start(self) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.start`."""
        self._names.hashed.update(await self._database.read(self._store.names))
        await self._pairs.load()
        self._reader.wake()
        self._measuring = self._clock.callLater(MEASURED_EVERY_S, self._measure)

    async def stop(self) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.stop`."""
        self._stopped = True
        for alarm in (self._measuring, self._inviting, *self._resting.values()):
            if alarm is not None and alarm.active():
                alarm.cancel()
        await self._reader.stop()
        await self._inviter.stop()
        for workers in list(self._workers.values()):
            await workers.inward.stop()
            await workers.outward.stop()

    def stream_advanced(self) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.stream_advanced`."""
        self._reader.wake()

    @property
    def busy(self) -> bool:
        """Whether something is being done, or is to be tried again."""
        workers = [worker for both in self._workers.values() for worker in (both.outward, both.inward)]
        return any(worker.busy for worker in (self._reader, self._inviter, *workers))

    async def _read(self) -> None:
        await self._parts.intake.read_to_end()
        if not self._caught_up:
            self._caught_up = True
            self._inviter.wake()
            for pair in self._pairs:
                self._wake(pair)

    async def _bring_invites(self) -> None:
        await self._parts.beginnings.turn()

    def _arrived(self, pair: Pair) -> None:
        """The stream has brought something for a mirror, or begun it."""
        if self._caught_up:
            self._wake(pair)
            if pair.forked and pair.nid not in self._resting and not self._stopped:
                rest_s = FORKS_REST_S + pair.state_size / COMPARED_IN_A_SECOND
                self._resting[pair.nid] = self._clock.callLater(rest_s, self._compare_all, pair)

    def _compare_all(self, pair: Pair) -> None:
        del self._resting[pair.nid]
        pair.forked = False
        pair.touch_all()
        self._wake(pair)

    def _wake(self, pair: Pair) -> None:
        self._of(pair).inward.wake()
        if not pair.recognised:
            self._of(pair).outward.wake()

    def _of(self, pair: Pair) -> _Workers:
        workers = self._workers.get(pair.nid)
        if workers is None:

            async def outward() -> None:
                await self._outward_turn(pair)

            async def inward() -> None:
                await self._inward_turn(pair)

            workers = self._workers[pair.nid] = _Workers(
                Worker(f"{pair.lm_room_id}, outward", outward, self._clock, self._outward_places),
                Worker(f"{pair.lm_room_id}, inward", inward, self._clock, self._inward_places),
            )
        return workers

    async def _outward_turn(self, pair: Pair) -> None:
        await self._parts.outward.turn(pair)
        self._of(pair).inward.wake()

    async def _inward_turn(self, pair: Pair) -> None:
        if pair.stage is Stage.OPENING:
            try:
                await self._parts.opening.open(pair)
            except DagRefused as error:
                self.log.debug("{room_id}: {error}", room_id=pair.dag_room_id, error=error)
        await self._parts.inward.turn(pair)
        if pair.stage is Stage.OPEN and not pair.recognised:
            self._of(pair).outward.wake()  # which wakes us again
        await self._comparing_places.acquire()
        try:
            await self._parts.agreement.reach(pair)
        finally:
            self._comparing_places.release()

    # -- Typing and receipts --

    def typing_changed(self, dag_room_id: str, user_ids: Sequence[str]) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.typing_changed`."""
        self._parts.fleeting.typing_changed(dag_room_id, user_ids)

    def read_up_to(self, dag_room_id: str, user_id: str, event_id: str, ts: int) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.read_up_to`."""
        self._parts.fleeting.read_up_to(dag_room_id, user_id, event_id, ts)

    # -- What operators ask for --

    async def open_room(self, dag_room_id: str, opener: str, invitees: Sequence[str] = ()) -> str:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.open_room`."""
        pair = self._pairs.by_dag(dag_room_id)
        if pair is None:
            room = await self._dag.room(dag_room_id)
            member = None if room is None else room.state.get((MEMBER, opener))
            if room is None or member is None or member.content.get("membership") != "join":
                raise DagRefused(f"{opener} is not in {dag_room_id}")
            opening_plan(room, self._names, room_version(DEFAULT_ROOM_VERSION))  # refuses before there is anything
            pair = await self._pairs.add(self._parts.intake.new_room_id(), dag_room_id, Stage.OPENING)
        if pair.stage is Stage.OPENING:
            await self._parts.opening.open(pair, opener)
        if pair.stage is Stage.STOPPED:
            raise DagRefused(pair.reason or "This room is not mirrored any more.")
        self._wake(pair)
        for invitee in invitees:
            await self._parts.sides.local_users.invite(pair.lm_room_id, opener, invitee, None)
        return pair.lm_room_id

    async def enter_room(self, user_id: str, lm_room_id: str, via: Sequence[str]) -> str:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.enter_room`."""
        if not self._names.is_person(user_id) or not await self._dag.user_exists(user_id):
            raise DagRefused(f"{user_id} is not a user of this server")
        pair = await self._parts.beginnings.mirror_of(lm_room_id, via, ())
        room = await self._dag.room(pair.dag_room_id, [(MEMBER, user_id)])
        member = None if room is None else room.state.get((MEMBER, user_id))
        if member is None or member.content.get("membership") not in ("invite", "join"):
            reference = f"{user_id}{int(self._clock.seconds() * 1000)}"
            await self._parts.writer.set_membership(pair, self._dag.bot, user_id, "invite", {}, reference)
        return pair.dag_room_id

    async def stop_mirror(self, room_id: str, reason: str) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.stop_mirror`."""
        await self._parts.stopper.stop(self._known(room_id), reason)

    async def statuses(self) -> Sequence[MirrorStatus]:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.statuses`."""
        return [await self._status(pair) for pair in self._pairs]

    async def compare(self, room_id: str) -> Comparison:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.compare`."""
        pair = self._known(room_id)
        status = await self._status(pair)
        sides = self._parts.sides
        room, dag_room = await sides.room(pair), await self._dag.room(pair.dag_room_id)
        if room is None or dag_room is None:
            return Comparison(status, True, ())
        differences = await DagWords(sides).differences(pair, room, dag_room)
        settled = not self.busy and status.outward_lag == 0 and status.inward_lag == 0
        return Comparison(status, settled, tuple(differences))

    def _known(self, room_id: str) -> Pair:
        pair = self._pairs.of(room_id)
        if pair is None:
            raise DagRefused(f"{room_id} is not mirrored")
        return pair

    async def _status(self, pair: Pair) -> MirrorStatus:
        store, nid, now_ms = self._store, pair.nid, self._parts.sides.now_ms()
        outward, inward, lost = await self._database.read(
            lambda tx: (store.outward_lag(tx, nid), store.inward_lag(tx, nid), store.losses(tx, nid))
        )
        return MirrorStatus(
            lm_room_id=pair.lm_room_id,
            dag_room_id=pair.dag_room_id,
            stage=pair.stage,
            reason=pair.reason,
            outward_lag=outward.events if pair.stage is Stage.OPEN else 0,
            inward_lag=inward.events,
            outward_lag_ms=_age(outward.since_ts, now_ms) if pair.stage is Stage.OPEN else 0,
            inward_lag_ms=_age(inward.since_ts, now_ms),
            lost=lost,
        )

    def _measure(self) -> None:
        self._measuring = self._clock.callLater(MEASURED_EVERY_S, self._measure)
        Deferred.fromCoroutine(self.measure()).addErrback(
            lambda failure: self.log.info("not measured: {error}", error=failure.value)
        )

    async def measure(self) -> None:
        """Set the metrics that say how far behind the mirrors are."""
        statuses = await self.statuses()
        for stage in Stage:
            self._metrics.mirrors.labels(stage=stage.value).set(sum(one.stage is stage for one in statuses))
        for direction, events, waited_ms in (
            (OUTWARD, [one.outward_lag for one in statuses], [one.outward_lag_ms for one in statuses]),
            (INWARD, [one.inward_lag for one in statuses], [one.inward_lag_ms for one in statuses]),
        ):
            self._metrics.mirror_lag_events.labels(direction=direction).set(sum(events))
            self._metrics.mirror_lag_seconds.labels(direction=direction).set(max(waited_ms, default=0) / 1000)


@attrs.frozen(slots=True, eq=False)
class _Parts:
    """What does the work, once the rooms are there."""

    sides: Sides
    intake: Intake
    writer: DagWriter
    stopper: Stopper
    outward: Outward
    inward: Inward
    agreement: Agreement
    opening: Opening
    beginnings: Beginnings
    fleeting: Fleeting

    @classmethod
    def build(
        cls,
        sides: Sides,
        identity: ServerIdentity,
        delivery: EduDelivery,
        rng: Random,
        arrived: Callable[[Pair], None],
    ) -> _Parts:
        intake = Intake(sides, rng, arrived)
        writer = DagWriter(sides)
        stopper = Stopper(sides, writer)
        return cls(
            sides=sides,
            intake=intake,
            writer=writer,
            stopper=stopper,
            outward=Outward(sides, intake, writer, stopper),
            inward=Inward(sides, writer, stopper),
            agreement=Agreement(sides, intake, writer),
            opening=Opening(sides, identity),
            beginnings=Beginnings(sides, intake, writer),
            fleeting=Fleeting(sides, delivery),
        )


class _Audience:
    """What the rooms, and the devices beside them, tell local users: the mirrors stand for all of them."""

    def __init__(self, log_advanced: Callable[[str], None], invites_changed: Callable[[], None]) -> None:
        self._log_advanced = log_advanced
        self._invites_changed = invites_changed

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        """See :class:`~lmatrix.rooms.interfaces.LocalAudience`."""
        self._log_advanced(room_id)
        if user_ids is not None:
            self._invites_changed()

    def users_advanced(self, stream: int, user_ids: Iterable[str]) -> None:
        """Messages to devices: the DAG server's own clients have other ways."""

    def room_stirred(self, room_id: str) -> None:
        """Who types is told by EDUs."""


class _LateEdus:
    """The receiver of EDUs, which is there once the rooms are."""

    def __init__(self, fleeting: Callable[[], Fleeting]) -> None:
        self._fleeting = fleeting

    async def receive(self, origin: str, edus: Sequence[JsonObject], record: Callable[[Any], None]) -> None:
        """See :class:`~lmatrix.rooms.interfaces.EduReceiver`."""
        await self._fleeting().receive(origin, edus, record)


def _age(since_ts: int | None, now_ms: int) -> int:
    return 0 if since_ts is None else max(0, now_ms - since_ts)
