"""Requests to other servers about their users' devices.

Owns: :class:`HttpDevicePeers`, which implements :class:`~lmatrix.devices.interfaces.DevicePeers`. Invariants: what a
caller gets has the shape that its method promises, whatever the peer sent; a claim is never sent twice on its own
account, since each one uses keys up.

Implements the I-D's "Device Info Publishing" and "One Time Key Claiming", their asking side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmatrix.canonical_json import encode
from lmatrix.errors import PeerRefused
from lmatrix.events.room_versions import PathForm
from lmatrix.federation.asking import Asker, Endpoint, RequestMaker, is_unrecognized, misbehaved, object_in, objects_in
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.resources import paths
from lmatrix.rooms.interfaces import JsonObject

_MIB = 1024 * 1024
_DEVICE = Endpoint(paths.DEVICE, timeout_s=15, max_answer=_MIB // 8)
_DEVICES = Endpoint(paths.DEVICES, timeout_s=15, max_answer=8 * _MIB)
_CLAIM = Endpoint(paths.CLAIM_KEYS, timeout_s=30, max_answer=16 * _MIB, repeatable=False)


class HttpDevicePeers:
    """See :class:`~lmatrix.devices.interfaces.DevicePeers`.

    Args:
        client: makes the requests.
        traits: what is remembered of peers' peculiarities.
    """

    def __init__(self, client: RequestMaker, traits: PeerTraitsMemory) -> None:
        self._asker = Asker(client, traits)

    async def device(self, destination: str, user_id: str, device_id: str) -> JsonObject:
        """``GET /user/:userId/device/:deviceId``."""
        return await self._asker.either(_DEVICE, PathForm.STABLE, destination, user_id, device_id)

    async def devices(self, destination: str, user_id: str) -> Sequence[JsonObject] | None:
        """``GET /user/devices/:userId``, Matrix's; ``None`` when the peer has no such endpoint."""
        try:
            answer = await self._asker.ask(_DEVICES, PathForm.STABLE, destination, user_id)
        except PeerRefused as error:
            if is_unrecognized(error):
                return None
            if error.errcode == "M_NOT_FOUND":
                return ()
            raise
        return [object_in(destination, device, "keys") for device in objects_in(destination, answer, "devices")]

    async def claim_keys(
        self, destination: str, wanted: Mapping[str, Mapping[str, str]]
    ) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """``POST /user/keys/claim``."""
        body = encode({"one_time_keys": {user_id: dict(devices) for user_id, devices in wanted.items()}})
        answer = await self._asker.either(_CLAIM, PathForm.STABLE, destination, content_bytes=body)
        keys = object_in(destination, answer, "one_time_keys")
        for user_id in keys:
            devices = object_in(destination, keys, user_id)
            for device_id in devices:
                for key in object_in(destination, devices, device_id).values():
                    if not isinstance(key, str | dict):
                        raise misbehaved(destination, "a key is neither a string nor an object")
        return keys
