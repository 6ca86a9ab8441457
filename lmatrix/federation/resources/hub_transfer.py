"""``org.lmatrix.hub``: offering a room to its next hub, and asking for one (PROTOCOL notes "Hub transfer").

These endpoints are ours, and have one form only. A transaction ID makes a repetition recognisable in logs; repeating
either
request is harmless by itself: an offer is answered with another signature that is worth no more than the first, and a
room that has moved is not its old hub's to move again.
"""

from __future__ import annotations

from typing import Protocol

from lmatrix.errors import BadRequest
from lmatrix.events.forms import Lpdu
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest


class TakesOffers(Protocol):
    """See :class:`lmatrix.rooms.candidacy.Candidacy`."""

    async def offered(self, origin: str, offer: JsonObject) -> Lpdu:
        """Our signed ``m.room.hub`` event."""


class GivesRooms(Protocol):
    """See :class:`lmatrix.rooms.transfer.HubTransfer`."""

    async def requested(self, origin: str, room_id: str, user_id: str) -> str:
        """The event ID of the ``m.room.hub`` event, once the room has moved."""


class HubTransferResource:
    """Moves rooms.

    Args:
        admission: the door.
        candidacy, transfer: carry it out.
    """

    def __init__(self, admission: Admission, candidacy: TakesOffers, transfer: GivesRooms) -> None:
        self._admission = admission
        self._candidacy = candidacy
        self._transfer = transfer

    async def offer(self, request: JsonRequest) -> JsonAnswer:
        """Answer a hub's offer: ``{"event": <LPDU>}``."""
        origin, body = await self._admission.admit(request)
        lpdu = await self._candidacy.offered(origin, body)
        return JsonAnswer(200, b'{"event":' + lpdu.canonical + b"}")

    async def request(self, request: JsonRequest) -> JsonObject:
        """Answer a participant that asks for the room, for one of its users: ``{"event_id": …}``."""
        origin, body = await self._admission.admit(request)
        room_id, user_id = body.get("room_id"), body.get("user_id")
        if not isinstance(room_id, str) or not isinstance(user_id, str):
            raise BadRequest("room_id and user_id must be strings")
        return {"event_id": await self._transfer.requested(origin, room_id, user_id)}
