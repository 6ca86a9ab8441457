"""``POST /invite/:txnId``: invites, to the hub by a participant or to the target's server by the hub (I-D
"Invites")."""

from __future__ import annotations

from typing import Protocol

from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest


class TakesInvites(Protocol):
    """See :class:`lmatrix.rooms.handshakes.Handshakes`."""

    async def invite(self, origin: str, transaction_id: str, body: JsonObject) -> bytes:
        """Take an invite; canonical JSON of the answer."""


class InviteResource:
    """Takes invites.

    Args:
        admission: the door.
        handshakes: carries them out.
    """

    def __init__(self, admission: Admission, handshakes: TakesInvites) -> None:
        self._admission = admission
        self._handshakes = handshakes

    async def post(self, request: JsonRequest) -> JsonAnswer:
        """Answer with the signed event."""
        origin, body = await self._admission.admit(request)
        return JsonAnswer(200, await self._handshakes.invite(origin, request.params["txnId"], body))
