"""Typing, and having read (Client-Server API v1.11, "Typing Notifications", "Receipts", "Fully read markers").

Owns: ``PUT …/typing``, ``POST …/receipt`` and ``POST …/read_markers``.
"""

from __future__ import annotations

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import bad_json, invalid_param, missing_param
from lmatrix.client_api.fields import optional_string, room_id_in
from lmatrix.devices.interfaces import SharingStore
from lmatrix.devices.receipts import FULLY_READ, KINDS, Mark, Receipts
from lmatrix.devices.typing_notices import TypingNotices
from lmatrix.errors import Forbidden, InvalidIdentifier
from lmatrix.http.messages import JsonRequest
from lmatrix.rooms.interfaces import Database

DEFAULT_TYPING_MS = 30_000


class Reading:
    """The endpoints.

    Args:
        typing, receipts: carry them out.
        database, sharing: who is in which room.
    """

    def __init__(self, typing: TypingNotices, receipts: Receipts, database: Database, sharing: SharingStore) -> None:
        self._typing = typing
        self._receipts = receipts
        self._database = database
        self._sharing = sharing

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("PUT", "/rooms/{roomId}/typing/{userId}", self._type, "typing"),
            Endpoint("POST", "/rooms/{roomId}/receipt/{receiptType}/{eventId}", self._receipt, "receipt"),
            Endpoint("POST", "/rooms/{roomId}/read_markers", self._read_markers, "read_markers"),
        )

    async def _type(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        if request.params["userId"] != requester.user_id:
            raise Forbidden("Nobody types for somebody else")
        typing, timeout_ms = body.get("typing"), body.get("timeout", DEFAULT_TYPING_MS)
        if not isinstance(typing, bool):
            raise missing_param("typing") if typing is None else bad_json("typing", "true or false")
        if type(timeout_ms) is not int or timeout_ms < 0:
            raise bad_json("timeout", "a number of milliseconds")
        if not await self._database.read(lambda tx: self._sharing.is_joined(tx, room_id, requester.user_id)):
            raise Forbidden(f"{requester.user_id} is not in {room_id}")
        self._typing.set_local(room_id, requester.user_id, typing=typing, timeout_ms=timeout_ms)
        return {}

    async def _receipt(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, kind = room_id_in(request.params), request.params["receiptType"]
        if kind not in KINDS:
            raise invalid_param("receiptType", "must be one of " + ", ".join(sorted(KINDS)))
        thread_id = optional_string(request.json_or_empty(), "thread_id")
        if thread_id is not None:
            if kind == FULLY_READ:
                raise invalid_param("thread_id", f"{FULLY_READ} knows no threads")
            if thread_id != "main":
                thread_id = _event_id(thread_id, "thread_id")
        mark = Mark(kind, _event_id(request.params["eventId"], "eventId"), thread_id)
        await self._receipts.mark(room_id, requester.user_id, [mark])
        return {}

    async def _read_markers(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, body = room_id_in(request.params), request.json()
        given = [(kind, optional_string(body, kind)) for kind in sorted(KINDS)]
        marks = [Mark(kind, _event_id(event_id, kind)) for kind, event_id in given if event_id is not None]
        if marks:
            await self._receipts.mark(room_id, requester.user_id, marks)
        return {}


def _event_id(value: str, name: str) -> str:
    try:
        return ids.event_id(value)
    except InvalidIdentifier as problem:
        raise invalid_param(name, str(problem)) from problem
