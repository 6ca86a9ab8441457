"""Offering a DAG room to LM servers: this server makes the LM room, and is its hub.

Owns: :class:`Opening`. The mirror is in the stage ``OPENING`` from the moment that a guest was invited (or an operator
asked), with the LM room's ID chosen; each step is carried out again after a crash. State up to the *baseline*, the
stream position of the DAG room's state as it was read, is part of the new room; what comes later is carried over as
ever.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from lmatrix.errors import LMatrixError
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, room_version
from lmatrix.replication.interfaces import DagRefused, DagRoom, Stage
from lmatrix.replication.opening_plan import OpeningPlan, opening_plan
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import INWARD, Sides
from lmatrix.replication.translation import MEMBER
from lmatrix.replication.worker import is_passing
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.room import RoomDraft
from lmatrix.rooms.sequencing import LocalEvent, Sequenced, take_local


class Opening:
    """Makes LM rooms of DAG rooms.

    Args:
        sides: both sides.
        identity: who signs.
    """

    log = Logger()

    def __init__(self, sides: Sides, identity: ServerIdentity) -> None:
        self._sides = sides
        self._identity = identity

    async def open(self, pair: Pair, opener: str | None = None) -> None:
        """Bring a mirror from ``OPENING`` to ``OPEN``, or, when the room cannot be mirrored, to ``STOPPED``.

        Args:
            opener: a local user who asked for it; by default whoever invited a guest.

        Raises:
            DagRefused: it cannot be mirrored; the message says why, and the mirror is stopped.
            as is_passing: it is to be tried again.
        """
        await pair.lock.acquire()
        try:
            if pair.stage is Stage.OPENING:
                await self._open(pair, opener)
        finally:
            pair.lock.release()

    async def _open(self, pair: Pair, opener: str | None) -> None:
        room = await self._sides.dag.room(pair.dag_room_id)
        try:
            if room is None:
                raise DagRefused("Nobody of this server is in the room.")
            plan = opening_plan(room, self._sides.names, room_version(DEFAULT_ROOM_VERSION))
            opener = opener or self._who_invited(room)
            if opener is not None:
                await self._sides.dag.ensure_ghost(self._sides.dag.bot, None)
                await self._sides.dag.let_in(pair.dag_room_id, opener)
            if await self._sides.rooms.load(pair.lm_room_id) is None:
                await self._create(pair, room, plan)
        except LMatrixError as error:
            if is_passing(error):
                raise
            self.log.warn("{room_id}: is not mirrored: {error}", room_id=pair.dag_room_id, error=error)
            await self._sides.pairs.move(pair, Stage.STOPPED, str(error))
            raise DagRefused(str(error)) from error
        # The log is followed from its beginning: by their marks the room's first events are linked with the DAG room's.
        pair.touch_all()
        pair.recognised = False
        await self._sides.pairs.move(pair, Stage.OPEN, outward=0)
        self.log.info("{dag}: is mirrored as {room_id}", dag=pair.dag_room_id, room_id=pair.lm_room_id)

    def _who_invited(self, room: DagRoom) -> str | None:
        names = self._sides.names
        for (event_type, state_key), event in room.state.items():
            invited = event_type == MEMBER and names.is_dag_ghost(state_key)
            if invited and event.content.get("membership") == "invite" and names.is_person(event.sender):
                return event.sender
        return None

    async def _create(self, pair: Pair, room: DagRoom, plan: OpeningPlan) -> None:
        sides, now_ms = self._sides, self._sides.now_ms()

        def begin(tx: Any) -> None:
            sides.store.set_baseline(tx, pair.nid, room.position)
            for event_id, cause in plan.lost.items():
                sides.store.lose(tx, pair.nid, event_id, cause)

        await sides.database.write(begin)
        pair.baseline = room.position
        for cause in plan.lost.values():
            sides.metrics.mirror_losses.labels(direction=INWARD, cause=cause).inc()
        events = [LocalEvent(one.type, one.sender, one.content, now_ms, one.state_key) for one in plan.events]

        def decide(draft: RoomDraft) -> list[Sequenced]:
            return [take_local(draft, event, self._identity) for event in events]

        await sides.rooms.create(pair.lm_room_id, room_version(DEFAULT_ROOM_VERSION), decide, len(events))
