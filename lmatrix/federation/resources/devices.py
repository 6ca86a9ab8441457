"""``GET /user/:userId/device/:deviceId`` and ``POST /user/keys/claim`` (I-D "Device Info Publishing", "One Time Key
Claiming"), and ``GET /user/devices/:userId`` (Server-Server API v1.11, "Device Management").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lmatrix import ids
from lmatrix.canonical_json import parse_object
from lmatrix.devices.key_claims import Wanted, read_claims
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest


class KnowsDevices(Protocol):
    """See :class:`lmatrix.devices.key_queries.DeviceDirectory`."""

    async def local_device(self, user_id: str, device_id: str) -> bytes: ...

    async def local_devices(self, user_id: str) -> tuple[int, Mapping[str, bytes]]: ...


class HandsKeysOut(Protocol):
    """See :class:`lmatrix.devices.key_claims.KeyClaims`."""

    async def hand_out(self, wanted: Wanted) -> JsonObject: ...


class DevicesResource:
    """Tells of local users' devices.

    Args:
        admission: the door.
        directory: which devices there are.
        claims: their one-time keys.
    """

    def __init__(self, admission: Admission, directory: KnowsDevices, claims: HandsKeysOut) -> None:
        self._admission = admission
        self._directory = directory
        self._claims = claims

    async def device(self, request: JsonRequest) -> JsonAnswer:
        """The device object, as the device signed it."""
        await self._admission.admit_bare(request)
        user_id = ids.user_id(request.params["userId"])
        return JsonAnswer(200, await self._directory.local_device(user_id, request.params["deviceId"]))

    async def devices(self, request: JsonRequest) -> JsonObject:
        """All of a user's."""
        await self._admission.admit_bare(request)
        user_id = ids.user_id(request.params["userId"])
        number, objects = await self._directory.local_devices(user_id)
        devices = [{"device_id": device_id, "keys": parse_object(device)} for device_id, device in objects.items()]
        return {"user_id": user_id, "stream_id": number, "devices": devices}

    async def claim(self, request: JsonRequest) -> JsonObject:
        """Keys, which nobody else is given from then on."""
        _, body = await self._admission.admit(request)
        return {"one_time_keys": await self._claims.hand_out(read_claims(body))}
