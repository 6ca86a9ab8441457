"""Saying how far we hold a room.

Owns: :class:`HeadSpeaker`, who may hear of a room's head, and the answer to whoever asks.

Invariant: only the room's hub, and servers with a joined user as of that very head, are told. Whatever the room's
history visibility is, they may know of every event since they came, and the head is one.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from lmatrix.errors import NotFound
from lmatrix.rooms.head_statements import HeadStatement
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.room import Room


class HeadSpeaker:
    """States heads.

    Args:
        identity: who signs.
        rooms: whose heads.
        policies: may block a room.
        clock: the time.
    """

    def __init__(self, identity: ServerIdentity, rooms: Rooms, policies: Policies, clock: IReactorTime) -> None:
        self._identity = identity
        self._rooms = rooms
        self._policies = policies
        self._clock = clock

    async def tell(self, origin: str, room_id: str) -> JsonObject:
        """Answer another server that asks how far we hold a room.

        Raises:
            NotFound: we are not in the room, or the asker is not.
            Forbidden: the room is blocked here.
        """
        await self._policies.check_room(room_id)
        room = await self._rooms.load(room_id)
        if room is None or room.head_event_id is None or not room.is_participating or not _may_hear(room, origin):
            raise NotFound("this server is not in the room, or yours is not")
        return self.statement(room, room.head_event_id).json

    def statement(self, room: Room, head: str) -> HeadStatement:
        """Our statement about a room as it is now."""
        now_ms = int(self._clock.seconds() * 1000)
        return HeadStatement.make(self._identity, room.room_id, head, room.head_position, now_ms)


def _may_hear(room: Room, server: str) -> bool:
    return room.joined_per_server[server] > 0 or room.hub_server == server
