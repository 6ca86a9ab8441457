"""``PUT /send/:txnId``: transactions of other servers (I-D "Sending Events"). Not rate-limited."""

from __future__ import annotations

from typing import Protocol

from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest


class Receives(Protocol):
    """See :class:`lmatrix.rooms.inbound.TransactionReceiver`."""

    async def receive(self, origin: str, transaction_id: str, body: JsonObject, raw: bytes | None = None) -> bytes:
        """Carry out a transaction, ``raw`` being its body as it came; canonical JSON of the answer."""


class SendResource:
    """Takes transactions.

    Args:
        admission: the door.
        receiver: carries them out.
    """

    def __init__(self, admission: Admission, receiver: Receives) -> None:
        self._admission = admission
        self._receiver = receiver

    async def put(self, request: JsonRequest) -> JsonAnswer:
        """Answer ``{"failed_pdus": …}`` once everything accepted is on disk."""
        origin, body = await self._admission.admit(request, limited=False)
        return JsonAnswer(200, await self._receiver.receive(origin, request.params["txnId"], body, request.body))
