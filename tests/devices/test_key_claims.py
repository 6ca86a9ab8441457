"""One-time keys are handed out once, whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import encode_base64
from lmatrix.devices.interfaces import KeyConflict
from lmatrix.devices.key_claims import KeyClaims, read_claims
from lmatrix.devices.key_uploads import InvalidKeyUpload, UploadedKey
from lmatrix.errors import BadRequest, StorageFailed
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.one_time_keys import SqlOneTimeKeyStore
from tests.devices.bench import DevicesTestCase, Wakes
from tests.devices.builders import DAY_S, KEY_PACKAGE, NOW_S, Device
from tests.devices.network import MemoryDevicePeers
from tests.rooms.network import Network, done, result_of

ALICE = "@alice:hub.example"
WANTED = {ALICE: {"PHONE": "a"}}


def key(number: int, *, last_resort: bool = False) -> UploadedKey:
    return UploadedKey("a", str(number), encode(f"key {number}"), f"digest {number}", None, last_resort, None)


class OneServer:
    """A server's keys on a database whose commits take time, and which crashes.

    Args:
        path: of the database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clock = Clock()
        self.clock.advance(NOW_S)
        self.store = SqlOneTimeKeyStore()
        self.told: Counter[str] = Counter()
        self.uploaded = 0
        self.begin()

    def begin(self) -> None:
        """The server starts."""
        self.database = InlineDatabase(self._path, clock=self.clock, commit_seconds=lambda: 1.0)
        self.claims = KeyClaims(
            "hub.example",
            database=self.database,
            store=self.store,
            peers=MemoryDevicePeers(Network(), "hub.example", {}),
            waker=Wakes(),
            clock=self.clock,
        )

    def upload(self, count: int) -> None:
        """New keys come, and all earlier ones again."""
        keys = [key(number) for number in range(self.uploaded + count)]
        self.uploaded += count
        self.database.write(lambda tx: self.store.add(tx, ALICE, "PHONE", keys)).addErrback(
            lambda failure: failure.trap(StorageFailed)
        )

    def claim(self) -> None:
        """Somebody claims a key; it counts when it is told."""

        def told(answer: JsonObject) -> None:
            self.told.update(devices["PHONE"]["a"] for devices in answer.values())

        claiming = Deferred.fromCoroutine(self.claims.hand_out(WANTED))
        claiming.addCallbacks(told, lambda failure: failure.trap(StorageFailed))

    def crash(self) -> None:
        """The server dies, and starts again."""
        self.database.crash()
        self.begin()

    def act(self, action: tuple[str, int]) -> None:
        what, number = action
        if what == "upload":
            self.upload(number)
        elif what == "claim":
            for _ in range(number):
                self.claim()
        elif what == "wait":
            self.clock.advance(1)
        elif what == "fail":
            self.database.fail_commits = 1
        else:
            self.crash()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["upload", "claim", "claim", "wait", "crash", "fail"]), st.integers(1, 5)), max_size=40
)


