"""Devices on the servers of :mod:`tests.rooms.network`, joined without HTTP.

Owns: :class:`DeviceServer`, the real devices floor on a server's real stores, and :class:`MemoryDevicePeers`, the
requests between them, with answers through JSON both ways and errors as the wire gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmatrix.canonical_json import encode, parse_object
from lmatrix.devices.floor import DevicesFloor, DeviceStores
from lmatrix.devices.interfaces import SyncWaker
from lmatrix.devices.key_claims import read_claims
from lmatrix.errors import PeerRefused
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.storage.stores import Stores
from tests.rooms.network import Network, Server


class MemoryDevicePeers:
    """Requests to the other servers.

    Args:
        network: between them.
        server_name: who asks.
        servers: all servers' devices, by server name.
    """

    def __init__(self, network: Network, server_name: str, servers: Mapping[str, DeviceServer]) -> None:
        self._network = network
        self._us = server_name
        self._servers = servers

    def _reach(self, destination: str, what: str) -> DeviceServer:
        return self._servers[self._network.reach(self._us, destination, what).name]

    async def device(self, destination: str, user_id: str, device_id: str) -> JsonObject:
        peer = self._reach(destination, "device")
        answer = await self._network.ask(destination, peer.floor.directory.local_device(user_id, device_id))
        return parse_object(answer)

    async def devices(self, destination: str, user_id: str) -> Sequence[JsonObject] | None:
        peer = self._reach(destination, "devices")
        await self._network.think(destination, "devices")
        if not peer.tells_lists:
            return None
        try:
            _, objects = await self._network.ask(destination, peer.floor.directory.local_devices(user_id))
        except PeerRefused as error:
            if error.errcode == "M_NOT_FOUND":
                return ()
            raise
        return [parse_object(device) for device in objects.values()]

    async def claim_keys(
        self, destination: str, wanted: Mapping[str, Mapping[str, str]]
    ) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        peer = self._reach(destination, "claim")
        body = parse_object(encode({"one_time_keys": {user: dict(devices) for user, devices in wanted.items()}}))
        await self._network.think(destination, "claim")
        answer = await self._network.ask(destination, peer.floor.claims.hand_out(read_claims(body)))
        return parse_object(encode(answer))


class DeviceServer:
    """One server's devices.

    Args:
        server: its rooms; they are told of the devices here when they are built next.
        servers: all servers' devices, by server name; it adds itself.
        waker: is told what ``/sync`` should tell.

    Attributes:
        tells_lists: whether it has the endpoint that tells a user's devices.
    """

    def __init__(self, server: Server, servers: dict[str, DeviceServer], waker: SyncWaker) -> None:
        self.server = server
        self._servers = servers
        self.waker = waker
        self.stores = Stores.create()
        self.tells_lists = True
        self.floor = self.build()
        servers[server.name] = self

    def build(self) -> DevicesFloor:
        """The devices floor on the server's database; again after a restart."""
        server, stores = self.server, self.stores
        self.floor = DevicesFloor.build(
            server.name,
            server.database,
            DeviceStores(
                accounts=stores.accounts,
                devices=stores.devices,
                one_time_keys=stores.one_time_keys,
                to_device=stores.to_device,
                receipts=stores.receipts,
                sharing=stores.sharing,
                outbox=stores.delivery,
                stream=stores.timeline,
                rooms=stores.rooms,
            ),
            peers=MemoryDevicePeers(server.network, server.name, self._servers),
            delivery=server.delivery,
            rooms=self,
            waker=self.waker,
            clock=server.network.clock,
            metrics=server.metrics,
        )
        server.edus = self.floor.inbound
        server.watcher = self.floor
        return self.floor

    async def destinations(self, room_id: str) -> Collection[str]:
        """Which servers take part in a room."""
        return await self.server.floor.rooms.destinations(room_id)
