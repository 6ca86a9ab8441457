"""Typing, receipts and markers by the client API."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.sync.beside import typing_news
from lmatrix.client_api.tokens import StreamToken, parse_since
from lmatrix.devices.typing_notices import TypingSnapshot
from tests.client_api.harness import ClientTestCase, User, enc


class ReadingTestCase(ClientTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room()
        self.anna.join(self.room_id)
        self.bob.join(self.room_id, "hub.example")
        self.events = [self.alice.say(self.room_id, f"message {n}") for n in range(3)]
        self.network.settle()

    def type(self, user: User, *, typing: bool = True, **more: Any) -> None:
        """A user types, or ceases to; everything is delivered."""
        path = f"/rooms/{enc(self.room_id)}/typing/{enc(user.user_id)}"
        user.ok("PUT", path, {"typing": typing, **more})
        self.network.settle()

    def read(self, user: User, event_id: str, kind: str = "m.read", **body: Any) -> None:
        """A user has read; everything is delivered."""
        user.ok("POST", f"/rooms/{enc(self.room_id)}/receipt/{kind}/{enc(event_id)}", body)
        self.network.settle()

    def ephemeral(self, answer: Any, kind: str) -> list[Any]:
        """Contents of the room's ephemeral events of one kind."""
        events = answer["rooms"]["join"].get(self.room_id, {}).get("ephemeral", {"events": []})["events"]
        return [event["content"] for event in events if event["type"] == kind]

    def typing_told(self, answer: Any) -> list[list[str]]:
        return [content["user_ids"] for content in self.ephemeral(answer, "m.typing")]


class TypingTests(ReadingTestCase):
    def test_here_and_there(self) -> None:
        """Who types is told to everybody in the room, on every server, once; and that it is over."""
        for watcher in (self.anna, self.bob):
            since = watcher.sync()["next_batch"]
            self.type(self.alice)
            answer = watcher.sync(since)
            self.assertEqual(self.typing_told(answer), [[self.alice.user_id]])
            again = watcher.sync(answer["next_batch"])
            self.assertEqual(self.typing_told(again), [])
            self.type(self.alice, typing=False)
            ended = watcher.sync(again["next_batch"])
            self.assertEqual(self.typing_told(ended), [[]])
            self.assertNotIn("_t", ended["next_batch"])
            self.assertEqual(self.typing_told(watcher.sync(ended["next_batch"])), [])

    def test_first_sync(self) -> None:
        """A first sync tells who types, and of nobody that nobody does."""
        self.assertEqual(self.typing_told(self.anna.sync()), [])
        self.type(self.alice)
        self.assertEqual(self.typing_told(self.anna.sync()), [[self.alice.user_id]])

    def test_wakes(self) -> None:
        """A long poll ends when somebody begins, and when the time-out ends it."""
        since = self.bob.sync()["next_batch"]
        for expected in ([self.alice.user_id], []):
            polling = self.bob.start("GET", "/sync", since=since, timeout=60_000)
            self.assertNoResult(polling)
            if expected:
                self.type(self.alice, timeout=10_000)
            else:
                self.network.clock.advance(11)
                self.network.settle()
            _, answer = self.successResultOf(polling)
            self.assertEqual(self.typing_told(answer), [expected])
            since = answer["next_batch"]

    def test_elsewhere(self) -> None:
        """Typing wakes nobody who is not in the room."""
        eve = self.hub.user("eve")
        polling = eve.start("GET", "/sync", since=eve.sync()["next_batch"], timeout=60_000)
        self.type(self.alice)
        self.assertNoResult(polling)
        self.network.clock.advance(61)
        self.successResultOf(polling)

    def test_after_a_restart(self) -> None:
        """Whoever was told that somebody types is told, after a restart, that nobody does."""
        self.type(self.alice)
        since = self.anna.sync()["next_batch"]
        self.network.clock.advance(1)
        self.hub.restart()
        answer = self.anna.sync(since)
        self.assertEqual(self.typing_told(answer), [[]])
        self.assertEqual(self.typing_told(self.anna.sync(answer["next_batch"])), [])

    def test_a_room_with_nothing_else(self) -> None:
        """The room's entry has everything that clients expect, though there is nothing new in it."""
        since = self.anna.sync()["next_batch"]
        self.type(self.alice)
        entry = self.anna.sync(since)["rooms"]["join"][self.room_id]
        self.assertEqual((entry["timeline"]["events"], entry["timeline"]["limited"]), ([], False))
        self.assertEqual(entry["state"], {"events": []})

    def test_filtered(self) -> None:
        """A filter can leave it out."""
        self.type(self.alice)
        wanted = {"room": {"ephemeral": {"not_types": ["m.typing"]}}}
        self.assertEqual(self.typing_told(self.anna.sync(filter=json.dumps(wanted))), [])
        wanted = {"room": {"not_rooms": [self.room_id]}}
        self.assertEqual(self.anna.sync(filter=json.dumps(wanted))["rooms"]["join"], {})

    def test_refused(self) -> None:
        """Outsiders, others' typing, and bodies of another shape."""
        path = f"/rooms/{enc(self.room_id)}/typing"
        alice, eve = self.alice.user_id, self.hub.user("eve")
        for user, path_user, body, status, errcode in (
            (self.alice, self.anna.user_id, {"typing": True}, 403, "M_FORBIDDEN"),
            (eve, eve.user_id, {"typing": True}, 403, "M_FORBIDDEN"),
            (self.alice, alice, {}, 400, "M_MISSING_PARAM"),
            (self.alice, alice, {"typing": "yes"}, 400, "M_BAD_JSON"),
            (self.alice, alice, {"typing": True, "timeout": "x"}, 400, "M_BAD_JSON"),
            (self.alice, alice, {"typing": True, "timeout": -1}, 400, "M_BAD_JSON"),
        ):
            self.assert_refused(user.call("PUT", f"{path}/{enc(path_user)}", body), status, errcode)


