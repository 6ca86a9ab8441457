"""``/held_rooms`` and ``/rooms/{roomId}/go_on``: rooms that are being recovered after a restoration."""

from __future__ import annotations

from lmatrix import ids
from lmatrix.admin_api.interfaces import RecoversRooms
from lmatrix.admin_api.pages import after_name, limit_of, page, room_id_of
from lmatrix.errors import BadRequest, InvalidIdentifier
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.recovery import recovery_json

MAX_SERVERS = 1000


class RecoveryResource:
    """Shows what waits for whom, and lets it go on.

    Args:
        recovery: recovers rooms.
    """

    def __init__(self, recovery: RecoversRooms) -> None:
        self._recovery = recovery

    async def get_all(self, request: JsonRequest) -> JsonObject:
        """``GET /held_rooms``: ``{"held_rooms": [{"room_id", "since_ts", "reason", "answered", "waiting_for",
        "without"}, …]}``: ``waiting_for`` has a reason for each server.
        """
        after, limit = after_name(request), limit_of(request)
        held = [one for one in self._recovery.all_held() if one.held.room_id > after][:limit]
        return page(
            "held_rooms", [recovery_json(one) for one in held], held[-1].held.room_id if len(held) == limit else None
        )

    async def go_on(self, request: JsonRequest) -> JsonObject:
        """``POST /rooms/{roomId}/go_on`` with ``{"without": [<server>, …]}``: these servers will not come back; what
        they alone hold is lost. ``{}``.
        """
        room_id, without = room_id_of(request), request.json().get("without")
        if not isinstance(without, list) or len(without) > MAX_SERVERS:
            raise BadRequest("without must be a list of servers")
        try:
            servers = {ids.server_name(server) for server in without}
        except InvalidIdentifier as error:
            raise BadRequest(f"without: {error}") from error
        await self._recovery.go_on(room_id, servers)
        return {}
