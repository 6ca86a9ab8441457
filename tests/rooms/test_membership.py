"""Membership across servers: invites, joins, leaves, kicks."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import (
    BadRequest,
    EventRejected,
    Forbidden,
    IncompatibleRoomVersion,
    LMatrixError,
    NotFound,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    StorageFailed,
    WrongServer,
)
from lmatrix.events.building import build_hub_event, build_lpdu
from lmatrix.events.creation import InitialEvent, Preset
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import V02, known_room_versions, room_version
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class JoinTests(NetworkTestCase):
    """Joining, leaving, coming back."""

    def test_the_first_join_brings_the_state(self) -> None:
        """A joiner has the state before its join, verified, and its log begins with the join."""
        room_id = self.hub.create_room(self.alice, name="Room", topic="Talk")
        self.north.join(self.bob, room_id, self.hub.name)
        room = done(self.north.floor.rooms.load(room_id))
        hub_room = done(self.hub.floor.rooms.load(room_id))
        self.assertEqual(
            {key: event.event_id for key, event in hub_room.state.items()},
            {key: event.event_id for key, event in room.state.items()},
        )
        self.assertEqual([self.hub.log(room_id)[-1].event_id], [event.event_id for event in self.north.log(room_id)])
        self.assertFalse(room.is_hub)

    def test_a_second_user_joins_directly(self) -> None:
        """A server that is in the room sends its next user's join as an ordinary event."""
        room_id = self.shared_room()
        dave = self.north.user("dave")
        self.network.requests.clear()
        self.north.join(dave, room_id)
        self.assertNotIn("make_join", {what for _, _, what in self.network.requests})
        self.assertEqual("join", done(self.south.floor.rooms.load(room_id)).membership(dave))

    def test_a_disk_that_denies_what_it_has_stored(self) -> None:
        """A re-join whose commit takes place, and is reported as failed: memory and disk agree, and the user is in."""
        room_id = self.shared_room()
        leaving = Deferred.fromCoroutine(self.north.floor.local_users.leave(self.bob, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        self.north.database.deny_commits = 1
        self.north.join(self.bob, room_id, self.hub.name)
        self.say(self.hub, room_id, self.alice, "welcome back")
        self.assertEqual("welcome back", self.north.bodies(room_id)[-1])
        room = done(self.north.floor.rooms.load(room_id))
        self.assertEqual(self.north.log(room_id)[-1].event_id, room.head_event_id)

    def test_a_disk_that_stores_nothing(self) -> None:
        """A join that could not be stored is none, and can be tried again, also when the room was never here."""
        room_id = self.hub.create_room(self.alice)
        self.north.database.fail_commits = 1
        joining = Deferred.fromCoroutine(self.north.floor.local_users.join(self.bob, room_id, [self.hub.name], None))
        self.failureResultOf(joining, StorageFailed)
        self.assertIsNone(done(self.north.floor.rooms.load(room_id)))
        self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual(
            [self.hub.log(room_id)[-1].event_id], [event.event_id for event in self.north.log(room_id)[-1:]]
        )

    def test_joining_twice_is_harmless(self) -> None:
        """A user who is there stays there, without another event."""
        room_id = self.shared_room()
        before = len(self.hub.log(room_id))
        self.north.join(self.bob, room_id)
        self.assertEqual(before, len(self.hub.log(room_id)))

    def test_leave_and_come_back(self) -> None:
        """What was said meanwhile is not delivered; after the re-join both runs are there, and can be joined up."""
        room_id = self.shared_room()
        self.say(self.hub, room_id, self.alice, "before")
        leaving = Deferred.fromCoroutine(self.north.floor.local_users.leave(self.bob, room_id, "tea"))
        self.network.settle()
        self.successResultOf(leaving)
        self.say(self.hub, room_id, self.alice, "meanwhile")
        self.assertEqual(["before"], self.north.bodies(room_id))
        self.failureResultOf(self.north.send(room_id, self.bob, "from outside"), Forbidden)
        self.north.join(self.bob, room_id, self.hub.name)
        self.say(self.north, room_id, self.bob, "after")
        self.assertEqual(["before", "after"], self.north.bodies(room_id))
        head = self.north.log(room_id)[-1].position
        self.network.finished(self.north.floor.local_users.backfill_before(room_id, head, 50))
        self.assertEqual(["before", "meanwhile", "after"], self.north.bodies(room_id))
        self.assert_same_order(room_id)

    def test_scrolling_back_to_the_beginning(self) -> None:
        """History from before the join is fetched from the hub, verified, page by page, down to the create event."""
        room_id = self.hub.create_room(self.alice)
        for number in range(150):
            self.say(self.hub, room_id, self.alice, str(number))
        self.north.join(self.bob, room_id, self.hub.name)
        for _ in range(3):
            position = self.north.log(room_id)[-1].position
            self.network.finished(self.north.floor.local_users.backfill_before(room_id, position, 1000))
        self.assertEqual(
            [event.event_id for event in self.hub.log(room_id)], [event.event_id for event in self.north.log(room_id)]
        )

    def test_the_hub_is_found(self) -> None:
        """Servers that are in the room but are not its hub name it, and the joiner follows."""
        room_id = self.hub.create_room(self.alice)
        self.north.join(self.bob, room_id, self.hub.name)
        self.south.join(self.carol, room_id, self.north.name)
        self.assertEqual("join", done(self.hub.floor.rooms.load(room_id)).membership(self.carol))

    def test_a_template_without_a_version(self) -> None:
        """A hub whose templates do not say the room's version is joined in whichever version its room has."""
        self.network.bare.add(self.hub.name)
        for version in known_room_versions():
            room_id = self.hub.create_room(self.alice, version=version)
            self.north.join(self.bob, room_id, self.hub.name)
            self.assertEqual(version, done(self.north.floor.rooms.load(room_id)).version.identifier)
            self.say(self.hub, room_id, self.alice, "hello")
            self.assertEqual(["hello"], self.north.bodies(room_id))

    def test_events_that_overtake_the_answer_wait(self) -> None:
        """The hub's first transaction may arrive before its answer to the join; nothing of it is lost."""
        room_id = self.hub.create_room(self.alice)
        late: list[Deferred[bytes]] = []
        peers_send = self.hub.floor.handshakes.send

        async def send(origin: str, membership: str, transaction_id: str, body: dict[str, Any]) -> bytes:
            answer = await peers_send(origin, membership, transaction_id, body)
            result_of(self.hub.send(room_id, self.alice, "early"))
            events = [parse_object(event.canonical) for event in self.hub.log(room_id)[-2:]]
            late.append(Deferred.fromCoroutine(self.north.floor.receiver.receive(self.hub.name, "t", {"pdus": events})))
            self.assertNoResult(late[0])
            return answer

        object.__setattr__(self.hub.floor.handshakes, "send", send)
        self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual(b'{"failed_pdus":{}}', self.successResultOf(late[0]))
        self.assertEqual(["early"], self.north.bodies(room_id))

    def test_failures_are_told(self) -> None:
        """A room that cannot be found or does not let us in: the reason, and nothing is stored."""
        private = self.hub.create_room(self.alice, preset=Preset.PRIVATE_CHAT)
        for room_id, via, expected in (
            (private, (self.hub.name,), PeerRefused),
            ("!nowhere:hub.example", (), PeerRefused),
            ("!nowhere:gone.example", (), PeerUnreachable),
            ("!nowhere:north.example", (), NotFound),
        ):
            joining = Deferred.fromCoroutine(self.north.floor.local_users.join(self.bob, room_id, via, None))
            self.failureResultOf(joining, expected)
            self.assertIsNone(done(self.north.floor.rooms.load(room_id)))

    def test_a_room_that_cannot_be_verified_is_not_joined(self) -> None:
        """Without the keys of somebody whose events are in the state we would have another state than the hub."""
        room_id = self.hub.create_room(self.alice)
        self.south.join(self.carol, room_id, self.hub.name)
        self.network.keyless.add(self.south.name)
        with self.assertRaises(PeerUnreachable) as raised:
            self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual(self.south.name, raised.exception.destination)
        self.assertIsNone(done(self.north.floor.rooms.load(room_id)))
        self.network.keyless.clear()
        self.north.join(self.bob, room_id, self.hub.name)
        self.assertEqual("join", done(self.north.floor.rooms.load(room_id)).membership(self.carol))

    def test_a_hub_that_lies_is_not_joined(self) -> None:
        """State that does not verify, another event than our join, or no create event: the join fails."""
        room_id = self.hub.create_room(self.alice)
        original = self.hub.floor.handshakes.send

        def spoil(answer: dict[str, Any], how: str) -> None:
            if how == "other event":
                answer["event"] = answer["state"][0]
            elif how == "no create":
                answer["state"] = answer["state"][1:]
            elif how == "unsigned create":
                answer["state"][0]["signatures"] = {}
                answer["auth_chain"] = []
            elif how == "forged power":
                for event in answer["state"]:
                    if event["type"] == "m.room.create":
                        event["content"]["room_version"] = V02
            else:
                answer["state"] = {}

        for how in ("other event", "no create", "unsigned create", "forged power", "not a list"):

            async def send(*arguments: Any, how: str = how) -> bytes:
                answer = parse_object(await original(*arguments))
                spoil(answer, how)
                return encode(answer)

            object.__setattr__(self.hub.floor.handshakes, "send", send)
            joining = Deferred.fromCoroutine(
                self.north.floor.local_users.join(self.bob, room_id, (self.hub.name,), None)
            )
            self.network.clock.pump([0] * 10)
            self.failureResultOf(joining, PeerMisbehaved)
            self.assertIsNone(done(self.north.floor.rooms.load(room_id)), how)


class InviteTests(NetworkTestCase):
    """Inviting users of other servers."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.hub.create_room(self.alice, preset=Preset.PRIVATE_CHAT, name="Private")

    def invite(self, server: Server, sender: str, target: str) -> Deferred[None]:
        inviting = Deferred.fromCoroutine(server.floor.local_users.invite(self.room_id, sender, target, None))
        self.network.settle()
        return inviting

    def pending(self, server: Server, user_id: str) -> Any:
        return result_of(server.database.read(lambda tx: server.invites.get(tx, user_id, self.room_id)))

    def join(self, server: Server, user_id: str) -> None:
        server.join(user_id, self.room_id)

    def test_invite_and_join(self) -> None:
        """An invite arrives with stripped state, is signed by the target's server, and lets the user join."""
        self.successResultOf(self.invite(self.hub, self.alice, self.bob))
        pending = self.pending(self.north, self.bob)
        self.assertIn({"name": "Private"}, [event["content"] for event in pending.stripped_state])
        self.assertEqual(self.hub.log(self.room_id)[-1].canonical, pending.canonical)
        self.assertEqual({"hub.example", "north.example"}, set(self.hub.pdus(self.room_id)[-1].signatures))
        self.assertEqual((self.bob,), self.north.audience.told[-1][2])
        self.join(self.north, self.bob)
        self.assertIsNone(self.pending(self.north, self.bob))
        self.say(self.north, self.room_id, self.bob, "here")

    def test_an_invite_into_a_room_that_is_somebody_elses(self) -> None:
        """Whoever says to be the hub of a room that we are in, as its hub or otherwise, invites nobody of ours."""
        room_id = self.shared_room()
        dave, erin = self.north.user("dave"), self.hub.user("erin")
        create = done(self.hub.floor.rooms.load(room_id)).state.get("m.room.create")
        for server, target in ((self.north, dave), (self.hub, erin)):
            invite = build_hub_event(
                room_version("I.1"),
                room_id=room_id,
                type="m.room.member",
                sender=self.carol,
                content={"membership": "invite"},
                origin_server_ts=17,
                hub_server=self.south.name,
                auth_events=[create.event_id],
                prev_events=[create.event_id],
                keys=self.south.identity.keys,
                state_key=target,
            )
            body = {"event": parse_object(invite.canonical), "room_version": "I.1"}
            taking = Deferred.fromCoroutine(server.floor.handshakes.invite(self.south.name, "1", body))
            self.failureResultOf(taking, Forbidden)
            store, target_id = server.invites, target
            self.assertIsNone(done(server.floor.rooms.load(room_id)).state.get("m.room.member", target_id))
            pending = server.database.read(lambda tx, store=store, user=target_id: store.get(tx, user, room_id))
            self.assertIsNone(result_of(pending))

    def test_a_direct_chat_is_marked(self) -> None:
        """The invites of a room that was made for a direct chat say so."""
        self.room_id = self.hub.create_room(self.alice, preset=Preset.PRIVATE_CHAT, invite=(self.bob,), is_direct=True)
        self.assertIs(True, parse_object(self.pending(self.north, self.bob).canonical)["content"]["is_direct"])

    def test_a_participant_invites_through_the_hub(self) -> None:
        """A participant's invite of a third server's user bears three signatures, and everybody gets it."""
        self.invite(self.hub, self.alice, self.bob)
        self.join(self.north, self.bob)
        self.successResultOf(self.invite(self.north, self.bob, self.carol))
        for server in (self.hub, self.north):
            invite = server.pdus(self.room_id)[-1]
            self.assertEqual({"hub.example", "north.example", "south.example"}, set(invite.signatures))
        self.join(self.south, self.carol)
        self.say(self.south, self.room_id, self.carol, "here")

    def test_a_refusal_reaches_the_inviter(self) -> None:
        """What the target's server answers is what the inviter hears, and the room does not change."""
        self.invite(self.hub, self.alice, self.bob)
        self.join(self.north, self.bob)
        before = self.hub.log(self.room_id)
        nobody = "@nobody:south.example"
        for inviting in (self.invite(self.hub, self.alice, nobody), self.invite(self.north, self.bob, nobody)):
            error = self.failureResultOf(inviting, PeerRefused).value
            self.assertEqual((404, "M_NOT_FOUND"), (error.status, error.errcode))
            self.assertIn(nobody, error.error)
        self.assertEqual(before, self.hub.log(self.room_id))
        self.failureResultOf(self.invite(self.hub, self.alice, "@x:gone.example"), PeerUnreachable)
        self.failureResultOf(self.invite(self.hub, self.alice, "@nobody:hub.example"), NotFound)
        self.assertEqual(before, self.hub.log(self.room_id))

    def test_a_slow_target_does_not_stall_the_room(self) -> None:
        """While a target thinks the room goes on; then the invite follows the new head, and the target has that one."""
        thinking: Deferred[None] = Deferred()
        self.network.slow[(self.north.name, "invite")] = thinking
        inviting = self.invite(self.hub, self.alice, self.bob)
        self.assertNoResult(inviting)
        result_of(self.hub.send(self.room_id, self.alice, "meanwhile"))
        thinking.callback(None)
        self.successResultOf(inviting)
        invite = self.hub.log(self.room_id)[-1]
        self.assertEqual(["meanwhile"], self.hub.bodies(self.room_id))
        self.assertEqual(invite.canonical, self.without(self.pending(self.north, self.bob).canonical, self.north.name))
        previous = self.hub.log(self.room_id)[-2].event_id
        self.assertEqual((previous,), tuple(self.hub.pdus(self.room_id)[-1].prev_events))
        self.join(self.north, self.bob)

    def without(self, canonical: bytes, server: str) -> bytes:
        event = parse_object(canonical)
        del event["signatures"][server]
        return encode(event)

    def test_an_invite_that_became_illegal_meanwhile(self) -> None:
        """An invite is authorised again when the target has answered."""
        self.invite(self.hub, self.alice, self.bob)
        self.join(self.north, self.bob)
        thinking: Deferred[None] = Deferred()
        self.network.slow[(self.south.name, "invite")] = thinking
        inviting = self.invite(self.north, self.bob, self.carol)
        done(self.hub.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", None))
        thinking.callback(None)
        self.failureResultOf(inviting, PeerRefused)
        self.assertEqual("leave", done(self.hub.floor.rooms.load(self.room_id)).membership(self.carol))

    def test_declining(self) -> None:
        """A declined invite is over here and in the room; with an unreachable hub it is over here."""
        self.invite(self.hub, self.alice, self.bob)
        done(self.north.floor.local_users.leave(self.bob, self.room_id, "no"))
        self.assertIsNone(self.pending(self.north, self.bob))
        self.assertEqual({"membership": "leave", "reason": "no"}, self.hub.pdus(self.room_id)[-1].content)
        self.invite(self.hub, self.alice, self.carol)
        self.network.unreachable.add(self.hub.name)
        done(self.south.floor.local_users.leave(self.carol, self.room_id, None))
        self.assertIsNone(self.pending(self.south, self.carol))

    def test_an_invite_that_is_withdrawn(self) -> None:
        """A kick of an invited user reaches their server, though it is not in the room."""
        self.invite(self.hub, self.alice, self.bob)
        done(self.hub.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", "changed my mind"))
        self.network.settle()
        self.assertIsNone(self.pending(self.north, self.bob))

    def test_an_invite_back_that_is_withdrawn(self) -> None:
        """The same for a user of a server that has been in the room before: the event ends the invite, and is neither
        taken for the next one of the log that ended long ago, nor asked for again.
        """
        self.invite(self.hub, self.alice, self.bob)
        self.north.join(self.bob, self.room_id, self.hub.name)
        leaving = Deferred.fromCoroutine(self.north.floor.local_users.leave(self.bob, self.room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        log = self.north.log(self.room_id)
        self.say(self.hub, self.room_id, self.alice, "meanwhile")
        self.invite(self.hub, self.alice, self.bob)
        done(self.hub.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", "changed my mind"))
        kick = parse_object(self.hub.log(self.room_id)[-1].canonical)
        self.assertEqual({"failed_pdus": {}}, self.north.receive(self.hub.name, "kick", [kick]))
        self.assertIsNone(self.pending(self.north, self.bob))
        self.assertEqual(log, self.north.log(self.room_id))

    def test_invites_to_the_wrong_place_are_refused(self) -> None:
        """An invite must be for one of our users, from the hub that it names, of a version that we know."""
        self.invite(self.hub, self.alice, self.bob)
        event = parse_object(self.hub.log(self.room_id)[-1].canonical)
        cases: list[tuple[str, dict[str, Any], type[LMatrixError]]] = [
            ("south.example", {}, Forbidden),
            ("hub.example", {"room_version": "99"}, IncompatibleRoomVersion),
            ("hub.example", {"room_version": None}, BadRequest),
            ("hub.example", {"event": "x"}, BadRequest),
            ("hub.example", {"event": {**event, "state_key": self.carol}}, BadRequest),
            ("hub.example", {"event": {**event, "type": "m.room.message"}}, BadRequest),
            ("hub.example", {"invite_room_state": {}}, BadRequest),
            ("hub.example", {"event": {**event, "signatures": {}}}, LMatrixError),
        ]
        for number, (origin, change, expected) in enumerate(cases):
            body = {"event": event, "room_version": "I.1", "invite_room_state": [], **change}
            taking = Deferred.fromCoroutine(self.north.floor.handshakes.invite(origin, f"bad{number}", body))
            self.failureResultOf(taking, expected)


class KnockTests(NetworkTestCase):
    """Asking to be let in."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.hub.create_room(
            self.alice,
            preset=Preset.PRIVATE_CHAT,
            name="Door",
            initial_state=[InitialEvent("m.room.join_rules", "", {"join_rule": "knock"})],
        )

    def knock(self, server: Server, user_id: str, *via: str) -> Deferred[str]:
        knocking = Deferred.fromCoroutine(server.floor.local_users.knock(user_id, self.room_id, via, "let me in"))
        self.network.settle()
        return knocking

    def pending(self) -> Any:
        return result_of(self.north.database.read(lambda tx: self.north.invites.get(tx, self.bob, self.room_id)))

    def test_a_knock_that_is_answered(self) -> None:
        """A knock shows the room's stripped state, is seen by the room, and an invite takes its place."""
        self.successResultOf(self.knock(self.north, self.bob, self.hub.name))
        self.assertIn({"name": "Door"}, [event["content"] for event in self.pending().stripped_state])
        self.assertEqual({"membership": "knock", "reason": "let me in"}, self.hub.pdus(self.room_id)[-1].content)
        done(self.hub.floor.local_users.invite(self.room_id, self.alice, self.bob, None))
        self.assertEqual("invite", parse_object(self.pending().canonical)["content"]["membership"])
        self.north.join(self.bob, self.room_id)
        self.say(self.north, self.room_id, self.bob, "thanks")

    def test_a_knock_at_a_room_that_is_badly_described(self) -> None:
        """The knock has been taken, whatever the hub then says of its room, and can be taken back."""
        original = self.hub.floor.handshakes.send

        async def send(*arguments: Any) -> bytes:
            answer = await original(*arguments)
            return b'{"stripped_state":[{"type":1}]}' if arguments[1] == "knock" else answer

        object.__setattr__(self.hub.floor.handshakes, "send", send)
        self.network.bare.add(self.hub.name)
        self.successResultOf(self.knock(self.north, self.bob, self.hub.name))
        self.assertEqual("knock", done(self.hub.floor.rooms.load(self.room_id)).membership(self.bob))
        done(self.north.floor.local_users.leave(self.bob, self.room_id, None))
        self.assertEqual("leave", done(self.hub.floor.rooms.load(self.room_id)).membership(self.bob))

    def test_a_knock_that_is_refused(self) -> None:
        """A kick of the knocking user reaches them."""
        self.successResultOf(self.knock(self.north, self.bob, self.hub.name))
        done(self.hub.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", "no"))
        self.network.settle()
        self.assertIsNone(self.pending())

    def test_a_knock_that_is_taken_back(self) -> None:
        """Who knocks may think better of it."""
        self.successResultOf(self.knock(self.north, self.bob, self.hub.name))
        done(self.north.floor.local_users.leave(self.bob, self.room_id, None))
        self.assertIsNone(self.pending())
        self.assertEqual("leave", done(self.hub.floor.rooms.load(self.room_id)).membership(self.bob))

    def test_a_second_user_of_a_server_knocks_directly(self) -> None:
        """A server that is in the room sends its user's knock as an ordinary event."""
        done(self.hub.floor.local_users.invite(self.room_id, self.alice, self.bob, None))
        self.north.join(self.bob, self.room_id)
        dave = self.north.user("dave")
        self.network.requests.clear()
        self.successResultOf(self.knock(self.north, dave))
        self.assertNotIn("make_knock", {what for _, _, what in self.network.requests})
        self.assertEqual("knock", done(self.north.floor.rooms.load(self.room_id)).membership(dave))

    def test_rooms_without_a_door(self) -> None:
        """Where the join rule is not knock, or the room is not found, the reason is told."""
        self.room_id = self.hub.create_room(self.alice)
        self.failureResultOf(self.knock(self.north, self.bob, self.hub.name), PeerRefused)
        self.room_id = "!nowhere:north.example"
        self.failureResultOf(self.knock(self.north, self.bob), NotFound)


class HandshakeTests(NetworkTestCase):
    """The answering side of make_* and send_*."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.hub.create_room(self.alice)

    def test_templates(self) -> None:
        """A template has what the asker needs, and says the version."""
        template = done(self.hub.floor.handshakes.make(self.north.name, "join", self.room_id, self.bob, ("I.1",)))
        self.assertEqual("I.1", template["room_version"])
        event = template["event"]
        self.assertEqual(
            ("m.room.member", self.bob, self.bob, {"membership": "join"}, self.hub.name, self.room_id),
            tuple(event[key] for key in ("type", "sender", "state_key", "content", "hub_server", "room_id")),
        )

    def test_templates_that_are_refused(self) -> None:
        """Each refusal of make_* has its error."""
        make = self.hub.floor.handshakes.make
        self.north.join(self.bob, self.room_id, self.hub.name)
        cases = [
            (make(self.north.name, "join", self.room_id, self.carol, ("I.1",)), Forbidden),
            (make(self.south.name, "join", "!x:hub.example", self.carol, ("I.1",)), NotFound),
            (make(self.south.name, "join", self.room_id, self.carol, ("1",)), IncompatibleRoomVersion),
            (make(self.south.name, "leave", self.room_id, self.carol, ()), EventRejected),
            (make(self.south.name, "knock", self.room_id, self.carol, ("I.1",)), EventRejected),
            (
                self.north.floor.handshakes.make(self.south.name, "join", self.room_id, self.carol, ("I.1",)),
                WrongServer,
            ),
        ]
        for making, expected in cases:
            self.failureResultOf(Deferred.fromCoroutine(making), expected)

    def lpdu(self, **changes: Any) -> Lpdu:
        arguments: dict[str, Any] = {
            "room_id": self.room_id,
            "type": "m.room.member",
            "sender": self.bob,
            "content": {"membership": "join"},
            "origin_server_ts": 7,
            "hub_server": self.hub.name,
            "server_name": self.north.name,
            "keys": self.north.identity.keys,
            "state_key": self.bob,
        }
        return build_lpdu(room_version("I.1"), **{**arguments, **changes})

    def test_joins_that_are_refused(self) -> None:
        """send_join takes nothing but the asker's user's own join, for this hub, properly signed."""
        before = self.hub.log(self.room_id)
        cases = [
            (self.lpdu(content={"membership": "leave"}), BadRequest),
            (self.lpdu(type="m.room.message"), BadRequest),
            (self.lpdu(sender=self.carol, state_key=self.carol), Forbidden),
            (self.lpdu(state_key=f"@dave:{self.north.name}"), Forbidden),
            (self.lpdu(hub_server=self.south.name), WrongServer),
            (self.lpdu(room_id="!x:hub.example"), NotFound),
            (self.lpdu(keys=self.south.identity.keys), LMatrixError),
        ]
        for number, (lpdu, expected) in enumerate(cases):
            sending = Deferred.fromCoroutine(
                self.hub.floor.handshakes.send(self.north.name, "join", str(number), parse_object(lpdu.canonical))
            )
            self.failureResultOf(sending, expected)
        self.assertEqual(before, self.hub.log(self.room_id))

    def test_a_repeated_join_has_the_same_answer(self) -> None:
        """A join whose answer was lost is answered again, the same, though the room has gone on."""
        body = parse_object(self.lpdu().canonical)
        first = done(self.hub.floor.handshakes.send(self.north.name, "join", "t", body))
        self.say(self.hub, self.room_id, self.alice, "meanwhile")
        self.assertEqual(first, done(self.hub.floor.handshakes.send(self.north.name, "join", "t", body)))
        self.hub.restart()
        self.assertEqual(first, done(self.hub.floor.handshakes.send(self.north.name, "join", "another", body)))

    def test_the_answer_to_a_join(self) -> None:
        """``state`` is that before the join, in the room's order; ``auth_chain`` begins with the create event."""
        answer = parse_object(
            done(self.hub.floor.handshakes.send(self.north.name, "join", "t", parse_object(self.lpdu().canonical)))
        )
        log = [parse_object(event.canonical) for event in self.hub.log(self.room_id)]
        self.assertEqual([event for event in log[:-1] if "state_key" in event], answer["state"])
        self.assertEqual(log[-1], answer["event"])
        self.assertEqual(log[0], answer["auth_chain"][0])


class FanOutTests(NetworkTestCase):
    """Who is owed what."""

    def test_a_kicked_server_gets_the_kick_and_nothing_more(self) -> None:
        """The log up to and including the kick goes to the server of the kicked user."""
        room_id = self.shared_room()
        done(self.hub.floor.local_users.membership(room_id, self.alice, self.bob, "ban", None))
        self.say(self.hub, room_id, self.alice, "secret")
        self.assertEqual("ban", done(self.north.floor.rooms.load(room_id)).membership(self.bob))
        self.assertEqual([], self.north.bodies(room_id))
        self.assertEqual(["secret"], self.south.bodies(room_id))

    def test_one_of_several_users_leaving_changes_nothing(self) -> None:
        """A server with another user in the room goes on getting it."""
        room_id = self.shared_room()
        dave = self.north.user("dave")
        self.north.join(dave, room_id)
        leaving = Deferred.fromCoroutine(self.north.floor.local_users.leave(self.bob, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        self.say(self.hub, room_id, self.alice, "still here")
        self.assertEqual(["still here"], self.north.bodies(room_id))

    def test_a_hub_without_users_of_its_own(self) -> None:
        """A room goes on when the hub's last user has left it."""
        room_id = self.shared_room()
        done(self.hub.floor.local_users.leave(self.alice, room_id, None))
        self.say(self.north, room_id, self.bob, "among ourselves")
        self.assertEqual(["among ourselves"], self.south.bodies(room_id))

    def test_an_outage_costs_nothing_but_time(self) -> None:
        """A participant that was away gets all of it, in order, and another is not held up meanwhile."""
        room_id = self.shared_room()
        self.network.unreachable.add(self.north.name)
        for number in range(120):
            self.say(self.hub, room_id, self.alice, str(number))
        self.assertEqual(120, len(self.south.bodies(room_id)))
        self.network.unreachable.clear()
        self.network.settle()
        self.assert_same_order(room_id)
        self.assertEqual([str(number) for number in range(120)], self.north.bodies(room_id))
