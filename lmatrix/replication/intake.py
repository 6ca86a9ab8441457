"""Reading the DAG server's stream.

Owns: the cursor in the stream, the linearizing of what each mirrored room got, and the finding of rooms that are to be
mirrored. Invariants: the cursor, the list's new places and the links of what we wrote ourselves are one commit;
whatever :meth:`Intake.read_to_end` has passed is on disk. It carries nothing over itself.

Our own writes come by in the stream like everybody's. The ghosts' and the bot's never wait to be carried over; those
that bear our mark are linked with what they came from, so that a write whose answer was lost is known to have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from lmatrix.errors import Forbidden
from lmatrix.replication.comparing import lm_key
from lmatrix.replication.interfaces import MIRROR, DagEvent, Stage, StreamPage
from lmatrix.replication.linearizer import Node, Placed, linearize
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import Sides, marked
from lmatrix.replication.store import MirrorRow
from lmatrix.replication.translation import MEMBER

PAGE = 200
"""Events of the stream that are looked at in one step."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@attrs.frozen(slots=True)
class _Beginning:
    """A DAG room that the stream says is to be mirrored."""

    lm_room_id: str
    dag_room_id: str
    stage: Stage


@attrs.frozen(slots=True)
class _Arrivals:
    """What came for one mirror, and what its list is appended to."""

    nid: int
    lm_room_id: str
    horizon: int
    events: Sequence[DagEvent]


