"""A room moves to another hub."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse
from lmatrix.errors import (
    BadRequest,
    Forbidden,
    LMatrixError,
    NotFound,
    PeerRefused,
    PeerUnreachable,
    WrongServer,
)
from lmatrix.events.building import build_hub_event, build_lpdu
from lmatrix.events.creation import InitialEvent, Preset
from lmatrix.events.room_versions import V02, room_version
from lmatrix.rooms.interfaces import Standing
from lmatrix.rooms.local_users import NEW_HUB
from lmatrix.rooms.transfer import DESERTED_SECONDS, HELD_SECONDS, VALIDITY_MS
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class TransferTests(NetworkTestCase):
    """From the hub to the north, and on."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()

    def transfer(self, giver: Server, taker: Server) -> Deferred[str]:
        moving = Deferred.fromCoroutine(giver.floor.transfer.transfer(self.room_id, taker.name))
        self.turns()
        return moving

    def turns(self) -> None:
        for _ in range(100):
            self.network.clock.advance(0)
        self.network.settle()
        for _ in range(100):
            self.network.clock.advance(0)

    def hub_of(self, server: Server) -> str:
        return done(server.floor.rooms.load(self.room_id)).hub_server

    def assert_hub(self, hub: Server) -> None:
        for server in self.network.servers.values():
            self.assertEqual(hub.name, self.hub_of(server), server.name)

    def assert_whole(self) -> None:
        """One chain, the same for everybody, in which nothing is rejected."""
        logs = {
            name: [event.event_id for event in server.log(self.room_id)]
            for name, server in self.network.servers.items()
        }
        longest = max(logs.values(), key=len)
        for name, log in logs.items():
            self.assertEqual(longest[len(longest) - len(log) :], log, name)
        for server in self.network.servers.values():
            self.assertEqual({Standing.ACCEPTED}, {event.standing for event in server.log(self.room_id)}, server.name)

    def everybody_speaks(self, word: str) -> None:
        for server, user in ((self.hub, self.alice), (self.north, self.bob), (self.south, self.carol)):
            self.say(server, self.room_id, user, f"{word} {server.name}")
        for server in self.network.servers.values():
            self.assertEqual(
                3, len([body for body in server.bodies(self.room_id) if body.startswith(word)]), server.name
            )

    def test_the_room_goes_on_with_another_hub(self) -> None:
        """After the move all agree on the hub and everybody hears everybody, in one chain; also after restarts."""
        self.everybody_speaks("before")
        event_id = self.successResultOf(self.transfer(self.hub, self.north))
        self.assertEqual(event_id, self.south.log(self.room_id)[-1].event_id)
        self.assert_hub(self.north)
        self.everybody_speaks("after")
        for server in self.network.servers.values():
            server.restart()
        self.assert_hub(self.north)
        self.everybody_speaks("restarted")
        self.assert_whole()

    def test_in_a_circle(self) -> None:
        """A room can move on and come back, again and again."""
        for turn in range(2):
            for giver, taker in ((self.hub, self.north), (self.north, self.south), (self.south, self.hub)):
                self.successResultOf(self.transfer(giver, taker))
                self.assert_hub(taker)
                self.everybody_speaks(f"{turn}{taker.name}")
        self.assert_whole()

    def test_the_event_bears_both_signatures(self) -> None:
        """The new hub signed the LPDU, the old one the PDU; the content says which head it follows, until when."""
        head = self.hub.log(self.room_id)[-1].event_id
        self.successResultOf(self.transfer(self.hub, self.north))
        pdu = self.hub.pdus(self.room_id)[-1]
        self.assertEqual({"hub.example", "north.example"}, set(pdu.signatures))
        self.assertEqual(
            ("m.room.hub", "", self.bob, self.hub.name), (pdu.type, pdu.state_key, pdu.sender, pdu.hub_server)
        )
        self.assertEqual((self.hub.name, head), (pdu.content["previous_hub"], pdu.content["head"]))

    def test_the_new_hub_holds_everything(self) -> None:
        """A candidate fetches and replays the whole room before it signs, however little of it it had."""
        room_id = self.hub.create_room(self.alice)
        for number in range(230):
            self.say(self.hub, room_id, self.alice, str(number))
        self.north.join(self.bob, room_id, self.hub.name)
        self.room_id = room_id
        self.successResultOf(self.transfer(self.hub, self.north))
        self.assertEqual(
            [event.event_id for event in self.hub.log(room_id)], [event.event_id for event in self.north.log(room_id)]
        )

    def test_the_new_hub_holds_what_its_users_may_not_see(self) -> None:
        """What was said before the candidate's users came, in a room that hides it from them: with the room the new hub
        gets all of it, also what it had fetched without its content before. A server that is not being offered the room
        gets it as little as ever.
        """
        hidden = InitialEvent("m.room.history_visibility", "", {"history_visibility": "joined"})
        self.room_id = room_id = self.hub.create_room(self.alice, initial_state=(hidden,))
        for number in range(3):
            self.say(self.hub, room_id, self.alice, f"secret {number}")
        redacted = self.hub.log(room_id)[-2].event_id
        done(self.hub.floor.local_users.redact(room_id, self.alice, redacted, None))
        self.north.join(self.bob, room_id, self.hub.name)
        self.south.join(self.carol, room_id, self.hub.name)
        for server in (self.north, self.south):
            self.network.finished(
                server.floor.local_users.backfill_before(room_id, server.log(room_id)[0].position, 100)
            )
            self.assertNotIn(b"secret", b"".join(event.canonical for event in server.log(room_id)))

        self.successResultOf(self.transfer(self.hub, self.north))

        self.assertEqual(
            [event.canonical for event in self.hub.log(room_id)], [event.canonical for event in self.north.log(room_id)]
        )
        self.assertEqual(2, sum(b"secret" in event.canonical for event in self.north.log(room_id)))
        self.assertNotIn(b"secret", b"".join(event.canonical for event in self.south.log(room_id)))
        self.assertFalse(self.hub.floor.transfer.takes_over(room_id, self.north.name))

    def test_a_busy_room(self) -> None:
        """While a candidate fetches what it lacks, the room goes on and reaches it by the ordinary way. It takes the
        room all the same, and accuses nobody.
        """
        for number in range(150):
            result_of(self.hub.send(self.room_id, self.alice, str(number)))
        fetching: Deferred[None] = Deferred()
        self.network.slow[(self.hub.name, "backfill")] = fetching
        moving = Deferred.fromCoroutine(self.hub.floor.transfer.transfer(self.room_id, self.north.name))
        self.network.settle()
        self.assertEqual("149", self.north.bodies(self.room_id)[-1])
        fetching.callback(None)
        self.turns()
        self.successResultOf(moving)
        self.assert_hub(self.north)
        self.assert_whole()
        store = self.north.rooms
        self.assertEqual([], result_of(self.north.database.read(lambda tx: store.evidence(tx, self.room_id))))

    def test_an_offer_that_was_overtaken(self) -> None:
        """A candidate whose log goes on beyond the head that it is offered signs for that head: it has it."""
        head = self.hub.log(self.room_id)[-1].event_id
        self.say(self.hub, self.room_id, self.alice, "meanwhile")
        offer = {"room_id": self.room_id, "room_version": "I.1", "head": head, "valid_until_ts": 2**50}
        offering = Deferred.fromCoroutine(self.north.floor.candidacy.offered(self.hub.name, offer))
        self.turns()
        self.assertEqual(head, self.successResultOf(offering).content["head"])

    def test_a_candidate_that_takes_long(self) -> None:
        """A candidate that was too late only because it had much to fetch is asked again, and is quick then; one that
        refuses at once is not asked again.
        """
        for number in range(150):
            result_of(self.hub.send(self.room_id, self.alice, str(number)))
        fetching: Deferred[None] = Deferred()
        self.network.slow[(self.hub.name, "backfill")] = fetching
        moving = Deferred.fromCoroutine(self.hub.floor.transfer.transfer(self.room_id, self.north.name))
        self.turns()
        self.network.clock.advance(VALIDITY_MS / 1000 + 1)
        self.assertNoResult(moving)
        fetching.callback(None)
        self.turns()
        self.successResultOf(moving)
        self.assert_hub(self.north)
        self.assertEqual(2, len([request for request in self.network.requests if request[2] == "offer"]))

    def test_the_old_hub_dies_after_the_change(self) -> None:
        """What only the new hub has heard, the new hub tells everybody."""
        self.network.unreachable.add(self.south.name)
        self.successResultOf(self.transfer(self.hub, self.north))
        self.assertEqual(self.hub.name, self.hub_of(self.south))
        self.network.unreachable.remove(self.south.name)
        self.network.unreachable.add(self.hub.name)
        self.turns()
        self.assertEqual(self.north.name, self.hub_of(self.south))
        self.say(self.south, self.room_id, self.carol, "we go on")
        self.assertEqual(["we go on"], self.north.bodies(self.room_id))
        self.network.unreachable.clear()
        self.turns()
        self.assert_hub(self.north)
        self.assert_whole()

    def test_what_waited_while_the_room_went_and_came_back(self) -> None:
        """An LPDU that the hub had not looked at before the room left is void when the room is back: its sender signed
        it anew for the hub in between, and it is in the room already.
        """
        self.south.send(self.room_id, self.carol, "once")
        [lpdu] = result_of(self.south.database.read(lambda tx: self.south.pending.for_hub(tx, self.hub.name, 0, 9)))
        self.south.delivery.hubs.clear()
        looking: Deferred[None] = Deferred()
        self.network.slow[("everybody", "keys")] = looking
        body = {"pdus": [dict(parse(lpdu.canonical))]}
        late = Deferred.fromCoroutine(self.hub.floor.receiver.receive(self.south.name, "late", body, encode(body)))
        self.successResultOf(self.transfer(self.hub, self.north))
        self.assertEqual(["once"], self.north.bodies(self.room_id))
        self.successResultOf(self.transfer(self.north, self.hub))
        looking.callback(None)
        self.turns()
        [failure] = parse(self.successResultOf(late))["failed_pdus"].values()
        self.assertEqual("M_WRONG_SERVER", failure["errcode"])
        for server in self.network.servers.values():
            self.assertEqual(["once"], server.bodies(self.room_id))

    def test_what_is_pending_moves_along(self) -> None:
        """An LPDU that the old hub had not taken is signed anew, and appears once; whoever waits for it hears of it."""
        waiting = [self.south.send(self.room_id, self.carol, "in between", "t")]
        [lpdu] = result_of(self.south.database.read(lambda tx: self.south.pending.for_hub(tx, self.hub.name, 0, 9)))
        self.south.delivery.hubs.clear()
        self.successResultOf(self.transfer(self.hub, self.north))
        answer = self.hub.receive(self.south.name, "late", [dict(parse(lpdu.canonical))])
        [failure] = answer["failed_pdus"].values()
        self.assertEqual(("M_WRONG_SERVER", self.north.name), (failure["errcode"], failure["hub_server"]))
        self.turns()
        event_id = self.successResultOf(waiting[0])
        self.assertEqual(event_id, self.successResultOf(self.south.send(self.room_id, self.carol, "in between", "t")))
        for server in self.network.servers.values():
            self.assertEqual(["in between"], server.bodies(self.room_id))
        self.assert_whole()

    def test_what_the_new_hub_itself_had_pending(self) -> None:
        """The new hub puts its own users' pending events into the order itself."""
        sending = self.north.send(self.room_id, self.bob, "mine", "t")
        self.north.delivery.hubs.clear()
        self.successResultOf(self.transfer(self.hub, self.north))
        self.turns()
        self.assertEqual(self.north.log(self.room_id)[-1].event_id, self.successResultOf(sending))
        for server in self.network.servers.values():
            self.assertEqual(["mine"], server.bodies(self.room_id))

    def test_what_was_pending_at_a_restart(self) -> None:
        """LPDUs that were signed for the old hub are found at start, and sent to the new one."""
        self.south.send(self.room_id, self.carol, "kept", "t").addErrback(lambda _: None)
        self.south.delivery.hubs.clear()
        self.network.unreachable.add(self.south.name)
        self.successResultOf(self.transfer(self.hub, self.north))
        self.network.unreachable.clear()
        resender = self.south.floor.resender
        object.__setattr__(resender, "hub_changed", lambda _: _nothing())
        self.turns()
        self.south.restart()
        done(self.south.floor.resender.resume())
        self.turns()
        self.assertEqual(["kept"], self.hub.bodies(self.room_id))

    def test_nothing_is_decided_while_held(self) -> None:
        """While the final offer is out the room waits, and what came meanwhile is answered by whoever is the hub
        then.
        """
        thinking: Deferred[None] = Deferred()
        self.network.slow[(self.north.name, "offer")] = thinking
        moving = self.transfer(self.hub, self.north)
        result_of(self.hub.send(self.room_id, self.alice, "the head moves on"))
        again: Deferred[None] = Deferred()
        self.network.slow[(self.north.name, "offer")] = again
        thinking.callback(None)
        local = self.hub.send(self.room_id, self.alice, "while held")
        self.turns()
        self.assertNoResult(local)
        self.assertNoResult(moving)
        again.callback(None)
        self.successResultOf(moving)
        self.turns()
        self.successResultOf(local)
        self.assertEqual(["the head moves on", "while held"], self.south.bodies(self.room_id))
        self.assert_whole()

    def test_a_candidate_that_does_not_answer(self) -> None:
        """The sequencer goes on after a while, with the old hub, and nothing is lost."""
        thinking: Deferred[None] = Deferred()
        self.network.slow[(self.north.name, "offer")] = thinking
        moving = self.transfer(self.hub, self.north)
        result_of(self.hub.send(self.room_id, self.alice, "the head moves on"))
        self.network.slow[(self.north.name, "offer")] = Deferred()
        thinking.callback(None)
        held = self.hub.send(self.room_id, self.alice, "held up")
        self.assertNoResult(held)
        self.network.clock.advance(HELD_SECONDS)
        self.failureResultOf(moving, PeerUnreachable)
        self.successResultOf(held)
        self.turns()
        self.assert_hub(self.hub)
        self.assertEqual(["the head moves on", "held up"], self.south.bodies(self.room_id))

    def test_an_answer_that_comes_too_late(self) -> None:
        """A signature is worthless once its time is over: the candidate is asked again."""
        thinking: Deferred[None] = Deferred()
        self.network.slow[(self.north.name, "offer")] = thinking
        moving = self.transfer(self.hub, self.north)
        self.network.clock.advance(VALIDITY_MS / 1000 + 1)
        thinking.callback(None)
        self.turns()
        self.successResultOf(moving)
        self.assertEqual(2, len([request for request in self.network.requests if request[2] == "offer"]))
        self.assert_hub(self.north)

    def test_refusals_change_nothing(self) -> None:
        """Whatever the candidate says but yes, the hub stays, and the room goes on."""
        self.network.unreachable.add(self.south.name)
        self.failureResultOf(self.transfer(self.hub, self.south), PeerUnreachable)
        self.network.unreachable.clear()
        self.failureResultOf(self.transfer(self.north, self.south), WrongServer)
        self.failureResultOf(self.transfer(self.hub, self.hub), BadRequest)
        stranger = self.network.server("stranger.example")
        self.failureResultOf(self.transfer(self.hub, stranger), BadRequest)
        del self.network.servers["stranger.example"]
        self.assert_hub(self.hub)
        self.everybody_speaks("still")

    def test_v02_rooms_do_not_move(self) -> None:
        """A version without hub transfer says so."""
        self.room_id = self.shared_room(V02)
        self.failureResultOf(self.transfer(self.hub, self.north), BadRequest)

    def test_a_history_that_does_not_hold_together_is_not_taken(self) -> None:
        """A candidate that finds an event which the rules refuse does not answer for it."""
        state = done(self.hub.floor.rooms.load(self.room_id)).state
        auth = [state.get("m.room.create").event_id, state.get("m.room.power_levels").event_id]
        bad = build_hub_event(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.message",
            sender="@ghost:hub.example",
            content={"body": "boo"},
            origin_server_ts=1,
            hub_server=self.hub.name,
            auth_events=auth,
            prev_events=[self.hub.log(self.room_id)[-1].event_id],
            keys=self.hub.identity.keys,
        )
        self.north.receive(self.hub.name, "bad", [dict(bad.fields)])
        offer = {"room_id": self.room_id, "room_version": "I.1", "head": bad.event_id, "valid_until_ts": 2**50}
        offering = Deferred.fromCoroutine(self.north.floor.candidacy.offered(self.hub.name, offer))
        self.turns()
        self.failureResultOf(offering, Forbidden)

    def test_offers_that_are_none(self) -> None:
        """Each thing that can be wrong with an offer has its error."""
        head = self.hub.log(self.room_id)[-1].event_id
        good: dict[str, Any] = {"room_id": self.room_id, "room_version": "I.1", "head": head, "valid_until_ts": 2**50}
        cases: list[tuple[str, dict[str, Any], type[LMatrixError]]] = [
            ("south.example", {}, Forbidden),
            ("hub.example", {"room_id": "!x:hub.example"}, NotFound),
            ("hub.example", {"room_id": 1}, BadRequest),
            ("hub.example", {"room_version": V02}, BadRequest),
            ("hub.example", {"head": None}, LMatrixError),
            ("hub.example", {"head": "$unknown"}, Forbidden),
            ("hub.example", {"valid_until_ts": "x"}, BadRequest),
            ("hub.example", {"valid_until_ts": 1}, BadRequest),
        ]
        for origin, change, expected in cases:
            offering = Deferred.fromCoroutine(self.north.floor.candidacy.offered(origin, {**good, **change}))
            self.turns()
            self.failureResultOf(offering, expected)

    def test_a_signature_collected_early_is_worthless(self) -> None:
        """An m.room.hub LPDU for another head, sent as an ordinary event, is refused."""
        lpdu = build_lpdu(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.hub",
            sender=self.bob,
            content={
                "previous_hub": self.hub.name,
                "head": self.hub.log(self.room_id)[0].event_id,
                "valid_until_ts": 10,
            },
            origin_server_ts=1,
            hub_server=self.hub.name,
            server_name=self.north.name,
            keys=self.north.identity.keys,
            state_key="",
        )
        answer = self.hub.receive(self.north.name, "early", [dict(lpdu.fields)])
        self.assertIn(lpdu.event_id, answer["failed_pdus"])
        self.assert_hub(self.hub)

    def test_nobody_takes_a_room_that_was_not_offered(self) -> None:
        """An m.room.hub LPDU that is right in everything, but that nobody asked for, is refused: only in answer to an
        offer does a hub sign what makes it the hub no longer. So is one whose offer was answered with an error.
        """
        lpdu = build_lpdu(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.hub",
            sender=self.bob,
            content={
                "previous_hub": self.hub.name,
                "head": self.hub.log(self.room_id)[-1].event_id,
                "valid_until_ts": 10_000,
            },
            origin_server_ts=1,
            hub_server=self.hub.name,
            server_name=self.north.name,
            keys=self.north.identity.keys,
            state_key="",
        )
        answer = self.hub.receive(self.north.name, "unasked", [dict(lpdu.fields)])
        self.assertIn("only in answer to an offer of its own", answer["failed_pdus"][lpdu.event_id]["error"])
        self.network.settle()
        self.assert_hub(self.hub)
        self.everybody_speaks("still")
        self.assert_whole()


