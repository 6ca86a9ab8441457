"""How far users have read."""

from __future__ import annotations

from typing import Any

from lmatrix.devices.receipts import Mark
from lmatrix.errors import BadRequest, Forbidden, NotFound
from tests.devices.bench import DevicesTestCase
from tests.devices.network import DeviceServer
from tests.rooms.network import result_of


class ReceiptTests(DevicesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room((self.north, self.bob))
        self.log = [event.event_id for event in self.hub.server.log(self.room_id)]

    def mark(self, *marks: Mark, user_id: str = "", room_id: str = "") -> None:
        """Alice has read; everything is delivered."""
        work = self.hub.floor.receipts.mark(room_id or self.room_id, user_id or self.alice, marks)
        self.network.finished(work)
        self.network.settle()

    def receipts(self, server: DeviceServer) -> list[tuple[str, str, str, str | None]]:
        """What a server knows of the room."""
        store = server.stores.receipts
        found = result_of(
            server.server.database.read(lambda tx: list(store.changed_receipts(tx, [self.room_id], 0, 2**60)))
        )
        return sorted(((one.user_id, one.kind, one.event_id, one.thread_id) for one in found), key=lambda one: str(one))

    def test_everywhere(self) -> None:
        """A receipt is known here and at every server in the room."""
        self.mark(Mark("m.read", self.log[1]))
        expected = [(self.alice, "m.read", self.log[1], None)]
        self.assertEqual((self.receipts(self.hub), self.receipts(self.north)), (expected, expected))
        self.assertEqual([room for _, room in self.wakes(self.hub).rooms], [self.room_id])

    def test_private(self) -> None:
        """A private receipt stays here, and wakes its user only."""
        self.mark(Mark("m.read.private", self.log[1]))
        self.assertEqual(self.receipts(self.hub), [(self.alice, "m.read.private", self.log[1], None)])
        self.assertEqual(self.receipts(self.north), [])
        self.assertEqual(self.wakes(self.hub).rooms, [])
        self.assertEqual([user for _, user in self.wakes(self.hub).users], [self.alice])

    def test_forwards_only(self) -> None:
        """What is behind an earlier receipt changes nothing, and is told to nobody."""
        self.mark(Mark("m.read", self.log[3]))
        before = len(self.network.requests)
        self.mark(Mark("m.read", self.log[2]))
        self.mark(Mark("m.read", self.log[3]))
        self.assertEqual(self.receipts(self.north), [(self.alice, "m.read", self.log[3], None)])
        self.assertEqual(len(self.network.requests), before)

    def test_threads(self) -> None:
        """Each thread has a receipt of its own; their number is bounded."""
        for thread_id in (None, "main", "$thread"):
            self.mark(Mark("m.read", self.log[1], thread_id))
        self.assertEqual(len(self.receipts(self.north)), 3)
        for number in range(30):
            self.mark(Mark("m.read", self.log[1], f"$thread{number}"))
        self.assertEqual(len(self.receipts(self.north)), 20)
        self.assertIn((self.alice, "m.read", self.log[1], "$thread29"), self.receipts(self.north))

    def test_refused(self) -> None:
        """Outsiders, unknown events, other rooms' events and unknown kinds."""
        elsewhere = self.shared_room()
        for mark, user_id, room_id, error in (
            (Mark("m.read", self.log[1]), "@eve:hub.example", self.room_id, Forbidden),
            (Mark("m.read", self.log[1]), self.alice, "!unknown:hub.example", Forbidden),
            (Mark("m.read", "$unknown"), self.alice, self.room_id, NotFound),
            (Mark("m.read", self.log[1]), self.alice, elsewhere, NotFound),
            (Mark("m.fully_read", "$unknown"), self.alice, self.room_id, NotFound),
            (Mark("m.delivered", self.log[1]), self.alice, self.room_id, BadRequest),
        ):
            with self.assertRaises(error):
                self.mark(mark, user_id=user_id, room_id=room_id)
        self.assertEqual(self.receipts(self.hub), [])

    def test_all_or_nothing(self) -> None:
        """Of several marks none is kept when one cannot be."""
        with self.assertRaises(NotFound):
            self.mark(Mark("m.read", self.log[1]), Mark("m.fully_read", "$unknown"))
        self.assertEqual((self.receipts(self.hub), self.receipts(self.north)), ([], []))

    def test_best_effort(self) -> None:
        """Other servers are told the newest, or nothing: there is no outbox for it."""
        self.hub.server.delivery.fleeting.clear()
        for event_id in self.log[1:4]:
            self.network.finished(self.hub.floor.receipts.mark(self.room_id, self.alice, [Mark("m.read", event_id)]))
        [(_, edu)] = self.hub.server.delivery.fleeting.items()
        content: Any = edu["content"]
        self.assertEqual(content[self.room_id]["m.read"][self.alice]["event_ids"], [self.log[3]])
        store = self.hub.stores.delivery
        self.assertEqual(result_of(self.hub.server.database.read(lambda tx: store.edus(tx, "north.example", 9))), [])
