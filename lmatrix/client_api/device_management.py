"""A user's devices (Client-Server API v1.11, "Device Management").

Owns: ``/devices`` and ``/delete_devices``. Removing a device that is not logged out by itself asks for the password.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.devices import MAX_DISPLAY_NAME_CHARACTERS
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import bad_json
from lmatrix.client_api.fields import optional_list, optional_string
from lmatrix.client_api.reauthentication import PasswordAgain
from lmatrix.devices.interfaces import DeviceInfo
from lmatrix.devices.local_devices import LocalDevices
from lmatrix.errors import NotFound
from lmatrix.http.messages import JsonObject, JsonRequest

MAX_DELETED = 1_000


class DeviceManagement:
    """The endpoints.

    Args:
        devices: carries them out.
        password_again: asks for the password.
    """

    def __init__(self, devices: LocalDevices, password_again: PasswordAgain) -> None:
        self._devices = devices
        self._password_again = password_again

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("GET", "/devices", self._all, "devices"),
            Endpoint("GET", "/devices/{deviceId}", self._one, "device"),
            Endpoint("PUT", "/devices/{deviceId}", self._rename, "rename_device"),
            Endpoint("DELETE", "/devices/{deviceId}", self._delete, "delete_device"),
            Endpoint("POST", "/delete_devices", self._delete_many, "delete_devices"),
        )

    async def _all(self, request: JsonRequest, requester: Requester) -> Answer:
        return {"devices": [_shown(device) for device in await self._devices.devices(requester.user_id)]}

    async def _one(self, request: JsonRequest, requester: Requester) -> Answer:
        wanted = request.params["deviceId"]
        for device in await self._devices.devices(requester.user_id):
            if device.device_id == wanted:
                return _shown(device)
        raise NotFound("No such device")

    async def _rename(self, request: JsonRequest, requester: Requester) -> Answer:
        display_name = optional_string(request.json(), "display_name")
        if display_name is None:
            await self._one(request, requester)
            return {}
        await self._devices.rename(
            requester.user_id, request.params["deviceId"], display_name[:MAX_DISPLAY_NAME_CHARACTERS]
        )
        return {}

    async def _delete(self, request: JsonRequest, requester: Requester) -> Answer:
        return await self._remove(request.json_or_empty(), requester, [request.params["deviceId"]])

    async def _delete_many(self, request: JsonRequest, requester: Requester) -> Answer:
        body = request.json()
        device_ids = optional_list(body, "devices")
        if len(device_ids) > MAX_DELETED or not all(isinstance(device_id, str) for device_id in device_ids):
            raise bad_json("devices", f"a list of at most {MAX_DELETED} device IDs")
        return await self._remove(body, requester, device_ids)

    async def _remove(self, body: JsonObject, requester: Requester, device_ids: Sequence[str]) -> Answer:
        missing = await self._password_again.missing(body, requester)
        if missing is not None:
            return missing
        known = [device_id for device_id in device_ids if len(device_id) <= ids.MAX_ID_BYTES]
        await self._devices.remove(requester.user_id, known)
        return {}


def _shown(device: DeviceInfo) -> JsonObject:
    shown: JsonObject = {"device_id": device.device_id}
    if device.display_name is not None:
        shown["display_name"] = device.display_name
    return shown
