"""``event``, ``state``, ``state_ids`` and ``backfill`` (I-D "Event and State APIs"), and ``event_auth``
(Server-Server API v1.11, "Retrieving event authorization information").
"""

from __future__ import annotations

from typing import Protocol

from lmatrix import ids
from lmatrix.errors import BadRequest
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonRequest

MAX_LIMIT = 100
"""Events in one answer to ``backfill``; a larger ``limit`` is brought down to it."""


class ReadsHistory(Protocol):
    """See :class:`lmatrix.rooms.history.History`; every answer is canonical JSON."""

    async def event(self, origin: str, event_id: str) -> bytes: ...

    async def state(self, origin: str, room_id: str, event_id: str) -> bytes: ...

    async def state_ids(self, origin: str, room_id: str, event_id: str) -> bytes: ...

    async def backfill(self, origin: str, room_id: str, event_id: str, limit: int) -> bytes: ...

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> bytes: ...


class EventsResource:
    """Answers reads.

    Args:
        admission: the door.
        history: what there is to read.
    """

    def __init__(self, admission: Admission, history: ReadsHistory) -> None:
        self._admission = admission
        self._history = history

    async def event(self, request: JsonRequest) -> JsonAnswer:
        """``GET /event/:eventId``."""
        origin = await self._admission.admit_bare(request)
        return JsonAnswer(200, await self._history.event(origin, ids.event_id(request.params["eventId"])))

    async def state(self, request: JsonRequest) -> JsonAnswer:
        """``GET /state/:roomId?event_id=…``."""
        origin = await self._admission.admit_bare(request)
        room_id, event_id = _room(request), _event_id(request)
        return JsonAnswer(200, await self._history.state(origin, room_id, event_id))

    async def state_ids(self, request: JsonRequest) -> JsonAnswer:
        """``GET /state_ids/:roomId?event_id=…``."""
        origin = await self._admission.admit_bare(request)
        room_id, event_id = _room(request), _event_id(request)
        return JsonAnswer(200, await self._history.state_ids(origin, room_id, event_id))

    async def backfill(self, request: JsonRequest) -> JsonAnswer:
        """``GET /backfill/:roomId?v=…&limit=…``.

        A DAG-capable server may give several ``v``. In a list one does: the first.
        """
        origin = await self._admission.admit_bare(request)
        starts = request.query.get("v")
        if not starts:
            raise BadRequest("query parameter v is required")
        room_id, event_id = _room(request), ids.event_id(starts[0])
        if request.query_one("limit") is None:
            raise BadRequest("query parameter limit is required")
        limit = request.query_int("limit", MAX_LIMIT, minimum=1, maximum=MAX_LIMIT)
        return JsonAnswer(200, await self._history.backfill(origin, room_id, event_id, limit))

    async def event_auth(self, request: JsonRequest) -> JsonAnswer:
        """``GET /event_auth/:roomId/:eventId``."""
        origin = await self._admission.admit_bare(request)
        room_id, event_id = _room(request), ids.event_id(request.params["eventId"])
        return JsonAnswer(200, await self._history.event_auth(origin, room_id, event_id))


def _room(request: JsonRequest) -> str:
    return ids.room_id(request.params["roomId"])


def _event_id(request: JsonRequest) -> str:
    value = request.query_one("event_id")
    if value is None:
        raise BadRequest("query parameter event_id is required")
    return ids.event_id(value)
