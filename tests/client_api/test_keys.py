"""Keys by the client API, on one server and between two."""

from __future__ import annotations

from typing import Any

from lmatrix.crypto.digest import encode_base64
from tests.client_api.harness import ClientTestCase, User
from tests.devices.builders import KEY_PACKAGE, Device


class KeysTestCase(ClientTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network.clock.advance(1)
        self.phone = Device(self.alice.user_id, self.alice.device_id)
        self.bobs = Device(self.bob.user_id, self.bob.device_id)

    def publish(self, user: User, device: Device, *packages: bytes, **more: Any) -> dict[str, int]:
        """A device publishes itself and key packages; the counts."""
        body = {"device_keys": device.object(), "one_time_keys": device.keys(*packages), **more}
        counts: dict[str, int] = user.ok("POST", "/keys/upload", body)["one_time_key_counts"]
        self.network.settle()
        return counts

    def query(self, user: User, *user_ids: str) -> Any:
        return user.ok("POST", "/keys/query", {"device_keys": {user_id: [] for user_id in user_ids}})

    def claim(self, user: User, target: str, device_id: str) -> list[Any]:
        """The keys that a claim gets."""
        body = {"one_time_keys": {target: {device_id: KEY_PACKAGE}}}
        answer = user.ok("POST", "/keys/claim", body)
        self.assertEqual(answer["failures"], {})
        return [
            key
            for devices in answer["one_time_keys"].values()
            for keys in devices.values()
            for name, key in keys.items()
            if name.startswith(f"{KEY_PACKAGE}:")
        ]


class UploadTests(KeysTestCase):
    def test_counts(self) -> None:
        """An upload says how many keys there are now; the same again changes nothing."""
        packages = [self.phone.key_package(serial) for serial in range(3)]
        self.assertEqual(self.publish(self.alice, self.phone, *packages[:2]), {KEY_PACKAGE: 2})
        self.assertEqual(self.publish(self.alice, self.phone, *packages), {KEY_PACKAGE: 3})
        self.assertEqual(self.alice.ok("POST", "/keys/upload", {})["one_time_key_counts"], {KEY_PACKAGE: 3})

    def test_bad_requests(self) -> None:
        """Each thing that can be wrong is refused, and nothing of the request is taken."""
        other = Device(self.alice.user_id, "OTHER")
        package = encode_base64(self.phone.key_package())
        good = self.phone.keys(self.phone.key_package())
        for body in (
            {"device_keys": "x"},
            {"device_keys": []},
            {"device_keys": {}},
            {"device_keys": self.bobs.object()},
            {"device_keys": other.object()},
            {"device_keys": {**self.phone.object(), "algorithms": []}},
            {"one_time_keys": []},
            {"one_time_keys": {"x": "y"}},
            {"one_time_keys": {f"{KEY_PACKAGE}:1": "x"}},
            {"one_time_keys": good, "fallback_keys": {f"{KEY_PACKAGE}:1": 5}},
            {"one_time_keys": other.keys(other.key_package())},
            {"fallback_keys": other.keys(other.key_package())},
            {"one_time_keys": {f"{KEY_PACKAGE}:1": package, f"{KEY_PACKAGE}:2": package}},
            {"one_time_keys": good, "fallback_keys": good},
            {"one_time_keys": {f"x:{n}": "y" for n in range(201)}},
        ):
            self.assert_refused(self.alice.call("POST", "/keys/upload", body), 400, "M_BAD_JSON")
        self.assertEqual(self.alice.ok("POST", "/keys/upload", {})["one_time_key_counts"], {})
        self.assert_refused(self.alice.call("POST", "/keys/upload", b"nonsense"), 400, "M_NOT_JSON")


class QueryTests(KeysTestCase):
    def test_local_and_remote(self) -> None:
        """Device objects come back as they were signed, from here and from elsewhere."""
        self.publish(self.alice, self.phone)
        self.publish(self.bob, self.bobs)
        answer = self.query(self.anna, self.alice.user_id, self.bob.user_id, "@nobody:hub.example")
        self.assertEqual(answer["failures"], {})
        self.assertEqual(
            answer["device_keys"],
            {
                self.alice.user_id: {self.alice.device_id: self.phone.object()},
                self.bob.user_id: {self.bob.device_id: self.bobs.object()},
                "@nobody:hub.example": {},
            },
        )

    def test_unreachable(self) -> None:
        """A server that cannot be asked is named."""
        self.network.unreachable.add("north.example")
        answer = self.query(self.alice, self.bob.user_id)
        self.assertEqual(answer, {"device_keys": {}, "failures": {"north.example": {}}})

    def test_bad_requests(self) -> None:
        """Requests of another shape."""
        for body, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"device_keys": []}, "M_BAD_JSON"),
            ({"device_keys": {"alice": []}}, "M_INVALID_PARAM"),
            ({"device_keys": {self.alice.user_id: "x"}}, "M_BAD_JSON"),
            ({"device_keys": {self.alice.user_id: [5]}}, "M_BAD_JSON"),
            ({"device_keys": {}, "timeout": "x"}, "M_BAD_JSON"),
            ({"device_keys": {}, "timeout": -1}, "M_BAD_JSON"),
            ({"device_keys": {f"@u{n}:x": [] for n in range(1001)}}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.alice.call("POST", "/keys/query", body), 400, errcode)