class Intake:
    """Reads the stream.

    Args:
        sides: both sides.
        rng: for names of new LM rooms.
        arrived: told of each mirror that got something, or that the stream began.
    """

    log = Logger()

    def __init__(self, sides: Sides, rng: Random, arrived: Callable[[Pair], None]) -> None:
        self._sides = sides
        self._rng = rng
        self._arrived = arrived
        self._lock = DeferredLock()
        self._position: int | None = None

    async def read_to_end(self) -> None:
        """Read until there is nothing more; the end is not before the end at the time of the call."""
        await self._lock.acquire()
        try:
            if self._position is None:
                self._position = await self._first_position()
            while await self._step(self._position):
                pass
        finally:
            self._lock.release()

    async def _first_position(self) -> int:
        """Where to begin: where we were, or, the first time ever, at the end of the stream as it is."""
        database, store = self._sides.database, self._sides.store
        known = await database.read(store.stream_position)
        if known is not None:
            return known
        position = await self._sides.dag.position()
        await database.write(lambda tx: store.set_stream_position(tx, position))
        return position

    def _wanted(self, room_id: str, event_type: str, state_key: str | None) -> bool:
        if self._sides.pairs.by_dag(room_id) is not None:
            return True
        if event_type == MEMBER:
            return state_key is not None and self._sides.names.is_dag_ghost(state_key)
        return event_type == MIRROR

    async def _step(self, after: int) -> bool:
        page = await self._sides.dag.read(after, PAGE, self._wanted)
        if page.position <= after:
            return False
        page, beginning = self._up_to_a_beginning(page)
        arrivals = self._by_mirror(page.events)
        now_ms = self._sides.now_ms()

        def work(tx: Any) -> tuple[Mapping[int, int], MirrorRow | None]:
            row = None if beginning is None else self._begin(tx, beginning)
            horizons = {}
            for one in arrivals:
                horizons[one.nid] = self._take(tx, one, now_ms)
            if row is not None and beginning is not None:
                events = [event for event in page.events if event.room_id == beginning.dag_room_id]
                horizons[row.nid] = self._take(tx, _Arrivals(row.nid, row.lm_room_id, row.horizon, events), now_ms)
            self._sides.store.set_stream_position(tx, page.position)
            return horizons, row

        horizons, row = await self._sides.database.write(work)
        self._position = page.position
        if row is not None:
            self._sides.pairs.adopt(row)
        for event in page.events:
            self._touch(event)
        for pair in self._sides.pairs:
            if pair.nid in horizons:
                pair.horizon = max(pair.horizon, horizons[pair.nid])
                self._arrived(pair)
        return True

    def _touch(self, event: DagEvent) -> None:
        """State may differ now, whoever changed it: also a ghost's may have been changed behind our back."""
        pair = self._sides.pairs.by_dag(event.room_id)
        if pair is None:
            return
        if pair.tip is not None and event.prev_events != (pair.tip,):
            pair.forked = True
        pair.tip = event.event_id
        if event.state_key is not None:
            key = lm_key((event.type, event.state_key), self._sides.names)
            if key is not None:
                pair.touch(key)

    def _up_to_a_beginning(self, page: StreamPage) -> tuple[StreamPage, _Beginning | None]:
        """The page as far as the first event with which a mirror begins. What follows was read without knowing of
        it.
        """
        for place, event in enumerate(page.events):
            beginning = self._beginning_of(event)
            if beginning is not None:
                return StreamPage(page.events[: place + 1], event.stream), beginning
        return page, None

    def _beginning_of(self, event: DagEvent) -> _Beginning | None:
        names, pairs = self._sides.names, self._sides.pairs
        if pairs.by_dag(event.room_id) is not None:
            return None
        if event.type == MIRROR and event.state_key == "" and names.is_bot(event.sender):
            lm_room_id = event.content.get("room_id")
            if isinstance(lm_room_id, str) and pairs.by_lm(lm_room_id) is None:
                return _Beginning(lm_room_id, event.room_id, Stage.INVITED)
        invites_ghost = event.type == MEMBER and names.is_dag_ghost(event.state_key or "")
        if invites_ghost and event.content.get("membership") == "invite" and names.is_person(event.sender):
            return _Beginning(self.new_room_id(), event.room_id, Stage.OPENING)
        return None

    def new_room_id(self) -> str:
        """A name for a new LM room."""
        return f"!{''.join(self._rng.choices(ALPHABET, k=18))}:{self._sides.dag.server_name}"

    def _begin(self, tx: Any, beginning: _Beginning) -> MirrorRow | None:
        try:
            return self._sides.store.add_mirror(tx, beginning.lm_room_id, beginning.dag_room_id, beginning.stage.value)
        except Forbidden as error:
            self.log.warn("{room_id}: is not mirrored: {error}", room_id=beginning.dag_room_id, error=error)
            return None

    def _by_mirror(self, events: Sequence[DagEvent]) -> list[_Arrivals]:
        by_pair: dict[int, list[DagEvent]] = {}
        pairs: dict[int, Pair] = {}
        for event in events:
            pair = self._sides.pairs.by_dag(event.room_id)
            if pair is not None:
                pairs[pair.nid] = pair
                by_pair.setdefault(pair.nid, []).append(event)
        return [
            _Arrivals(nid, pairs[nid].lm_room_id, pairs[nid].horizon, tuple(arrived))
            for nid, arrived in by_pair.items()
        ]

    def _take(self, tx: Any, arrivals: _Arrivals, now_ms: int) -> int:
        """In the transaction: linearize and note what came for one mirror; returns its horizon."""
        names, store = self._sides.names, self._sides.store
        events = {event.event_id: event for event in arrivals.events}
        wanted = {*events, *(prev for event in events.values() for prev in event.prev_events)}
        # What we wrote and the stream has not shown yet has no depth.
        known = {
            event_id: row.depth
            for event_id, row in store.dag_events(tx, arrivals.nid, sorted(wanted)).items()
            if row.depth > 0
        }
        nodes = [Node(event.event_id, event.prev_events, event.origin_server_ts) for event in events.values()]
        placed: list[Placed] = linearize(nodes, known, arrivals.horizon)
        rows = []
        for one in placed:
            event = events[one.event_id]
            theirs = not (names.is_dag_ghost(event.sender) or names.is_bot(event.sender))
            rows.append((one.event_id, event.stream, one.depth, theirs))
            if not theirs:
                source = marked(event.content, arrivals.lm_room_id)
                if source is not None:
                    store.link(tx, arrivals.nid, source, event.event_id, event.stream, now_ms)
        if rows:
            store.place(tx, arrivals.nid, rows, now_ms)
        return max([arrivals.horizon, *(one.depth for one in placed)])
