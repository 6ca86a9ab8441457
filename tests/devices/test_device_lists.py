"""Device lists: what local devices publish, what other servers hear of it, and what is known of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from lmatrix.canonical_json import parse_object
from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.edus import DeviceListUpdate, device_list_edu
from lmatrix.devices.key_queries import QueryAnswer
from lmatrix.errors import BadRequest, NotFound
from lmatrix.storage.devices import SqlDeviceStore
from tests.devices.bench import DevicesTestCase
from tests.devices.builders import DAY_S, Device
from tests.devices.network import DeviceServer
from tests.rooms.network import done, result_of


class PublishingTests(DevicesTestCase):
    """Local users' devices."""

    def outbox(self, server: DeviceServer, destination: str) -> list[Any]:
        """The EDUs that wait for a destination."""
        store = server.stores.delivery
        waiting = result_of(server.server.database.read(lambda tx: store.edus(tx, destination, 10**6)))
        return [edu for _, edu in waiting]

    def test_to_every_server_that_shares_a_room(self) -> None:
        """What a device publishes reaches the servers of all who share a room with its user, and no other."""
        self.shared_room((self.north, self.bob))
        device = self.log_in(self.hub, self.alice, "PHONE")
        self.publish(self.hub, device)
        self.assertEqual(self.known_devices(self.north, self.alice), ["PHONE"])
        self.assertEqual(self.known_devices(self.south, self.alice), [])
        self.assertEqual(self.outbox(self.hub, "north.example"), [])

    def test_from_one_participant_to_another(self) -> None:
        """The servers of a room tell each other directly, whoever is the hub."""
        self.shared_room((self.north, self.bob), (self.south, self.carol))
        self.new_device(self.north, self.bob, "BOBS")
        self.assertEqual(self.known_devices(self.hub, self.bob), ["BOBS"])
        self.assertEqual(self.known_devices(self.south, self.bob), ["BOBS"])
        self.assertIn(("north.example", "south.example", "send"), self.network.requests)

    def test_on_disk_when_answered(self) -> None:
        """What was published is on its way even when the server stops at once; the newest news goes, not each."""
        self.shared_room((self.north, self.bob))
        self.network.unreachable.add("north.example")
        device = self.new_device(self.hub, self.alice, "PHONE")
        other = self.new_device(self.hub, self.alice, "DESK")
        changed = DeviceObject.parse(device.object(colour="green"), self.alice)
        done(self.hub.floor.devices.upload(self.alice, "PHONE", changed, []))
        waiting = self.outbox(self.hub, "north.example")
        self.assertEqual(
            waiting,
            [
                device_list_edu(DeviceListUpdate(self.alice, (DeviceObject.parse(other.object(), self.alice),))),
                device_list_edu(DeviceListUpdate(self.alice, (changed,))),
            ],
        )
        done(self.hub.floor.devices.remove(self.alice, ["PHONE"]))
        [_, last] = self.outbox(self.hub, "north.example")
        self.assertEqual(last["content"], {"changed": [], "removed": ["PHONE"]})
        self.assertEqual(last["sender"], last["sender_id"])

    def test_nothing_new(self) -> None:
        """Publishing the same again tells nobody."""
        self.shared_room((self.north, self.bob))
        device = self.new_device(self.hub, self.alice, "PHONE")
        before = len(self.network.requests)
        self.publish(self.hub, device)
        self.publish(self.hub, device, device.key_package())
        self.assertEqual(len(self.network.requests), before)

    def test_removed(self) -> None:
        """A device that is removed is gone everywhere, with its keys, its messages and its token."""
        self.shared_room((self.north, self.bob))
        device = self.new_device(self.hub, self.alice, "PHONE")
        self.publish(self.hub, device, device.key_package())
        silent = self.log_in(self.hub, self.alice, "SILENT")
        done(self.hub.floor.devices.remove(self.alice))
        self.network.settle()
        self.assertEqual(self.known_devices(self.hub, self.alice), [])
        self.assertEqual(self.known_devices(self.north, self.alice), [])
        self.assertEqual(done(self.hub.floor.devices.devices(self.alice)), [])
        self.assertEqual(done(self.hub.floor.claims.hand_out({self.alice: {"PHONE": "x"}})), {})
        with self.assertRaises(NotFound):
            done(self.hub.floor.directory.local_device(self.alice, silent.device_id))

    def test_too_many(self) -> None:
        """An account has a bounded number of devices; one more is refused, and not told of."""
        self.hub.stores = attrs.evolve(self.hub.stores, devices=SqlDeviceStore(max_devices_of_user=2))
        self.hub.build()
        self.new_device(self.hub, self.alice, "A")
        self.new_device(self.hub, self.alice, "B")
        with self.assertRaises(BadRequest):
            self.new_device(self.hub, self.alice, "C")

    def test_failing_commit(self) -> None:
        """What could not be stored is told to nobody."""
        self.shared_room((self.north, self.bob))
        device = self.log_in(self.hub, self.alice, "PHONE")
        self.hub.server.database.fail_commits = 1
        parsed = DeviceObject.parse(device.object(), self.alice)
        publishing = Deferred.fromCoroutine(self.hub.floor.devices.upload(self.alice, "PHONE", parsed, []))
        self.failureResultOf(publishing)
        self.assertEqual((self.outbox(self.hub, "north.example"), self.wakes(self.hub).users), ([], []))


