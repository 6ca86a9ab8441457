"""``/rooms``: what rooms there are, and moving one to another hub."""

from __future__ import annotations

from twisted.logger import Logger

from lmatrix import ids
from lmatrix.admin_api.interfaces import HearsHeads, LoadsRooms, MovesRooms, RecoversRooms
from lmatrix.admin_api.pages import after_name, limit_of, page, room_id_of
from lmatrix.errors import BadRequest, InvalidIdentifier, NotFound, UnsupportedRoomVersion
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.overview import OverviewStore, RoomOverview
from lmatrix.rooms.positions import Position
from lmatrix.rooms.recovery import recovery_json


class RoomsResource:
    """Shows and moves rooms.

    Args:
        server_name: ours.
        database, overview: what is shown.
        rooms, transfer: who moves rooms.
        recovery: who recovers them.
        listener: who hears how far others hold them.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        database: Database,
        overview: OverviewStore,
        rooms: LoadsRooms,
        transfer: MovesRooms,
        recovery: RecoversRooms,
        listener: HearsHeads,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._overview = overview
        self._rooms = rooms
        self._transfer = transfer
        self._recovery = recovery
        self._listener = listener

    async def get_all(self, request: JsonRequest) -> JsonObject:
        """``GET /rooms``: ``{"rooms": [{"room_id", "room_version", "hub", "role", "head", "joined"}, …]}``.

        ``head`` is ``{"position", "place", "event_id"}``: the last event's place in this server's log, as a number and
        for people; ``joined`` is the number of joined users of each server; ``role`` is this server's: ``hub``,
        ``participant``, or ``left``.
        """
        after, limit = after_name(request), limit_of(request)
        rooms = await self._database.read(lambda tx: self._overview.rooms_after(tx, after, limit))
        return page("rooms", [self._shown(room) for room in rooms], rooms[-1].room_id if len(rooms) == limit else None)

    async def get(self, request: JsonRequest) -> JsonObject:
        """``GET /rooms/{roomId}``: one room, and besides what the list says of it ``pending_lpdus``, ``evidence``
        (numbers), ``candidates``: the servers to which it could be moved now, the likeliest first; ``recovery``: as in
        the list of held rooms, ``null`` when it is not held; and ``forked``: in words, when this server has found out,
        since it was started, that it gave the room two histories; and ``heads``: what other servers said lately of how
        far they hold the room, ``[{"server", "head", "ts", "agrees"}, …]``, where ``agrees`` says whether it is held
        here, too (``null``: not known yet).
        """
        room_id = room_id_of(request)
        found, backlog = await self._database.read(
            lambda tx: (self._overview.room(tx, room_id), self._overview.backlog(tx, room_id))
        )
        if found is None:
            raise NotFound(f"this server does not know the room {room_id}")
        recovering = self._recovery.status(room_id)
        return {
            **self._shown(found),
            "pending_lpdus": backlog.pending_lpdus,
            "evidence": backlog.evidence,
            "candidates": await self._candidates(room_id),
            "recovery": None if recovering is None else recovery_json(recovering),
            "forked": self._recovery.forked(room_id),
            "heads": [
                {
                    "server": heard.statement.server,
                    "head": heard.statement.head,
                    "ts": heard.statement.ts,
                    "agrees": heard.agrees,
                }
                for heard in self._listener.last_heard(room_id)
            ],
        }

    async def transfer(self, request: JsonRequest) -> JsonObject:
        """``POST /rooms/{roomId}/transfer`` with ``{"server": …}``: make that server the hub; ``{"event_id": …}``.

        It answers when the room has moved, or why it has not. The other server may have to fetch and check a long
        history first, so that this can take some minutes.
        """
        room_id = room_id_of(request)
        server = request.json().get("server")
        try:
            candidate = ids.server_name(server)
        except InvalidIdentifier as error:
            raise BadRequest(f"server: {error}") from error
        self.log.info(
            "{room_id}: the operator moves the room to {server} (asked from {address})",
            room_id=room_id,
            server=candidate,
            address=request.client_address,
        )
        return {"event_id": await self._transfer.transfer(room_id, candidate)}

    async def _candidates(self, room_id: str) -> list[str]:
        try:
            room = await self._rooms.load(room_id)
        except UnsupportedRoomVersion:
            return []
        if room is None or not room.is_hub or not room.version.hub_is_state:
            return []
        return self._transfer.candidates(room)

    def _shown(self, room: RoomOverview) -> JsonObject:
        return {
            "room_id": room.room_id,
            "room_version": room.room_version,
            "hub": room.hub_server(),
            "role": room.role_of(self._server_name),
            "head": {
                "position": room.head_position,
                "place": str(Position.of(room.head_position)),
                "event_id": room.head_event_id,
            },
            "joined": dict(room.joined),
        }
