"""What becomes of EDUs of other servers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode
from lmatrix.devices.edus import MESSAGE_ID
from lmatrix.errors import StorageFailed
from lmatrix.rooms.interfaces import JsonObject
from tests.devices.bench import DevicesTestCase
from tests.devices.builders import Device
from tests.devices.test_edus import FORBIDDEN, MALFORMED
from tests.rooms.network import result_of


class InboundTestCase(DevicesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room((self.north, self.bob))
        self.log_in(self.hub, self.alice, "PHONE")

    def to_device(self, number: int = 0, **changes: Any) -> JsonObject:
        """A message for Alice's phone from Bob."""
        content = {
            "target": self.alice,
            "target_device": "PHONE",
            "message_type": "m.test",
            "message": {"number": number},
            **changes,
        }
        return {"type": "m.direct_to_device", "sender": self.bob, "content": content}

    def numbers(self) -> list[int]:
        """The messages that wait for Alice's phone."""
        return [message["content"]["number"] for message in self.inbox(self.hub, self.alice, "PHONE")]


class ToDeviceTests(InboundTestCase):
    def test_taken(self) -> None:
        """A message waits for its device, as the device will see it, and whoever it is for is woken."""
        self.receive(self.hub, "north.example", self.to_device(1))
        self.assertEqual(
            self.inbox(self.hub, self.alice, "PHONE"),
            [{"type": "m.test", "sender": self.bob, "content": {"number": 1}}],
        )
        self.assertEqual([user for _, user in self.wakes(self.hub).users], [self.alice])
        self.assertEqual(self.dropped(self.hub, "m.direct_to_device"), {"accepted": 1})

    def test_nobody_there(self) -> None:
        """A message for an unknown device, an unknown user or another server's user is ignored."""
        self.log_in(self.north, self.bob, "BOBS")
        self.receive(
            self.hub,
            "north.example",
            self.to_device(target_device="OTHER"),
            self.to_device(target="@nobody:hub.example"),
            self.to_device(target=self.bob, target_device="BOBS"),
        )
        self.assertEqual(self.dropped(self.hub, "m.direct_to_device"), {"unknown": 3})
        [(count,)] = result_of(
            self.hub.server.database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM to_device_messages"))
        )
        self.assertEqual(count, 0)

    def test_no_room_in_common(self) -> None:
        """A message needs no room in common: it may be an answer to a claim of keys."""
        edu = {**self.to_device(1), "sender": self.carol}
        self.receive(self.hub, "south.example", edu)
        self.assertEqual(self.numbers(), [1])

    def test_the_same_transaction_again(self) -> None:
        """A transaction that is repeated does not double its messages, in order or out of it."""
        edus = [self.to_device(n) for n in range(3)]
        first = self.receive(self.hub, "north.example", *edus, txn_id="t1")
        self.receive(self.hub, "north.example", self.to_device(3), txn_id="t2")
        self.assertEqual(self.receive(self.hub, "north.example", *edus, txn_id="t1"), first)
        self.assertEqual(self.numbers(), [0, 1, 2, 3])

    def test_the_same_message_in_another_transaction(self) -> None:
        """A message with an ID is recognised in whichever transaction it comes again, even after it was delivered."""
        edu = self.to_device(1, **{MESSAGE_ID: "id"})
        self.receive(self.hub, "north.example", edu)
        store = self.hub.stores.to_device
        result_of(self.hub.server.database.write(lambda tx: store.acknowledge(tx, self.alice, "PHONE", 2**60)))
        self.receive(self.hub, "north.example", edu, edu)
        self.assertEqual(self.numbers(), [])
        self.assertEqual(self.dropped(self.hub, "m.direct_to_device"), {"accepted": 1, "repeated": 2})
        # Another device's copy, another sender's and another server's message are other messages.
        self.log_in(self.hub, self.alice, "DESK")
        self.receive(
            self.hub,
            "north.example",
            self.to_device(2, **{MESSAGE_ID: "id", "target_device": "DESK"}),
            {**edu, "sender": "@ben:north.example"},
        )
        self.receive(self.hub, "south.example", {**edu, "sender": self.carol})
        self.assertEqual(self.dropped(self.hub, "m.direct_to_device"), {"accepted": 4, "repeated": 2})

    def test_not_on_disk(self) -> None:
        """What could not be stored is not answered for, and is taken when it comes again."""
        self.hub.server.database.fail_commits = 2
        with self.assertRaises(StorageFailed):
            self.receive(self.hub, "north.example", self.to_device(1), txn_id="t1")
        self.hub.server.database.fail_commits = 0
        self.receive(self.hub, "north.example", self.to_device(1), txn_id="t1")
        self.receive(self.hub, "north.example", self.to_device(1), txn_id="t1")
        self.assertEqual(self.numbers(), [1])

    def test_one_commit(self) -> None:
        """Messages and the record that their transaction was carried out are one commit."""
        before = self.hub.server.database.commits
        self.receive(self.hub, "north.example", *[self.to_device(n) for n in range(100)])
        self.assertEqual(self.hub.server.database.commits, before + 1)

    def test_full(self) -> None:
        """One server can fill its own share of an inbox only; what waits is never pushed out."""
        for start in range(0, 1100, 100):
            self.receive(self.hub, "north.example", *[self.to_device(n) for n in range(start, start + 100)])
        self.assertEqual(self.numbers(), list(range(1000)))
        self.assertEqual(self.dropped(self.hub, "m.direct_to_device"), {"accepted": 1000, "full": 100})
        self.receive(self.hub, "south.example", {**self.to_device(9999), "sender": self.carol})
        self.assertEqual(self.numbers()[-1], 9999)


