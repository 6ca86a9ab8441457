"""What is owed to destinations, what is remembered of them, and their EDUs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lmatrix.rooms.delivery_store import DestinationState, OwedRoom
from lmatrix.rooms.interfaces import RoomAppend, SpanChange
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores
from tests.storage.logs import ROOM, VERSION, StorageTestCase, pdu, placed


class OwedTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.delivery = self.stores.delivery
        self.make_room()

    def owed(self, destination: str = "s", limit: int = 100) -> list[int]:
        events = self.read(lambda tx: self.delivery.owed_events(tx, destination, ROOM, limit))
        return [event.position for event in events]

    def advance(self, position: int, destination: str = "s") -> None:
        self.write(lambda tx: self.delivery.advance(tx, destination, ROOM, position))

    def spans(self, *changes: SpanChange) -> None:
        self.append(spans=changes)

    def test_live(self) -> None:
        """A server that joins is owed its join and what follows, until the cursor has passed it."""
        self.append_messages(range(1, 5))
        self.append(placed(5, pdu(5)), spans=[SpanChange("s", 5, True)])
        self.assertEqual(self.read(lambda tx: self.delivery.owed_rooms(tx, "s")), [OwedRoom(ROOM, 4, None)])
        self.append_messages(range(6, 10))
        self.assertEqual(self.owed(), [5, 6, 7, 8, 9])
        self.assertEqual(self.owed(limit=2), [5, 6])
        self.assertEqual(self.read(lambda tx: self.delivery.lag(tx, "s")), 5)
        self.advance(6)
        self.assertEqual(self.owed(), [7, 8, 9])
        self.assertEqual(self.read(lambda tx: self.delivery.lag(tx, "s")), 3)
        self.advance(9)
        self.assertEqual(self.owed(), [])
        self.assertEqual(self.read(lambda tx: self.delivery.owed_rooms(tx, "s")), [])
        self.assertEqual(self.read(self.delivery.all_owing), [])

    def test_after_a_kick(self) -> None:
        """A kicked server is owed the log up to and including the kick, and nothing after."""
        self.append_messages(range(1, 3))
        self.spans(SpanChange("s", 1, True))
        self.append(placed(3, pdu(3)), spans=[SpanChange("s", 3, False)])
        self.append_messages(range(4, 8))
        self.assertEqual(self.read(lambda tx: self.delivery.owed_rooms(tx, "s")), [OwedRoom(ROOM, 0, 3)])
        self.assertEqual(self.owed(), [1, 2, 3])
        self.assertEqual(self.read(self.delivery.all_owing), ["s"])
        self.advance(3)
        self.assertEqual(self.owed(), [])
        self.assertEqual(self.read(self.delivery.all_owing), [])

    def test_away_and_back_with_old_debts(self) -> None:
        """What a server was owed before it left is not lost when it comes back; what happened meanwhile is not owed."""
        self.append_messages(range(1, 11))
        self.spans(SpanChange("s", 2, True))
        self.spans(SpanChange("s", 4, False))
        self.spans(SpanChange("s", 8, True))
        self.assertEqual(self.owed(), [2, 3, 4, 8, 9, 10])
        self.assertEqual(self.owed(limit=4), [2, 3, 4, 8])
        self.assertEqual(self.read(lambda tx: self.delivery.owed_rooms(tx, "s")), [OwedRoom(ROOM, 1, None)])
        self.assertEqual(self.read(lambda tx: self.delivery.lag(tx, "s")), 6)
        self.advance(8)
        self.assertEqual(self.owed(), [9, 10])

    def test_a_cursor_never_goes_back(self) -> None:
        """Neither a late answer nor a new span moves a cursor back."""
        self.append_messages(range(1, 6))
        self.spans(SpanChange("s", 1, True))
        self.advance(4)
        self.advance(2)
        self.assertEqual(self.owed(), [5])
        self.spans(SpanChange("s", 4, False))
        self.spans(SpanChange("s", 4, True))
        self.assertEqual(self.owed(), [5])

    def test_many_rooms(self) -> None:
        """Of many rooms, those that are owed come, the longest untouched first."""
        rooms = [f"!r{n}:x" for n in range(5)]
        for room_id in rooms:
            self.make_room(room_id=room_id)
        for room_id in [*rooms, rooms[1]]:
            head = self.read(lambda tx, room_id=room_id: self.rooms.load_room(tx, room_id))
            assert head is not None
            event = placed(head.head_position + 1, pdu(1 + head.head_position, room_id=room_id))
            self.append(event, room_id=room_id, spans=[SpanChange("s", 1, True)])
        self.write(lambda tx: self.delivery.advance(tx, "s", rooms[2], 1))
        owed = self.read(lambda tx: self.delivery.owed_rooms(tx, "s"))
        self.assertEqual([room.room_id for room in owed], [rooms[0], rooms[3], rooms[4], rooms[1]])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(st.just("event"), st.just("toggle"), st.integers(1, 4)), max_size=30))
    def test_everything_owed_is_delivered_once(self, steps: list[str | int]) -> None:
        """However joins, leaves and deliveries interleave: a server gets each event of its spans, once and in order."""
        database, stores = InlineDatabase(), Stores.create()
        self.addCleanup(database.close)
        database.write(lambda tx: stores.rooms.insert_room(tx, ROOM, VERSION.identifier, 1))
        head, inside = 0, False
        expected: list[int] = []
        delivered: list[int] = []

        def deliver(limit: int) -> None:
            events = self.successResultOf(database.read(lambda tx: stores.delivery.owed_events(tx, "s", ROOM, limit)))
            if events:
                delivered.extend(event.position for event in events)
                database.write(lambda tx: stores.delivery.advance(tx, "s", ROOM, delivered[-1]))

        for step in steps:
            if isinstance(step, int):
                deliver(step)
                continue
            head += 1
            changes = []
            if step == "toggle":
                changes = [SpanChange("s", head, not inside)]
            if inside or step == "toggle":
                expected.append(head)
            if step == "toggle":
                inside = not inside
            batch = RoomAppend(ROOM, [placed(head, pdu(head))], changes)
            self.successResultOf(database.write(lambda tx, batch=batch: stores.rooms.append(tx, batch)))
            owed = self.successResultOf(database.read(lambda tx: stores.delivery.owed_rooms(tx, "s")))
            self.assertEqual(bool(owed), expected != delivered)
            lag = self.successResultOf(database.read(lambda tx: stores.delivery.lag(tx, "s")))
            self.assertEqual(lag, len(expected) - len(delivered))
        deliver(1000)
        self.assertEqual(delivered, expected)


class DestinationTests(StorageTestCase):
    def test_state(self) -> None:
        """What is kept of a destination comes back, and is replaced as a whole."""
        delivery = self.stores.delivery
        self.assertIsNone(self.read(lambda tx: delivery.destination(tx, "s")))
        for state in (
            DestinationState(5, 4, 300, 2, "unstable", True),
            DestinationState(),
            DestinationState(path_form="stable"),
        ):
            self.write(lambda tx, state=state: delivery.put_destination(tx, "s", state))
            self.assertEqual(self.read(lambda tx: delivery.destination(tx, "s")), state)
        self.assertIsNone(self.read(lambda tx: delivery.destination(tx, "t")))


class EduTests(StorageTestCase):
    def bodies(self, destination: str, limit: int = 100) -> list[object]:
        return [edu["n"] for _, edu in self.read(lambda tx: self.stores.delivery.edus(tx, destination, limit))]

    def test_an_outbox(self) -> None:
        """EDUs come out in order, for each destination its own."""
        delivery = self.stores.delivery
        for n in range(8):
            self.write(lambda tx, n=n: delivery.add_edu(tx, "s", {"n": n}))
        self.write(lambda tx: delivery.add_edu(tx, "t", {"n": 100}))
        self.assertEqual(self.bodies("s"), list(range(8)))
        self.assertEqual(self.bodies("s", 2), [0, 1])
        self.assertEqual(self.bodies("t"), [100])
        self.assertEqual(self.read(lambda tx: delivery.edus_waiting(tx, "s")), 8)
        self.assertEqual(self.read(lambda tx: delivery.edus_waiting(tx, "u")), 0)
        self.assertEqual(self.read(delivery.all_owing), ["s", "t"])

    def test_subjects(self) -> None:
        """An EDU takes the place of the one under the same subject, as a later one, and of no other."""
        delivery = self.stores.delivery
        for n, subject in enumerate(("a", "b", None, "a", None)):
            self.write(lambda tx, n=n, subject=subject: delivery.add_edu(tx, "s", {"n": n}, subject))
        self.write(lambda tx: delivery.add_edu(tx, "t", {"n": 100}, "a"))
        self.assertEqual(self.bodies("s"), [1, 2, 3, 4])

    def test_removal(self) -> None:
        """What is removed by number is gone, and its number is never that of another EDU."""
        delivery = self.stores.delivery
        for n in range(3):
            self.write(lambda tx, n=n: delivery.add_edu(tx, "s", {"n": n}))
        sent = [number for number, _ in self.read(lambda tx: delivery.edus(tx, "s", 9))]
        self.write(lambda tx: delivery.remove_edus(tx, sent))
        self.write(lambda tx: delivery.add_edu(tx, "s", {"n": 9}))
        self.write(lambda tx: delivery.remove_edus(tx, sent))
        self.assertEqual(self.bodies("s"), [9])