class WishTests(NetworkTestCase):
    """Who may set a move going."""

    def turns(self) -> None:
        for _ in range(100):
            self.network.clock.advance(0)
        self.network.settle()

    def send(self, server: Server, room_id: str, user: str, content: dict[str, Any]) -> Deferred[str]:
        sending = Deferred.fromCoroutine(
            server.floor.local_users.send(room_id, user, "m.room.hub", content, state_key="")
        )
        self.turns()
        return sending

    def test_a_user_with_power(self) -> None:
        """A powerful user of a participant takes the room to their server; one of the hub sends it to another."""
        levels = {"users": {self.alice: 100, self.bob: 100}}
        room_id = self.shared_room(power_level_content_override=levels)
        event_id = self.successResultOf(self.send(self.north, room_id, self.bob, {}))
        self.assertEqual(event_id, self.hub.log(room_id)[-1].event_id)
        self.assertEqual(self.north.name, done(self.south.floor.rooms.load(room_id)).hub_server)
        self.successResultOf(self.send(self.north, room_id, self.bob, {NEW_HUB: self.hub.name}))
        self.assertEqual(self.hub.name, done(self.south.floor.rooms.load(room_id)).hub_server)

    def test_a_user_without_power(self) -> None:
        """Without the power level for m.room.hub nobody moves the room, wherever they are."""
        room_id = self.shared_room()
        self.failureResultOf(self.send(self.north, room_id, self.bob, {}), PeerRefused)
        self.failureResultOf(self.send(self.hub, room_id, self.alice, {}), BadRequest)
        dave = self.hub.user("dave")
        self.hub.join(dave, room_id)
        self.failureResultOf(self.send(self.hub, room_id, dave, {NEW_HUB: self.north.name}), Forbidden)
        foreign = Deferred.fromCoroutine(self.hub.floor.transfer.requested(self.south.name, room_id, self.bob))
        self.failureResultOf(foreign, Forbidden)
        self.assertEqual(self.hub.name, done(self.hub.floor.rooms.load(room_id)).hub_server)

    def test_a_hub_without_users_gives_the_room_away(self) -> None:
        """When the hub's last user leaves, the server of the most powerful user takes the room."""
        room_id = self.shared_room(
            preset=Preset.PUBLIC_CHAT, power_level_content_override={"users": {self.alice: 100, self.carol: 50}}
        )
        done(self.hub.floor.local_users.leave(self.alice, room_id, None))
        self.turns()
        self.assertEqual(self.south.name, done(self.north.floor.rooms.load(room_id)).hub_server)
        self.say(self.north, room_id, self.bob, "among ourselves")
        self.assertEqual(["among ourselves"], self.south.bodies(room_id))
        self.assertEqual([], self.hub.bodies(room_id))

    def test_a_room_that_nobody_takes_is_offered_again(self) -> None:
        """When nobody can take the room as the last user leaves, it stays; when something happens in it later, it is
        offered again, but not all the time.
        """
        room_id = self.shared_room()
        self.network.unreachable.update({self.north.name, self.south.name})
        done(self.hub.floor.local_users.leave(self.alice, room_id, None))
        self.turns()
        self.assertEqual(self.hub.name, done(self.hub.floor.rooms.load(room_id)).hub_server)
        self.network.unreachable.clear()
        self.network.requests.clear()
        self.say(self.north, room_id, self.bob, "anybody there?")
        self.turns()
        self.assertNotIn("offer", {what for _, _, what in self.network.requests})
        self.network.clock.advance(DESERTED_SECONDS)
        self.say(self.north, room_id, self.bob, "still here")
        self.turns()
        self.assertEqual(self.north.name, done(self.south.floor.rooms.load(room_id)).hub_server)


async def _nothing() -> None:
    return None
