"""Messages to devices in the database: what is kept, and for how long what they are recognised by."""

from __future__ import annotations

from lmatrix.storage.to_device import SqlToDeviceStore
from tests.storage.logs import ALICE, StorageTestCase

DAY_MS = 24 * 3600 * 1000


class InboxTests(StorageTestCase):
    def put(self, number: int, device_id: str = "D", origin: str = "s") -> int:
        store = self.stores.to_device
        return self.write(lambda tx: store.put(tx, ALICE, device_id, origin, {"n": number}))

    def page(self, after: int = 0, up_to: int = 2**60, limit: int = 99, device_id: str = "D") -> list[int]:
        store = self.stores.to_device
        return [stream for stream, _ in self.read(lambda tx: store.page(tx, ALICE, device_id, after, up_to, limit))]

    def test_pages(self) -> None:
        """Messages come in the order of the stream, between two places of it."""
        places = [self.put(number) for number in range(5)]
        self.put(9, "OTHER")
        self.assertEqual(self.page(), places)
        self.assertEqual(self.page(places[0], places[3]), places[1:4])
        self.assertEqual(self.page(limit=2), places[:2])
        self.assertEqual(self.page(device_id="X"), [])

    def test_acknowledged(self) -> None:
        """What is acknowledged is gone, of that device only, and its place is not given out again."""
        store = self.stores.to_device
        places = [self.put(number) for number in range(3)]
        other = self.put(9, "OTHER")
        self.assertTrue(self.read(lambda tx: store.has_up_to(tx, ALICE, "D", places[0])))
        self.write(lambda tx: store.acknowledge(tx, ALICE, "D", places[1]))
        self.assertFalse(self.read(lambda tx: store.has_up_to(tx, ALICE, "D", places[1])))
        self.assertEqual((self.page(), self.page(device_id="OTHER")), (places[2:], [other]))
        self.write(lambda tx: store.remove_devices(tx, ALICE, ["D", "OTHER"]))
        self.assertEqual(self.read(self.timeline.max_stream), other)

    def test_counts(self) -> None:
        """How many wait, and from whom."""
        store = self.stores.to_device
        for number, origin in enumerate(("s", "s", "t")):
            self.put(number, origin=origin)
        self.assertEqual(self.read(lambda tx: store.waiting(tx, ALICE, "D", "s")), (3, 2))
        self.assertEqual(self.read(lambda tx: store.waiting(tx, ALICE, "X", "s")), (0, 0))


class RecognisingTests(StorageTestCase):
    def count(self, table: str) -> int:
        return int(self.read(lambda tx: tx.rows(f"SELECT COUNT(*) FROM {table}"))[0][0])

    def test_by_age(self) -> None:
        """What came is recognised for a week, and forgotten some time after."""
        store = self.stores.to_device
        for n in range(100):
            self.assertTrue(self.write(lambda tx, n=n: store.is_new(tx, "s", f"d{n}", n * DAY_MS // 10)))
        self.assertFalse(self.write(lambda tx: store.is_new(tx, "s", "d40", 10 * DAY_MS)))
        self.assertTrue(self.write(lambda tx: store.is_new(tx, "t", "d40", 10 * DAY_MS)))
        self.assertTrue(self.write(lambda tx: store.is_new(tx, "s", "d20", 10 * DAY_MS)))
        self.assertLess(self.count("received_messages"), 80)

    def test_by_number(self) -> None:
        """One server cannot make us remember without bound; the oldest of its own give way."""
        store = SqlToDeviceStore(received_kept_per_origin=100)
        self.write(lambda tx: store.is_new(tx, "quiet", "d", 0))

        def flood(tx: object) -> None:
            for n in range(1600):
                store.is_new(tx, "loud", f"d{n}", 0)  # type: ignore[arg-type]

        self.write(flood)
        self.assertLess(self.count("received_messages"), 100 + 502)
        self.assertFalse(self.write(lambda tx: store.is_new(tx, "quiet", "d", 0)))
        self.assertFalse(self.write(lambda tx: store.is_new(tx, "loud", "d1599", 0)))

    def test_requests(self) -> None:
        """A request has a number of its own, once; it is forgotten a day later."""
        store = self.stores.to_device
        first = self.write(lambda tx: store.begin_request(tx, ALICE, "D", "r", 0))
        self.assertIsNone(self.write(lambda tx: store.begin_request(tx, ALICE, "D", "r", 1)))
        numbers = {first}
        for n in range(30):
            numbers.add(self.write(lambda tx, n=n: store.begin_request(tx, ALICE, "D", f"r{n}", 2 * DAY_MS)))
        numbers.add(self.write(lambda tx: store.begin_request(tx, ALICE, "D", "r", 2 * DAY_MS)))
        self.assertEqual(len(numbers), 32)
        self.assertNotIn(None, numbers)
