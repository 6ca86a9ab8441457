"""The rooms that this server shows to everybody (Client-Server API v1.11, "Listing rooms").

Owns: the endpoints. Lists of other servers are not fetched.
"""

from __future__ import annotations

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint, OpenEndpoint
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import optional_string, query_int, room_id_in
from lmatrix.directory.public_rooms import DEFAULT_PAGE, MAX_PAGE, PublicRooms, RoomQuery
from lmatrix.http.messages import JsonRequest

_VISIBILITIES = {"public": True, "private": False}


class PublicRoomEndpoints:
    """Shows the list, and changes it.

    Args:
        server_name: ours.
        rooms: carries it out.
    """

    def __init__(self, server_name: str, rooms: PublicRooms) -> None:
        self._server_name = server_name
        self._rooms = rooms

    def endpoints(self) -> tuple[Endpoint | OpenEndpoint, ...]:
        """What it answers."""
        return (
            OpenEndpoint("GET", "/publicRooms", self._get, "public_rooms"),
            Endpoint("POST", "/publicRooms", self._search, "search_public_rooms"),
            OpenEndpoint("GET", "/directory/list/room/{roomId}", self._visibility, "get_visibility"),
            Endpoint("PUT", "/directory/list/room/{roomId}", self._set_visibility, "put_visibility"),
        )

    async def _get(self, request: JsonRequest) -> Answer:
        self._check_server(request)
        limit = query_int(request, "limit", DEFAULT_PAGE, minimum=0, maximum=MAX_PAGE)
        return await self._rooms.page(RoomQuery.of(limit, request.query_one("since")))

    async def _search(self, request: JsonRequest, requester: Requester) -> Answer:
        self._check_server(request)
        return await self._rooms.page(RoomQuery.read(request.json_or_empty()))

    async def _visibility(self, request: JsonRequest) -> Answer:
        public = await self._rooms.is_public(room_id_in(request.params))
        return {"visibility": "public" if public else "private"}

    async def _set_visibility(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, wanted = room_id_in(request.params), optional_string(request.json_or_empty(), "visibility")
        if wanted is not None and wanted not in _VISIBILITIES:
            raise invalid_param("visibility", "must be public or private")
        await self._rooms.set_public(room_id, requester.user_id, public=_VISIBILITIES[wanted or "public"])
        return {}

    def _check_server(self, request: JsonRequest) -> None:
        server = request.query_one("server")
        if server is not None and server != self._server_name:
            raise invalid_param("server", "this server shows its own list only")
