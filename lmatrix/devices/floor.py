"""The devices floor, put together.

Owns: the order in which its parts are built and handed to one another. It takes what its neighbours provide (stores,
delivery, requests to other servers, whoever wakes clients) and gives back what they call.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.devices.inbound import EduInbound
from lmatrix.devices.inbox import DeviceInbox
from lmatrix.devices.interfaces import (
    DeviceAccounts,
    DevicePeers,
    DeviceStore,
    EduDelivery,
    EduOutbox,
    OneTimeKeyStore,
    ReceiptStore,
    RoomServers,
    SharingStore,
    Stream,
    SyncWaker,
    ToDeviceStore,
)
from lmatrix.devices.key_claims import KeyClaims
from lmatrix.devices.key_queries import DeviceDirectory
from lmatrix.devices.local_devices import LocalDevices
from lmatrix.devices.receipts import Receipts
from lmatrix.devices.to_device import ToDeviceSender
from lmatrix.devices.typing_notices import TypingNotices
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Database, RoomStore


@attrs.frozen(slots=True, kw_only=True)
class DeviceStores:
    """The stores that the devices floor uses."""

    accounts: DeviceAccounts
    devices: DeviceStore
    one_time_keys: OneTimeKeyStore
    to_device: ToDeviceStore
    receipts: ReceiptStore
    sharing: SharingStore
    outbox: EduOutbox
    stream: Stream
    rooms: RoomStore


@attrs.frozen(slots=True, kw_only=True)
class DevicesFloor:
    """What the floors above call, and the rooms.

    Attributes:
        inbound: takes other servers' EDUs.
        devices: local users' devices.
        directory: anybody's devices.
        claims: anybody's one-time keys.
        to_device: messages of local devices.
        typing, receipts: what local users do in rooms besides sending events.
    """

    inbound: EduInbound
    devices: LocalDevices
    directory: DeviceDirectory
    claims: KeyClaims
    to_device: ToDeviceSender
    typing: TypingNotices
    receipts: Receipts

    @classmethod
    def build(
        cls,
        server_name: str,
        database: Database,
        stores: DeviceStores,
        *,
        peers: DevicePeers,
        delivery: EduDelivery,
        rooms: RoomServers,
        waker: SyncWaker,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> DevicesFloor:
        """Build the floor.

        Args:
            server_name: ours.
            rooms: which servers take part in a room.
            waker: wakes ``/sync``.
        """
        inbox = DeviceInbox(server_name, stores.accounts, stores.to_device)
        typing = TypingNotices(rooms, delivery, waker, clock)
        directory = DeviceDirectory(
            server_name,
            database=database,
            accounts=stores.accounts,
            store=stores.devices,
            sharing=stores.sharing,
            stream=stores.stream,
            peers=peers,
            waker=waker,
            clock=clock,
        )
        return cls(
            inbound=EduInbound(
                server_name,
                database=database,
                inbox=inbox,
                devices=stores.devices,
                receipts=stores.receipts,
                sharing=stores.sharing,
                typing=typing,
                waker=waker,
                clock=clock,
                metrics=metrics,
            ),
            devices=LocalDevices(
                server_name,
                database=database,
                accounts=stores.accounts,
                store=stores.devices,
                keys=stores.one_time_keys,
                messages=stores.to_device,
                sharing=stores.sharing,
                outbox=stores.outbox,
                delivery=delivery,
                waker=waker,
                clock=clock,
            ),
            directory=directory,
            claims=KeyClaims(
                server_name,
                database=database,
                store=stores.one_time_keys,
                peers=peers,
                waker=waker,
                clock=clock,
            ),
            to_device=ToDeviceSender(
                server_name,
                database=database,
                accounts=stores.accounts,
                store=stores.to_device,
                inbox=inbox,
                directory=directory,
                outbox=stores.outbox,
                delivery=delivery,
                waker=waker,
                clock=clock,
            ),
            typing=typing,
            receipts=Receipts(
                database=database,
                store=stores.receipts,
                room_store=stores.rooms,
                sharing=stores.sharing,
                rooms=rooms,
                delivery=delivery,
                waker=waker,
                clock=clock,
            ),
        )

    async def stop(self) -> None:
        """Leave nothing behind."""
        self.typing.stop()

    def memberships_changed(
        self, room_id: str, joined: Collection[str], left: Collection[str], new_servers: Collection[str]
    ) -> None:
        """After a commit of a room; see :class:`~lmatrix.rooms.interfaces.MembershipWatcher`."""
        for user_id in left:
            self.typing.left(room_id, user_id)
        self.devices.introduce(room_id, joined, new_servers)
