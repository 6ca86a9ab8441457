"""Messages from device to device by the client API."""

from __future__ import annotations

from typing import Any

from lmatrix.client_api.sync.beside import MAX_MESSAGES
from lmatrix.storage.inline import InlineDatabase
from tests.client_api.harness import ClientTestCase, User, enc
from tests.rooms.network import result_of


class ToDeviceTestCase(ClientTestCase):
    def send(self, sender: User, target: User, content: Any, txn_id: str = "", device_id: str = "") -> None:
        """A message for one device; everything is delivered."""
        self._count = getattr(self, "_count", 0) + 1
        body = {"messages": {target.user_id: {device_id or target.device_id: content}}}
        sender.ok("PUT", f"/sendToDevice/m.test/{enc(txn_id or f'txn {self._count}')}", body)
        self.network.settle()

    def contents(self, answer: Any) -> list[Any]:
        return [event["content"] for event in answer["to_device"]["events"]]

    def stored(self, user: User) -> int:
        """How many messages are kept for anybody on the user's server."""
        [(count,)] = result_of(
            user.server.server.database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM to_device_messages"))
        )
        return int(count)


class ToDeviceTests(ToDeviceTestCase):
    def test_arrives(self) -> None:
        """A message arrives at its device, here and elsewhere, and at no other."""
        desk = self.alice.log_in_again("DESK")
        for sender in (self.anna, self.bob):
            self.send(sender, self.alice, {"from": sender.user_id})
        expected = [
            {"type": "m.test", "sender": sender.user_id, "content": {"from": sender.user_id}}
            for sender in (self.anna, self.bob)
        ]
        self.assertEqual(self.alice.sync()["to_device"], {"events": expected})
        self.assertEqual(desk.sync()["to_device"], {"events": []})

    def test_until_acknowledged(self) -> None:
        """A message is told again and again until its device comes back with the token that came with it."""
        first = self.alice.sync()["next_batch"]
        self.send(self.bob, self.alice, {"n": 1})
        for _ in range(3):
            answer = self.alice.sync(first)
            self.assertEqual(self.contents(answer), [{"n": 1}])
        self.assertEqual(self.contents(self.alice.sync()), [{"n": 1}])
        self.assertEqual(self.stored(self.alice), 1)
        again = self.alice.sync(answer["next_batch"])
        self.assertEqual((self.contents(again), self.stored(self.alice)), ([], 0))

    def test_a_token_from_the_future(self) -> None:
        """A token that this server never gave out acknowledges nothing."""
        self.send(self.bob, self.alice, {"n": 1})
        self.assertEqual(self.contents(self.alice.sync("s999999")), [{"n": 1}])
        self.assertEqual(self.stored(self.alice), 1)

    def test_more_than_fit(self) -> None:
        """When there are more than fit, the token says which did, and the rest comes next, in order."""
        since = self.alice.sync()["next_batch"]
        for number in range(2 * MAX_MESSAGES + 10):
            self.send(self.anna, self.alice, {"n": number})
        told: list[int] = []
        for size in (MAX_MESSAGES, MAX_MESSAGES, 10):
            answer = self.alice.sync(since, timeout=1000)
            found = [content["n"] for content in self.contents(answer)]
            self.assertEqual(len(found), size)
            told += found
            since = answer["next_batch"]
        self.assertEqual(told, list(range(2 * MAX_MESSAGES + 10)))
        self.assertEqual(self.contents(self.alice.sync(since)), [])
        self.assertEqual(self.stored(self.alice), 0)

    def test_large_ones(self) -> None:
        """An answer has a bounded size, but for one message that is larger."""
        since = self.alice.sync()["next_batch"]
        for number in range(40):
            self.send(self.anna, self.alice, {"n": number, "padding": "x" * 60_000})
        answer = self.alice.sync(since)
        self.assertLess(len(self.contents(answer)), 20)
        rest = self.alice.sync(answer["next_batch"])
        numbers = [content["n"] for content in self.contents(answer) + self.contents(rest)]
        self.assertEqual(numbers, list(range(len(numbers))))

    def test_rooms_are_not_told_twice(self) -> None:
        """A token that says that messages are left says of the rooms what any other does."""
        room_id = self.alice.create_room()
        since = self.alice.sync()["next_batch"]
        for number in range(MAX_MESSAGES + 1):
            self.send(self.anna, self.alice, {"n": number})
        self.alice.say(room_id, "hello")
        first = self.alice.sync(since)
        self.assertIn("_d", first["next_batch"])
        self.assertEqual(len(first["rooms"]["join"][room_id]["timeline"]["events"]), 1)
        second = self.alice.sync(first["next_batch"])
        self.assertEqual((second["rooms"]["join"], self.contents(second)), ({}, [{"n": MAX_MESSAGES}]))
        page = self.alice.messages(room_id, **{"from": first["next_batch"], "limit": 1})
        self.assertEqual(page["chunk"][0]["content"]["body"], "hello")

    def test_wakes(self) -> None:
        """A long poll ends when a message comes, from here or from elsewhere."""
        for sender in (self.anna, self.bob):
            since = self.alice.sync()["next_batch"]
            polling = self.alice.start("GET", "/sync", since=since, timeout=30_000)
            self.assertNoResult(polling)
            self.send(sender, self.alice, {"n": 1})
            _, answer = self.successResultOf(polling)
            self.assertEqual(self.contents(answer), [{"n": 1}])
            self.alice.sync(answer["next_batch"])

    def test_another_device_wakes_for_nothing(self) -> None:
        """A message for one device does not end the long poll of another."""
        desk = self.alice.log_in_again("DESK")
        polling = desk.start("GET", "/sync", since=desk.sync()["next_batch"], timeout=30_000)
        self.send(self.anna, self.alice, {"n": 1})
        self.assertNoResult(polling)
        self.network.clock.advance(31)
        self.successResultOf(polling)

    def test_once(self) -> None:
        """A request that is repeated sends nothing again; IDs count for one device."""
        desk = self.bob.log_in_again("DESK")
        for sender in (self.bob, self.bob, desk):
            self.send(sender, self.alice, {"n": 1}, "same")
        self.assertEqual(len(self.contents(self.alice.sync())), 2)

    def test_every_device(self) -> None:
        """``*`` reaches local devices, and those of other servers' users that have published themselves."""
        desk = self.alice.log_in_again("DESK")
        self.send(self.anna, self.alice, {"n": 1}, device_id="*")
        self.assertEqual(self.contents(self.alice.sync()), [{"n": 1}])
        self.assertEqual(self.contents(desk.sync()), [{"n": 1}])

    def test_a_device_that_comes_back(self) -> None:
        """What waited for a device that logged out is not given to the next one of that name."""
        self.send(self.anna, self.alice, {"n": 1})
        self.alice.ok("POST", "/logout", {})
        self.assertEqual(self.contents(self.anna.sync()), [])
        again = User(self.hub, self.alice.user_id, "", "FIRST").log_in_again("FIRST")
        self.assertEqual(self.contents(again.sync()), [])

    def test_stream_positions_survive(self) -> None:
        """A restart after everything was acknowledged gives no stream position out again."""
        self.send(self.anna, self.alice, {"n": 1})
        since = self.alice.sync()["next_batch"]
        self.alice.sync(since)
        database = self.hub.server.database
        self.assertIsInstance(database, InlineDatabase)
        highest = result_of(database.read(self.hub.timeline.max_stream))
        database._writer._numbers._last.clear()  # as in a new process
        self.send(self.anna, self.alice, {"n": 2})
        self.assertEqual(result_of(database.read(self.hub.timeline.max_stream)), highest + 1)
        self.assertEqual(self.contents(self.alice.sync(since)), [{"n": 2}])

    def test_bad_requests(self) -> None:
        """Requests of another shape."""
        target = self.alice.user_id
        for body, status, errcode in (
            ({}, 400, "M_MISSING_PARAM"),
            ({"messages": []}, 400, "M_BAD_JSON"),
            ({"messages": {"alice": {}}}, 400, "M_INVALID_PARAM"),
            ({"messages": {target: []}}, 400, "M_BAD_JSON"),
            ({"messages": {target: {"X": "y"}}}, 400, "M_BAD_JSON"),
            ({"messages": {target: {"A-B": {}}}}, 400, "M_INVALID_PARAM"),
            ({"messages": {target: {f"D{n}": {} for n in range(2001)}}}, 400, "M_INVALID_PARAM"),
            ({"messages": {self.bob.user_id: {"X": {"x": "x" * 66_000}}}}, 413, "M_TOO_LARGE"),
        ):
            self.assert_refused(self.anna.call("PUT", "/sendToDevice/m.test/t", body), status, errcode)
        long = "x" * 256
        for path in (f"/sendToDevice/{long}/t", f"/sendToDevice/m.test/{long}"):
            self.assert_refused(self.anna.call("PUT", path, {"messages": {}}), 400, "M_INVALID_PARAM")
        self.assertEqual(self.stored(self.alice), 0)
