"""``/sync``: what is told, to whom, once; and waiting for it."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError

from tests.client_api.harness import ClientTestCase, User, bodies, enc


def types(events: list[Any]) -> list[str]:
    return [event["type"] for event in events]


class SyncTests(ClientTestCase):
    """One sync after the other, without waiting."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room(name="The room")

    def joined(self, answer: Any) -> Any:
        return answer["rooms"]["join"][self.room_id]

    def test_first_sync(self) -> None:
        """The first one has the room whole: state before the timeline, timeline to the head, nothing twice."""
        for number in range(5):
            self.alice.say(self.room_id, str(number))
        room = self.joined(self.alice.sync(limit=3))
        self.assertEqual(bodies(room["timeline"]["events"]), ["2", "3", "4"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(
            types(room["state"]["events"]),
            [
                "m.room.create",
                "m.room.member",
                "m.room.power_levels",
                "m.room.join_rules",
                "m.room.history_visibility",
                "m.room.guest_access",
                "m.room.name",
            ],
        )
        self.assertEqual(room["summary"], {"m.joined_member_count": 1, "m.invited_member_count": 0})

    def test_whole_room_in_the_timeline(self) -> None:
        """A room that fits begins with its creation, has no state besides, and is not limited."""
        room = self.joined(self.alice.sync(limit=50))
        self.assertEqual(types(room["timeline"]["events"])[0], "m.room.create")
        self.assertEqual((room["state"]["events"], room["timeline"]["limited"]), ([], False))

    def test_nothing_new(self) -> None:
        """With nothing new there is no room, and the token stays good."""
        since = self.alice.sync()["next_batch"]
        for _ in range(3):
            answer = self.alice.sync(since)
            self.assertEqual(answer["rooms"], {"join": {}, "invite": {}, "knock": {}, "leave": {}})
            since = answer["next_batch"]

    def test_only_what_is_new(self) -> None:
        """What came since, and no state: it is in the timeline."""
        since = self.alice.sync()["next_batch"]
        self.alice.say(self.room_id, "hello")
        self.alice.set_state(self.room_id, "m.room.topic", {"topic": "t"})
        room = self.joined(self.alice.sync(since))
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.message", "m.room.topic"])
        self.assertEqual((room["state"]["events"], room["timeline"]["limited"]), ([], False))
        self.assertEqual(room["summary"], {})

    def test_state_in_the_gap(self) -> None:
        """State that changed in a gap is told as state, with its last value before the timeline."""
        since = self.alice.sync()["next_batch"]
        for topic in ("one", "two"):
            self.alice.set_state(self.room_id, "m.room.topic", {"topic": topic})
        for number in range(3):
            self.alice.say(self.room_id, str(number))
        room = self.joined(self.alice.sync(since, limit=2))
        self.assertEqual(bodies(room["timeline"]["events"]), ["1", "2"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual([event["content"] for event in room["state"]["events"]], [{"topic": "two"}])
        gap = self.alice.messages(self.room_id, **{"from": room["timeline"]["prev_batch"], "to": since, "limit": 10})
        self.assertEqual(types(gap["chunk"]), ["m.room.message", "m.room.topic", "m.room.topic"])

    def test_full_state(self) -> None:
        """``full_state`` tells all state of all rooms, even where nothing is new."""
        since = self.alice.sync()["next_batch"]
        room = self.joined(self.alice.sync(since, full_state="true"))
        self.assertEqual(len(room["state"]["events"]), 7)
        self.assertEqual(room["timeline"]["events"], [])

    def test_prev_content(self) -> None:
        """A state event in the timeline tells what it replaced."""
        since = self.alice.sync()["next_batch"]
        self.alice.set_state(self.room_id, "m.room.name", {"name": "New"})
        [event] = self.joined(self.alice.sync(since))["timeline"]["events"]
        self.assertEqual(event["unsigned"]["prev_content"], {"name": "The room"})
        self.assertNotIn("room_id", event)

    def test_joining_tells_all(self) -> None:
        """A join between two syncs brings the whole state, and history as far as the user may see it."""
        self.alice.say(self.room_id, "before")
        since = self.anna.sync()["next_batch"]
        self.anna.join(self.room_id)
        self.alice.say(self.room_id, "after")
        room = self.joined(self.anna.sync(since, limit=3))
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.message", "m.room.member", "m.room.message"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertIn("m.room.create", types(room["state"]["events"]))
        self.assertEqual(room["summary"]["m.joined_member_count"], 2)

    def test_joining_where_history_is_hidden(self) -> None:
        """Where history is for who was there, a newcomer's timeline begins with the own join."""
        self.alice.set_state(self.room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        self.alice.say(self.room_id, "before")
        self.anna.join(self.room_id)
        self.alice.say(self.room_id, "after")
        room = self.joined(self.anna.sync())
        self.assertEqual(types(room["timeline"]["events"])[-2:], ["m.room.member", "m.room.message"])
        self.assertEqual(bodies(room["timeline"]["events"]), ["after"])
        chunk = self.anna.messages(self.room_id, limit=100)["chunk"]
        self.assertEqual(bodies(chunk), ["after"])

    def test_leaving(self) -> None:
        """A room that was left tells everything up to the leave and nothing after it, once."""
        self.anna.join(self.room_id)
        since = self.anna.sync()["next_batch"]
        self.alice.say(self.room_id, "one")
        self.anna.leave(self.room_id)
        self.alice.say(self.room_id, "two")
        answer = self.anna.sync(since)
        room = answer["rooms"]["leave"][self.room_id]
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.message", "m.room.member"])
        self.assertEqual(bodies(room["timeline"]["events"]), ["one"])
        self.assertNotIn(self.room_id, answer["rooms"]["join"])
        self.alice.say(self.room_id, "three")
        self.assertEqual(self.anna.sync(answer["next_batch"])["rooms"]["leave"], {})

    def test_left_rooms_in_a_first_sync(self) -> None:
        """They are there only when the filter asks for them."""
        self.anna.join(self.room_id)
        self.anna.leave(self.room_id)
        self.assertEqual(self.anna.sync()["rooms"]["leave"], {})
        wanted = json.dumps({"room": {"include_leave": True}})
        room = self.anna.sync(filter=wanted)["rooms"]["leave"][self.room_id]
        self.assertEqual(room["timeline"]["events"][-1]["content"], {"membership": "leave"})

    def test_coming_and_going_between_two_syncs(self) -> None:
        """Joined and left in between: a left room, with what there was to see."""
        since = self.anna.sync()["next_batch"]
        self.anna.join(self.room_id)
        self.alice.say(self.room_id, "one")
        self.anna.leave(self.room_id)
        room = self.anna.sync(since)["rooms"]["leave"][self.room_id]
        self.assertEqual(bodies(room["timeline"]["events"]), ["one"])
        self.assertIn("m.room.create", types(room["state"]["events"]))

    def test_going_and_coming_between_two_syncs(self) -> None:
        """Left and joined again in between: the whole state, and a timeline that goes on where the last one ended."""
        self.anna.join(self.room_id)
        since = self.anna.sync()["next_batch"]
        self.anna.leave(self.room_id)
        self.alice.say(self.room_id, "away")
        self.anna.join(self.room_id)
        answer = self.anna.sync(since)
        room = self.joined(answer)
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.member", "m.room.message", "m.room.member"])
        self.assertFalse(room["timeline"]["limited"])
        self.assertIn("m.room.create", types(room["state"]["events"]))
        self.assertEqual(answer["rooms"]["leave"], {})

    def test_coming_back_later(self) -> None:
        """After a stay that was told to its end, the next one begins after it: nothing is told again."""
        self.anna.join(self.room_id)
        self.alice.say(self.room_id, "first stay")
        self.anna.leave(self.room_id)
        since = self.anna.sync()["next_batch"]
        self.alice.say(self.room_id, "away")
        self.anna.join(self.room_id)
        room = self.joined(self.anna.sync(since))
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.message", "m.room.member"])
        self.assertEqual(bodies(room["timeline"]["events"]), ["away"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertIn("m.room.create", types(room["state"]["events"]))

    def test_invites(self) -> None:
        """An invite, on the hub or from another server, shows what the room is and who invites, once."""
        room_id = self.alice.create_room(preset="private_chat", name="Private")
        for user in (self.anna, self.bob):
            since = user.sync()["next_batch"]
            self.alice.ok("POST", f"/rooms/{enc(room_id)}/invite", {"user_id": user.user_id})
            answer = user.sync(since)
            events = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
            facts = {(event["type"], event["state_key"]): event["content"] for event in events}
            self.assertEqual(facts["m.room.name", ""], {"name": "Private"})
            self.assertEqual(facts["m.room.member", user.user_id]["membership"], "invite")
            for event in events:
                self.assertEqual(set(event), {"type", "state_key", "sender", "content"})
            self.assertEqual(user.sync(answer["next_batch"])["rooms"]["invite"], {})
            self.assertIn(room_id, user.sync()["rooms"]["invite"])
            user.join(room_id)
            self.assertEqual(user.sync()["rooms"]["invite"], {})

    def test_knocks(self) -> None:
        """A knock, here or elsewhere, shows what the room is; it ends when one is let in."""
        rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        room_id = self.alice.create_room(preset="private_chat", name="Private", initial_state=[rules])
        for user in (self.anna, self.bob):
            since = user.sync()["next_batch"]
            path = f"/knock/{enc(room_id)}"
            self.assertEqual(user.ok("POST", path, {"reason": "please"}, via="hub.example"), {"room_id": room_id})
            self.network.settle()
            events = user.sync(since)["rooms"]["knock"][room_id]["knock_state"]["events"]
            facts = {(event["type"], event["state_key"]): event["content"] for event in events}
            self.assertEqual(facts["m.room.name", ""], {"name": "Private"})
            self.assertEqual(facts["m.room.member", user.user_id], {"membership": "knock", "reason": "please"})
            self.alice.ok("POST", f"/rooms/{enc(room_id)}/invite", {"user_id": user.user_id})
            self.network.settle()
            rooms = user.sync()["rooms"]
            self.assertEqual((rooms["knock"], list(rooms["invite"])), ({}, [room_id]))
        self.assert_refused(self.anna.call("POST", f"/knock/{enc('#here:hub.example')}", {}), 404, "M_NOT_FOUND")

    def test_invite_withdrawn(self) -> None:
        """A withdrawn invite is a left room, with the event that withdrew it and nothing of the room."""
        room_id = self.alice.create_room(preset="private_chat")
        for user in (self.anna, self.bob):
            self.alice.ok("POST", f"/rooms/{enc(room_id)}/invite", {"user_id": user.user_id})
            self.alice.say(room_id, f"secret from {user.user_id}")
            since = user.sync()["next_batch"]
            self.alice.ok("POST", f"/rooms/{enc(room_id)}/kick", {"user_id": user.user_id, "reason": "no"})
            self.network.settle()
            room = user.sync(since)["rooms"]["leave"][room_id]
            [event] = room["timeline"]["events"]
            self.assertEqual(event["content"], {"membership": "leave", "reason": "no"})
            self.assertEqual((room["state"]["events"], room["timeline"]["limited"]), ([], False))
            self.assertTrue(event["event_id"].startswith("$"))

    def test_redactions_and_transactions(self) -> None:
        """What was redacted before it is told is told redacted; the own device's transaction ID is told."""
        since = self.alice.sync()["next_batch"]
        event_id = self.alice.say(self.room_id, "secret", "mine")
        self.alice.ok("PUT", f"/rooms/{enc(self.room_id)}/redact/{enc(event_id)}/r", {})
        message, redaction = self.joined(self.alice.sync(since))["timeline"]["events"]
        self.assertEqual((message["content"], message["unsigned"]["transaction_id"]), ({}, "mine"))
        self.assertEqual(message["unsigned"]["redacted_because"]["event_id"], redaction["event_id"])

    def test_filters(self) -> None:
        """By ID or written out: limits, kinds of events, rooms; state before the timeline is told as state."""
        since = self.alice.sync()["next_batch"]
        for number in range(4):
            self.alice.say(self.room_id, str(number))
            self.alice.set_state(self.room_id, "org.example", {"n": number})
        definition = {"room": {"timeline": {"limit": 2, "types": ["m.room.message"]}}}
        path = f"/user/{enc(self.alice.user_id)}/filter"
        filter_id = self.alice.ok("POST", path, definition)["filter_id"]
        for given in (filter_id, json.dumps(definition)):
            room = self.joined(self.alice.sync(since, filter=given))
            self.assertEqual(bodies(room["timeline"]["events"]), ["2", "3"])
            self.assertEqual([event["content"] for event in room["state"]["events"]], [{"n": 1}])
        elsewhere = json.dumps({"room": {"not_rooms": [self.room_id]}})
        self.assertEqual(self.alice.sync(since, filter=elsewhere)["rooms"]["join"], {})

    def test_bad_requests(self) -> None:
        """Bad tokens, filters and times are refused."""
        for query in (
            {"since": "nonsense"},
            {"since": "p12"},
            {"filter": "77"},
            {"filter": "{"},
            {"filter": '{"room": []}'},
            {"timeout": "soon"},
            {"full_state": "yes"},
        ):
            with self.subTest(query=query):
                status, answer = self.alice.call("GET", "/sync", **query)
                self.assertEqual(status, 400, answer)

    def test_heroes(self) -> None:
        """A room without a name is named after others in it."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        self.bob.join(room_id, "hub.example")
        for user in (self.alice, self.bob):
            summary = user.sync()["rooms"]["join"][room_id]["summary"]
            others = {one.user_id for one in (self.alice, self.anna, self.bob)} - {user.user_id}
            self.assertEqual((set(summary["m.heroes"]), summary["m.joined_member_count"]), (others, 3))


class ParticipantSyncTests(ClientTestCase):
    """A server that is not the hub holds a room from its join on."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room(name="The room")
        for number in range(5):
            self.alice.say(self.room_id, str(number))
        self.bob.join(self.room_id, "hub.example")

    def test_first_sync(self) -> None:
        """The timeline begins with the join, limited; the state before it is whole; older events are fetched."""
        room = self.bob.sync()["rooms"]["join"][self.room_id]
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.member"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(len(room["state"]["events"]), 7)
        page = self.bob.messages(self.room_id, **{"from": room["timeline"]["prev_batch"], "limit": 3})
        self.assertEqual(bodies(page["chunk"]), ["4", "3", "2"])
        rest = self.bob.messages(self.room_id, **{"from": page["end"], "limit": 100})
        self.assertEqual(bodies(rest["chunk"]), ["1", "0"])
        self.assertEqual(rest["chunk"][-1]["type"], "m.room.create")
        self.assertNotIn("end", rest)

    def test_fetched_history_is_no_news(self) -> None:
        """Events that were fetched from the past are not told by ``/sync``, not even to a first one."""
        since = self.bob.sync()["next_batch"]
        self.bob.messages(self.room_id, limit=100)
        self.assertEqual(self.bob.sync(since)["rooms"]["join"], {})
        room = self.bob.sync()["rooms"]["join"][self.room_id]
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.member"])
        self.assertEqual(len(room["state"]["events"]), 7)

    def test_leaving_and_coming_back(self) -> None:
        """After a time away the timeline does not jump over what was missed: it is limited, and can be paged back."""
        self.bob.leave(self.room_id)
        self.network.settle()
        since = self.bob.sync()["next_batch"]
        self.alice.say(self.room_id, "missed")
        self.bob.join(self.room_id, "hub.example")
        self.alice.say(self.room_id, "back")
        self.network.settle()
        room = self.bob.sync(since)["rooms"]["join"][self.room_id]
        self.assertEqual(types(room["timeline"]["events"]), ["m.room.member", "m.room.message"])
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(len(room["state"]["events"]), 8)
        found, token = [], room["timeline"]["prev_batch"]
        while token is not None:
            page = self.bob.messages(self.room_id, **{"from": token, "limit": 4})
            found += page["chunk"]
            token = page.get("end")
        self.assertEqual(bodies(found), ["missed", "4", "3", "2", "1", "0"])
        self.assertEqual(len({event["event_id"] for event in found}), len(found))
        self.assertEqual(types(found)[-1], "m.room.create")

    def test_visibility_that_only_the_snapshot_tells(self) -> None:
        """A visibility that was set long ago holds for the history that is fetched, before its event is."""
        for value, expected in (("joined", []), ("shared", [104, 103, 102, 101])):
            room_id = self.alice.create_room()
            self.alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": value})
            for number in range(105):
                self.alice.say(room_id, str(number))
            self.bob.join(room_id, "hub.example")
            chunk = self.bob.messages(room_id, limit=5)["chunk"]
            self.assertEqual(bodies(chunk), [str(number) for number in expected])

    def test_a_hub_that_cannot_be_reached(self) -> None:
        """Then history ends where it is held, and can be asked for again."""
        self.network.unreachable.add("hub.example")
        prev_batch = self.bob.sync()["rooms"]["join"][self.room_id]["timeline"]["prev_batch"]
        page = self.bob.messages(self.room_id, **{"from": prev_batch})
        self.assertEqual((page["chunk"], "end" in page), ([], False))
        self.network.unreachable.clear()
        page = self.bob.messages(self.room_id, **{"from": prev_batch})
        self.assertEqual(bodies(page["chunk"]), ["4", "3", "2", "1", "0"])


class LongPollTests(ClientTestCase):
    """``/sync`` with a time-out."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room()
        self.since = self.alice.sync()["next_batch"]

    def poll(self, user: User, since: str, timeout: int = 30_000) -> Any:
        return user.start("GET", "/sync", since=since, timeout=timeout)

    def told(self, polling: Any) -> Any:
        status, answer = self.successResultOf(polling)
        self.assertEqual(status, 200, answer)
        return answer

    def test_waits_and_wakes(self) -> None:
        """Nothing is answered until there is something, and then at once."""
        polling = self.poll(self.alice, self.since)
        self.network.clock.advance(29)
        self.assertNoResult(polling)
        self.alice.say(self.room_id, "news")
        room = self.told(polling)["rooms"]["join"][self.room_id]
        self.assertEqual(bodies(room["timeline"]["events"]), ["news"])

    def test_time_out(self) -> None:
        """After its time an empty answer comes, with a token to go on."""
        polling = self.poll(self.alice, self.since, 10_000)
        self.network.clock.advance(10)
        answer = self.told(polling)
        self.assertEqual(answer["rooms"]["join"], {})
        self.alice.say(self.room_id, "news")
        self.assertIn(self.room_id, self.alice.sync(answer["next_batch"])["rooms"]["join"])

    def test_bounded(self) -> None:
        """A client that asks for ever does not get for ever."""
        polling = self.poll(self.alice, self.since, 10**12)
        self.network.clock.advance(121)
        self.told(polling)

    def test_at_once_when_there_is_something(self) -> None:
        """What is there already is not waited for; a first sync never waits."""
        self.alice.say(self.room_id, "news")
        self.told(self.poll(self.alice, self.since))
        self.told(self.anna.start("GET", "/sync", timeout=30_000))
        self.assertEqual(self.hub.notifier.listening, 0)

    def test_what_one_may_not_see_does_not_end_the_wait(self) -> None:
        """An event that a filter leaves out wakes nobody for good."""
        wanted = json.dumps({"room": {"timeline": {"not_types": ["m.room.message"]}}})
        polling = self.alice.start("GET", "/sync", since=self.since, timeout=30_000, filter=wanted)
        self.alice.say(self.room_id, "not wanted")
        self.assertNoResult(polling)
        self.alice.set_state(self.room_id, "m.room.topic", {"topic": "wanted"})
        self.told(polling)

    def test_other_servers_events(self) -> None:
        """A participant's users are woken by what the hub delivers."""
        self.bob.join(self.room_id, "hub.example")
        polling = self.poll(self.bob, self.bob.sync()["next_batch"])
        self.alice.say(self.room_id, "news")
        self.assertNoResult(polling)
        self.network.settle()
        self.assertEqual(bodies(self.told(polling)["rooms"]["join"][self.room_id]["timeline"]["events"]), ["news"])

    def test_invites_and_joins_wake(self) -> None:
        """What brings a user into a room wakes the user: an invite, here or elsewhere, a join by another device."""
        private = self.alice.create_room(preset="private_chat")
        for user in (self.anna, self.bob):
            polling = self.poll(user, user.sync()["next_batch"])
            self.alice.ok("POST", f"/rooms/{enc(private)}/invite", {"user_id": user.user_id})
            self.assertIn(private, self.told(polling)["rooms"]["invite"])
            polling = self.poll(user, user.sync()["next_batch"])
            user.log_in_again("OTHER").join(private)
            self.assertIn(private, self.told(polling)["rooms"]["join"])

    def test_kicks_wake(self) -> None:
        """Being thrown out is told at once."""
        for user in (self.anna, self.bob):
            user.join(self.room_id, "hub.example")
            polling = self.poll(user, user.sync()["next_batch"])
            self.alice.ok("POST", f"/rooms/{enc(self.room_id)}/kick", {"user_id": user.user_id})
            self.network.settle()
            self.assertIn(self.room_id, self.told(polling)["rooms"]["leave"])

    def test_declining_an_invite_is_told(self) -> None:
        """A user who declines an invite on one device sees it gone on the other, here and elsewhere."""
        private = self.alice.create_room(preset="private_chat")
        for user in (self.anna, self.bob):
            self.alice.ok("POST", f"/rooms/{enc(private)}/invite", {"user_id": user.user_id})
            since = user.sync()["next_batch"]
            polling = self.poll(user, since)
            user.log_in_again("OTHER").leave(private)
            self.network.settle()
            self.assertIn(private, self.told(polling)["rooms"]["leave"])
            self.assertEqual(user.sync()["rooms"]["invite"], {})

    def test_a_client_that_goes_away(self) -> None:
        """A cancelled request leaves nothing behind."""
        polling = self.poll(self.alice, self.since)
        self.assertEqual(self.hub.notifier.listening, 1)
        polling.addErrback(lambda _: None)
        polling.cancel()
        self.assertEqual(self.hub.notifier.listening, 0)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.flushLoggedErrors(CancelledError)
