"""``GET`` and ``POST /publicRooms`` (Server-Server API v1.11, "Public Room Directory")."""

from __future__ import annotations

from typing import Protocol

from lmatrix.directory.public_rooms import DEFAULT_PAGE, MAX_PAGE, RoomQuery
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonObject, JsonRequest


class ListsRooms(Protocol):
    """See :class:`lmatrix.directory.public_rooms.PublicRooms`."""

    async def page(self, query: RoomQuery) -> JsonObject: ...


class PublicRoomsResource:
    """Shows other servers the list.

    Args:
        admission: the door.
        rooms: the list.
    """

    def __init__(self, admission: Admission, rooms: ListsRooms) -> None:
        self._admission = admission
        self._rooms = rooms

    async def get(self, request: JsonRequest) -> JsonObject:
        """``GET /publicRooms?limit=…&since=…``."""
        await self._admission.admit_bare(request)
        limit = request.query_int("limit", DEFAULT_PAGE, minimum=0, maximum=MAX_PAGE)
        network = request.query_one("third_party_instance_id")
        return await self._rooms.page(RoomQuery.of(limit, request.query_one("since"), nowhere=bool(network)))

    async def post(self, request: JsonRequest) -> JsonObject:
        """``POST /publicRooms``, with a filter."""
        _, body = await self._admission.admit(request)
        return await self._rooms.page(RoomQuery.read(body))
