"""``org.lmatrix.head``: how far this server holds a room. The endpoint is ours, and has one form only."""

from __future__ import annotations

from typing import Protocol

from lmatrix import ids
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonObject, JsonRequest


class TellsHeads(Protocol):
    """See :class:`lmatrix.rooms.stating.HeadSpeaker`."""

    async def tell(self, origin: str, room_id: str) -> JsonObject:
        """Our head statement."""


class HeadsResource:
    """Answers with head statements.

    Args:
        admission: the door.
        heads: makes them.
    """

    def __init__(self, admission: Admission, heads: TellsHeads) -> None:
        self._admission = admission
        self._heads = heads

    async def get(self, request: JsonRequest) -> JsonObject:
        """``GET …/org.lmatrix.head/:roomId``: the signed statement."""
        origin = await self._admission.admit_bare(request)
        return await self._heads.tell(origin, ids.room_id(request.params["roomId"]))
