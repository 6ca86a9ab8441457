"""``PUT /sendToDevice`` (Client-Server API v1.11, "Send-to-Device messaging")."""

from __future__ import annotations

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import bad_json, invalid_param, missing_param
from lmatrix.client_api.fields import optional_object, user_id
from lmatrix.devices.to_device import EVERY_DEVICE, MAX_MESSAGES, SendRequest, ToDeviceSender
from lmatrix.errors import InvalidIdentifier
from lmatrix.http.messages import JsonObject, JsonRequest

MAX_BODY = 1024 * 1024


class SendToDevice:
    """The endpoint.

    Args:
        sender: carries it out.
    """

    def __init__(self, sender: ToDeviceSender) -> None:
        self._sender = sender

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (Endpoint("PUT", "/sendToDevice/{eventType}/{txnId}", self._put, "send_to_device", MAX_BODY),)

    async def _put(self, request: JsonRequest, requester: Requester) -> Answer:
        for name in ("eventType", "txnId"):
            if len(request.params[name].encode("utf-8", "surrogatepass")) > ids.MAX_ID_BYTES:
                raise invalid_param(name, f"longer than {ids.MAX_ID_BYTES} bytes")
        asked = optional_object(request.json(), "messages")
        if asked is None:
            raise missing_param("messages")
        messages = {user_id(target, "messages"): _messages(devices) for target, devices in asked.items()}
        if sum(map(len, messages.values())) > MAX_MESSAGES:
            raise invalid_param("messages", f"at most {MAX_MESSAGES} at a time")
        await self._sender.send(
            SendRequest(
                sender=requester.user_id,
                device_id=requester.device_id,
                txn_id=request.params["txnId"],
                message_type=request.params["eventType"],
                messages=messages,
            )
        )
        return {}


def _messages(devices: object) -> dict[str, JsonObject]:
    if not isinstance(devices, dict) or not all(isinstance(message, dict) for message in devices.values()):
        raise bad_json("messages", "an object of objects of messages")
    for device_id in devices:
        if device_id != EVERY_DEVICE:
            try:
                ids.device_id(device_id)
            except InvalidIdentifier as problem:
                raise invalid_param("messages", str(problem)) from problem
    return devices