class IntroductionTests(DevicesTestCase):
    """What servers hear when they come to share a room."""

    def test_a_new_server(self) -> None:
        """A server that is new in a room hears of the devices of all who are in it, and they of its user's."""
        self.new_device(self.hub, self.alice, "PHONE")
        self.new_device(self.north, self.bob, "BOBS")
        self.new_device(self.south, self.carol, "CAROLS")
        self.shared_room((self.north, self.bob), (self.south, self.carol))
        for server, users in (
            (self.hub, (self.bob, self.carol)),
            (self.north, (self.alice, self.carol)),
            (self.south, (self.alice, self.bob)),
        ):
            for user_id in users:
                self.assertEqual(len(self.known_devices(server, user_id)), 1, f"{user_id} on {server.server.name}")

    def test_another_user_of_a_known_server(self) -> None:
        """When another user of the same server joins, only that user's devices are news."""
        self.new_device(self.hub, self.alice, "PHONE")
        room_id = self.shared_room((self.north, self.bob))
        ben = self.north.server.user("ben")
        self.new_device(self.north, ben, "BENS")
        before = len(self.network.requests)
        self.north.server.join(ben, room_id, "hub.example")
        self.network.settle()
        self.assertEqual(self.known_devices(self.hub, ben), ["BENS"])
        sent = [
            request for request in self.network.requests[before:] if request[:2] == ("hub.example", "north.example")
        ]
        self.assertEqual({what for _, _, what in sent}, {"send"})
        self.assertEqual(self.dropped(self.north, "m.device_list_update"), {"accepted": 1})

    def test_nobody_to_tell_of(self) -> None:
        """Where nobody has devices to tell of, joins cost no write."""
        room_id = self.shared_room()
        self.north.server.join(self.bob, room_id, "hub.example")
        self.network.settle()
        commits = self.hub.server.database.commits
        self.hub.floor.memberships_changed(room_id, {self.bob}, set(), {"north.example"})
        self.hub.floor.memberships_changed(room_id, {self.alice}, set(), set())
        self.assertEqual(self.hub.server.database.commits, commits)
        self.assertEqual(self.dropped(self.north, "m.device_list_update"), {})


