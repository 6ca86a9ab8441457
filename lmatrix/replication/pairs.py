"""The mirrors in memory.

Owns: :class:`Pair`, one mirror as it is now, and :class:`Pairs`, all of them by either room. What is here is also in
the store; it changes here after it was committed there, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from twisted.internet.defer import DeferredLock

from lmatrix.replication.interfaces import Stage
from lmatrix.replication.store import MirrorRow, MirrorStore
from lmatrix.rooms.interfaces import Database

Key = tuple[str, str]

MAX_DIRTY = 500
"""Pieces of state that are compared one by one; beyond it everything is."""


@attrs.define(slots=True, eq=False)
class Pair:
    """A mirror.

    Attributes:
        horizon: see :func:`lmatrix.replication.linearizer.linearize`.
        dirty: LM (type, state key) pairs that may differ between the two rooms; ``None``: all of them.
        recognised: whether, since the start, all of the LM log has been looked through for our own marks.
        doubtful: whether something may have been written on the DAG side without our hearing of it.
        tip: the DAG event that the stream brought last.
        forked: whether events have come since that do not simply follow one another: state resolution may then have
            changed any state, also such as nobody sent.
        state_size: how much state there was when all of it was compared last.
        lock: held by whoever writes on the DAG side, so that nobody compares the two rooms meanwhile.
    """

    nid: int
    lm_room_id: str
    dag_room_id: str
    stage: Stage
    reason: str | None
    outward_position: int
    baseline: int
    horizon: int
    dirty: set[Key] | None = None
    recognised: bool = False
    doubtful: bool = False
    tip: str | None = None
    forked: bool = False
    state_size: int = 0
    lock: DeferredLock = attrs.field(factory=DeferredLock)

    @classmethod
    def of(cls, row: MirrorRow) -> Pair:
        """From the store."""
        return cls(
            row.nid,
            row.lm_room_id,
            row.dag_room_id,
            Stage(row.stage),
            row.reason,
            row.outward_position,
            row.baseline,
            row.horizon,
        )

    def touch(self, *keys: Key) -> None:
        """This state may differ now."""
        if self.dirty is not None:
            self.dirty.update(keys)
            if len(self.dirty) > MAX_DIRTY:
                self.dirty = None

    def touch_all(self) -> None:
        """Anything may differ."""
        self.dirty = None


class Pairs:
    """All mirrors of this server.

    Args:
        database, store: where they are kept.
    """

    def __init__(self, database: Database, store: MirrorStore) -> None:
        self._database = database
        self._store = store
        self._by_lm: dict[str, Pair] = {}
        self._by_dag: dict[str, Pair] = {}

    async def load(self) -> None:
        """Read all of them."""
        for row in await self._database.read(self._store.mirrors):
            self.adopt(row)

    def adopt(self, row: MirrorRow) -> Pair:
        """A mirror that is in the store; the one that is here, if it is."""
        pair = self._by_lm.get(row.lm_room_id)
        if pair is None:
            pair = Pair.of(row)
            self._by_lm[pair.lm_room_id] = pair
            self._by_dag[pair.dag_room_id] = pair
        return pair

    async def add(self, lm_room_id: str, dag_room_id: str, stage: Stage) -> Pair:
        """Make a mirror, or find it. Raises :class:`Forbidden` when one of the rooms has another."""
        row = await self._database.write(lambda tx: self._store.add_mirror(tx, lm_room_id, dag_room_id, stage.value))
        return self.adopt(row)

    def by_lm(self, lm_room_id: str) -> Pair | None:
        """The mirror of an LM room."""
        return self._by_lm.get(lm_room_id)

    def by_dag(self, dag_room_id: str) -> Pair | None:
        """The mirror of a DAG room."""
        return self._by_dag.get(dag_room_id)

    def of(self, room_id: str) -> Pair | None:
        """The mirror of a room of either side."""
        return self._by_lm.get(room_id) or self._by_dag.get(room_id)

    def __iter__(self) -> Iterator[Pair]:
        return iter(list(self._by_lm.values()))

    async def move(self, pair: Pair, stage: Stage, reason: str | None = None, *, outward: int | None = None) -> None:
        """Bring a mirror to another stage; ``outward``: where the LM log is to be followed from."""

        def work(tx: Any) -> None:
            self._store.set_stage(tx, pair.nid, stage.value, reason)
            if outward is not None:
                self._store.set_outward(tx, pair.nid, outward)

        await self._database.write(work)
        pair.stage, pair.reason = stage, reason
        if outward is not None:
            pair.outward_position = outward
