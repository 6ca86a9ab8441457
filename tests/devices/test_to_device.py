"""Sending messages to devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmatrix.canonical_json import encode
from lmatrix.devices.edus import MESSAGE_ID
from lmatrix.devices.to_device import SendRequest
from lmatrix.errors import Overloaded, StorageFailed, TooLarge
from lmatrix.rooms.interfaces import JsonObject
from tests.devices.bench import DevicesTestCase
from tests.devices.network import DeviceServer
from tests.rooms.network import done, result_of


class SendingTests(DevicesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.new_device(self.hub, self.alice, "PHONE")
        self.new_device(self.hub, self.alice, "DESK")
        self.new_device(self.north, self.bob, "BOBS")

    def send(
        self,
        messages: Mapping[str, Mapping[str, JsonObject]],
        txn_id: str = "txn",
        *,
        sender: str = "",
        server: DeviceServer | None = None,
        message_type: str = "m.test",
    ) -> None:
        """Bob's device sends messages, and everything is delivered."""
        request = SendRequest(sender or self.bob, "BOBS", txn_id, message_type, messages)
        self.network.finished((server or self.north).floor.to_device.send(request))
        self.network.settle()

    def contents(self, server: DeviceServer, user_id: str, device_id: str) -> list[Any]:
        return [message["content"] for message in self.inbox(server, user_id, device_id)]

    def test_to_another_server(self) -> None:
        """A message arrives at the one device that it is for, in the I-D's shape, straight from server to server."""
        self.send({self.alice: {"PHONE": {"a": 1}}})
        self.assertEqual(
            self.inbox(self.hub, self.alice, "PHONE"),
            [{"type": "m.test", "sender": self.bob, "content": {"a": 1}}],
        )
        self.assertEqual(self.inbox(self.hub, self.alice, "DESK"), [])
        self.assertEqual(self.network.requests[-1], ("north.example", "hub.example", "send"))

    def test_local(self) -> None:
        """Local devices get theirs without any other server."""
        self.send({self.bob: {"BOBS": {"a": 1}, "OTHER": {"a": 2}}, "@nobody:north.example": {"X": {}}})
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [{"a": 1}])
        self.assertEqual([user for _, user in self.wakes(self.north).users][-1:], [self.bob])

    def test_every_device(self) -> None:
        """``*`` is every device, here and elsewhere; a device that is named gets what is for it."""
        self.new_device(self.north, self.bob, "PAD")
        self.send({self.alice: {"*": {"a": 1}, "DESK": {"a": 2}}, self.bob: {"*": {"b": 1}, "PAD": {"b": 2}}})
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [{"a": 1}])
        self.assertEqual(self.contents(self.hub, self.alice, "DESK"), [{"a": 2}])
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [{"b": 1}])
        self.assertEqual(self.contents(self.north, self.bob, "PAD"), [{"b": 2}])

    def test_every_device_of_an_unreachable_server(self) -> None:
        """``*`` then means those that are known."""
        self.shared_room((self.north, self.bob))
        self.network.unreachable.add("hub.example")
        self.send({self.alice: {"*": {"a": 1}}, self.bob: {"BOBS": {"b": 1}}})
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [{"b": 1}])
        self.network.unreachable.clear()
        self.network.settle()
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [{"a": 1}])

    def test_once(self) -> None:
        """A request that is repeated is not carried out again; another one of the same ID is another one."""
        messages = {self.alice: {"PHONE": {"a": 1}}, self.bob: {"BOBS": {"b": 1}}}
        self.send(messages)
        self.send(messages)
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [{"a": 1}])
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [{"b": 1}])
        self.send(messages, message_type="m.other")
        self.send(messages, "txn2")
        self.assertEqual(len(self.contents(self.hub, self.alice, "PHONE")), 3)

    def test_transaction_ids_that_come_back(self) -> None:
        """A client that begins to count anew, long after, is not taken for one that repeats itself: not by its own
        server, and not by the others.
        """
        self.send({self.alice: {"PHONE": {"a": 1}}})
        self.network.clock.advance(2 * 24 * 3600)
        for number in range(10):
            self.send({self.bob: {"BOBS": {}}}, f"later {number}")
        self.send({self.alice: {"PHONE": {"a": 2}}})
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [{"a": 1}, {"a": 2}])

    def test_on_disk_when_answered(self) -> None:
        """What was answered for survives: the server, and any outage of the other one, in order."""
        self.network.unreachable.add("hub.example")
        for number in range(150):
            self.send({self.alice: {"PHONE": {"n": number}}}, f"txn {number}")
        self.north.build()
        self.network.unreachable.clear()
        self.north.server.delivery.edus.add("hub.example")
        self.network.settle()
        self.assertEqual([content["n"] for content in self.contents(self.hub, self.alice, "PHONE")], list(range(150)))

    def test_nothing_when_not_on_disk(self) -> None:
        """A request that could not be stored has done nothing, and can be repeated."""
        self.north.server.database.fail_commits = 1
        messages = {self.alice: {"PHONE": {"a": 1}}, self.bob: {"BOBS": {"b": 1}}}
        with self.assertRaises(StorageFailed):
            self.send(messages)
        self.network.settle()
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [])
        self.send(messages)
        self.assertEqual(self.contents(self.hub, self.alice, "PHONE"), [{"a": 1}])
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [{"b": 1}])

    def test_too_long(self) -> None:
        """A message that fits into no EDU is refused, with everything else in its request."""
        with self.assertRaises(TooLarge):
            self.send({self.alice: {"PHONE": {"x": "x" * 65_536}}, self.bob: {"BOBS": {"b": 1}}})
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [])
        self.send({self.alice: {"PHONE": {"x": "x" * 65_000}}})
        self.assertEqual(len(self.contents(self.hub, self.alice, "PHONE")), 1)

    def test_a_full_outbox(self) -> None:
        """While too much waits for a server, requests that concern it are refused whole; others are not."""
        self.network.unreachable.add("hub.example")
        outbox = self.north.stores.delivery

        def fill(tx: Any) -> None:
            for _ in range(10_000):
                outbox.add_edu(tx, "hub.example", {"type": "m.x"})

        result_of(self.north.server.database.write(fill))
        with self.assertRaises(Overloaded):
            self.send({self.alice: {"PHONE": {}}, self.bob: {"BOBS": {}}})
        self.assertEqual(self.contents(self.north, self.bob, "BOBS"), [])
        self.send({self.bob: {"BOBS": {}}})
        self.assertEqual(len(self.contents(self.north, self.bob, "BOBS")), 1)

    def test_ids(self) -> None:
        """Every message that goes out has an ID of its own, that says nothing."""
        self.network.unreachable.add("hub.example")
        self.send({self.alice: {"PHONE": {"a": 1}, "DESK": {"a": 1}}})
        self.send({self.alice: {"PHONE": {"a": 1}}}, "txn2")
        store = self.north.stores.delivery
        waiting = result_of(self.north.server.database.read(lambda tx: store.edus(tx, "hub.example", 9)))
        ids = {edu["content"][MESSAGE_ID] for _, edu in waiting}
        self.assertEqual(len(ids), 3)
        for message_id in ids:
            self.assertRegex(message_id, r"\A[A-Za-z0-9_-]{43}\Z")
            self.assertNotIn(b"txn", encode(message_id))

    def test_an_inbox_of_a_device_that_never_looks(self) -> None:
        """A device that lets thousands wait gets no more; its user's other devices do."""
        inbox = self.north.stores.to_device

        def fill(tx: Any) -> None:
            for _ in range(5_000):
                inbox.put(tx, self.bob, "BOBS", "north.example", {})

        self.log_in(self.north, self.bob, "PAD")
        result_of(self.north.server.database.write(fill))
        self.send({self.bob: {"*": {"b": 1}}})
        self.assertEqual(len(self.inbox(self.north, self.bob, "BOBS")), 5_000)
        self.assertEqual(self.contents(self.north, self.bob, "PAD"), [{"b": 1}])

    def test_removed_devices(self) -> None:
        """What waits for a device goes with it."""
        self.send({self.alice: {"PHONE": {"a": 1}}})
        done(self.hub.floor.devices.remove(self.alice, ["PHONE"]))
        self.assertEqual(self.inbox(self.hub, self.alice, "PHONE"), [])
