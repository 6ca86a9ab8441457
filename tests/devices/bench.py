"""Two or three servers with devices, and what tests of them do most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import parse_object
from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.key_uploads import parse_keys
from lmatrix.rooms.interfaces import JsonObject
from tests.devices.builders import NOW_S, Device
from tests.devices.network import DeviceServer
from tests.rooms.network import Network, done, result_of


class Wakes:
    """Notes who was woken; a :class:`~lmatrix.devices.interfaces.SyncWaker`."""

    def __init__(self) -> None:
        self.rooms: list[tuple[int, str]] = []
        self.users: list[tuple[int, str]] = []
        self.stirred: list[str] = []

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        if user_ids is None:
            self.rooms.append((stream, room_id))
        else:
            self.users_advanced(stream, user_ids)

    def users_advanced(self, stream: int, user_ids: Iterable[str]) -> None:
        self.users.extend((stream, user_id) for user_id in user_ids)

    def room_stirred(self, room_id: str) -> None:
        self.stirred.append(room_id)


class DevicesTestCase(SynchronousTestCase):
    """A hub with Alice, and two participants, the north with Bob, the south with Carol."""

    def setUp(self) -> None:
        self.network = Network()
        self.hub = self.server("hub.example")
        self.north = self.server("north.example")
        self.south = self.server("south.example")
        self.alice = self.hub.server.user("alice")
        self.bob = self.north.server.user("bob")
        self.carol = self.south.server.user("carol")

    def server(self, name: str) -> DeviceServer:
        """A new server."""
        server = self.network.server(name)
        devices = DeviceServer(server, self.network.device_servers, Wakes())
        server.floor = server.build()
        return devices

    def shared_room(self, *guests: tuple[DeviceServer, str]) -> str:
        """A room of Alice's with some guests."""
        room_id = self.hub.server.create_room(self.alice)
        for server, user_id in guests:
            server.server.join(user_id, room_id, "hub.example")
        self.network.settle()
        return room_id

    def wakes(self, server: DeviceServer) -> Wakes:
        """Who was woken there."""
        assert isinstance(server.waker, Wakes)
        return server.waker

    def log_in(self, server: DeviceServer, user_id: str, device_id: str) -> Device:
        """A device logs in; it publishes nothing yet."""
        result_of(
            server.server.database.write(
                lambda tx: server.stores.accounts.add_token(
                    tx, user_id, device_id, f"token {user_id} {device_id}", 0, None
                )
            )
        )
        return Device(user_id, device_id)

    def publish(self, server: DeviceServer, device: Device, *packages: bytes, last_resort: bool = False) -> Any:
        """It publishes its object and key packages; how many there are."""
        keys = parse_keys(
            device.keys(*packages), device.user_id, device.device_id, NOW_S * 1000, last_resort=last_resort
        )
        parsed = DeviceObject.parse(device.object(), device.user_id)
        counts = done(server.floor.devices.upload(device.user_id, device.device_id, parsed, keys))
        self.network.settle()
        return counts

    def new_device(self, server: DeviceServer, user_id: str, device_id: str, *packages: bytes) -> Device:
        """A device that is logged in and has published."""
        device = self.log_in(server, user_id, device_id)
        self.publish(server, device, *packages)
        return device

    def receive(self, server: DeviceServer, origin: str, *edus: JsonObject, txn_id: str = "") -> JsonObject:
        """A transaction with EDUs comes; the answer."""
        self._transactions = getattr(self, "_transactions", 0) + 1
        return server.server.receive(origin, txn_id or f"test-{self._transactions}", [], edus=list(edus))

    def inbox(self, server: DeviceServer, user_id: str, device_id: str) -> list[JsonObject]:
        """What waits for a device."""
        store = server.stores.to_device
        page = result_of(server.server.database.read(lambda tx: store.page(tx, user_id, device_id, 0, 2**60, 10**6)))
        return [parse_object(message) for _, message in page]

    def known_devices(self, server: DeviceServer, user_id: str) -> list[str]:
        """The devices of which a server has the objects."""
        objects = result_of(server.server.database.read(lambda tx: server.stores.devices.objects(tx, user_id)))
        return sorted(objects)

    def dropped(self, server: DeviceServer, kind: str) -> dict[str, float]:
        """How many EDUs of a kind came to what."""
        return {
            sample.labels["outcome"]: sample.value
            for family in server.server.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "lmatrix_edus_total" and sample.labels["type"] == kind
        }
