"""Both sides of the mirrors, and what is known of them: what every direction works with.

Owns: :class:`Sides`, and the few questions that all directions ask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.events.forms import Pdu
from lmatrix.metrics import Metrics
from lmatrix.replication.interfaces import SOURCE, DagEvent, DagRoom, DagServer, JsonObject, Profile
from lmatrix.replication.names import Names
from lmatrix.replication.pairs import Pair, Pairs
from lmatrix.replication.store import MirrorStore
from lmatrix.replication.translation import MEMBER, POWER_LEVELS, DagContext
from lmatrix.rooms.interfaces import Database, RoomStore
from lmatrix.rooms.local_users import LocalUsers
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.room import Room

OUTWARD: Final = "outward"
INWARD: Final = "inward"

DEVICE: Final = "org.lmatrix.mirror"
"""What stands for the device in the transactions of what the mirrors send on the LM side."""


@attrs.frozen(slots=True)
class Sides:
    """What the directions share.

    Attributes:
        dag: the DAG server.
        names: users' names.
        database, store, room_store: where everything is kept.
        rooms, local_users: the LM side.
        pairs: the mirrors.
    """

    dag: DagServer
    names: Names
    database: Database
    store: MirrorStore
    room_store: RoomStore
    rooms: Rooms
    local_users: LocalUsers
    pairs: Pairs
    clock: IReactorTime
    metrics: Metrics

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.clock.seconds() * 1000)

    async def room(self, pair: Pair) -> Room | None:
        """The LM room, if this server takes part in it."""
        room = await self.rooms.load(pair.lm_room_id)
        return room if room is not None and room.is_participating else None

    async def context(self, pair: Pair) -> DagContext:
        """What a translation of power levels depends on."""
        room = await self.dag.room(pair.dag_room_id, [(POWER_LEVELS, "")])
        return dag_context(room)

    async def prepared(self, dag_user: str, room: Room | None, lm_user: str | None) -> None:
        """Make sure that a ghost exists, called as the user calls itself in the LM room, and that its name is
        remembered.
        """
        if not (self.names.is_dag_ghost(dag_user) or self.names.is_bot(dag_user)):
            return
        original = self.names.hashed.get(dag_user)
        if original is not None:
            await self.database.write(lambda tx: self.store.add_names(tx, {dag_user: original}))
        profile = None
        if room is not None and lm_user is not None:
            member = room.state.get(MEMBER, lm_user)
            if member is not None and member.content.get("membership") == "join":
                profile = profile_of(member.content)
        await self.dag.ensure_ghost(dag_user, profile)

    async def lose(self, pair: Pair, direction: str, event_id: str, cause: str) -> None:
        """An event could not be carried over: it is noted and counted."""
        await self.database.write(lambda tx: self.store.lose(tx, pair.nid, event_id, cause))
        self.metrics.mirror_losses.labels(direction=direction, cause=cause).inc()


def dag_context(room: DagRoom | None) -> DagContext:
    """What a translation of power levels depends on, of a room."""
    if room is None:
        return DagContext((), {})
    levels = room.state.get((POWER_LEVELS, ""))
    return DagContext(room.creators, {} if levels is None else levels.content)


def profile_of(content: Mapping[str, Any]) -> Profile:
    """A user's profile, of its membership."""
    name, avatar = content.get("displayname"), content.get("avatar_url")
    return Profile(name if isinstance(name, str) else None, avatar if isinstance(avatar, str) else None)


def mark_of_lm(pdu: Pdu) -> JsonObject:
    """What a DAG event says of the LM event that it came from."""
    return {
        "event_id": pdu.event_id,
        "room_id": pdu.room_id,
        "sender": pdu.sender,
        "origin_server_ts": pdu.origin_server_ts,
        "hashes": dict(pdu.fields.get("hashes", {})),
        "signatures": {server: dict(keys) for server, keys in pdu.signatures.items()},
    }


def mark_of_dag(event: DagEvent) -> JsonObject:
    """What an LM event says of the DAG event that it came from."""
    return {
        "event_id": event.event_id,
        "room_id": event.room_id,
        "sender": event.sender,
        "origin_server_ts": event.origin_server_ts,
        "hashes": dict(event.hashes),
        "signatures": {server: dict(keys) for server, keys in event.signatures.items()},
    }


def correction_of(event_id: str, room_id: str) -> JsonObject:
    """What an event says that only brings its side back in line with an event of the other."""
    return {"event_id": event_id, "room_id": room_id, "correction": True}


def marked(content: Mapping[str, Any], room_id: str) -> str | None:
    """The event ID of the other side's room that a mark of ours names; the caller knows that the mark is ours."""
    mark = content.get(SOURCE)
    if not isinstance(mark, Mapping) or mark.get("room_id") != room_id:
        return None
    event_id = mark.get("event_id")
    return event_id if isinstance(event_id, str) else None


def shown(user_ids: Collection[str]) -> str:
    """Some user IDs, for a message."""
    return ", ".join(sorted(user_ids)[:5])
