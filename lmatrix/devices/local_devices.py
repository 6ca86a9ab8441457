"""Local users' devices: what they publish, how they come and go (I-D "Device Credentials", "Device Info Publishing").

Owns: :class:`LocalDevices`. Invariant: whatever changes in a device list is written together with the news of it, for
local clients and in the outbox towards every server that shares a room with the user; for each device and server the
newest news takes the place of the older.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.devices.background import in_background
from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.edus import DeviceListUpdate, device_list_edu
from lmatrix.devices.interfaces import (
    DeviceAccounts,
    DeviceInfo,
    DeviceStore,
    EduDelivery,
    EduOutbox,
    OneTimeKeyStore,
    SharingStore,
    SyncWaker,
    ToDeviceStore,
)
from lmatrix.devices.key_uploads import InvalidKeyUpload, UploadedKey
from lmatrix.errors import BadRequest, NotFound
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database

MAX_ONE_TIME_KEYS = 1_000
"""Of one device, that wait to be handed out."""


@attrs.frozen(slots=True)
class _News:
    """Whom to tell, after the commit, that a user's device list changed."""

    stream: int
    rooms: Sequence[str]
    destinations: Collection[str]


class LocalDevices:
    """Changes local users' devices.

    Args:
        server_name: ours.
        database: where everything is.
        accounts, store, keys, messages: what there is of devices.
        sharing: who must hear of changes.
        outbox, delivery: towards other servers.
        waker: towards local clients.
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
        keys: OneTimeKeyStore,
        messages: ToDeviceStore,
        sharing: SharingStore,
        outbox: EduOutbox,
        delivery: EduDelivery,
        waker: SyncWaker,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._accounts = accounts
        self._store = store
        self._keys = keys
        self._messages = messages
        self._sharing = sharing
        self._outbox = outbox
        self._delivery = delivery
        self._waker = waker
        self._clock = clock

    async def devices(self, user_id: str) -> Sequence[DeviceInfo]:
        """A user's devices."""
        return await self._database.read(lambda tx: self._accounts.devices(tx, user_id))

    async def rename(self, user_id: str, device_id: str, display_name: str | None) -> None:
        """Set what a user calls a device; other servers do not hear of it. Raises :class:`NotFound`."""
        found = await self._database.write(
            lambda tx: self._accounts.rename_device(tx, user_id, device_id, display_name)
        )
        if not found:
            raise NotFound(f"there is no device {device_id}")

    async def upload(
        self, user_id: str, device_id: str, device: DeviceObject | None, keys: Sequence[UploadedKey]
    ) -> Mapping[str, int]:
        """Publish a device's object, one-time keys and keys of last resort.

        Returns:
            how many one-time keys there are, by algorithm.

        Raises:
            KeyConflict, InvalidKeyUpload: a key contradicts what was uploaded before; nothing was taken.
            BadRequest: too many devices, or too many keys.
        """
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> tuple[Mapping[str, int], _News | None]:
            news = None
            before = self._store.object(tx, user_id, device_id)
            if device is not None and self._store.put_object(tx, device):
                news = self._changed(tx, DeviceListUpdate(user_id, changed=(device,)))
                if before is not None and DeviceObject.from_canonical(before).credential != device.credential:
                    # Whatever had that ID before has lost its secrets, and with them the use of its key packages.
                    self._keys.remove_devices(tx, user_id, [device_id])
            stored = self._store.object(tx, user_id, device_id)
            if device is not None and stored is None:
                raise BadRequest("the account has too many devices")
            _check_credentials(stored, keys)
            self._keys.remove_expired(tx, now_ms)
            self._keys.add(tx, user_id, device_id, keys)
            if self._keys.left(tx, user_id, device_id) > MAX_ONE_TIME_KEYS:
                raise BadRequest(f"a device can have at most {MAX_ONE_TIME_KEYS} one-time keys")
            return self._keys.counts(tx, user_id, device_id, now_ms), news

        counts, news = await self._database.write(work)
        self._announce(user_id, news)
        return counts

    async def remove(self, user_id: str, device_ids: Iterable[str] | None = None) -> None:
        """Log devices out, or all of them: with their tokens, keys and messages. Unknown ones are passed over."""

        def work(tx: Any) -> _News | None:
            gone = list(self._accounts.device_ids(tx, user_id) if device_ids is None else device_ids)
            self._accounts.remove_devices(tx, user_id, gone)
            self._keys.remove_devices(tx, user_id, gone)
            self._messages.remove_devices(tx, user_id, gone)
            removed = self._store.remove_objects(tx, user_id, gone)
            return self._changed(tx, DeviceListUpdate(user_id, removed=removed)) if removed else None

        self._announce(user_id, await self._database.write(work))

    def introduce(self, room_id: str, joined: Collection[str], new_servers: Collection[str]) -> None:
        """After a commit: some came to share a room. Never blocks, never raises.

        Args:
            room_id: the room.
            joined: users who joined it.
            new_servers: servers of which nobody was there before.
        """
        ours = [user_id for user_id in joined if server_of(user_id) == self._server_name]
        others = frozenset(new_servers) - {self._server_name}
        if not ours and not others:
            return
        work = self._introduce(room_id, ours, others)
        in_background(work, self.log, f"{room_id}: its servers are not told of devices")

    async def _introduce(self, room_id: str, ours: Sequence[str], new_servers: frozenset[str]) -> None:
        """Tell the room's servers of the devices of local users who joined, and the new servers of all users'."""

        def to_tell(tx: Any) -> dict[str, frozenset[str] | None]:
            """Local users with devices, and the servers to tell of them (``None``: all in the room)."""
            told: dict[str, frozenset[str] | None] = {}
            if new_servers:
                members = self._sharing.joined_users(tx, room_id)
                told.update((user_id, new_servers) for user_id in members if server_of(user_id) == self._server_name)
            told.update((user_id, None) for user_id in ours)
            return {user_id: servers for user_id, servers in told.items() if self._store.objects(tx, user_id)}

        def work(tx: Any) -> set[str]:
            # Read again here: what is told must not be older than what waits in an outbox already.
            destinations: set[str] = set()
            everywhere: frozenset[str] | None = None
            for user_id, servers in to_tell(tx).items():
                if servers is None:
                    if everywhere is None:
                        everywhere = frozenset(map(server_of, self._sharing.joined_users(tx, room_id)))
                    servers = everywhere
                devices = list(map(DeviceObject.from_canonical, self._store.objects(tx, user_id).values()))
                destinations |= self._tell(tx, DeviceListUpdate(user_id, changed=devices), servers)
            return destinations

        # Most joins have nobody to be told of, and cost no write.
        if await self._database.read(to_tell):
            for destination in await self._database.write(work):
                self._delivery.edus_pending(destination)

    def _changed(self, tx: Any, update: DeviceListUpdate) -> _News:
        stream = self._store.list_changed(tx, update.user_id)
        destinations = self._tell(tx, update, self._sharing.servers_sharing(tx, update.user_id))
        return _News(stream, self._sharing.joined_rooms(tx, update.user_id), destinations)

    def _tell(self, tx: Any, update: DeviceListUpdate, servers: Iterable[str]) -> set[str]:
        """One EDU for each device, so that each can be replaced by newer news."""
        parts = [
            *((device.device_id, DeviceListUpdate(update.user_id, changed=(device,))) for device in update.changed),
            *((device_id, DeviceListUpdate(update.user_id, removed=(device_id,))) for device_id in update.removed),
        ]
        destinations = {server for server in servers if server != self._server_name}
        for device_id, part in parts:
            edu = device_list_edu(part)
            for destination in destinations:
                self._outbox.add_edu(tx, destination, edu, f"device {update.user_id} {device_id}")
        return destinations

    def _announce(self, user_id: str, news: _News | None) -> None:
        if news is None:
            return
        self._waker.users_advanced(news.stream, [user_id])
        for room_id in news.rooms:
            self._waker.stream_advanced(news.stream, room_id)
        for destination in news.destinations:
            self._delivery.edus_pending(destination)


def _check_credentials(stored: bytes | None, keys: Sequence[UploadedKey]) -> None:
    """Whoever adds the device to a group relies on what the device has published."""
    published = None if stored is None else DeviceObject.from_canonical(stored).credential
    for key in keys:
        if key.credential is not None and published is not None and key.credential != published:
            raise InvalidKeyUpload(
                f"{key.algorithm}:{key.version}: the device has published another credential than this one's"
            )
