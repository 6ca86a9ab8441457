"""From the LM room to the DAG room.

Owns: following an LM room's log, in order, from the position that is stored. Invariants: our own users' events, ghosts
of other DAG servers' users included, are never written, since they came from the DAG side: there can be no loop; the
link of what was written and the position are one commit, after the write; nothing is written whose link exists already,
and after a start, or a write of which we did not hear, the DAG server's stream is read to its end before it is asked
again. So every event is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.forms import Pdu
from lmatrix.replication.content import Unmappable, references
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.intake import Intake
from lmatrix.replication.interfaces import SOURCE, DagRefused, DagUnavailable, Stage
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import OUTWARD, Sides, mark_of_lm, marked
from lmatrix.replication.stopping import ENCRYPTED, Stopper
from lmatrix.replication.store import UNSEEN
from lmatrix.replication.translation import (
    ENCRYPTION,
    POWER_LEVELS,
    REDACTION,
    DagContext,
    Silent,
    Source,
    Translated,
    to_dag,
)
from lmatrix.rooms.interfaces import Standing, StoredEvent
from lmatrix.rooms.room import Room

ATTEMPTS = 12
"""How often one event is tried while the DAG server says that it cannot do it now, and yet can be read from: with the
growing pauses, some minutes.
"""

BATCH = 50
"""Events of a log that are in memory at once."""


class Outward:
    """Carries events of LM rooms over.

    Args:
        sides: both sides.
        intake: is asked to read to the end when it is not known what was written.
        writer, stopper: do it.
    """

    log = Logger()

    def __init__(self, sides: Sides, intake: Intake, writer: DagWriter, stopper: Stopper) -> None:
        self._sides = sides
        self._intake = intake
        self._writer = writer
        self._stopper = stopper
        self._failing: dict[int, tuple[str, int]] = {}

    async def turn(self, pair: Pair) -> None:
        """Carry over what there is. Raises what is_passing."""
        await pair.lock.acquire()
        try:
            if pair.doubtful:
                await self._intake.read_to_end()
                pair.doubtful = False
            while pair.stage is Stage.OPEN and await self._batch(pair):
                pass
        finally:
            pair.lock.release()
        pair.recognised = True

    async def _batch(self, pair: Pair) -> bool:
        try:
            room = await self._sides.rooms.load(pair.lm_room_id)
        except UnsupportedRoomVersion as error:
            await self._stopper.stop(pair, str(error))
            return False
        if room is None:
            return False
        if pair.outward_position < room.first_position - 1:
            # We were out of the room, and are in it again: what happened meanwhile is known only by the state it left.
            pair.touch_all()
            await self._advance(pair, room.first_position - 1)
        after, head = pair.outward_position, room.head_position
        if after >= head:
            if not room.is_participating:
                await self._sides.pairs.move(pair, Stage.INVITED)
            return False
        room_id, store = pair.lm_room_id, self._sides.room_store
        events = await self._sides.database.read(lambda tx: store.events_between(tx, room_id, after, head, BATCH))
        for event in events:
            await self._carry(pair, room, event)
            if pair.stage is not Stage.OPEN:
                return False
        if events and events[-1].position > pair.outward_position:
            await self._advance(pair, events[-1].position)
        return bool(events)

    async def _advance(self, pair: Pair, position: int) -> None:
        await self._sides.database.write(lambda tx: self._sides.store.set_outward(tx, pair.nid, position))
        pair.outward_position = position

    async def _carry(self, pair: Pair, room: Room, stored: StoredEvent) -> None:
        """Carry one event over, or pass it. Passing alone does not move the stored position: repeating it is
        harmless.
        """
        pdu = Pdu.from_canonical(stored.canonical, room.version, stored.event_id)
        if stored.standing is Standing.REJECTED or (stored.standing is Standing.SOFT_FAILED and not pdu.is_state):
            return
        if pdu.state_key is not None:
            pair.touch((pdu.type, pdu.state_key))
        if self._sides.names.is_ours(pdu.sender):
            await self._recognise(pair, pdu)
            return
        if stored.redacted_by is not None and not pdu.is_state:
            return  # it was redacted before it was carried over, so that there is nothing to carry
        if pdu.type == ENCRYPTION and pdu.state_key == "":
            await self._stopper.stop(pair, ENCRYPTED)
            return
        wanted = {pdu.event_id, *references(pdu.type, pdu.content)}
        redacts = pdu.content.get("redacts") if pdu.type == REDACTION else None
        redacts = redacts if isinstance(redacts, str) else None
        if redacts is not None:
            wanted.add(redacts)
        known = await self._sides.database.read(lambda tx: self._sides.store.dag_of(tx, pair.nid, sorted(wanted)))
        if pdu.event_id in known or (redacts is not None and not await self._redacts(pdu, redacts, known)):
            return
        try:
            what = await self._translated(pair, pdu, redacts, known)
        except Unmappable as error:
            await self._lost(pair, pdu, error.cause)
            return
        if isinstance(what, Translated):
            await self._write(pair, room, pdu, what, stored.position)

    async def _redacts(self, pdu: Pdu, target: str, known: Mapping[str, str]) -> bool:
        """Whether a redaction is to be carried over: not one that took no effect here, nor one of an event that is here
        and was not carried over itself.
        """
        stored = await self._sides.database.read(lambda tx: self._sides.room_store.event(tx, target))
        if stored is None:
            return True  # from before our time: that it cannot be mapped is counted
        return stored.redacted_by == pdu.event_id and target in known

    async def _recognise(self, pair: Pair, pdu: Pdu) -> None:
        """An event of our own users came from the DAG side; if it is not known which it was, its mark says so."""
        source = marked(pdu.content, pair.dag_room_id)
        if source is None:
            return
        sides, event_id = self._sides, pdu.event_id
        now_ms = sides.now_ms()

        def work(tx: Any) -> None:
            if not sides.store.linked(tx, pair.nid, event_id, source):
                sides.store.link(tx, pair.nid, event_id, source, None, now_ms)

        await sides.database.write(work)

    async def _translated(
        self, pair: Pair, pdu: Pdu, redacts: str | None, known: Mapping[str, str]
    ) -> Translated | Silent:
        context = DagContext((), {})
        if pdu.type == POWER_LEVELS:
            context = await self._sides.context(pair)
        return to_dag(Source(pdu.type, pdu.state_key, pdu.content, redacts), self._sides.names, known, context)

    async def _write(self, pair: Pair, room: Room, pdu: Pdu, what: Translated, position: int) -> None:
        sides = self._sides
        ghost = sides.names.to_dag(pdu.sender)
        marked_content = {**what.content, SOURCE: mark_of_lm(pdu)}
        try:
            await sides.prepared(ghost, room, pdu.sender)
            if what.state_key is not None and what.state_key != ghost and pdu.type == "m.room.member":
                await sides.prepared(what.state_key, room, pdu.state_key)
            dag_event_id = await self._writer.write(
                pair, ghost, Translated(what.type, what.state_key, marked_content), pdu.event_id, pdu.origin_server_ts
            )
        except DagRefused as error:
            self.log.warn(
                "{room_id}: {event_id} ({type}) could not be written into {dag_room_id}: {error}",
                room_id=pair.lm_room_id,
                event_id=pdu.event_id,
                type=pdu.type,
                dag_room_id=pair.dag_room_id,
                error=error,
            )
            await self._lost(pair, pdu, "dag_refused")
            return
        except DagUnavailable as error:
            pair.doubtful = True
            if not self._given_up(pair, pdu):
                raise
            self.log.error("{event_id}: given up: {error}", event_id=pdu.event_id, error=error)
            await self._lost(pair, pdu, "dag_failed")
            return
        now_ms = sides.now_ms()

        def work(tx: Any) -> None:
            sides.store.link(tx, pair.nid, pdu.event_id, dag_event_id, UNSEEN, now_ms)
            sides.store.set_outward(tx, pair.nid, position)

        await sides.database.write(work)
        pair.outward_position = position
        sides.metrics.mirror_events.labels(direction=OUTWARD).inc()

    def _given_up(self, pair: Pair, pdu: Pdu) -> bool:
        """Whether one event has failed so often, with the DAG server otherwise there, that it must not hold up the
        others any longer.
        """
        event_id, count = self._failing.get(pair.nid, ("", 0))
        count = count + 1 if event_id == pdu.event_id else 1
        self._failing[pair.nid] = (pdu.event_id, count)
        if count < ATTEMPTS:
            return False
        del self._failing[pair.nid]
        return True

    async def _lost(self, pair: Pair, pdu: Pdu, cause: str) -> None:
        self.log.info(
            "{room_id}: {event_id} ({type}) is not carried over: {cause}",
            room_id=pair.lm_room_id,
            event_id=pdu.event_id,
            type=pdu.type,
            cause=cause,
        )
        await self._sides.lose(pair, OUTWARD, pdu.event_id, cause)
