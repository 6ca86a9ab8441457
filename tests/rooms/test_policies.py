"""Policies in rooms: blocked rooms, refused invites, actions and events, on both sides of the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import parse_object
from lmatrix.errors import Forbidden, LMatrixError, PeerRefused, Undecided
from lmatrix.events.building import build_lpdu
from lmatrix.events.creation import Preset
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import room_version
from lmatrix.policies.builtin import BLOCKED, BlockedRooms
from lmatrix.rooms.history import History
from lmatrix.rooms.invitations import MAX_PENDING
from lmatrix.rooms.policy import Invite, Kind, LocalAction, NoPolicies, ProposedEvent
from lmatrix.storage.sharing import SqlSharingStore
from tests.rooms.network import NetworkTestCase, Server, done


class Recording(NoPolicies):
    """Notes what it is asked, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.blocked: set[str] = set()
        self.refuse: Callable[[Any], bool] = lambda subject: False
        self.error: type[Forbidden] = Forbidden

    blocks_rooms = True
    checks_events = True

    def _consider(self, subject: Any, refused: bool) -> None:
        if not isinstance(subject, str):
            self.asked.append(subject)
        if refused:
            raise self.error("not here")

    async def check_room(self, room_id: str) -> None:
        self._consider(room_id, room_id in self.blocked)

    async def check_invite(self, invite: Invite) -> None:
        self._consider(invite, self.refuse(invite))

    async def check_action(self, action: LocalAction) -> None:
        self._consider(action, self.refuse(action))

    async def check_event(self, event: ProposedEvent) -> None:
        self._consider(event, self.refuse(event))


class PolicyCase(NetworkTestCase):
    """Every server has policies, which allow everything at first."""

    def setUp(self) -> None:
        super().setUp()
        self.policies = {}
        for server in (self.hub, self.north, self.south):
            server.policies = self.policies[server] = Recording()
            server.restart()

    def refused(self, work: Awaitable[object], error: type[LMatrixError] = Forbidden) -> str:
        """It is refused; why."""
        running = Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        self.network.settle()
        self.network.clock.pump([0] * 5)
        return str(self.failureResultOf(running, error).value)

    def membership(self, server: Server, room_id: str, user_id: str) -> str:
        room = done(server.floor.rooms.load(room_id))
        assert room is not None
        return room.membership(user_id)

    def lpdu(self, room_id: str, content: dict[str, Any], **more: Any) -> Lpdu:
        """An LPDU by the north's user."""
        return build_lpdu(
            room_version("I.1"),
            **{
                "room_id": room_id,
                "type": "m.room.message",
                "sender": self.bob,
                "content": content,
                "origin_server_ts": int(self.network.clock.seconds() * 1000),
                "hub_server": self.hub.name,
                "server_name": self.north.name,
                "keys": self.north.identity.keys,
                "state_key": None,
                **more,
            },
        )