class ClaimTests(KeysTestCase):
    def test_each_once(self) -> None:
        """Local and remote clients get another key each time, and the key of last resort in the end."""
        packages = [self.phone.key_package(serial) for serial in range(2)]
        last = self.phone.key_package(9)
        self.publish(self.alice, self.phone, *packages, fallback_keys=self.phone.keys(last))
        got = [
            self.claim(user, self.alice.user_id, self.alice.device_id)
            for user in (self.anna, self.bob, self.anna, self.bob)
        ]
        expected = [[encode_base64(package)] for package in (*packages, last, last)]
        self.assertEqual(got, expected)

    def test_a_key_package_that_says_so_itself(self) -> None:
        """A key package that is marked for last resort is one, wherever it was uploaded."""
        last = self.phone.last_resort(9)
        self.assertEqual(self.publish(self.alice, self.phone, last), {})
        for _ in range(2):
            self.assertEqual(self.claim(self.bob, self.alice.user_id, self.alice.device_id), [encode_base64(last)])

    def test_nothing_there(self) -> None:
        """Unknown users and devices are left out."""
        self.assertEqual(self.claim(self.bob, self.alice.user_id, "OTHER"), [])
        self.assertEqual(self.claim(self.bob, "@nobody:hub.example", "X"), [])

    def test_the_device_hears_of_it(self) -> None:
        """``/sync`` tells how many keys are left, and wakes up for it."""
        packages = [self.phone.key_package(serial) for serial in range(2)]
        self.publish(self.alice, self.phone, *packages, fallback_keys=self.phone.keys(self.phone.key_package(9)))
        first = self.alice.sync()
        self.assertEqual(first["device_one_time_keys_count"], {KEY_PACKAGE: 2})
        self.assertEqual(first["device_unused_fallback_key_types"], [KEY_PACKAGE])
        polling = self.alice.start("GET", "/sync", since=first["next_batch"], timeout=30_000)
        self.assertNoResult(polling)
        self.claim(self.bob, self.alice.user_id, self.alice.device_id)
        _, second = self.successResultOf(polling)
        self.assertEqual(second["device_one_time_keys_count"], {KEY_PACKAGE: 1})
        for _ in range(2):
            self.claim(self.bob, self.alice.user_id, self.alice.device_id)
        third = self.alice.sync(second["next_batch"])
        self.assertEqual((third["device_one_time_keys_count"], third["device_unused_fallback_key_types"]), ({}, []))
        self.assertEqual(self.alice.log_in_again("DESK").sync()["device_one_time_keys_count"], {})

    def test_bad_requests(self) -> None:
        """Requests of another shape."""
        for body in ({}, {"one_time_keys": []}, {"one_time_keys": {self.alice.user_id: {"X": 5}}}):
            self.assert_refused(self.bob.call("POST", "/keys/claim", body), 400, "M_BAD_JSON")