class DirectoryTests(DevicesTestCase):
    """Asking for devices."""

    def query(self, wanted: dict[str, Sequence[str]], *, of: DeviceServer | None = None) -> QueryAnswer:
        return self.network.finished((of or self.north).floor.directory.query(wanted, 10.0))

    def found(self, user_id: str, *device_ids: str) -> list[str] | None:
        """The devices of a user, as the north answers for them; ``None`` when it does not."""
        devices = self.query({user_id: device_ids}).devices.get(user_id)
        return None if devices is None else sorted(devices)

    def asked(self) -> int:
        """How often another server was asked about devices."""
        return sum(what in ("device", "devices") for _, _, what in self.network.requests)

    def test_local(self) -> None:
        """Local users' devices, all or some; those without a device object are no devices to ask for."""
        self.new_device(self.north, self.bob, "A")
        self.new_device(self.north, self.bob, "B")
        self.log_in(self.north, self.bob, "SILENT")
        self.assertEqual(self.found(self.bob), ["A", "B"])
        self.assertEqual(self.found(self.bob, "B", "SILENT", "OTHER"), ["B"])
        self.assertEqual(self.found("@nobody:north.example"), [])
        self.assertEqual(self.asked(), 0)

    def test_once_and_kept_up_to_date(self) -> None:
        """A list is asked for once; from then on its server's updates keep it right."""
        phone = self.new_device(self.hub, self.alice, "PHONE")
        self.shared_room((self.north, self.bob))
        self.assertEqual(self.found(self.alice), ["PHONE"])
        self.assertEqual(self.asked(), 1)
        self.new_device(self.hub, self.alice, "DESK")
        changed = DeviceObject.parse(phone.object(colour="green"), self.alice)
        done(self.hub.floor.devices.upload(self.alice, "PHONE", changed, []))
        self.network.settle()
        devices = self.query({self.alice: ()}).devices[self.alice]
        self.assertEqual(sorted(devices), ["DESK", "PHONE"])
        self.assertEqual(devices["PHONE"], phone.object(colour="green"))
        done(self.hub.floor.devices.remove(self.alice, ["PHONE"]))
        self.network.settle()
        self.assertEqual(self.found(self.alice), ["DESK"])
        self.assertEqual(self.asked(), 1)

    def test_trusted_for_a_day(self) -> None:
        """After a day it is asked for again."""
        self.new_device(self.hub, self.alice, "PHONE")
        self.shared_room((self.north, self.bob))
        self.found(self.alice)
        self.network.clock.advance(DAY_S - 1)
        self.found(self.alice)
        self.assertEqual(self.asked(), 1)
        self.network.clock.advance(2)
        self.found(self.alice)
        self.assertEqual(self.asked(), 2)

    def test_no_room_in_common(self) -> None:
        """Of a user with whom no room is shared nothing is stored: it is asked for each time."""
        self.new_device(self.hub, self.alice, "PHONE")
        self.assertEqual([self.found(self.alice), self.found(self.alice)], [["PHONE"], ["PHONE"]])
        self.assertEqual(self.asked(), 2)
        self.assertEqual(self.known_devices(self.north, self.alice), [])

    def test_a_room_left_and_joined_again(self) -> None:
        """What changed while no room was shared is not missed, because the list is asked for again."""
        self.new_device(self.hub, self.alice, "PHONE")
        room_id = self.shared_room((self.north, self.bob))
        self.found(self.alice)
        leaving = Deferred.fromCoroutine(self.north.server.floor.local_users.leave(self.bob, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        done(self.hub.floor.devices.remove(self.alice, ["PHONE"]))
        self.network.settle()
        self.assertEqual(self.known_devices(self.north, self.alice), ["PHONE"])
        self.assertEqual(self.found(self.alice), [])
        self.north.server.join(self.bob, room_id, "hub.example")
        self.network.settle()
        self.assertEqual(self.found(self.alice), [])
        self.assertEqual(self.known_devices(self.north, self.alice), [])

    def test_unreachable(self) -> None:
        """What is known is told, and that it may not be all."""
        self.new_device(self.hub, self.alice, "PHONE")
        self.shared_room((self.north, self.bob))
        self.network.unreachable.add("hub.example")
        answer = self.query({self.alice: (), "@other:hub.example": (), self.bob: ()})
        self.assertEqual(answer.failures, {"hub.example"})
        self.assertEqual(
            {user: sorted(devices) for user, devices in answer.devices.items()}, {self.alice: ["PHONE"], self.bob: []}
        )

    def test_a_slow_server(self) -> None:
        """A server that does not answer in time counts as failed, and keeps nobody else waiting."""
        self.network.slow["hub.example", "devices"] = Deferred()
        asking = Deferred.fromCoroutine(self.north.floor.directory.query({self.alice: ()}, 10.0))
        self.network.clock.advance(11)
        self.assertEqual(self.successResultOf(asking), QueryAnswer({}, frozenset({"hub.example"})))

    def test_a_server_without_lists(self) -> None:
        """Of a server that tells no lists, its updates and single devices are known."""
        self.hub.tells_lists = False
        self.new_device(self.hub, self.alice, "OLD")
        room_id = self.hub.server.create_room(self.alice)
        self.hub.server.watcher = self.south.floor  # it introduces nobody
        self.hub.server.floor = self.hub.server.build()
        self.north.server.join(self.bob, room_id, "hub.example")
        self.network.settle()
        self.new_device(self.hub, self.alice, "NEW")
        self.assertEqual(self.found(self.alice), ["NEW"])
        self.assertEqual(self.found(self.alice, "OLD"), ["OLD"])
        self.assertEqual(self.found(self.alice, "OLD", "NEW", "OTHER"), ["NEW", "OLD"])

    def test_lies(self) -> None:
        """Device objects that are not valid are not handed out."""
        good, bad = Device(self.alice, "GOOD"), Device(self.alice, "BAD")
        broken = {**bad.object(), "algorithms": []}
        other = Device("@eve:hub.example", "EVES")

        class Liar:
            async def devices(self, destination: str, user_id: str) -> Any:
                return [good.object(), broken, other.object(), {}]

        self.north.floor.directory._peers = Liar()  # type: ignore[assignment]
        self.assertEqual(self.found(self.alice), ["GOOD"])

    def test_news_overtakes_the_answer(self) -> None:
        """An update that comes while the list is being fetched is not undone by the list."""
        phone = self.new_device(self.hub, self.alice, "PHONE")
        self.shared_room((self.north, self.bob))
        old = [parse_object(DeviceObject.parse(phone.object(), self.alice).canonical)]
        answer: Deferred[Any] = Deferred()

        class Slow:
            async def devices(self, destination: str, user_id: str) -> Any:
                await answer
                return old

        self.north.floor.directory._peers = Slow()  # type: ignore[assignment]
        asking = Deferred.fromCoroutine(self.north.floor.directory.query({self.alice: ()}, 10.0))
        self.new_device(self.hub, self.alice, "DESK")
        answer.callback(None)
        self.successResultOf(asking)
        self.assertEqual(self.known_devices(self.north, self.alice), ["DESK", "PHONE"])

    def test_for_other_servers(self) -> None:
        """The endpoints' side: a device as it was signed, or nothing."""
        device = self.new_device(self.hub, self.alice, "PHONE")
        directory = self.hub.floor.directory
        self.assertEqual(parse_object(done(directory.local_device(self.alice, "PHONE"))), device.object())
        self.shared_room((self.north, self.bob))
        self.new_device(self.north, self.bob, "BOBS")
        for user_id, device_id in ((self.alice, "X"), ("@nobody:hub.example", "PHONE"), (self.bob, "BOBS")):
            with self.assertRaises(NotFound):
                done(directory.local_device(user_id, device_id))
        for user_id in ("@nobody:hub.example", self.bob):
            with self.assertRaises(NotFound):
                done(directory.local_devices(user_id))
        first, objects = done(directory.local_devices(self.alice))
        self.assertEqual(list(objects), ["PHONE"])
        self.new_device(self.hub, self.alice, "DESK")
        self.assertGreater(done(directory.local_devices(self.alice))[0], first)
