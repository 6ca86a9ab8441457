"""``/mirrors``: rooms that are on a full Matrix server as well, where this one stands in front of one."""

from __future__ import annotations

from twisted.logger import Logger

from lmatrix import ids
from lmatrix.admin_api.interfaces import OperatesMirrors
from lmatrix.errors import BadRequest
from lmatrix.http.messages import JsonObject, JsonRequest

MAX_INVITEES = 100


class MirrorsResource:
    """Shows mirrors, begins them and ends them.

    Args:
        mirrors: carries it out.
    """

    log = Logger()

    def __init__(self, mirrors: OperatesMirrors) -> None:
        self._mirrors = mirrors

    async def get_all(self, _request: JsonRequest) -> JsonObject:
        """``GET /mirrors``: ``{"mirrors": […]}``, see :mod:`lmatrix.replication.operating`."""
        return {"mirrors": list(await self._mirrors.all_mirrors())}

    async def compare(self, request: JsonRequest) -> JsonObject:
        """``GET /mirrors/{roomId}/comparison``: both sides' state, where it differs; by either side's room ID."""
        return await self._mirrors.compare(request.params["roomId"])

    async def open(self, request: JsonRequest) -> JsonObject:
        """``POST /mirrors``: ``{"dag_room_id", "user_id", "invite": […]}`` offers a room of the full server, in the
        name of a user who is in it; ``{"room_id", "user_id", "via": […]}`` has a user invited into a linearized one.
        """
        body = request.json()
        user_id = ids.user_id(_text(body, "user_id"))
        self.log.info("the operator opens a mirror for {user_id}: {body}", user_id=user_id, body=body)
        if "dag_room_id" in body:
            dag_room_id = _text(body, "dag_room_id")
            room_id = await self._mirrors.open_room(dag_room_id, user_id, _texts(body, "invite"))
        else:
            room_id = ids.room_id(_text(body, "room_id"))
            dag_room_id = await self._mirrors.enter_room(user_id, room_id, _texts(body, "via"))
        return {"room_id": room_id, "dag_room_id": dag_room_id}

    async def stop(self, request: JsonRequest) -> JsonObject:
        """``POST /mirrors/{roomId}/stop`` with ``{"reason": …}``, which both rooms are told."""
        reason = _text(request.json(), "reason")
        room_id = request.params["roomId"]
        self.log.info("the operator stops the mirror of {room_id}: {reason}", room_id=room_id, reason=reason)
        await self._mirrors.stop_mirror(room_id, reason)
        return {}


def _text(body: JsonObject, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} must be a string")
    return value


def _texts(body: JsonObject, name: str) -> list[str]:
    values = body.get(name, [])
    if not isinstance(values, list) or len(values) > MAX_INVITEES or not all(isinstance(one, str) for one in values):
        raise BadRequest(f"{name} must be a list of up to {MAX_INVITEES} strings")
    return values
