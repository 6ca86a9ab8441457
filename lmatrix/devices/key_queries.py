"""Which devices a user has (I-D "Device Info Publishing"; Client-Server API v1.11, ``POST /keys/query``).

Owns: :class:`DeviceDirectory`, which answers for local users and for those of other servers. The latter's servers tell
us of changes (``m.device_list_update``) as long as there is a room in common; but not, what there was before. So a list
is asked for whole when it is first needed, and what is stored then answers until the common rooms have ended, or
:data:`TRUSTED_MS` have passed. A server that cannot tell a whole list (the I-D has no endpoint for it) is asked for
those devices that are named.

Invariants: what is handed out of other servers' devices has been checked as our own users' has; a list that was asked
for never replaces news that came meanwhile; of users with whom no room is shared nothing is stored.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.canonical_json import parse_object
from lmatrix.devices.device_objects import DeviceObject, InvalidDevice
from lmatrix.devices.interfaces import (
    DeviceAccounts,
    DevicePeers,
    DeviceStore,
    FetchedList,
    SharingStore,
    Stream,
    SyncWaker,
)
from lmatrix.errors import NotFound, PeerError, PeerRefused
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database, JsonObject

TRUSTED_MS = 24 * 3600 * 1000
"""How long a list that was fetched is trusted, although updates should have kept it right."""

MAX_TOLD_DEVICES = 500
"""Devices of one user that are looked at, of those that a server tells."""

MAX_ASKED_DEVICES = 20
"""Devices of one user that a server is asked for one by one."""

_AT_ONCE = 10
"""Users whose lists are asked for at one time, for one query."""


@attrs.frozen(slots=True)
class QueryAnswer:
    """What is known of some users' devices.

    Attributes:
        devices: user ID → device ID → device object. A user of whom nothing could be learned is not in it.
        failures: servers that could not be asked.
    """

    devices: Mapping[str, Mapping[str, JsonObject]]
    failures: frozenset[str]


@attrs.frozen(slots=True)
class _Known:
    """What is stored of a user of another server.

    Attributes:
        objects: device objects by device ID.
        whole: whether these are all.
        shares: whether there is a room in common, so that we are told of changes.
        as_of: stream position of this look.
    """

    objects: Mapping[str, bytes]
    whole: bool
    shares: bool
    as_of: int


class DeviceDirectory:
    """Answers queries.

    Args:
        server_name: ours.
        database, accounts, store, sharing, stream: what is known.
        peers: whom to ask for the rest.
        waker: is told when a list turns out to have changed.
        clock: the time.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        accounts: DeviceAccounts,
        store: DeviceStore,
        sharing: SharingStore,
        stream: Stream,
        peers: DevicePeers,
        waker: SyncWaker,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._accounts = accounts
        self._store = store
        self._sharing = sharing
        self._stream = stream
        self._peers = peers
        self._waker = waker
        self._clock = clock

    # -- For other servers --------------------------------------------------------------------------------------------

    async def local_device(self, user_id: str, device_id: str) -> bytes:
        """A local user's device object, canonical JSON. Raises :class:`NotFound`."""
        found = None
        if server_of(user_id) == self._server_name:
            found = await self._database.read(lambda tx: self._store.object(tx, user_id, device_id))
        if found is None:
            raise NotFound(f"{user_id} has no device {device_id} here")
        return found

    async def local_devices(self, user_id: str) -> tuple[int, Mapping[str, bytes]]:
        """A number that grows with every change of the list, and all of a local user's device objects.

        Raises:
            NotFound: it is no user of ours.
        """

        def work(tx: Any) -> tuple[int, Mapping[str, bytes]] | None:
            objects = self._store.objects(tx, user_id)
            if not objects and not self._accounts.device_ids(tx, user_id):
                return None
            return self._store.list_changed_at(tx, user_id), objects

        found = await self._database.read(work) if server_of(user_id) == self._server_name else None
        if found is None:
            raise NotFound(f"{user_id} is not known here")
        return found

    # -- For local users ----------------------------------------------------------------------------------------------

    async def query(self, wanted: Mapping[str, Sequence[str]], timeout_s: float) -> QueryAnswer:
        """Devices of any users.

        Args:
            wanted: user ID → device IDs, or none of them for all devices. Identifiers are well-formed.
            timeout_s: seconds after which servers that have not answered count as failed.
        """
        slots = DeferredSemaphore(_AT_ONCE)
        failures: set[str] = set()
        users = list(wanted)

        def begin(user_id: str) -> Deferred[Mapping[str, bytes] | None]:
            if server_of(user_id) == self._server_name:
                return self._database.read(lambda tx: self._store.objects(tx, user_id))
            asking = slots.run(self._ask_about, user_id, wanted[user_id], failures)
            return asking.addTimeout(timeout_s, self._clock)

        results: Sequence[tuple[bool, Any]] = await DeferredList(
            [begin(user_id) for user_id in users], consumeErrors=True
        )
        devices: dict[str, Mapping[str, JsonObject]] = {}
        for user_id, (_, found) in zip(users, results, strict=True):
            if isinstance(found, Failure):
                if not found.check(TimedOut):
                    found.raiseException()
                failures.add(server_of(user_id))
            elif found is not None:
                devices[user_id] = {
                    device_id: parse_object(canonical)
                    for device_id, canonical in found.items()
                    if not wanted[user_id] or device_id in wanted[user_id]
                }
        return QueryAnswer(devices, frozenset(failures))

    def _ask_about(
        self, user_id: str, device_ids: Sequence[str], failures: set[str]
    ) -> Deferred[Mapping[str, bytes] | None]:
        return Deferred.fromCoroutine(self._of_remote_user(user_id, device_ids, failures))

    async def _of_remote_user(
        self, user_id: str, device_ids: Sequence[str], failures: set[str]
    ) -> Mapping[str, bytes] | None:
        now_ms = int(self._clock.seconds() * 1000)
        known = await self._database.read(lambda tx: self._known(tx, user_id, now_ms))
        if known.whole:
            return known.objects
        server = server_of(user_id)
        try:
            told = await self._peers.devices(server, user_id)
        except PeerError as error:
            self.log.info("{user_id}: its devices could not be asked for: {error}", user_id=user_id, error=error)
            failures.add(server)
            return known.objects or None
        if told is None:
            return await self._one_by_one(user_id, device_ids, known)
        fetched = _checked(user_id, told)
        if known.shares:
            await self._store_list(user_id, fetched, known)
        return {device.device_id: device.canonical for device in fetched.values()}

    async def _one_by_one(self, user_id: str, device_ids: Sequence[str], known: _Known) -> Mapping[str, bytes]:
        """Of a server that tells no lists: what it has told by updates, and what is named."""
        found = dict(known.objects)
        for device_id in list(dict.fromkeys(device_ids))[:MAX_ASKED_DEVICES]:
            if device_id in found and known.shares:
                continue
            try:
                raw = await self._peers.device(server_of(user_id), user_id, device_id)
                found[device_id] = DeviceObject.parse(raw, user_id, device_id).canonical
            except (PeerError, InvalidDevice) as error:
                self.log.info("{user_id}: {device_id}: {error}", user_id=user_id, device_id=device_id, error=error)
                if isinstance(error, InvalidDevice | PeerRefused):
                    found.pop(device_id, None)
        return found

    def _known(self, tx: Any, user_id: str, now_ms: int) -> _Known:
        objects = self._store.objects(tx, user_id)
        fetched = self._store.fetched_list(tx, user_id)
        whole = (
            fetched is not None
            and now_ms - fetched.ts < TRUSTED_MS
            and self._sharing.shares_with_server(tx, user_id, self._server_name, fetched.stream)
        )
        shares = whole or self._sharing.shares_with_server(tx, user_id, self._server_name)
        return _Known(objects if shares else {}, whole, shares, self._stream.max_stream(tx))

    async def _store_list(self, user_id: str, fetched: Mapping[str, DeviceObject], known: _Known) -> None:
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> tuple[int, Sequence[str]] | None:
            if self._store.list_changed_at(tx, user_id) > known.as_of:
                return None
            is_first = self._store.fetched_list(tx, user_id) is None and not known.objects
            gone = [device_id for device_id in self._store.objects(tx, user_id) if device_id not in fetched]
            removed = self._store.remove_objects(tx, user_id, gone)
            changed = [self._store.put_object(tx, device) for device in fetched.values()]
            self._store.list_fetched(tx, user_id, FetchedList(known.as_of, now_ms))
            if is_first or not (removed or any(changed)):
                # Nobody was told anything else before.
                return None
            return self._store.list_changed(tx, user_id), self._sharing.joined_rooms(tx, user_id)

        news = await self._database.write(work)
        if news is not None:
            stream, rooms = news
            for room_id in rooms:
                self._waker.stream_advanced(stream, room_id)


def _checked(user_id: str, raws: Sequence[JsonObject]) -> dict[str, DeviceObject]:
    """Those of a list that are valid, by device ID."""
    devices: dict[str, DeviceObject] = {}
    for raw in raws[:MAX_TOLD_DEVICES]:
        try:
            device = DeviceObject.parse(raw, user_id)
        except InvalidDevice:
            continue
        devices[device.device_id] = device
    return devices
