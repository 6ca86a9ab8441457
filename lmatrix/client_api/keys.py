"""Devices' keys (Client-Server API v1.11, "End-to-End Encryption", "Key management"; I-D "Device Credentials").

Owns: ``/keys/upload``, ``/keys/query``, ``/keys/claim`` and ``/keys/changes``. Device objects are those of the I-D, and
must be signed by each of their keys. The fallback keys of the Client-Server API are MLS's key packages of last resort;
a key package that is itself marked so counts as one wherever it is uploaded.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.device_lists import DeviceListReader, DeviceLists
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import bad_json, invalid_param, missing_param
from lmatrix.client_api.fields import optional_object, user_id
from lmatrix.client_api.interfaces import TimelineStore
from lmatrix.client_api.tokens import parse_since
from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.key_claims import KeyClaims, read_claims
from lmatrix.devices.key_queries import DeviceDirectory
from lmatrix.devices.key_uploads import parse_keys
from lmatrix.devices.local_devices import LocalDevices
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database

MAX_UPLOAD_BYTES = 1024 * 1024
MAX_QUERY_BYTES = 256 * 1024
MAX_QUERIED_USERS = 1_000
MAX_QUERIED_DEVICES = 1_000
"""Devices that are named, over all users."""

DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 60_000


class Keys:
    """The endpoints.

    Args:
        devices, directory, claims: carry them out.
        database, timeline, lists: for changes.
        clock: the time.
    """

    def __init__(
        self,
        devices: LocalDevices,
        directory: DeviceDirectory,
        claims: KeyClaims,
        *,
        database: Database,
        timeline: TimelineStore,
        lists: DeviceListReader,
        clock: IReactorTime,
    ) -> None:
        self._devices = devices
        self._directory = directory
        self._claims = claims
        self._database = database
        self._timeline = timeline
        self._lists = lists
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("POST", "/keys/upload", self._upload, "keys_upload", MAX_UPLOAD_BYTES),
            Endpoint("POST", "/keys/query", self._query, "keys_query", MAX_QUERY_BYTES),
            Endpoint("POST", "/keys/claim", self._claim, "keys_claim", MAX_QUERY_BYTES),
            Endpoint("GET", "/keys/changes", self._changes, "keys_changes"),
        )

    async def _upload(self, request: JsonRequest, requester: Requester) -> Answer:
        body = request.json()
        owner = (requester.user_id, requester.device_id)
        raw = optional_object(body, "device_keys")
        device = None if raw is None else DeviceObject.parse(raw, *owner)
        now_ms = int(self._clock.seconds() * 1000)
        keys = [
            *parse_keys(optional_object(body, "one_time_keys") or {}, *owner, now_ms, last_resort=False),
            *parse_keys(optional_object(body, "fallback_keys") or {}, *owner, now_ms, last_resort=True),
        ]
        counts = await self._devices.upload(*owner, device, keys)
        return {"one_time_key_counts": dict(counts)}

    async def _query(self, request: JsonRequest, requester: Requester) -> Answer:
        body = request.json()
        asked = optional_object(body, "device_keys")
        if asked is None:
            raise missing_param("device_keys")
        wanted = {user_id(name, "device_keys"): _device_ids(devices) for name, devices in asked.items()}
        if len(wanted) > MAX_QUERIED_USERS or sum(map(len, wanted.values())) > MAX_QUERIED_DEVICES:
            raise invalid_param("device_keys", "too many users or devices at a time")
        answer = await self._directory.query(wanted, _timeout_s(body))
        return {
            "device_keys": {name: dict(devices) for name, devices in answer.devices.items()},
            "failures": {server: {} for server in sorted(answer.failures)},
        }

    async def _claim(self, request: JsonRequest, requester: Requester) -> Answer:
        body = request.json()
        answer = await self._claims.claim(read_claims(body), _timeout_s(body))
        return {
            "one_time_keys": {name: dict(devices) for name, devices in answer.keys.items()},
            "failures": {server: {} for server in sorted(answer.failures)},
        }

    async def _changes(self, request: JsonRequest, requester: Requester) -> Answer:
        tokens = []
        for name in ("from", "to"):
            text = request.query_one(name)
            if text is None:
                raise missing_param(name)
            tokens.append(parse_since(text, name).stream)
        since, to = tokens

        def look(tx: Any) -> DeviceLists:
            # What is between the tokens is part of what is since the first; too much does no harm here.
            up_to = self._timeline.max_stream(tx)
            if since >= to:
                return DeviceLists()
            rooms = self._timeline.rooms_of_user(tx, requester.user_id)
            return self._lists.read(tx, requester.user_id, rooms, since, up_to)

        lists = await self._database.read(look)
        return {"changed": list(lists.changed), "left": list(lists.left)}


def _device_ids(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(device_id, str) for device_id in value):
        raise bad_json("device_keys", "an object of lists of device IDs")
    # One that cannot exist is not found, like any other that does not exist.
    return [device_id for device_id in value if len(device_id) <= ids.MAX_ID_BYTES]


def _timeout_s(body: JsonObject) -> float:
    value = body.get("timeout")
    if value is None:
        value = DEFAULT_TIMEOUT_MS
    if type(value) is not int or value < 0:
        raise bad_json("timeout", "a number of milliseconds")
    return max(1, min(value, MAX_TIMEOUT_MS)) / 1000
