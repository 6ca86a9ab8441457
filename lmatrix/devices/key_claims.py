"""Claiming one-time keys (I-D "One Time Key Claiming"; Client-Server API v1.11, ``POST /keys/claim``).

Owns: :class:`KeyClaims`. Invariants: a key is told to somebody only after it is on disk that it was handed out, so that
no crash hands it out again; what is claimed of another server is never asked for twice, because the first answer may
have been lost on its way with the key in it.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import ids
from lmatrix.canonical_json import encode, parse
from lmatrix.devices.interfaces import ClaimedKey, DevicePeers, OneTimeKeyStore, SyncWaker
from lmatrix.errors import BadRequest, InvalidIdentifier, PeerError
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database, JsonObject

MAX_CLAIMS = 1_000
"""Keys in one request."""

_MAX_ALGORITHM_BYTES = 255

Wanted = Mapping[str, Mapping[str, str]]
"""User ID → device ID → algorithm."""


@attrs.frozen(slots=True)
class ClaimAnswer:
    """What a local client gets.

    Attributes:
        keys: user ID → device ID → ``algorithm:version`` → key.
        failures: servers that could not be asked.
    """

    keys: Mapping[str, Mapping[str, JsonObject]]
    failures: frozenset[str]


def read_claims(body: JsonObject) -> Wanted:
    """``one_time_keys`` of a request. Users and devices that cannot exist are left out, as those that do not are.

    Raises:
        BadRequest: it is not there, has another shape, or asks for too much.
    """
    users = body.get("one_time_keys")
    if not isinstance(users, dict) or not all(isinstance(devices, dict) for devices in users.values()):
        raise BadRequest("one_time_keys must be an object of objects")
    if sum(map(len, users.values())) > MAX_CLAIMS:
        raise BadRequest(f"at most {MAX_CLAIMS} keys can be claimed at a time")
    wanted: dict[str, dict[str, str]] = {}
    for user_id, devices in users.items():
        for device_id, algorithm in devices.items():
            if not isinstance(algorithm, str) or len(algorithm.encode("utf-8", "replace")) > _MAX_ALGORITHM_BYTES:
                raise BadRequest("an algorithm must be a string, and not too long")
            if _is(ids.user_id, user_id) and _is(ids.device_id, device_id):
                wanted.setdefault(user_id, {})[device_id] = algorithm
    return wanted


class KeyClaims:
    """Hands keys out, and gets them.

    Args:
        server_name: ours.
        database, store: where local devices' keys are.
        peers: whom to ask for others'.
        waker: local devices hear that there are fewer.
        clock: the time.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        store: OneTimeKeyStore,
        peers: DevicePeers,
        waker: SyncWaker,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._store = store
        self._peers = peers
        self._waker = waker
        self._clock = clock

    async def hand_out(self, wanted: Wanted) -> JsonObject:
        """The I-D's answer for another server: user ID → device ID → algorithm → key.

        Users of other servers, and users and devices that do not exist or have no such key, are left out.
        """
        claimed = await self._claim_here(wanted)
        return {
            user_id: {device_id: {algorithm: parse(key.value)} for device_id, (algorithm, key) in devices.items()}
            for user_id, devices in claimed.items()
        }

    async def claim(self, wanted: Wanted, timeout_s: float) -> ClaimAnswer:
        """Keys of any users' devices, for a local client.

        Args:
            timeout_s: seconds after which servers that have not answered count as failed.
        """
        here: dict[str, Mapping[str, str]] = {}
        elsewhere: dict[str, dict[str, Mapping[str, str]]] = {}
        for user_id, devices in wanted.items():
            server = server_of(user_id)
            if server == self._server_name:
                here[user_id] = devices
            else:
                elsewhere.setdefault(server, {})[user_id] = devices
        asking = [
            Deferred.fromCoroutine(self._claim_there(server, users)).addTimeout(timeout_s, self._clock)
            for server, users in elsewhere.items()
        ]
        keys: dict[str, dict[str, JsonObject]] = {
            user_id: {
                device_id: {f"{algorithm}:{key.version}": parse(key.value)}
                for device_id, (algorithm, key) in devices.items()
            }
            for user_id, devices in (await self._claim_here(here)).items()
        }
        failures: set[str] = set()
        answers: Sequence[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        for server, (_, answer) in zip(elsewhere, answers, strict=True):
            if not isinstance(answer, Failure):
                keys.update(answer)
            elif answer.check(PeerError, TimedOut):
                self.log.info("{server}: no keys could be claimed: {why}", server=server, why=answer.value)
                failures.add(server)
            else:
                answer.raiseException()
        return ClaimAnswer(keys, frozenset(failures))

    async def _claim_here(self, wanted: Wanted) -> dict[str, dict[str, tuple[str, ClaimedKey]]]:
        ours = {user_id: devices for user_id, devices in wanted.items() if server_of(user_id) == self._server_name}
        if not ours:
            return {}
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> tuple[dict[str, dict[str, tuple[str, ClaimedKey]]], dict[str, int]]:
            claimed: dict[str, dict[str, tuple[str, ClaimedKey]]] = {}
            streams: dict[str, int] = {}
            for user_id, devices in ours.items():
                for device_id, algorithm in devices.items():
                    key = self._store.claim(tx, user_id, device_id, algorithm, now_ms)
                    if key is not None:
                        claimed.setdefault(user_id, {})[device_id] = (algorithm, key)
                        streams[user_id] = self._store.claimed(tx, user_id, device_id)
            return claimed, streams

        claimed, streams = await self._database.write(work)
        for user_id, stream in streams.items():
            self._waker.users_advanced(stream, [user_id])
        return claimed

    async def _claim_there(
        self, server: str, wanted: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, JsonObject]]:
        answer = await self._peers.claim_keys(server, wanted)
        keys: dict[str, dict[str, JsonObject]] = {}
        for user_id, devices in wanted.items():
            for device_id, algorithm in devices.items():
                named = _named(algorithm, answer.get(user_id, {}).get(device_id, {}))
                if named is not None:
                    keys.setdefault(user_id, {})[device_id] = named
        return keys


def _named(algorithm: str, keys: Mapping[str, Any]) -> JsonObject | None:
    """The key that a server gave, with a key ID: the I-D's answer names the algorithm only, Matrix's the version as
    well. Where there is none, it is made from the key, as the I-D recommends to devices.
    """
    for name, key in keys.items():
        if name == algorithm:
            return {f"{algorithm}:{sha256(encode(key)).hexdigest()}": key}
        if name.startswith(f"{algorithm}:"):
            return {name: key}
    return None


def _is(check: Any, value: object) -> bool:
    try:
        check(value)
    except InvalidIdentifier:
        return False
    return True
