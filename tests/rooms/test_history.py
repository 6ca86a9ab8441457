"""What other servers may read of a room, and in which form they get it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import NotFound, UnsupportedRoomVersion, WrongServer
from lmatrix.events.creation import InitialEvent
from lmatrix.events.forms import Pdu
from lmatrix.events.redaction import redact
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.history import MAX_BACKFILL, History
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.rooms.policy import NoPolicies
from lmatrix.rooms.room import Room
from tests.rooms.network import NetworkTestCase, Server, done

NORTH = "north.example"
STRANGER = "stranger.example"

WHOLE, REDACTED, NOTHING = "whole", "redacted", "nothing"


class HistoryTestCase(NetworkTestCase):
    """A hub with its history."""

    def history(self, server: Server) -> History:
        """A server's history."""
        return History(server.database, server.rooms, server.floor.rooms, NoPolicies())

    def room(self, visibility: str | None = None, **plan: Any) -> str:
        """A public room of Alice's."""
        if visibility is not None:
            state = InitialEvent("m.room.history_visibility", "", {"history_visibility": visibility})
            plan["initial_state"] = (state,)
        return self.hub.create_room(self.alice, **plan)

    def hub_sends(self, room_id: str, event_type: str, content: JsonObject, state_key: str | None = None) -> str:
        """Alice sends something."""
        users = self.hub.floor.local_users
        return done(users.send(room_id, self.alice, event_type, content, state_key=state_key))

    def says(self, room_id: str, body: str) -> str:
        """Alice says something; everything is delivered."""
        return self.say(self.hub, room_id, self.alice, body)

    def invited(self, room_id: str, user_id: str) -> str:
        """Alice invites somebody; the invite's event ID."""
        done(self.hub.floor.local_users.invite(room_id, self.alice, user_id, None))
        self.network.settle()
        return self.hub.log(room_id)[-1].event_id

    def leaves(self, server: Server, user_id: str, room_id: str) -> str:
        """Somebody leaves; the event's ID."""
        leaving = Deferred.fromCoroutine(server.floor.local_users.leave(user_id, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        return self.hub.log(room_id)[-1].event_id

    def seen(self, asker: str, event_id: str, server: Server | None = None) -> str:
        """How a server sees an event when it asks for it."""
        server = server or self.hub
        asking = Deferred.fromCoroutine(self.history(server).event(asker, event_id))
        failure = []
        asking.addErrback(failure.append)
        answer = self.successResultOf(asking)
        if failure:
            failure[0].trap(NotFound)
            return NOTHING
        stored = self.successResultOf(server.database.read(lambda tx: server.rooms.event(tx, event_id)))
        pdu = Pdu.from_canonical(stored.canonical, room_version("I.1"))
        if answer == pdu.canonical:
            return WHOLE
        self.assertEqual(redact(pdu).canonical, answer)
        return REDACTED

    def refused(self, asking: Any, *errors: type[Exception]) -> Exception:
        """What a request is refused with."""
        return self.failureResultOf(Deferred.fromCoroutine(asking), *errors).value

    def stands(self, event_id: str, standing: str) -> None:
        """Give an event of the hub's another standing."""
        self.successResultOf(
            self.hub.database.write(
                lambda tx: tx.execute("UPDATE events SET standing = ? WHERE event_id = ?", (standing, event_id))
            )
        )


class VisibilityTests(HistoryTestCase):
    """History visibility by server."""

    def at_all_times(self, visibility: str | None) -> tuple[dict[str, list[str]], dict[str, str]]:
        """The life of a server in a room: what it sees of a message from each time, at each time.

        The times are: before the invite, invited, joined, left. Also the IDs of its own membership events.
        """
        room_id = self.room(visibility)
        messages = [self.says(room_id, "before")]
        seen = {}
        own = {}

        def look(when: str) -> None:
            seen[when] = [self.seen(NORTH, message) for message in messages]

        look("before")
        own["invite"] = self.invited(room_id, self.bob)
        messages.append(self.says(room_id, "while invited"))
        look("invited")
        self.north.join(self.bob, room_id, self.hub.name)
        own["join"] = self.hub.log(room_id)[-1].event_id
        messages.append(self.says(room_id, "while joined"))
        look("joined")
        own["leave"] = self.leaves(self.north, self.bob, room_id)
        messages.append(self.says(room_id, "after"))
        look("left")
        return seen, own

    def check(self, visibility: str | None, expected: dict[str, list[str]]) -> None:
        """A room with that visibility is seen so; a server always sees its own membership events."""
        seen, own = self.at_all_times(visibility)
        self.assertEqual(expected, seen)
        for event_id in own.values():
            self.assertEqual(WHOLE, self.seen(NORTH, event_id))

    def test_world_readable(self) -> None:
        """Everybody sees everything, strangers too."""
        self.check("world_readable", {
            "before": [WHOLE],
            "invited": [WHOLE] * 2,
            "joined": [WHOLE] * 3,
            "left": [WHOLE] * 4,
        })  # fmt: skip

    def test_shared(self) -> None:
        """A member sees all that was before it left."""
        self.check("shared", {
            "before": [NOTHING],
            "invited": [NOTHING] * 2,
            "joined": [WHOLE] * 3,
            "left": [WHOLE] * 3 + [NOTHING],
        })  # fmt: skip

    def test_shared_is_the_default(self) -> None:
        """A room that says nothing is shared."""
        self.assertEqual(self.at_all_times("shared")[0], self.at_all_times("nonsense")[0])

    def test_invited(self) -> None:
        """A member sees all from its invite on; of what was before it sees that it was."""
        self.check("invited", {
            "before": [NOTHING],
            "invited": [NOTHING, WHOLE],
            "joined": [REDACTED, WHOLE, WHOLE],
            "left": [REDACTED, WHOLE, WHOLE, NOTHING],
        })  # fmt: skip

    def test_joined(self) -> None:
        """A member sees all from its join on; of what was before it sees that it was."""
        self.check("joined", {
            "before": [NOTHING],
            "invited": [NOTHING] * 2,
            "joined": [REDACTED, REDACTED, WHOLE],
            "left": [REDACTED, REDACTED, WHOLE, NOTHING],
        })  # fmt: skip

    def test_the_visibility_at_the_event_counts(self) -> None:
        """A change of visibility concerns what comes after it; the change itself is seen by who may see either side."""
        room_id = self.room("joined")
        before = self.says(room_id, "before")
        change = self.hub_sends(
            room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}, state_key=""
        )
        after = self.says(room_id, "after")
        back = self.hub_sends(room_id, "m.room.history_visibility", {"history_visibility": "joined"}, state_key="")
        hidden = self.says(room_id, "hidden")
        seen = [self.seen(STRANGER, event_id) for event_id in (before, change, after, back, hidden)]
        self.assertEqual([NOTHING, WHOLE, WHOLE, WHOLE, NOTHING], seen)

    def test_commits(self) -> None:
        """An MLS commit is visible to later members even where history is not."""
        room_id = self.room("joined")
        commit = self.hub_sends(room_id, "m.mls.commit", {"commit": "…"})
        other = self.hub_sends(room_id, "org.example.other", {"commit": "…"})
        self.assertEqual(NOTHING, self.seen(NORTH, commit))
        self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual([WHOLE, REDACTED], [self.seen(NORTH, commit), self.seen(NORTH, other)])

    def test_any_user_of_the_server(self) -> None:
        """A server sees what any of its users may see."""
        room_id = self.room("joined")
        self.north.join(self.bob, room_id, self.hub.name)
        first = self.says(room_id, "one")
        dave = self.north.user("dave")
        self.north.join(dave, room_id, self.hub.name)
        self.leaves(self.north, self.bob, room_id)
        second = self.says(room_id, "two")
        self.assertEqual([WHOLE, WHOLE], [self.seen(NORTH, first), self.seen(NORTH, second)])

    def test_coming_back(self) -> None:
        """Of what was said while it was away a server that came back sees that it was, where history is for members."""
        room_id = self.room("joined")
        self.north.join(self.bob, room_id, self.hub.name)
        self.leaves(self.north, self.bob, room_id)
        away = self.says(room_id, "away")
        self.assertEqual(NOTHING, self.seen(NORTH, away))
        self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual(REDACTED, self.seen(NORTH, away))

    def test_banned(self) -> None:
        """A server sees that its user was banned, and nothing after."""
        room_id = self.shared_room()
        self.says(room_id, "before")
        ban = done(self.hub.floor.local_users.membership(room_id, self.alice, self.bob, "ban", None))
        after = self.says(room_id, "after")
        self.assertEqual([WHOLE, NOTHING], [self.seen(NORTH, ban), self.seen(NORTH, after)])

    def test_unknown_event(self) -> None:
        """What does not exist and what may not be seen are refused in the same words."""
        room_id = self.room("joined")
        hidden = self.says(room_id, "hidden")
        history = self.history(self.hub)
        unknown = self.refused(history.event(NORTH, "$unknown"), NotFound)
        self.assertEqual(str(unknown), str(self.refused(history.event(NORTH, hidden), NotFound)))

    def test_rejected(self) -> None:
        """A rejected event is handed out to nobody."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "x")
        self.stands(event_id, "rejected")
        self.assertEqual([NOTHING] * 2, [self.seen(NORTH, event_id), self.seen(self.hub.name, event_id)])
        self.refused(self.history(self.hub).backfill(NORTH, room_id, event_id, 1), NotFound)
        self.refused(self.history(self.hub).state(NORTH, room_id, event_id), NotFound)

    def test_soft_failed(self) -> None:
        """An event that soft-failed is handed out redacted: the chain needs it, and it is no ordinary event."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "x")
        self.stands(event_id, "soft_failed")
        self.assertEqual(REDACTED, self.seen(NORTH, event_id))

    def test_redacted_event(self) -> None:
        """A redacted event is handed out as what is left of it."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "secret")
        done(self.hub.floor.local_users.redact(room_id, self.alice, event_id, None))
        answer = parse_object(done(self.history(self.hub).event(NORTH, event_id)))
        self.assertEqual({}, answer["content"])


class BackfillTests(HistoryTestCase):
    """``backfill``."""

    def bodies(self, answer: bytes) -> list[str]:
        """The messages in an answer, and that it is canonical JSON."""
        pdus = parse_object(answer)["pdus"]
        self.assertEqual(encode({"pdus": pdus}), answer)
        return [pdu["content"].get("body", pdu["type"]) for pdu in pdus]

    def test_order_and_limit(self) -> None:
        """Oldest first, the event itself last, no more than were asked for."""
        room_id = self.shared_room()
        said = [self.says(room_id, str(number)) for number in range(5)]
        history = self.history(self.hub)
        self.assertEqual(["1", "2", "3"], self.bodies(done(history.backfill(NORTH, room_id, said[3], 3))))
        self.assertEqual(["3"], self.bodies(done(history.backfill(NORTH, room_id, said[3], 1))))

    def test_to_the_beginning(self) -> None:
        """The whole room is the hub's log, event by event, from the create event on."""
        room_id = self.shared_room()
        last = self.says(room_id, "last")
        answer = done(self.history(self.hub).backfill(NORTH, room_id, last, 100))
        self.assertEqual(
            [parse_object(event.canonical) for event in self.hub.log(room_id)], parse_object(answer)["pdus"]
        )
        self.assertEqual("m.room.create", parse_object(answer)["pdus"][0]["type"])

    def test_bound(self) -> None:
        """However many are asked for, no more than a hundred come."""
        room_id = self.shared_room()
        for number in range(105):
            self.hub_sends(room_id, "m.room.message", {"body": str(number)})
        last = self.hub.log(room_id)[-1].event_id
        answer = done(self.history(self.hub).backfill(NORTH, room_id, last, 10**6))
        self.assertEqual(MAX_BACKFILL, len(parse_object(answer)["pdus"]))

    def test_stops_where_sight_ends(self) -> None:
        """An invited server gets what it may see, back to its invite, and no word of what was before."""
        room_id = self.room("invited")
        self.says(room_id, "before")
        invite = self.invited(room_id, self.bob)
        self.says(room_id, "one")
        last = self.says(room_id, "two")
        history = self.history(self.hub)
        self.assertEqual(["m.room.member", "one", "two"], self.bodies(done(history.backfill(NORTH, room_id, last, 99))))
        self.assertEqual(["m.room.member"], self.bodies(done(history.backfill(NORTH, room_id, invite, 99))))

    def test_redacted_on_the_way(self) -> None:
        """What a member may know of, but not see, comes redacted in its place."""
        room_id = self.room("joined")
        self.says(room_id, "before")
        self.north.join(self.bob, room_id, self.hub.name)
        last = self.says(room_id, "after")
        pdus = parse_object(done(self.history(self.hub).backfill(NORTH, room_id, last, 3)))["pdus"]
        self.assertEqual([{}, {"membership": "join"}], [pdu["content"] for pdu in pdus[:2]])
        self.assertEqual("after", pdus[2]["content"]["body"])

    def test_rejected_are_left_out(self) -> None:
        """A rejected event does not come, and does not end the answer."""
        room_id = self.shared_room()
        said = [self.says(room_id, str(number)) for number in range(3)]
        self.stands(said[1], "rejected")
        self.assertEqual(["0", "2"], self.bodies(done(self.history(self.hub).backfill(NORTH, room_id, said[2], 3))))

    def test_not_found(self) -> None:
        """Unknown rooms, unknown events, events of other rooms, and rooms that the asker has no part in."""
        room_id, other = self.shared_room(), self.shared_room()
        event_id, elsewhere = self.says(room_id, "x"), self.says(other, "y")
        history = self.history(self.hub)
        for asker, room, event in (
            (NORTH, "!unknown:hub.example", event_id),
            (NORTH, room_id, "$unknown"),
            (NORTH, room_id, elsewhere),
            (STRANGER, room_id, event_id),
        ):
            self.refused(history.backfill(asker, room, event, 10), NotFound)


class StateTests(HistoryTestCase):
    """``state`` and ``state_ids``."""

    def test_state_before_the_event(self) -> None:
        """State is as of just before the event, in the room's order; a later change is not in it."""
        room_id = self.shared_room()
        first = self.hub_sends(room_id, "m.room.topic", {"topic": "one"}, state_key="")
        second = self.hub_sends(room_id, "m.room.topic", {"topic": "two"}, state_key="")
        answer = parse_object(done(self.history(self.hub).state(NORTH, room_id, second)))
        ids = [Pdu.parse(pdu, room_version("I.1")).event_id for pdu in answer["pdus"]]
        self.assertIn(first, ids)
        self.assertNotIn(second, ids)
        order = [event.event_id for event in self.hub.log(room_id)]
        self.assertEqual(sorted(ids, key=order.index), ids)
        self.assertEqual("m.room.create", answer["pdus"][0]["type"])

    def test_auth_chain(self) -> None:
        """The auth chain begins with the create event and holds every auth event of what is in either part."""
        room_id = self.shared_room()
        last = self.says(room_id, "x")
        answer = parse_object(done(self.history(self.hub).state(NORTH, room_id, last)))
        self.assertEqual("m.room.create", answer["auth_chain"][0]["type"])
        known = {Pdu.parse(pdu, room_version("I.1")).event_id for pdu in answer["auth_chain"]}
        for pdu in answer["pdus"] + answer["auth_chain"]:
            self.assertTrue(known.issuperset(pdu["auth_events"]))

    def test_state_ids(self) -> None:
        """``state_ids`` is ``state`` in event IDs."""
        room_id = self.shared_room()
        last = self.says(room_id, "x")
        history = self.history(self.hub)
        whole = parse_object(done(history.state(NORTH, room_id, last)))
        ids = parse_object(done(history.state_ids(NORTH, room_id, last)))
        for name, id_name in (("pdus", "pdu_ids"), ("auth_chain", "auth_chain_ids")):
            self.assertEqual([Pdu.parse(pdu, room_version("I.1")).event_id for pdu in whole[name]], ids[id_name])

    def test_redacted_state(self) -> None:
        """Before an event whose contents the asker may not see, neither does it see those of the state of then."""
        room_id = self.room("joined", topic="secret")
        before = self.says(room_id, "before")
        self.north.join(self.bob, room_id, self.hub.name)
        after = self.says(room_id, "after")
        history = self.history(self.hub)

        def topics(event_id: str) -> list[JsonObject]:
            answer = parse_object(done(history.state(NORTH, room_id, event_id)))
            return [pdu["content"] for pdu in answer["pdus"] if pdu["type"] == "m.room.topic"]

        self.assertEqual([{}], topics(before))
        self.assertEqual([{"topic": "secret"}], topics(after))

    def test_an_invite_does_not_open_the_room(self) -> None:
        """A server may see the invite or ban of its user, and yet not the state of the room."""
        room_id = self.room("shared")
        invite = self.invited(room_id, self.bob)
        self.assertEqual(WHOLE, self.seen(NORTH, invite))
        history = self.history(self.hub)
        self.refused(history.state(NORTH, room_id, invite), NotFound)
        self.refused(history.state_ids(NORTH, room_id, invite), NotFound)

    def test_not_found(self) -> None:
        """Unknown rooms, unknown events, events of other rooms, and rooms that the asker has no part in."""
        room_id, other = self.shared_room(), self.shared_room()
        event_id, elsewhere = self.says(room_id, "x"), self.says(other, "y")
        history = self.history(self.hub)
        for ask in (history.state, history.state_ids):
            for asker, room, event in (
                (NORTH, "!unknown:hub.example", event_id),
                (NORTH, room_id, "$unknown"),
                (NORTH, room_id, elsewhere),
                (STRANGER, room_id, event_id),
            ):
                self.refused(ask(asker, room, event), NotFound)

    def test_wrong_server(self) -> None:
        """A participant names the hub instead."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "x")
        history = self.history(self.north)
        for ask in (history.state, history.state_ids):
            error = self.refused(ask("south.example", room_id, event_id), WrongServer)
            assert isinstance(error, WrongServer)
            self.assertEqual(self.hub.name, error.hub_server)


class EventAuthTests(HistoryTestCase):
    """``event_auth``."""

    def chain(self, server: Server, asker: str, room_id: str, event_id: str) -> list[JsonObject]:
        """An event's auth chain, which is canonical JSON."""
        answer = done(self.history(server).event_auth(asker, room_id, event_id))
        pdus: list[JsonObject] = parse_object(answer)["auth_chain"]
        self.assertEqual(encode({"auth_chain": pdus}), answer)
        return pdus

    def test_whole_chain(self) -> None:
        """The auth events, and theirs down to the create event; the event itself is not among them.

        From the hub the create event comes first.
        """
        room_id = self.shared_room()
        event_id = self.say(self.north, room_id, self.bob, "x")
        for server in (self.hub, self.north):
            chain = self.chain(server, "south.example", room_id, event_id)
            held = [Pdu.parse(pdu, room_version("I.1")) for pdu in chain]
            event = next(pdu for pdu in self.hub.pdus(room_id) if pdu.event_id == event_id)
            needed = {*event.auth_events, *(one for pdu in held for one in pdu.auth_events)}
            self.assertEqual({pdu.event_id for pdu in held}, needed)
            self.assertIn("m.room.create", {pdu.type for pdu in held})
            self.assertNotIn(event_id, needed)
        self.assertEqual("m.room.create", self.chain(self.hub, NORTH, room_id, event_id)[0]["type"])

    def test_create_event(self) -> None:
        """The create event has none."""
        room_id = self.shared_room()
        self.assertEqual([], self.chain(self.hub, NORTH, room_id, self.hub.log(room_id)[0].event_id))

    def test_redacted_chain(self) -> None:
        """Of an event that the asker may know of, but not see, the chain's contents are not shown either."""
        room_id = self.room("joined")
        users = self.hub.floor.local_users
        done(
            users.send(room_id, self.alice, "m.room.member", {"membership": "join", "secret": 1}, state_key=self.alice)
        )
        before = self.says(room_id, "before")
        self.north.join(self.bob, room_id, self.hub.name)
        after = self.says(room_id, "after")

        def secrets(event_id: str) -> list[bool]:
            chain = self.chain(self.hub, NORTH, room_id, event_id)
            return ["secret" in pdu["content"] for pdu in chain if pdu["type"] == "m.room.member"][-1:]

        self.assertEqual([[False], [True]], [secrets(before), secrets(after)])

    def test_not_found(self) -> None:
        """As for ``state``: what is unknown, elsewhere or not for the asker; an invite does not open it."""
        room_id, other = self.shared_room(), self.shared_room()
        event_id, elsewhere = self.says(room_id, "x"), self.says(other, "y")
        rejected = self.says(room_id, "rejected")
        self.stands(rejected, "rejected")
        closed = self.room("shared")
        invite = self.invited(closed, self.bob)
        history = self.history(self.hub)
        for asker, room, event in (
            (NORTH, "!unknown:hub.example", event_id),
            (NORTH, room_id, "$unknown"),
            (NORTH, room_id, elsewhere),
            (NORTH, room_id, rejected),
            (STRANGER, room_id, event_id),
            (NORTH, closed, invite),
        ):
            self.refused(history.event_auth(asker, room, event), NotFound)


class ParticipantTests(HistoryTestCase):
    """What a participant hands out."""

    def test_what_it_received(self) -> None:
        """It answers ``event`` and ``backfill`` for other members from what it received from the hub."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "x")
        self.assertEqual(WHOLE, self.seen("south.example", event_id, self.north))
        self.assertEqual(NOTHING, self.seen(STRANGER, event_id, self.north))
        answer = done(self.history(self.north).backfill("south.example", room_id, event_id, 1))
        self.assertEqual(["x"], [pdu["content"]["body"] for pdu in parse_object(answer)["pdus"]])

    def test_what_it_fetched(self) -> None:
        """Of history that it fetched later it cannot tell who may see it, so that nobody gets it."""
        room_id = self.hub.create_room(self.alice)
        self.south.join(self.carol, room_id, self.hub.name)
        old = self.says(room_id, "old")
        self.north.join(self.bob, room_id, self.hub.name)
        first = self.north.log(room_id)[0]
        done(self.north.floor.local_users.backfill_before(room_id, first.position, 10))
        self.assertIn("old", self.north.bodies(room_id))
        self.assertEqual(NOTHING, self.seen("south.example", old, self.north))
        self.assertEqual(WHOLE, self.seen("south.example", old, self.hub))

    def test_what_came_with_the_join(self) -> None:
        """State that it was only told of when it joined is not handed out."""
        room_id = self.hub.create_room(self.alice)
        self.north.join(self.bob, room_id, self.hub.name)
        create = self.hub.log(room_id)[0].event_id
        self.assertEqual(NOTHING, self.seen("south.example", create, self.north))


class OldVersionTests(HistoryTestCase):
    """A room of a version that this program does not know any more."""

    def test_not_found(self) -> None:
        """It is as if it were not there."""
        room_id = self.shared_room()
        event_id = self.says(room_id, "x")

        class Gone:
            async def load(self, room_id: str) -> Room | None:
                raise UnsupportedRoomVersion("X.1")

        history = History(self.hub.database, self.hub.rooms, Gone(), NoPolicies())
        self.refused(history.event(NORTH, event_id), NotFound)
        self.refused(history.state(NORTH, room_id, event_id), NotFound)