class NeverTwiceTests(SynchronousTestCase):
    @given(ACTIONS)
    @settings(max_examples=25, deadline=None)
    def test_never_twice(self, actions: Sequence[tuple[str, int]]) -> None:
        """However claims, uploads of new and old keys, failing commits and crashes follow one another: no key is told
        twice; and what is left without trouble is told once each.
        """
        with TemporaryDirectory() as folder:
            server = OneServer(Path(folder) / "keys.db")
            for action in actions:
                server.act(action)
                self.assertLessEqual(max(server.told.values(), default=0), 1)
            server.database.fail_commits = 0
            server.clock.advance(1)
            before = sum(server.told.values())
            left = result_of(server.database.read(lambda tx: server.store.left(tx, ALICE, "PHONE")))
            for _ in range(left + 3):
                server.claim()
            server.clock.advance(1)
            self.assertLessEqual(max(server.told.values(), default=0), 1)
            self.assertEqual(sum(server.told.values()) - before, left)
            server.database.close()

    def test_told_after_the_commit(self) -> None:
        """A key is told when it is on disk that it is gone, and not before."""
        with TemporaryDirectory() as folder:
            server = OneServer(Path(folder) / "keys.db")
            server.upload(1)
            server.claim()
            self.assertEqual(server.told, {})
            server.clock.advance(1)
            self.assertEqual(server.told, {"key 0": 1})
            server.database.close()


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = InlineDatabase()
        self.store = SqlOneTimeKeyStore()

    def add(self, *keys: UploadedKey, device_id: str = "PHONE") -> None:
        result_of(self.database.write(lambda tx: self.store.add(tx, ALICE, device_id, keys)))

    def claim(self, now_ms: int = 0, device_id: str = "PHONE", algorithm: str = "a") -> str | None:
        found = result_of(self.database.write(lambda tx: self.store.claim(tx, ALICE, device_id, algorithm, now_ms)))
        return None if found is None else found.version

    def test_in_order(self) -> None:
        """The oldest goes first; each device and algorithm has its own."""
        self.add(*map(key, range(3)))
        self.add(key(7), device_id="DESK")
        self.assertEqual([self.claim(), self.claim(device_id="DESK"), self.claim()], ["0", "7", "1"])
        self.assertIsNone(self.claim(algorithm="b"))
        self.assertIsNone(self.claim(device_id="OTHER"))

    def test_last_resort(self) -> None:
        """The key of last resort is for when there is no other, and then for everybody."""
        self.add(key(9, last_resort=True), key(1))
        self.assertEqual([self.claim() for _ in range(4)], ["1", "9", "9", "9"])
        unused = lambda: result_of(  # noqa: E731
            self.database.read(lambda tx: self.store.unused_last_resort(tx, ALICE, "PHONE", 0))
        )
        self.assertEqual(unused(), [])
        self.add(key(9, last_resort=True))
        self.assertEqual(unused(), [])
        self.add(key(10, last_resort=True))
        self.assertEqual(unused(), ["a"])
        self.assertEqual(self.claim(), "10")

    def test_expired(self) -> None:
        """A key that has expired is not handed out, of whichever kind it is."""
        short = UploadedKey("a", "1", b'"x"', "d1", 100, False, None)
        long = UploadedKey("a", "2", b'"y"', "d2", 200, False, None)
        last = UploadedKey("a", "3", b'"z"', "d3", 300, True, None)
        self.add(short, long, last)
        counts = result_of(self.database.read(lambda tx: self.store.counts(tx, ALICE, "PHONE", 100)))
        self.assertEqual(counts, {"a": 1})
        self.assertEqual([self.claim(100), self.claim(100), self.claim(300)], ["2", "3", None])

    def test_conflicts(self) -> None:
        """A key under another's name, a name for another's key, and a key that is both once and last resort."""
        self.add(key(1), key(2, last_resort=True))
        self.claim()
        for wrong in (
            UploadedKey("a", "1", b'"x"', "another", None, False, None),
            UploadedKey("a", "another", b'"key 1"', "digest 1", None, False, None),
            key(1, last_resort=True),
            UploadedKey("a", "another", b'"key 2"', "digest 2", None, False, None),
        ):
            with self.assertRaises(KeyConflict):
                self.add(wrong)
        self.add(key(1))
        self.assertEqual(self.claim(), "2")

    def test_a_device_that_comes_back(self) -> None:
        """What a device had handed out before it was removed is not handed out again when it comes back."""
        lasting = UploadedKey("a", "1", b'"x"', "d1", 10**12, False, None)
        self.add(lasting, key(2))
        self.assertEqual(self.claim(), "1")
        result_of(self.database.write(lambda tx: self.store.remove_devices(tx, ALICE, ["PHONE"])))
        self.assertIsNone(self.claim())
        self.add(lasting)
        self.assertIsNone(self.claim())

    def test_expired_ones_are_forgotten(self) -> None:
        """Their number does not grow for ever."""
        for number in range(200):
            self.add(UploadedKey("a", str(number), b'"x"', f"d{number}", number, False, None))
            result_of(self.database.write(lambda tx, now=number: self.store.remove_expired(tx, now)))
        [(count,)] = result_of(self.database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM one_time_keys")))
        self.assertLess(count, 5)


class ReadingTests(SynchronousTestCase):
    def test_good(self) -> None:
        """What can exist is asked for, what cannot is left out."""
        body = {"one_time_keys": {ALICE: {"PHONE": "a", "A-B": "a"}, "alice": {"X": "a"}, "@b:c": {}}}
        self.assertEqual(read_claims(body), {ALICE: {"PHONE": "a"}})

    def test_bad(self) -> None:
        """Requests of another shape, and for too much, are refused."""
        bodies: list[Any] = [
            {},
            {"one_time_keys": None},
            {"one_time_keys": []},
            {"one_time_keys": {ALICE: []}},
            {"one_time_keys": {ALICE: {"PHONE": 5}}},
            {"one_time_keys": {ALICE: {"PHONE": {}}}},
            {"one_time_keys": {ALICE: {"PHONE": "x" * 300}}},
            {"one_time_keys": {ALICE: {f"D{n}": "a" for n in range(1001)}}},
        ]
        for body in bodies:
            with self.assertRaises(BadRequest):
                read_claims(body)


class ClaimTests(DevicesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.phone = self.new_device(self.hub, self.alice, "PHONE", *self.packages(3))

    def packages(self, count: int, device: Device | None = None) -> list[bytes]:
        device = device or Device(self.alice, "PHONE")
        return [device.key_package(serial) for serial in range(count)]

    def claim(self, wanted: dict[str, dict[str, str]]) -> Any:
        """A client of the north claims keys; its answer."""
        return self.network.finished(self.north.floor.claims.claim(wanted, 10.0))

    def test_of_another_server(self) -> None:
        """Each claim gets another key, with a key ID made from it; then there is none."""
        got = []
        for _ in range(3):
            answer = self.claim({self.alice: {"PHONE": KEY_PACKAGE}})
            self.assertEqual(answer.failures, frozenset())
            [(key_id, package)] = answer.keys[self.alice]["PHONE"].items()
            self.assertTrue(key_id.startswith(f"{KEY_PACKAGE}:"))
            got.append(package)
        self.assertEqual(sorted(got), sorted(map(encode_base64, self.packages(3))))
        self.assertEqual(self.claim({self.alice: {"PHONE": KEY_PACKAGE}}).keys, {})
        self.assertEqual([user for _, user in self.wakes(self.hub).users], [self.alice] * 4)

    def test_the_wire(self) -> None:
        """The I-D's answer: bare, without an ID; who does not exist is left out."""
        wanted = {
            self.alice: {"PHONE": KEY_PACKAGE, "OTHER": KEY_PACKAGE},
            "@nobody:hub.example": {"PHONE": KEY_PACKAGE},
            self.bob: {"BOBS": KEY_PACKAGE},
        }
        answer = done(self.hub.floor.claims.hand_out(wanted))
        self.assertEqual(answer, {self.alice: {"PHONE": {KEY_PACKAGE: encode_base64(self.packages(1)[0])}}})

    def test_several_servers(self) -> None:
        """One server that cannot be reached costs the others nothing."""
        bobs = self.new_device(self.north, self.bob, "BOBS")
        self.publish(self.north, bobs, bobs.key_package(1))
        carols = self.log_in(self.south, self.carol, "CAROLS")
        self.publish(self.south, carols, carols.key_package(1))
        self.network.unreachable.add("south.example")
        wanted = {self.alice: {"PHONE": KEY_PACKAGE}, self.bob: {"BOBS": KEY_PACKAGE}, self.carol: {"CAROLS": "x"}}
        answer = self.claim(wanted)
        self.assertEqual(answer.failures, {"south.example"})
        self.assertEqual(sorted(answer.keys), [self.alice, self.bob])

    def test_a_slow_server(self) -> None:
        """A server that does not answer in time counts as failed."""
        self.network.slow["hub.example", "claim"] = Deferred()
        claiming = Deferred.fromCoroutine(self.north.floor.claims.claim({self.alice: {"PHONE": "x"}}, 10.0))
        self.network.clock.advance(9)
        self.assertNoResult(claiming)
        self.network.clock.advance(2)
        self.assertEqual(self.successResultOf(claiming).failures, {"hub.example"})

    def test_uploads(self) -> None:
        """An upload is taken whole or not at all."""
        good, stranger = self.phone.key_package(7), Device(self.alice, "PHONE", "another key")
        with self.assertRaises(InvalidKeyUpload):
            # Well-formed, and of a device of that name; but not of the key that the device has published.
            self.publish_keys(good, stranger.key_package(8))
        self.assertEqual(self.publish_keys(), {KEY_PACKAGE: 3})
        self.assertEqual(self.publish_keys(good), {KEY_PACKAGE: 4})
        self.assertEqual(self.publish_keys(good, self.phone.last_resort(9)), {KEY_PACKAGE: 4})

    def test_another_credential(self) -> None:
        """When a device publishes another credential, the key packages of the one before are of no use any more."""
        again = Device(self.alice, "PHONE", "another key")
        self.assertEqual(self.publish(self.hub, again, again.key_package(7)), {KEY_PACKAGE: 1})
        [got] = self.claim({self.alice: {"PHONE": KEY_PACKAGE}}).keys[self.alice]["PHONE"].values()
        self.assertEqual(got, encode_base64(again.key_package(7)))

    def test_too_many(self) -> None:
        """A device has a bounded number of keys here."""
        for start in range(0, 1000, 100):
            self.upload_plain(start, 99)
        with self.assertRaises(BadRequest):
            self.upload_plain(5000, 99)

    def upload_plain(self, start: int, count: int) -> None:
        keys = [key(number) for number in range(start, start + count)]
        done(self.hub.floor.devices.upload(self.alice, "PHONE", None, keys))

    def publish_keys(self, *packages: bytes) -> Any:
        return self.publish(self.hub, self.phone, *packages)

    def test_expiry(self) -> None:
        """A key package whose lifetime is over is not handed out."""
        self.network.clock.advance(89 * DAY_S)
        self.assertEqual(len(self.claim({self.alice: {"PHONE": KEY_PACKAGE}}).keys), 1)
        self.network.clock.advance(2 * DAY_S)
        self.assertEqual(self.claim({self.alice: {"PHONE": KEY_PACKAGE}}).keys, {})
