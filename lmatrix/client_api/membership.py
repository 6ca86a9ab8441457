"""Who is in a room: invite, join, knock, leave, forget, kick, ban, unban (Client-Server API v1.11, "Room membership").

Owns: the endpoints that change a membership. The auth rules decide in the room; what is checked here is only what the
Client-Server API asks beyond them (a kick is for somebody who is in the room, an unban for somebody who is banned).
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix import ids
from lmatrix.client_api.aliases import room_named
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import ClientApiError, invalid_param, unknown
from lmatrix.client_api.fields import reason_of, room_id_in, user_id_in
from lmatrix.client_api.interfaces import LocalUsers, TimelineStore
from lmatrix.directory.aliases import Aliases
from lmatrix.errors import Forbidden, InvalidIdentifier
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database

MAX_VIA = 20
"""Servers that a client may name for one join."""


class Membership:
    """The membership endpoints.

    Args:
        rooms: carries them out.
        aliases: where they lead.
        database, timeline: for the present membership of whom it concerns.
    """

    def __init__(self, rooms: LocalUsers, aliases: Aliases, database: Database, timeline: TimelineStore) -> None:
        self._rooms = rooms
        self._aliases = aliases
        self._database = database
        self._timeline = timeline

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("POST", "/rooms/{roomId}/invite", self._invite, "invite"),
            Endpoint("POST", "/rooms/{roomId}/join", self._join_room, "join"),
            Endpoint("POST", "/join/{roomIdOrAlias}", self._join, "join"),
            Endpoint("POST", "/knock/{roomIdOrAlias}", self._knock, "knock"),
            Endpoint("POST", "/rooms/{roomId}/leave", self._leave, "leave"),
            Endpoint("POST", "/rooms/{roomId}/forget", self._forget, "forget"),
            Endpoint("POST", "/rooms/{roomId}/kick", self._kick, "kick"),
            Endpoint("POST", "/rooms/{roomId}/ban", self._ban, "ban"),
            Endpoint("POST", "/rooms/{roomId}/unban", self._unban, "unban"),
            Endpoint("GET", "/joined_rooms", self._joined_rooms, "joined_rooms"),
        )

    async def _invite(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        if "user_id" not in body and "medium" in body:
            raise ClientApiError(403, "M_THREEPID_DENIED", "This server invites by user ID only")
        await self._rooms.invite(room_id, requester.user_id, user_id_in(body), reason_of(body))
        return {}

    async def _join_room(self, request: JsonRequest, requester: Requester) -> Answer:
        body, via = request.json_or_empty(), _servers_named(request)
        room_id = room_id_in(request.params)
        return {"room_id": await self._rooms.join(requester.user_id, room_id, via, reason_of(body))}

    async def _join(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, via, reason = await self._asked_for(request)
        return {"room_id": await self._rooms.join(requester.user_id, room_id, via, reason)}

    async def _knock(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, via, reason = await self._asked_for(request)
        return {"room_id": await self._rooms.knock(requester.user_id, room_id, via, reason)}

    async def _asked_for(self, request: JsonRequest) -> tuple[str, Sequence[str], str | None]:
        """The room, the servers to go through, and the reason; nobody is asked before all of it has been read."""
        reason, via = reason_of(request.json_or_empty()), _servers_named(request)
        room = await room_named(request, self._aliases)
        return room.room_id, [*room.servers, *via], reason

    async def _leave(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json_or_empty()
        await self._rooms.leave(requester.user_id, room_id, reason_of(body))
        return {}

    async def _forget(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id = room_id_in(request.params)
        membership = await self._membership(room_id, requester.user_id)
        if membership in ("join", "invite", "knock"):
            raise unknown(f"{requester.user_id} is still in the room ({membership}); leave it first")
        await self._database.write(lambda tx: self._timeline.forget_room(tx, requester.user_id, room_id))
        return {}

    async def _kick(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        target = user_id_in(body)
        if await self._membership(room_id, target) not in ("join", "invite", "knock"):
            raise Forbidden(f"{target} is not in the room")
        return await self._set(room_id, requester, target, "leave", body)

    async def _ban(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        return await self._set(room_id, requester, user_id_in(body), "ban", body)

    async def _unban(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        target = user_id_in(body)
        if await self._membership(room_id, target) != "ban":
            raise Forbidden(f"{target} is not banned from the room")
        return await self._set(room_id, requester, target, "leave", body)

    async def _joined_rooms(self, request: JsonRequest, requester: Requester) -> Answer:
        rooms = await self._database.read(lambda tx: self._timeline.rooms_of_user(tx, requester.user_id))
        return {"joined_rooms": sorted(room.room_id for room in rooms if room.membership == "join")}

    async def _set(self, room_id: str, requester: Requester, target: str, membership: str, body: JsonObject) -> Answer:
        await self._rooms.membership(room_id, requester.user_id, target, membership, reason_of(body))
        return {}

    async def _membership(self, room_id: str, user_id: str) -> str | None:
        """``None`` for somebody who never had to do with the room."""
        found = await self._database.read(lambda tx: self._timeline.user_in_room(tx, room_id, user_id))
        return None if found is None else found.membership


def _servers_named(request: JsonRequest) -> Sequence[str]:
    """The servers to join through: ``via``, and the older ``server_name``; each once, in order."""
    named = [*request.query.get("via", ()), *request.query.get("server_name", ())]
    servers: list[str] = []
    for name in named:
        try:
            server = ids.server_name(name)
        except InvalidIdentifier as problem:
            raise invalid_param("via", str(problem)) from problem
        if server not in servers:
            servers.append(server)
    if len(servers) > MAX_VIA:
        raise invalid_param("via", f"at most {MAX_VIA} servers")
    return servers