class ReceiptTests(ReadingTestCase):
    def receipts(self, answer: Any) -> dict[tuple[str, str], str]:
        """(user, kind) → event."""
        return {
            (user_id, kind): event_id
            for content in self.ephemeral(answer, "m.receipt")
            for event_id, kinds in content.items()
            for kind, users in kinds.items()
            for user_id in users
        }

    def test_here_and_there(self) -> None:
        """A receipt is told to everybody in the room, with its time, on every server, once."""
        for watcher, event_id in ((self.anna, self.events[0]), (self.bob, self.events[1])):
            since = watcher.sync()["next_batch"]
            self.read(self.alice, event_id)
            answer = watcher.sync(since)
            now_ms = int(self.network.clock.seconds() * 1000)
            self.assertEqual(
                self.ephemeral(answer, "m.receipt"), [{event_id: {"m.read": {self.alice.user_id: {"ts": now_ms}}}}]
            )
            self.assertEqual(self.receipts(watcher.sync(answer["next_batch"])), {})
        self.assertEqual(self.receipts(self.bob.sync()), {(self.alice.user_id, "m.read"): self.events[1]})

    def test_private(self) -> None:
        """A private receipt is its user's own, on every device, and nobody else's."""
        desk = self.alice.log_in_again("DESK")
        since = desk.sync()["next_batch"]
        polling = desk.start("GET", "/sync", since=since, timeout=60_000)
        self.read(self.alice, self.events[0], "m.read.private")
        _, answer = self.successResultOf(polling)
        self.assertEqual(self.receipts(answer), {(self.alice.user_id, "m.read.private"): self.events[0]})
        for watcher in (self.anna, self.bob):
            self.assertEqual(self.receipts(watcher.sync()), {})

    def test_threads(self) -> None:
        """Receipts for several threads at one event are all told."""
        self.read(self.alice, self.events[0])
        self.read(self.alice, self.events[0], thread_id="main")
        self.read(self.alice, self.events[0], thread_id=self.events[0])
        contents = self.ephemeral(self.bob.sync(), "m.receipt")
        data = [content[self.events[0]]["m.read"][self.alice.user_id] for content in contents]
        self.assertEqual({entry.get("thread_id") for entry in data}, {None, "main", self.events[0]})

    def test_whoever_comes_later(self) -> None:
        """Somebody who joins is told how far the others have read."""
        self.read(self.alice, self.events[2])
        eve = self.hub.user("eve")
        since = eve.sync()["next_batch"]
        eve.join(self.room_id)
        self.assertEqual(self.receipts(eve.sync(since)), {(self.alice.user_id, "m.read"): self.events[2]})

    def test_wakes(self) -> None:
        """A long poll ends when somebody has read."""
        polling = self.bob.start("GET", "/sync", since=self.bob.sync()["next_batch"], timeout=60_000)
        self.assertNoResult(polling)
        self.read(self.alice, self.events[0])
        _, answer = self.successResultOf(polling)
        self.assertEqual(self.receipts(answer), {(self.alice.user_id, "m.read"): self.events[0]})

    def test_markers(self) -> None:
        """The fully-read marker is the user's own note about the room; receipts can come with it."""
        since = self.alice.sync()["next_batch"]
        body = {"m.fully_read": self.events[0], "m.read": self.events[1], "m.read.private": self.events[2]}
        self.alice.ok("POST", f"/rooms/{enc(self.room_id)}/read_markers", body)
        self.network.settle()
        answer = self.alice.sync(since)
        noted = [{"type": "m.fully_read", "content": {"event_id": self.events[0]}}]
        self.assertEqual(answer["rooms"]["join"][self.room_id]["account_data"]["events"], noted)
        self.assertEqual(
            self.receipts(answer),
            {
                (self.alice.user_id, "m.read"): self.events[1],
                (self.alice.user_id, "m.read.private"): self.events[2],
            },
        )
        self.assertEqual(self.alice.sync()["rooms"]["join"][self.room_id]["account_data"]["events"], noted)
        self.assertEqual(self.alice.sync(answer["next_batch"])["rooms"]["join"], {})
        self.assertEqual(self.anna.sync()["rooms"]["join"][self.room_id]["account_data"]["events"], [])
        self.alice.ok("POST", f"/rooms/{enc(self.room_id)}/read_markers", {})
        self.read(self.alice, self.events[1], "m.fully_read")
        [noted_later] = self.alice.sync()["rooms"]["join"][self.room_id]["account_data"]["events"]
        self.assertEqual(noted_later["content"], {"event_id": self.events[1]})

    def test_refused(self) -> None:
        """Outsiders, unknown kinds and events, and bodies of another shape."""
        room, event_id = enc(self.room_id), enc(self.events[0])
        eve = self.hub.user("eve")
        unknown = enc("$" + "u" * 43)
        for user, path, body, status, errcode in (
            (eve, f"receipt/m.read/{event_id}", {}, 403, "M_FORBIDDEN"),
            (self.alice, f"receipt/m.other/{event_id}", {}, 400, "M_INVALID_PARAM"),
            (self.alice, "receipt/m.read/nonsense", {}, 400, "M_INVALID_PARAM"),
            (self.alice, f"receipt/m.read/{unknown}", {}, 404, "M_NOT_FOUND"),
            (self.alice, f"receipt/m.read/{event_id}", {"thread_id": 5}, 400, "M_BAD_JSON"),
            (self.alice, f"receipt/m.read/{event_id}", {"thread_id": "x"}, 400, "M_INVALID_PARAM"),
            (self.alice, f"receipt/m.fully_read/{event_id}", {"thread_id": "main"}, 400, "M_INVALID_PARAM"),
            (self.alice, "read_markers", {"m.read": 5}, 400, "M_BAD_JSON"),
            (self.alice, "read_markers", {"m.read": "x"}, 400, "M_INVALID_PARAM"),
        ):
            self.assert_refused(user.call("POST", f"/rooms/{room}/{path}", body), status, errcode)