class DeviceListTests(InboundTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device = Device(self.bob, "BOBS")

    def update(self, *changed: JsonObject, removed: tuple[str, ...] = (), sender: str = "") -> JsonObject:
        content = {"changed": list(changed), "removed": list(removed)}
        return {"type": "m.device_list_update", "sender_id": sender or self.bob, "content": content}

    def test_kept(self) -> None:
        """Devices come, change and go, and whoever shares a room hears of it."""
        self.receive(self.hub, "north.example", self.update(self.device.object()))
        self.assertEqual(self.known_devices(self.hub, self.bob), ["BOBS"])
        self.assertEqual([room for _, room in self.wakes(self.hub).rooms], [self.room_id])
        self.receive(self.hub, "north.example", self.update(self.device.object(colour="green")))
        stored = self.hub.stores.devices
        canonical = result_of(self.hub.server.database.read(lambda tx: stored.object(tx, self.bob, "BOBS")))
        self.assertEqual(canonical, encode(self.device.object(colour="green")))
        self.receive(self.hub, "north.example", self.update(removed=("BOBS", "OTHER")))
        self.assertEqual(self.known_devices(self.hub, self.bob), [])
        self.assertEqual(len(self.wakes(self.hub).rooms), 3)

    def test_nothing_new(self) -> None:
        """An update that says what is known wakes nobody."""
        self.receive(self.hub, "north.example", self.update(self.device.object()))
        self.receive(self.hub, "north.example", self.update(self.device.object(), removed=("OTHER",)))
        self.assertEqual(len(self.wakes(self.hub).rooms), 1)

    def test_no_room_in_common(self) -> None:
        """A server cannot fill our database with the devices of users who are nobody's business here."""
        stranger = Device(self.carol, "CAROLS")
        self.receive(self.hub, "south.example", self.update(stranger.object(), sender=self.carol))
        self.assertEqual(self.known_devices(self.hub, self.carol), [])
        self.assertEqual(self.dropped(self.hub, "m.device_list_update"), {"forbidden": 1})

    def test_many_at_once(self) -> None:
        """Many signatures to check leave others their turn, and are all checked in the end."""
        updates = [
            self.update(*[Device(self.bob, f"D{n}").object() for n in range(start, start + 50)]) for start in (0, 50)
        ]
        body = {"pdus": [], "edus": updates}
        receiving = Deferred.fromCoroutine(self.hub.server.floor.receiver.receive("north.example", "txn", body))
        self.assertNoResult(receiving)
        self.network.clock.pump([0] * 5)
        self.successResultOf(receiving)
        self.assertEqual(len(self.known_devices(self.hub, self.bob)), 100)

    def test_too_many(self) -> None:
        """Of one user a bounded number of devices is kept."""
        many = [Device(self.bob, f"D{n}").object() for n in range(505)]
        for start in range(0, 505, 50):
            self.receive(self.hub, "north.example", self.update(*many[start : start + 50]))
        self.assertEqual(len(self.known_devices(self.hub, self.bob)), 500)
        self.receive(self.hub, "north.example", self.update(Device(self.bob, "D1").object(colour="red")))
        self.receive(self.hub, "north.example", self.update(removed=("D1",)))
        self.assertEqual(len(self.known_devices(self.hub, self.bob)), 499)


class RoomTests(InboundTestCase):
    def typing(self, user_id: str, room_id: str = "", *, typing: bool = True) -> JsonObject:
        content = {"room_id": room_id or self.room_id, "user_id": user_id, "typing": typing}
        return {"type": "m.typing", "content": content}

    def read(self, user_id: str, event_id: str, room_id: str = "") -> JsonObject:
        entry = {"event_ids": [event_id], "data": {"ts": 5}}
        return {"type": "m.receipt", "content": {room_id or self.room_id: {"m.read": {user_id: entry}}}}

    def typists(self) -> tuple[str, ...]:
        """Who types in the room."""
        return self.hub.floor.typing.snapshot().rooms.get(self.room_id, (0, ()))[1]

    def receipts(self) -> list[tuple[str, str]]:
        """Who has read the room, up to which event."""
        store = self.hub.stores.receipts
        found = result_of(
            self.hub.server.database.read(lambda tx: list(store.changed_receipts(tx, [self.room_id], 0, 2**60)))
        )
        return sorted((receipt.user_id, receipt.event_id) for receipt in found)

    def test_typing(self) -> None:
        """A member types, until it says otherwise or falls silent."""
        self.receive(self.hub, "north.example", self.typing(self.bob))
        self.assertEqual(self.typists(), (self.bob,))
        self.assertEqual(self.wakes(self.hub).stirred, [self.room_id])
        self.receive(self.hub, "north.example", self.typing(self.bob, typing=False))
        self.assertEqual(self.typists(), ())
        self.receive(self.hub, "north.example", self.typing(self.bob))
        self.network.clock.advance(61)
        self.assertEqual(self.typists(), ())
        self.assertEqual(len(self.wakes(self.hub).stirred), 4)

    def test_receipts(self) -> None:
        """A member has read, and never less than before; the event need not be known here yet."""
        log = [event.event_id for event in self.hub.server.log(self.room_id)]
        self.receive(self.hub, "north.example", self.read(self.bob, log[2]))
        self.receive(self.hub, "north.example", self.read(self.bob, log[1]))
        self.assertEqual(self.receipts(), [(self.bob, log[2])])
        self.assertEqual(len(self.wakes(self.hub).rooms), 1)
        unknown = "$" + "u" * 43
        self.receive(self.hub, "north.example", self.read(self.bob, unknown))
        self.assertEqual(self.receipts(), [(self.bob, unknown)])
        self.receive(self.hub, "north.example", self.read(self.bob, log[3]))
        self.assertEqual(self.receipts(), [(self.bob, log[3])])

    def test_not_in_the_room(self) -> None:
        """Only members are listened to: not strangers, nor those who left, nor anybody in an unknown room."""
        event_id = self.hub.server.log(self.room_id)[0].event_id
        ben = self.north.server.user("ben")
        unknown = "!unknown:hub.example"
        self.receive(
            self.hub,
            "north.example",
            self.typing(ben),
            self.read(ben, event_id),
            self.typing(self.bob, unknown),
            self.read(self.bob, event_id, unknown),
        )
        self.receive(self.hub, "south.example", self.typing(self.carol), self.read(self.carol, event_id))
        self.assertEqual((self.typists(), self.receipts()), ((), []))
        self.assertEqual(self.dropped(self.hub, "m.typing"), {"forbidden": 3})
        self.assertEqual(self.dropped(self.hub, "m.receipt"), {"forbidden": 3})

    def test_whoever_leaves_types_no_more(self) -> None:
        """A member who leaves, or is made to, does not type any more."""
        self.receive(self.hub, "north.example", self.typing(self.bob))
        self.network.finished(
            self.hub.server.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", None)
        )
        self.assertEqual(self.typists(), ())


class BadInputTests(InboundTestCase):
    def test_nothing_happens(self) -> None:
        """What is wrong with EDUs changes neither the answer, nor the database, nor what becomes of the others."""
        before = self.contents()
        for start in range(0, len(MALFORMED + FORBIDDEN), 40):
            answer = self.receive(self.hub, "north.example", *(MALFORMED + FORBIDDEN)[start : start + 40])
            self.assertEqual(answer, {"failed_pdus": {}})
        self.assertEqual(self.contents(), before)
        self.receive(self.hub, "north.example", MALFORMED[5], self.to_device(1), FORBIDDEN[0])
        self.assertEqual(self.numbers(), [1])

    def test_counted(self) -> None:
        """Each is counted under a bounded set of labels."""
        self.receive(self.hub, "north.example", *[{"type": f"x{n}"} for n in range(50)])
        self.assertEqual(self.dropped(self.hub, "other"), {"unknown": 50})

    def contents(self) -> list[Any]:
        """Everything that EDUs could have put into the database."""
        tables = ("to_device_messages", "device_objects", "receipts", "received_messages", "device_list_changes")
        return [
            result_of(self.hub.server.database.read(lambda tx, table=table: tx.rows(f"SELECT * FROM {table}")))
            for table in tables
        ]