class DeviceListTests(KeysTestCase):
    """``device_lists`` in ``/sync``, and ``/keys/changes``."""

    def lists(self, user: User, since: str) -> tuple[list[str], list[str]]:
        """``(changed, left)`` since a token, by both endpoints."""
        synced = user.sync(since)
        found = synced["device_lists"]
        changes = user.ok("GET", "/keys/changes", **{"from": since, "to": synced["next_batch"]})
        if since != synced["next_batch"]:
            self.assertEqual(changes, found)
        return found["changed"], found["left"]

    def test_whose_devices_changed(self) -> None:
        """Whoever shares a room hears of a change, here and elsewhere; strangers do not."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        tokens = {user: user.sync()["next_batch"] for user in (self.alice, self.anna, self.bob)}
        self.publish(self.alice, self.phone)
        self.assertEqual(self.lists(self.alice, tokens[self.alice]), ([self.alice.user_id], []))
        self.assertEqual(self.lists(self.bob, tokens[self.bob]), ([self.alice.user_id], []))
        self.assertEqual(self.lists(self.anna, tokens[self.anna]), ([], []))

    def test_wakes(self) -> None:
        """A long poll ends when a device list changes, and a device that logs out is such a change."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        self.publish(self.bob, self.bobs)
        since = self.alice.sync()["next_batch"]
        polling = self.alice.start("GET", "/sync", since=since, timeout=30_000)
        self.assertNoResult(polling)
        self.bob.ok("POST", "/logout", {})
        self.network.settle()
        _, answer = self.successResultOf(polling)
        self.assertEqual(answer["device_lists"], {"changed": [self.bob.user_id], "left": []})
        self.assertEqual(self.query(self.alice, self.bob.user_id)["device_keys"], {self.bob.user_id: {}})

    def test_coming_and_going(self) -> None:
        """Who comes to share a room is to be asked about, who ceases to is to be forgotten."""
        room_id = self.alice.create_room()
        both = [user.sync()["next_batch"] for user in (self.alice, self.bob)]
        self.bob.join(room_id, "hub.example")
        self.assertEqual(self.lists(self.alice, both[0]), ([self.bob.user_id], []))
        self.assertEqual(self.lists(self.bob, both[1]), ([self.alice.user_id], []))
        both = [user.sync()["next_batch"] for user in (self.alice, self.bob)]
        self.bob.leave(room_id)
        self.assertEqual(self.lists(self.alice, both[0]), ([], [self.bob.user_id]))
        self.assertEqual(self.lists(self.bob, both[1]), ([], [self.alice.user_id]))

    def test_another_room_in_common(self) -> None:
        """Who leaves one of two rooms in common is still there."""
        rooms = [self.alice.create_room() for _ in range(2)]
        for room_id in rooms:
            self.anna.join(room_id)
        both = [user.sync()["next_batch"] for user in (self.alice, self.anna)]
        self.anna.leave(rooms[0])
        self.assertEqual(self.lists(self.alice, both[0])[1], [])
        self.assertEqual(self.lists(self.anna, both[1])[1], [])

    def test_away_and_back(self) -> None:
        """Who was away meanwhile is to be asked about."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        since = self.anna.sync()["next_batch"]
        self.anna.leave(room_id)
        self.anna.join(room_id)
        self.assertEqual(self.lists(self.anna, since), ([self.alice.user_id], []))

    def test_nothing_twice(self) -> None:
        """What was told is not told again, and messages in rooms are no news of devices."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        self.publish(self.alice, self.phone)
        since = self.anna.sync()["next_batch"]
        self.alice.say(room_id, "hello")
        self.assertEqual(self.lists(self.anna, since), ([], []))

    def test_changes_bad_requests(self) -> None:
        """Tokens that are missing or none."""
        for query, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"from": "s1"}, "M_MISSING_PARAM"),
            ({"from": "s1", "to": "x"}, "M_INVALID_PARAM"),
            ({"from": "p1", "to": "s1"}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.alice.call("GET", "/keys/changes", **query), 400, errcode)