class BlockedRoomTests(PolicyCase):
    """A room that is blocked on one server."""

    def block(self, server: Server, room_id: str) -> None:
        self.policies[server].blocked.add(room_id)

    def sweep(self, server: Server) -> None:
        sweeping = Deferred.fromCoroutine(server.floor.leading_out.sweep())
        self.network.settle()
        self.network.clock.pump([0] * 5)
        self.successResultOf(sweeping)

    def test_local_users_do_nothing_there(self) -> None:
        """Neither sending, inviting, joining nor knocking; but they can leave."""
        room_id = self.shared_room()
        self.block(self.north, room_id)
        users, dave = self.north.floor.local_users, self.north.user("dave")
        self.refused(users.send(room_id, self.bob, "m.room.message", {"body": "x"}))
        self.refused(users.redact(room_id, self.bob, self.hub.log(room_id)[-1].event_id, None))
        self.refused(users.invite(room_id, self.bob, self.carol, None))
        self.refused(users.join(dave, room_id, [self.hub.name], None))
        self.refused(users.knock(dave, room_id, [self.hub.name], None))
        self.assertNotIn((self.north.name, self.hub.name, "make_join"), self.network.requests[-5:])
        leaving = Deferred.fromCoroutine(users.leave(self.bob, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)

    def test_other_servers_are_refused(self) -> None:
        """Every request about the room is 403, whoever asks, and events are in failed_pdus; nothing is appended."""
        room_id = self.shared_room()
        self.block(self.hub, room_id)
        before = self.hub.log(room_id)
        floor = self.hub.floor
        north = self.north.name
        self.refused(floor.handshakes.make(north, "join", room_id, self.bob, ["I.1"]))
        self.refused(floor.handshakes.make(north, "leave", room_id, self.bob, []))
        join = self.lpdu(room_id, {"membership": "join"}, type="m.room.member", state_key=self.bob)
        self.refused(floor.handshakes.send(north, "join", "t1", parse_object(join.canonical)))
        invite = self.lpdu(room_id, {"membership": "invite"}, type="m.room.member", state_key="@x:south.example")
        body = {"event": parse_object(invite.canonical), "room_version": "I.1"}
        self.refused(floor.handshakes.invite(north, "t2", body))
        self.refused(floor.transfer.requested(north, room_id, self.bob))
        self.refused(self.south.floor.candidacy.offered(north, {}), LMatrixError)
        history = History(self.hub.database, self.hub.rooms, floor.rooms, self.policies[self.hub])
        event_id = before[-1].event_id
        self.refused(history.event(north, event_id))
        self.refused(history.backfill(north, room_id, event_id, 10))
        self.refused(history.state(north, room_id, event_id))
        self.refused(history.state_ids(north, room_id, event_id))
        message = self.lpdu(room_id, {"body": "x"})
        answer = self.hub.receive(north, "t3", [parse_object(message.canonical)])
        self.assertEqual(answer["failed_pdus"], {message.event_id: {"error": "not here"}})
        self.assertEqual(self.hub.log(room_id), before)

    def test_a_room_is_not_taken_over(self) -> None:
        """An offer of a blocked room is refused."""
        room_id = self.shared_room()
        self.block(self.north, room_id)
        offer = {
            "room_id": room_id,
            "room_version": "I.1",
            "head": self.hub.log(room_id)[-1].event_id,
            "valid_until_ts": int(self.network.clock.seconds() * 1000) + 10_000,
        }
        self.refused(self.north.floor.candidacy.offered(self.hub.name, offer))

    def test_an_invite_into_it_is_refused(self) -> None:
        """The inviter hears why."""
        room_id = self.hub.create_room(self.alice)
        self.block(self.north, room_id)
        inviting = self.hub.floor.local_users.invite(room_id, self.alice, self.bob, None)
        self.assertIn("not here", self.refused(inviting, PeerRefused))

    def test_participants_are_led_out(self) -> None:
        """Everybody of ours leaves by an ordinary event, everywhere; then the room's events are refused."""
        room_id = self.shared_room()
        dave = self.north.user("dave")
        self.north.join(dave, room_id)
        self.block(self.north, room_id)
        self.sweep(self.north)
        for server in (self.hub, self.north, self.south):
            for user_id in (self.bob, dave):
                self.assertEqual(self.membership(server, room_id, user_id), "leave", (server.name, user_id))
        sending = self.hub.send(room_id, self.alice, "meanwhile")
        self.network.settle()
        self.successResultOf(sending)
        self.assertEqual(self.north.bodies(room_id), [])
        event = self.hub.log(room_id)[-1]
        answer = self.north.receive(self.hub.name, "late", [parse_object(event.canonical)])
        self.assertEqual(answer["failed_pdus"], {event.event_id: {"error": "not here"}})

    def test_leaves_that_the_hub_does_not_take_yet_are_sent_later(self) -> None:
        """A hub that is down keeps nobody in: the leave is pending, and its echo is taken when it comes."""
        room_id = self.shared_room()
        self.block(self.north, room_id)
        self.network.unreachable.add(self.hub.name)
        sweeping = Deferred.fromCoroutine(self.north.floor.leading_out.sweep())
        self.network.settle()
        self.network.clock.advance(60)
        self.successResultOf(sweeping)
        self.network.unreachable.clear()
        self.network.settle()
        for server in (self.hub, self.north):
            self.assertEqual(self.membership(server, room_id, self.bob), "leave", server.name)

    def test_a_hub_leads_its_users_out_and_gives_the_room_away(self) -> None:
        """Another server becomes the hub, and the room goes on there."""
        room_id = self.shared_room()
        self.block(self.hub, room_id)
        self.sweep(self.hub)
        self.network.settle()
        self.network.clock.pump([0] * 20)
        self.network.settle()
        room = done(self.north.floor.rooms.load(room_id))
        assert room is not None
        self.assertEqual(room.membership(self.alice), "leave")
        self.assertIn(room.hub_server, (self.north.name, self.south.name))

    def test_invites_end(self) -> None:
        """A pending invite into a room that is blocked later is declined, and the hub hears of it."""
        room_id = self.hub.create_room(self.alice, preset=Preset.PRIVATE_CHAT)
        done(self.hub.floor.local_users.invite(room_id, self.alice, self.bob, None))
        self.block(self.north, room_id)
        self.sweep(self.north)
        self.assertIsNone(done(self.north.floor.local_users._invitations.pending(self.bob, room_id)))
        self.assertEqual(self.membership(self.hub, room_id, self.bob), "leave")

    def test_a_policy_that_gives_no_answer_leads_nobody_out(self) -> None:
        """Requests are refused, but nobody leaves because a policy is broken."""
        room_id = self.shared_room()
        self.block(self.north, room_id)
        self.policies[self.north].error = Undecided
        self.refused(self.north.floor.local_users.send(room_id, self.bob, "m.room.message", {"body": "x"}))
        self.sweep(self.north)
        self.assertEqual(self.membership(self.hub, room_id, self.bob), "join")

    def test_other_rooms_go_on(self) -> None:
        """In one transaction, the blocked room's event fails and the other's is taken."""
        blocked, free = self.shared_room(), self.shared_room()
        self.block(self.hub, blocked)
        events = [self.lpdu(room_id, {"body": "x"}) for room_id in (blocked, free)]
        answer = self.hub.receive(self.north.name, "t", [parse_object(event.canonical) for event in events])
        self.assertEqual(set(answer["failed_pdus"]), {events[0].event_id})
        self.assertEqual(self.hub.bodies(free), ["x"])

    def test_the_builtin_list(self) -> None:
        """Its words are what everybody reads."""
        verdict: Any = BlockedRooms(["!x:hub.example"]).check_room("!x:hub.example")
        self.assertEqual(verdict.reason, BLOCKED)


class InvitePolicyTests(PolicyCase):
    """Invites for local users, by each of the ways on which they come."""

    def setUp(self) -> None:
        super().setUp()
        self.policies[self.north].refuse = lambda subject: isinstance(subject, Invite)
        self.policies[self.hub].refuse = lambda subject: isinstance(subject, Invite)

    def test_from_another_hub(self) -> None:
        """The inviter gets the refusal verbatim; the target never hears of it."""
        room_id = self.hub.create_room(self.alice)
        inviting = self.hub.floor.local_users.invite(room_id, self.alice, self.bob, None)
        self.assertIn("403 M_FORBIDDEN: not here", self.refused(inviting, PeerRefused))
        self.assertIsNone(done(self.north.floor.local_users._invitations.pending(self.bob, room_id)))
        [invite] = [one for one in self.policies[self.north].asked if isinstance(one, Invite)]
        self.assertEqual(
            (invite.inviter, invite.inviter_server, invite.invitee, invite.room_id, invite.hub_server),
            (self.alice, self.hub.name, self.bob, room_id, self.hub.name),
        )
        self.assertIn("m.room.create", {event["type"] for event in invite.stripped_state})

    def test_through_a_hub(self) -> None:
        """A participant's user invites a third server's: the refusal reaches them through the hub."""
        room_id = self.hub.create_room(self.alice)
        self.south.join(self.carol, room_id, self.hub.name)
        inviting = self.south.floor.local_users.invite(room_id, self.carol, self.bob, None)
        self.assertIn("not here", self.refused(inviting, PeerRefused))

    def test_of_our_own_users_as_hub(self) -> None:
        """By a local user, and by a participant's, whether it comes as an invite or as an ordinary event."""
        room_id = self.shared_room()
        erin = self.hub.user("erin")
        self.refused(self.hub.floor.local_users.invite(room_id, self.alice, erin, None))
        lpdu = self.lpdu(room_id, {"membership": "invite"}, type="m.room.member", state_key=erin)
        body = {"event": parse_object(lpdu.canonical), "room_version": "I.1"}
        self.refused(self.hub.floor.handshakes.invite(self.north.name, "t1", body))
        answer = self.hub.receive(self.north.name, "t2", [parse_object(lpdu.canonical)])
        self.assertEqual(answer["failed_pdus"], {lpdu.event_id: {"error": "not here"}})
        self.assertEqual(self.membership(self.hub, room_id, erin), "leave")

    def test_that_came_with_events_are_declined(self) -> None:
        """A participant is not asked about an invite of another of its users; it declines in their name."""
        room_id = self.shared_room()
        dave = self.north.user("dave")
        inviting = self.hub.floor.local_users.invite(room_id, self.alice, dave, None)
        done(inviting)
        self.network.settle()
        self.network.clock.pump([0] * 5)
        self.network.settle()
        for server in (self.hub, self.north, self.south):
            memberships = [pdu.content["membership"] for pdu in server.pdus(room_id) if pdu.state_key == dave]
            self.assertEqual(memberships, ["invite", "leave"], server.name)
        self.assertEqual(self.membership(self.hub, room_id, self.bob), "join")

    def test_without_an_answer_they_stand(self) -> None:
        """Nothing is declined because a policy is broken."""
        self.policies[self.north].error = Undecided
        room_id = self.shared_room()
        dave = self.north.user("dave")
        done(self.hub.floor.local_users.invite(room_id, self.alice, dave, None))
        self.network.settle()
        self.assertEqual(self.membership(self.hub, room_id, dave), "invite")

    def test_too_many_are_refused(self) -> None:
        """A flood of invites ends where nobody could answer them all; a repeated one takes its own place."""
        self.policies[self.north].refuse = lambda subject: False
        room_id = self.hub.create_room(self.alice, preset=Preset.PRIVATE_CHAT)
        users = self.hub.floor.local_users
        done(users.invite(room_id, self.alice, self.bob, None))

        def fill(tx: Any) -> None:
            columns = "user_id, room_version, hub_server, pending, canonical, stripped_state"
            tx.execute(
                f"INSERT INTO invites ({columns}, room_id, stream)"
                " WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
                f" SELECT {columns}, '!' || n || ':x', stream + 1000 + n FROM invites, numbers",
                (MAX_PENDING - 1,),
            )

        result = self.north.database.write(fill)
        self.successResultOf(result)
        other = self.hub.create_room(self.alice)
        self.assertIn("not answered yet", self.refused(users.invite(other, self.alice, self.bob, None), PeerRefused))
        done(users.invite(room_id, self.alice, self.bob, "again"))

    def test_from_servers_that_share_a_room(self) -> None:
        """The store knows who shares a room with us; a room that was left is none."""
        store = SqlSharingStore()

        def shared(server: Server, other: str) -> bool:
            return self.successResultOf(
                server.database.read(lambda tx: store.servers_share_a_room(tx, server.name, other))
            )

        room_id = self.shared_room()
        self.assertTrue(shared(self.north, self.south.name))
        self.assertTrue(shared(self.north, self.hub.name))
        self.assertFalse(shared(self.north, "th.example"), "a name that ours ends with is another name")
        leaving = Deferred.fromCoroutine(self.south.floor.local_users.leave(self.carol, room_id, None))
        self.network.settle()
        self.successResultOf(leaving)
        self.assertFalse(shared(self.north, self.south.name))


class ActionAndEventTests(PolicyCase):
    """What local users do, and what enters a room."""

    def refuse(self, server: Server, refuse: Callable[[Any], bool]) -> None:
        self.policies[server].refuse = refuse

    def test_actions(self) -> None:
        """Creating, joining, knocking and inviting are asked about, with who, where and whom."""
        public = self.hub.create_room(self.alice)
        users = self.north.floor.local_users
        room_id = self.north.create_room(self.bob)
        self.policies[self.north].asked.clear()
        self.refuse(self.north, lambda subject: isinstance(subject, LocalAction))
        with self.assertRaises(Forbidden):
            self.north.create_room(self.bob)
        self.refused(users.join(self.bob, public, [self.hub.name], None))
        self.refused(users.knock(self.bob, public, [self.hub.name], None))
        self.refused(users.invite(room_id, self.bob, self.carol, None))
        member = {"membership": "invite"}
        self.refused(users.send(room_id, self.bob, "m.room.member", member, state_key=self.carol))
        actions = [one for one in self.policies[self.north].asked if isinstance(one, LocalAction)]
        self.assertEqual(
            [(one.user_id, one.kind, one.room_id, one.target) for one in actions],
            [
                (self.bob, Kind.CREATE, None, None),
                (self.bob, Kind.JOIN, public, None),
                (self.bob, Kind.KNOCK, public, None),
                (self.bob, Kind.INVITE, room_id, self.carol),
                (self.bob, Kind.INVITE, room_id, self.carol),
            ],
        )
        self.assertNotIn("make_join", {what for _, _, what in self.network.requests})

    def test_events_of_our_users(self) -> None:
        """As hub and as participant; a room whose first events are refused is not made."""
        room_id = self.shared_room()
        for server, user in ((self.hub, self.alice), (self.north, self.bob)):
            self.refuse(server, lambda subject: isinstance(subject, ProposedEvent) and "bad" in str(subject.content))
            self.failureResultOf(server.send(room_id, user, "bad"), Forbidden)
            fine = server.send(room_id, user, "fine")
            self.network.settle()
            self.successResultOf(fine)
        with self.assertRaises(Forbidden):
            self.hub.create_room(self.alice, name="bad name")
        self.assertEqual(self.hub.bodies(room_id), ["fine", "fine"])

    def test_events_of_others_at_the_hub(self) -> None:
        """Only the refused one of a transaction fails; a participant has no say about what the hub let in."""
        room_id = self.shared_room()
        self.refuse(self.hub, lambda subject: isinstance(subject, ProposedEvent) and "bad" in str(subject.content))
        self.refuse(self.south, lambda subject: isinstance(subject, ProposedEvent))
        events = [self.lpdu(room_id, {"body": body}) for body in ("one", "bad", "two")]
        answer = self.hub.receive(self.north.name, "t", [parse_object(event.canonical) for event in events])
        self.assertEqual(answer["failed_pdus"], {events[1].event_id: {"error": "not here"}})
        self.network.settle()
        self.assertEqual(self.south.bodies(room_id), ["one", "two"])
        asked = [one for one in self.policies[self.hub].asked if isinstance(one, ProposedEvent)][-1]
        self.assertEqual((asked.sender, asked.origin, asked.state_key), (self.bob, self.north.name, None))

    def test_what_is_in_the_room_is_not_asked_about_again(self) -> None:
        """A repeated submission is answered as before, whatever the policies say now."""
        room_id = self.shared_room()
        event = self.lpdu(room_id, {"body": "x"})
        first = self.hub.receive(self.north.name, "t1", [parse_object(event.canonical)])
        self.refuse(self.hub, lambda subject: True)
        second = self.hub.receive(self.north.name, "t2", [parse_object(event.canonical)])
        self.assertEqual(first, second)
        self.assertEqual(second["failed_pdus"], {})
