"""``make_join``, ``make_leave``, ``make_knock`` and ``send_join``, ``send_leave``, ``send_knock``.

Owns: reading what the "make and send" handshake asks for (I-D "Make and Send Handshake").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lmatrix import ids
from lmatrix.errors import BadRequest
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.routes import Handler

VERSIONS_WITHOUT_VER = ("1",)
"""What an asker without ``ver`` supports, as in Matrix: room version 1 and nothing else."""

MAX_VERSIONS = 100
"""Room versions that an asker may list."""


class ShakesHands(Protocol):
    """See :class:`lmatrix.rooms.handshakes.Handshakes`."""

    async def make(
        self, origin: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> JsonObject:
        """The template of a membership event."""

    async def send(self, origin: str, membership: str, transaction_id: str, body: JsonObject) -> bytes:
        """Take the LPDU made from a template; canonical JSON of the answer."""


class MembershipResource:
    """Answers handshakes.

    Args:
        admission: the door.
        handshakes: carries them out.
    """

    def __init__(self, admission: Admission, handshakes: ShakesHands) -> None:
        self._admission = admission
        self._handshakes = handshakes

    def make(self, membership: str) -> Handler:
        """The handler of ``GET /make_CHANGE/:roomId/:userId`` for a change to ``membership``."""

        async def handler(request: JsonRequest) -> JsonObject:
            origin = await self._admission.admit_bare(request)
            room_id = ids.room_id(request.params["roomId"])
            user_id = ids.user_id(request.params["userId"])
            return await self._handshakes.make(origin, membership, room_id, user_id, _versions(request, membership))

        return handler

    def send(self, membership: str) -> Handler:
        """The handler of ``POST /send_CHANGE/:txnId`` for a change to ``membership``."""

        async def handler(request: JsonRequest) -> JsonAnswer:
            origin, body = await self._admission.admit(request)
            return JsonAnswer(200, await self._handshakes.send(origin, membership, request.params["txnId"], body))

        return handler


def _versions(request: JsonRequest, membership: str) -> Sequence[str]:
    """The room versions in ``ver``, which may be repeated; ``make_leave`` has no such parameter."""
    if membership == "leave":
        return ()
    versions = request.query.get("ver", VERSIONS_WITHOUT_VER)
    if len(versions) > MAX_VERSIONS:
        raise BadRequest(f"ver has {len(versions)} values; {MAX_VERSIONS} are allowed")
    return tuple(versions)
