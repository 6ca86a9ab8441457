"""Saying the state of both sides in the same words, and comparing it.

Owns: :class:`DagWords`, :class:`Compared`, and what counts as equal: what both sides *can* say. An LM room knows fewer
join rules; a DAG room may have creators above every level; our own users are called what the DAG side says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmatrix.events.state import StateEvent
from lmatrix.replication.content import Unmappable, references
from lmatrix.replication.interfaces import SOURCE, DagEvent, DagRoom, Difference, JsonObject
from lmatrix.replication.names import Names
from lmatrix.replication.pairs import Key, Pair
from lmatrix.replication.power import power_to_dag, power_to_lm
from lmatrix.replication.sides import Sides, dag_context
from lmatrix.replication.translation import (
    MEMBER,
    POWER_LEVELS,
    Silent,
    Source,
    is_carried,
    to_dag,
    to_lm,
)
from lmatrix.rooms.room import Room


@attrs.frozen(slots=True)
class Compared:
    """One piece of state of both sides.

    Attributes:
        key: LM (type, state key).
        said: the DAG side's content in LM words; ``None`` where there is none, or none that can be said.
        equal: whether the two say the same.
    """

    key: Key
    lm: StateEvent | None
    dag: DagEvent | None
    said: Mapping[str, Any] | None
    equal: bool


def dag_key(key: Key, names: Names) -> Key:
    """The DAG side's key for an LM (type, state key)."""
    event_type, state_key = key
    return (event_type, names.to_dag(state_key) if _is_user(state_key) else state_key)


def lm_key(key: Key, names: Names) -> Key | None:
    """The LM side's key for a DAG (type, state key); ``None`` where it names nobody there."""
    event_type, state_key = key
    if not _is_user(state_key):
        return key
    named = names.to_lm(state_key)
    return None if named is None else (event_type, named)


def keys_of(room: Room, dag_room: DagRoom, names: Names) -> set[Key]:
    """Every LM key of state that is carried over and that either side has."""
    keys = {(event.type, event.state_key) for event in room.state}
    keys.update(key for raw in dag_room.state if (key := lm_key(raw, names)) is not None)
    return {key for key in keys if is_carried(*key)}


class DagWords:
    """Compares state.

    Args:
        sides: both sides.
    """

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    async def compare(self, pair: Pair, room: Room, dag_room: DagRoom, key: Key) -> Compared | None:
        """Compare one piece of state; ``None`` when neither side has it, or it is not carried over."""
        sides = self._sides
        lm, dag = room.state.get(*key), dag_room.state.get(dag_key(key, sides.names))
        if (lm is None and dag is None) or not is_carried(*key):
            return None
        if _is_user(key[1]) and sides.names.known_on_dag(key[1]) is None:
            return None
        said: Mapping[str, Any] | None = None
        if dag is not None:
            try:
                said = await self._in_lm_words(pair, dag_room, dag)
            except Unmappable:
                return None
        if lm is not None and dag is not None:
            lm_id, dag_id, nid = lm.event_id, dag.event_id, pair.nid
            if await sides.database.read(lambda tx: sides.store.linked(tx, nid, lm_id, dag_id)):
                return Compared(key, lm, dag, said, True)
        equal = self._equal(key, None if lm is None else lm.content, said, dag_room)
        return Compared(key, lm, dag, said, equal)

    def _equal(self, key: Key, lm: Mapping[str, Any] | None, said: Mapping[str, Any] | None, dag_room: DagRoom) -> bool:
        if key[0] == MEMBER:
            ours, theirs = lm or {"membership": "leave"}, said or {"membership": "leave"}
            fields = ["membership"]
            # Our own users are called what the DAG side says; for the LM side that is news, not a difference.
            if ours.get("membership") == "join" and not self._sides.names.is_ours(key[1]):
                fields += ["displayname", "avatar_url"]
            return all(ours.get(field) == theirs.get(field) for field in fields)
        if lm is None or said is None:
            # State cannot be taken away; empty, it is as good as none.
            return not _shown(lm or {}) and not _shown(said or {})
        if key == (POWER_LEVELS, ""):
            names, creators = self._sides.names, dag_room.creators
            return power_to_dag(lm, names, creators, {}) == power_to_dag(said, names, creators, {})
        return {**lm, SOURCE: None} == {**said, SOURCE: None}

    async def _in_lm_words(self, pair: Pair, dag_room: DagRoom, dag: DagEvent) -> Mapping[str, Any] | None:
        sides, wanted = self._sides, sorted(references(dag.type, dag.content))
        known: Mapping[str, str] = {}
        if wanted:
            known = await sides.database.read(lambda tx: sides.store.lm_of(tx, pair.nid, wanted))
        if dag.type == POWER_LEVELS:
            return power_to_lm(dag.content, sides.names, dag_room.creators)
        what = to_lm(Source(dag.type, dag.state_key, dag.content), sides.names, known, dag_context(dag_room))
        return None if isinstance(what, Silent) else what.content

    async def in_dag_words(self, pair: Pair, dag_room: DagRoom, lm: StateEvent) -> JsonObject:
        """An LM state event's content as the DAG side says it. Raises :class:`~.content.Unmappable`."""
        sides, wanted = self._sides, sorted(references(lm.type, lm.content))
        known: Mapping[str, str] = {}
        if wanted:
            known = await sides.database.read(lambda tx: sides.store.dag_of(tx, pair.nid, wanted))
        context = dag_context(dag_room)
        if lm.type == POWER_LEVELS:
            context = await sides.context(pair)
        what = to_dag(Source(lm.type, lm.state_key, lm.content), sides.names, known, context)
        return {} if isinstance(what, Silent) else what.content

    async def differences(self, pair: Pair, room: Room, dag_room: DagRoom) -> list[Difference]:
        """Everything in which the two rooms differ."""
        found: list[Difference] = []
        for key in sorted(keys_of(room, dag_room, self._sides.names)):
            compared = await self.compare(pair, room, dag_room, key)
            if compared is None or compared.equal:
                continue
            lm = None if compared.lm is None else _shown(compared.lm.content)
            dag = None if compared.said is None else _shown(compared.said)
            if lm != dag:
                found.append(Difference(" ".join(part for part in key if part), lm, dag))
        return found


def _shown(content: Mapping[str, Any]) -> JsonObject:
    return {field: value for field, value in content.items() if field != SOURCE}


def _is_user(state_key: str) -> bool:
    return state_key.startswith("@") and ":" in state_key
