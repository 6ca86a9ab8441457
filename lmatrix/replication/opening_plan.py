"""The events with which the LM room of a DAG room begins.

Owns: :func:`opening_plan`, pure: the state of a DAG room, as events in an order in which each is legal. The room is
made by whoever made the DAG room (or, where that user has no name on the LM side, by the most powerful of our users),
who has all the power until the last event. Remote LM users are not among its members: they are invited afterwards, for
real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from lmatrix.events.room_versions import RoomVersion
from lmatrix.replication.content import Unmappable
from lmatrix.replication.interfaces import SOURCE, DagEvent, DagRefused, DagRoom, JsonObject
from lmatrix.replication.names import Names
from lmatrix.replication.power import bots_level, power_to_lm
from lmatrix.replication.sides import correction_of, dag_context, mark_of_dag
from lmatrix.replication.stopping import ENCRYPTED
from lmatrix.replication.translation import (
    ENCRYPTION,
    JOIN_RULES,
    MEMBER,
    POWER_LEVELS,
    UNMAPPABLE_TYPES,
    Silent,
    Source,
    is_carried,
    to_lm,
)

MAX_EVENTS: Final = 4000
"""A larger room cannot be made at once."""


@attrs.frozen(slots=True)
class PlannedEvent:
    """A state event of the new room."""

    type: str
    state_key: str
    sender: str
    content: JsonObject


@attrs.frozen(slots=True)
class OpeningPlan:
    """The whole room.

    Attributes:
        lost: DAG event ID → cause, of state that cannot be said on the LM side.
    """

    creator: str
    events: Sequence[PlannedEvent]
    lost: Mapping[str, str]


def opening_plan(room: DagRoom, names: Names, version: RoomVersion) -> OpeningPlan:
    """The events of the LM room for a DAG room.

    Raises:
        DagRefused: the room cannot be mirrored; the message says why.
    """
    if (ENCRYPTION, "") in room.state:
        raise DagRefused(ENCRYPTED)
    if ("m.room.tombstone", "") in room.state:
        raise DagRefused("This room has been replaced by another one.")
    members = _members(room, names)
    levels = _levels(room, names)
    creator = _creator(room, names, members, levels)
    plan = _Plan(creator, room, names)
    plan.add("m.room.create", "", {"room_version": version.identifier}, room.state.get(("m.room.create", "")))
    plan.add(MEMBER, creator, {"membership": "join"}, members.get(creator))
    plan.add(POWER_LEVELS, "", {"users": {creator: bots_level(levels)}, "invite": 0}, None)
    plan.add(JOIN_RULES, "", {"join_rule": "public"}, None)
    for user_id, event in members.items():
        if user_id != creator:
            plan.member(user_id, event)
    for (event_type, state_key), event in room.state.items():
        if event_type in UNMAPPABLE_TYPES:
            plan.lost[event.event_id] = UNMAPPABLE_TYPES[event_type]
        elif event_type not in (MEMBER, POWER_LEVELS, JOIN_RULES) and is_carried(event_type, state_key):
            plan.other(event)
    rules = room.state.get((JOIN_RULES, ""))
    if rules is None:
        plan.add(JOIN_RULES, "", {"join_rule": "invite"}, None)
    else:
        plan.other(rules)
    plan.add(POWER_LEVELS, "", levels, room.state.get((POWER_LEVELS, "")))
    first = members.get(creator)
    if first is None or first.content.get("membership") != "join":
        plan.add(MEMBER, creator, {"membership": "leave"}, first)
    if len(plan.events) > MAX_EVENTS:
        raise DagRefused(f"The room's state has {len(plan.events)} events; {MAX_EVENTS} can be mirrored.")
    return OpeningPlan(creator, plan.events, plan.lost)


class _Plan:
    def __init__(self, creator: str, room: DagRoom, names: Names) -> None:
        self._creator = creator
        self._room = room
        self._names = names
        self.events: list[PlannedEvent] = []
        self.lost: dict[str, str] = {}

    def add(self, event_type: str, state_key: str, content: Mapping[str, Any], source: DagEvent | None) -> None:
        sender = state_key if event_type == MEMBER and content.get("membership") == "join" else self._creator
        self._append(event_type, state_key, sender, content, source)

    def _append(
        self, event_type: str, state_key: str, sender: str, content: Mapping[str, Any], source: DagEvent | None
    ) -> None:
        marked = dict(content)
        if source is not None:
            marked[SOURCE] = mark_of_dag(source)
            if event_type == "m.room.create":
                # The LM room has its own: this says where it comes from, and that it is not the same event.
                marked[SOURCE] = correction_of(source.event_id, source.room_id)
        self.events.append(PlannedEvent(event_type, state_key, sender, marked))

    def member(self, user_id: str, event: DagEvent) -> None:
        membership = event.content.get("membership")
        if membership in ("join", "invite", "ban"):
            fields = {key: event.content[key] for key in ("displayname", "avatar_url") if key in event.content}
            self.add(MEMBER, user_id, {**fields, "membership": membership}, event)

    def other(self, event: DagEvent) -> None:
        """State that is none of the room's order: by its owner, if it has one, else by the creator."""
        context = dag_context(self._room)
        try:
            what = to_lm(Source(event.type, event.state_key, event.content), self._names, {}, context)
        except Unmappable as error:
            self.lost[event.event_id] = error.cause
            return
        if isinstance(what, Silent) or what.state_key is None:
            return
        sender = self._creator
        if what.state_key.startswith("@") and what.state_key != sender:
            if self._joined(what.state_key) is False:
                self.lost[event.event_id] = "unknown_user"
                return
            sender = what.state_key
        if sender != self._creator and not self._names.is_ours(sender):
            self.lost[event.event_id] = "unknown_user"
            return
        self._append(what.type, what.state_key, sender, what.content, event)

    def _joined(self, user_id: str) -> bool:
        return any(
            event.type == MEMBER and event.state_key == user_id and event.content["membership"] == "join"
            for event in self.events
        )


def _members(room: DagRoom, names: Names) -> dict[str, DagEvent]:
    """The members who have a name of ours on the LM side, by that."""
    members: dict[str, DagEvent] = {}
    for (event_type, state_key), event in room.state.items():
        named = names.to_lm(state_key) if event_type == MEMBER and not names.is_dag_ghost(state_key) else None
        if named is not None:
            members[named] = event
    return members


def _levels(room: DagRoom, names: Names) -> JsonObject:
    event = room.state.get((POWER_LEVELS, ""))
    if event is not None:
        return power_to_lm(event.content, names, room.creators)
    # Without the event its creator has the power.
    create = room.state.get(("m.room.create", ""))
    creators = room.creators or (() if create is None else (create.sender,))
    return power_to_lm({}, names, creators)


def _creator(room: DagRoom, names: Names, members: Mapping[str, DagEvent], levels: Mapping[str, Any]) -> str:
    create = room.state.get(("m.room.create", ""))
    named = None if create is None or names.is_dag_ghost(create.sender) else names.to_lm(create.sender)
    if named is not None:
        return named
    joined = [user_id for user_id, event in members.items() if event.content.get("membership") == "join"]
    if not joined:
        raise DagRefused("Nobody in this room has a name that Linearized Matrix can spell.")
    return max(joined, key=lambda user_id: (levels["users"].get(user_id, 0), user_id))
