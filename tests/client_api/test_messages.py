"""Reading history: pages in both directions, single events, context; and who may."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client_api.harness import ClientTestCase, User, bodies, enc


class MessagesTests(ClientTestCase):
    """``/messages``, ``/event`` and ``/context`` on the hub."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room()
        self.start = self.alice.sync()["next_batch"]
        self.ids = [self.alice.say(self.room_id, str(number)) for number in range(7)]

    def pages(self, user: User, direction: str, limit: int, **query: Any) -> list[list[Any]]:
        """All pages, following the tokens."""
        pages = []
        while True:
            page = user.messages(self.room_id, direction, limit=limit, **query)
            pages.append(page["chunk"])
            if "end" not in page:
                return pages
            query["from"] = page["end"]

    def refused(self, user: User, path: str, status: int, errcode: str, **query: Any) -> None:
        self.assert_refused(user.call("GET", f"/rooms/{enc(self.room_id)}/{path}", **query), status, errcode)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(1, 15), st.sampled_from("bf"))
    def test_pages_join_up(self, limit: int, direction: str) -> None:
        """Pages of whatever size, in either direction, make the whole log, each event once, in order."""
        pages = self.pages(self.alice, direction, limit)
        found = [event["event_id"] for page in pages for event in page]
        log = [event.event_id for event in self.hub.server.log(self.room_id)]
        self.assertEqual(found, log if direction == "f" else log[::-1])
        self.assertLessEqual(max(map(len, pages)), limit)

    def test_from_and_to(self) -> None:
        """Tokens of ``/sync`` and of ``/messages`` are places in the room, from which and to which one may read."""
        now = self.alice.sync()["next_batch"]
        backwards = self.alice.messages(self.room_id, **{"from": now, "to": self.start, "limit": 100})
        self.assertEqual(bodies(backwards["chunk"]), ["6", "5", "4", "3", "2", "1", "0"])
        forwards = self.alice.messages(self.room_id, "f", **{"from": self.start, "limit": 3})
        self.assertEqual(bodies(forwards["chunk"]), ["0", "1", "2"])
        between = self.alice.messages(self.room_id, **{"from": forwards["end"], "to": self.start, "limit": 2})
        self.assertEqual(bodies(between["chunk"]), ["2", "1"])
        self.assertEqual(between["start"], forwards["end"])

    def test_filters(self) -> None:
        """A filter leaves out, and the tokens go on past what it left out."""
        self.alice.set_state(self.room_id, "m.room.topic", {"topic": "t"})
        only = json.dumps({"types": ["m.room.topic", "m.room.create"]})
        pages = self.pages(self.alice, "b", 1, filter=only)
        kinds = [event["type"] for page in pages for event in page]
        self.assertEqual(kinds, ["m.room.topic", "m.room.create"])

    def test_bad_requests(self) -> None:
        """No direction, a wrong one, foreign tokens, bad limits and filters."""
        self.refused(self.alice, "messages", 400, "M_INVALID_PARAM")
        self.refused(self.alice, "messages", 400, "M_INVALID_PARAM", dir="x")
        self.refused(self.alice, "messages", 400, "M_INVALID_PARAM", dir="b", **{"from": "t1-2_3"})
        self.refused(self.alice, "messages", 400, "M_INVALID_PARAM", dir="b", limit="many")
        self.refused(self.alice, "messages", 400, "M_NOT_JSON", dir="b", filter="{")
        self.refused(self.alice, "messages", 400, "M_BAD_JSON", dir="b", filter='{"types": "x"}')

    def test_outsiders(self) -> None:
        """Who never was in the room reads nothing of it; an unknown room is no different."""
        for path, query in (("messages", {"dir": "b"}), ("state", {}), ("state/m.room.create", {}), ("members", {})):
            with self.subTest(path=path):
                self.refused(self.anna, path, 403, "M_FORBIDDEN", **query)
                unknown = self.anna.call("GET", f"/rooms/{enc('!no:hub.example')}/{path}", **query)
                self.assert_refused(unknown, 403, "M_FORBIDDEN")
        self.refused(self.anna, f"event/{enc(self.ids[0])}", 404, "M_NOT_FOUND")
        self.refused(self.anna, f"context/{enc(self.ids[0])}", 404, "M_NOT_FOUND")

    def test_the_world_may_read(self) -> None:
        """A world-readable room is read by anybody, from when it was made so."""
        content = {"history_visibility": "world_readable"}
        self.alice.set_state(self.room_id, "m.room.history_visibility", content)
        self.alice.say(self.room_id, "to all")
        self.assertEqual(bodies(self.anna.messages(self.room_id, limit=100)["chunk"]), ["to all"])
        self.anna.ok("GET", f"/rooms/{enc(self.room_id)}/state")

    def test_former_members(self) -> None:
        """Who left reads the room, its state and members as they were then."""
        self.anna.join(self.room_id)
        self.anna.leave(self.room_id)
        self.alice.say(self.room_id, "after")
        self.alice.set_state(self.room_id, "m.room.name", {"name": "new"})
        hidden = self.alice.say(self.room_id, "hidden")
        page = self.anna.messages(self.room_id, limit=2)
        self.assertEqual([event["content"].get("membership") for event in page["chunk"]], ["leave", "join"])
        self.assertEqual(bodies(self.anna.messages(self.room_id, "f", limit=100)["chunk"])[-1], "6")
        self.refused(self.anna, "state/m.room.name", 404, "M_NOT_FOUND")
        self.refused(self.anna, f"event/{enc(hidden)}", 404, "M_NOT_FOUND")
        members = self.anna.ok("GET", f"/rooms/{enc(self.room_id)}/members")["chunk"]
        memberships = {event["state_key"]: event["content"]["membership"] for event in members}
        self.assertEqual(memberships, {self.alice.user_id: "join", self.anna.user_id: "leave"})

    def test_one_event(self) -> None:
        """An event by its ID, in its own room only."""
        event = self.alice.ok("GET", f"/rooms/{enc(self.room_id)}/event/{enc(self.ids[3])}")
        self.assertEqual((event["content"]["body"], event["room_id"]), ("3", self.room_id))
        other = self.alice.create_room()
        elsewhere = self.alice.call("GET", f"/rooms/{enc(other)}/event/{enc(self.ids[3])}")
        self.assert_refused(elsewhere, 404, "M_NOT_FOUND")
        self.refused(self.alice, "event/$nothing", 404, "M_NOT_FOUND")

    def test_context(self) -> None:
        """What is around an event, the state there, and tokens to go on either way."""
        context = self.alice.ok("GET", f"/rooms/{enc(self.room_id)}/context/{enc(self.ids[3])}", limit=4)
        self.assertEqual(context["event"]["event_id"], self.ids[3])
        self.assertEqual(bodies(context["events_before"]), ["2", "1"])
        self.assertEqual(bodies(context["events_after"]), ["4", "5"])
        self.assertIn("m.room.create", [event["type"] for event in context["state"]])
        before = self.alice.messages(self.room_id, **{"from": context["start"], "limit": 1})
        after = self.alice.messages(self.room_id, "f", **{"from": context["end"], "limit": 5})
        self.assertEqual((bodies(before["chunk"]), bodies(after["chunk"])), (["0"], ["6"]))


class ParticipantMessagesTests(ClientTestCase):
    """On a server that is not the hub."""

    def test_state_that_came_with_the_join(self) -> None:
        """An event known only from the state at the join can be asked for, and has no context here."""
        room_id = self.alice.create_room(name="The room")
        self.bob.join(room_id, "hub.example")
        name = self.bob.ok("GET", f"/rooms/{enc(room_id)}/state/m.room.name", format="event")
        self.assertEqual(name["content"], {"name": "The room"})
        path = f"/rooms/{enc(room_id)}/event/{enc(name['event_id'])}"
        self.assertEqual(self.bob.ok("GET", path)["content"], {"name": "The room"})
        around = self.bob.call("GET", f"/rooms/{enc(room_id)}/context/{enc(name['event_id'])}")
        self.assert_refused(around, 404, "M_NOT_FOUND")
        self.bob.messages(room_id, limit=100)
        self.bob.ok("GET", f"/rooms/{enc(room_id)}/context/{enc(name['event_id'])}")
        outsider = self.north.user("ben")
        self.assert_refused(outsider.call("GET", path), 404, "M_NOT_FOUND")