class TypingNewsTests(SynchronousTestCase):
    """What is told of who is typing, by the client's token."""

    def news(
        self, told: int | None, rooms: dict[str, tuple[int, tuple[str, ...]]]
    ) -> tuple[dict[str, Any], int | None]:
        since = StreamToken(1, None, told)
        news, next_told = typing_news(TypingSnapshot(100, 110, rooms), since, ["!a:x", "!b:x"])
        return {room_id: event["content"]["user_ids"] for room_id, event in news.items()}, next_told

    def test_nobody_was_told_of(self) -> None:
        """Rooms where somebody types are news, others are not."""
        rooms = {"!a:x": (105, ("@u:x",)), "!b:x": (106, ()), "!c:x": (107, ("@v:x",))}
        self.assertEqual(self.news(None, rooms), ({"!a:x": ["@u:x"]}, 110))
        self.assertEqual(self.news(None, {"!b:x": (106, ())}), ({}, None))

    def test_changes(self) -> None:
        """What changed since is news, whichever way."""
        rooms = {"!a:x": (105, ("@u:x",)), "!b:x": (106, ())}
        self.assertEqual(self.news(105, rooms), ({"!b:x": []}, 110))
        self.assertEqual(self.news(104, rooms), ({"!a:x": ["@u:x"], "!b:x": []}, 110))
        self.assertEqual(self.news(110, {"!b:x": (106, ())}), ({}, None))

    def test_another_life(self) -> None:
        """A token of an earlier life, or of a clock that was set back: every room is told how it stands."""
        rooms = {"!a:x": (105, ("@u:x",))}
        for told in (99, 111, 5):
            self.assertEqual(self.news(told, rooms), ({"!a:x": ["@u:x"], "!b:x": []}, 110))

    def test_tokens(self) -> None:
        """A token's text says all there is in it, and no more."""
        for token in (StreamToken(5), StreamToken(5, 3), StreamToken(5, None, 7), StreamToken(0, 0, 0)):
            self.assertEqual(parse_since(str(token)), token)
        self.assertEqual(str(StreamToken(5)), "s5")
