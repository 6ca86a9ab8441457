"""A DAG server's users in rooms whose hub is another LM server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.replication.interfaces import MIRROR, SOURCE, Stage
from tests.replication.harness import US, MirrorTestCase
from tests.rooms.network import done, result_of


class InviteTests(MirrorTestCase):
    def test_an_invite_that_is_accepted(self) -> None:
        """An LM invite becomes an ordinary invite with the room's name; accepting it joins over LM, and the DAG room
        gets the LM room's state and members.
        """
        room_id = self.north.create_room(self.bob, name="Bob's", topic="Things")
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, "come in"))
        dag_room_id = self.mirror_of(room_id)
        state = self.dag.current(dag_room_id)
        self.assertEqual(state["m.room.name", ""].content, {"name": "Bob's"})
        self.assertEqual(state["m.room.topic", ""].content, {"topic": "Things"})
        self.assertEqual(state[MIRROR, ""].content["room_id"], room_id)
        invite = state["m.room.member", self.alice]
        self.assertEqual((invite.sender, invite.content["reason"]), (self.bobs_ghost, "come in"))

        self.dag.join(dag_room_id, self.alice, displayname="Alice")
        self.settle()
        self.assertEqual(self.lm_members(self.north, room_id), {self.alice, self.bob})
        self.assertEqual(
            self.lm_state(self.north, room_id, "m.room.member", self.alice),
            {"membership": "join", "displayname": "Alice"},
        )
        self.assertEqual(self.dag.members(dag_room_id), {self.alice, self.bobs_ghost})
        self.assert_agree(room_id)

    def test_an_invite_that_is_declined(self) -> None:
        """Declining in the DAG room declines on the LM side."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.dag.member(self.mirror_of(room_id), self.alice, self.alice, "leave", reason="no")
        self.settle()
        self.assertEqual(
            self.lm_state(self.north, room_id, "m.room.member", self.alice), {"membership": "leave", "reason": "no"}
        )

    def test_an_invite_that_is_withdrawn(self) -> None:
        """When the LM side takes the invite back, the DAG room does too."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.do(self.north.floor.local_users.membership(room_id, self.bob, self.alice, "leave", None))
        self.assertEqual(self.dag.members(self.mirror_of(room_id), "invite"), set())

    def test_an_invite_that_is_withdrawn_while_we_are_away(self) -> None:
        """Likewise when the end of the invite was stored, and our process died before it could tell."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.us.mirrors._inviter.wake = lambda: None  # type: ignore[method-assign]
        self.do(self.north.floor.local_users.membership(room_id, self.bob, self.alice, "leave", None))
        self.assertEqual(self.dag.members(self.mirror_of(room_id), "invite"), {self.alice})
        self.us.die_and_restart()
        self.settle()
        self.assertEqual(self.dag.members(self.mirror_of(room_id), "invite"), set())

    def test_the_lm_side_does_not_let_the_user_in(self) -> None:
        """A join that is refused over LM removes the user from the DAG room, and says why."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        dag_room_id = self.mirror_of(room_id)
        self.network.unreachable.add(self.us.name)
        banning = Deferred.fromCoroutine(
            self.north.floor.local_users.membership(room_id, self.bob, self.alice, "ban", None)
        )
        result_of(banning)
        self.network.unreachable.discard(self.us.name)
        self.dag.join(dag_room_id, self.alice)
        self.settle()
        member = self.dag.current(dag_room_id)["m.room.member", self.alice]
        self.assertEqual(member.content["membership"], "leave")
        self.assertIn("banned", member.content["reason"])
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"refused": 1})

    def test_a_hub_that_is_away(self) -> None:
        """While the hub cannot be reached the join is tried again; it succeeds when the hub is back."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.network.unreachable.add(self.north.name)
        self.dag.join(self.mirror_of(room_id), self.alice)
        self.settle()
        self.network.unreachable.clear()
        self.pass_time(3)
        self.assertIn(self.alice, self.lm_members(self.north, room_id))
        self.assert_agree(room_id)

    def test_a_hub_that_stays_away(self) -> None:
        """In the end the user is told that there is no way in."""
        room_id = self.north.create_room(self.bob)
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.network.unreachable.add(self.north.name)
        self.dag.join(self.mirror_of(room_id), self.alice)
        self.pass_time(120)
        self.assertEqual(self.dag.members(self.mirror_of(room_id)), {self.bobs_ghost})

    def test_unknown_users(self) -> None:
        """Nobody can be invited whom the DAG server does not know, nor ghosts, nor the bot."""
        room_id = self.north.create_room(self.bob)
        for localpart in ("nobody", "bridge", "lm.bob=3anorth.example"):
            inviting = Deferred.fromCoroutine(
                self.north.floor.local_users.invite(room_id, self.bob, f"@{localpart}:{US}", None)
            )
            self.settle()
            self.failureResultOf(inviting)
        self.assertEqual(self.dag.rooms, {})

    def test_without_an_invite(self) -> None:
        """A user may ask to be brought into a public LM room, and joins by accepting the bot's invite."""
        room_id = self.north.create_room(self.bob)
        dag_room_id = self.do(self.us.mirrors.enter_room(self.alice, room_id, [self.north.name]))
        self.dag.join(dag_room_id, self.alice)
        self.settle()
        self.assertEqual(self.lm_members(self.north, room_id), {self.alice, self.bob})
        self.assert_agree(room_id)

    def test_a_second_user(self) -> None:
        """Another user of ours is invited into the same DAG room."""
        room_id, dag_room_id = self.invited_room()
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.dave, None))
        self.assertEqual(self.dag.members(dag_room_id, "invite"), {self.dave})
        self.dag.join(dag_room_id, self.dave)
        self.settle()
        self.assertEqual(self.lm_members(self.north, room_id), {self.alice, self.bob, self.dave})
        self.assert_agree(room_id)

    def test_leaving_and_coming_back(self) -> None:
        """When our last user leaves, the LM room goes on without us; coming back brings the present state, and what was
        said before the first leaving is not said again.
        """
        room_id, dag_room_id = self.invited_room()
        self.north.send(room_id, self.bob, "one")
        self.settle()
        self.dag.member(dag_room_id, self.alice, self.alice, "leave")
        self.settle()
        self.assertEqual(self.lm_members(self.north, room_id), {self.bob})
        self.north.send(room_id, self.bob, "unheard")
        self.lm_send(self.north, room_id, self.bob, "m.room.topic", {"topic": "New"}, "")
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        self.dag.join(dag_room_id, self.alice)
        self.settle()
        self.north.send(room_id, self.bob, "two")
        self.settle()
        self.assertEqual(self.dag.bodies(dag_room_id), ["one", "two"])
        self.assertEqual(self.dag.current(dag_room_id)["m.room.topic", ""].content["topic"], "New")
        self.assert_agree(room_id)


class TrafficTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id, self.dag_room_id = self.invited_room()

    def test_messages_both_ways(self) -> None:
        """What is said on one side is said once on the other, by the same person; nothing echoes."""
        self.north.send(self.room_id, self.bob, "from bob")
        self.settle()
        self.dag.say(self.dag_room_id, self.alice, "from alice")
        self.settle()
        self.assertEqual(self.dag.bodies(self.dag_room_id), ["from bob", "from alice"])
        self.assertEqual(self.north.bodies(self.room_id), ["from bob", "from alice"])
        self.assertEqual(self.us.bodies(self.room_id), ["from bob", "from alice"])
        self.assertEqual([one.sender for one in self.dag.timeline(self.dag_room_id)], [self.bobs_ghost, self.alice])
        self.assert_agree(self.room_id)

    def test_marks(self) -> None:
        """Each carried event names its original, with what is needed to check it."""
        sent = self.successResultOf(self.north.send(self.room_id, self.bob, "from bob"))
        self.settle()
        mark = self.dag.timeline(self.dag_room_id)[0].content[SOURCE]
        original = self.lm_last(self.north, self.room_id)
        self.assertEqual((mark["event_id"], mark["room_id"], mark["sender"]), (sent, self.room_id, self.bob))
        self.assertEqual(mark["signatures"], original.signatures)
        self.assertEqual(mark["hashes"], original.fields["hashes"])
        said = self.dag.say(self.dag_room_id, self.alice, "from alice")
        self.settle()
        mark = self.lm_last(self.north, self.room_id).content[SOURCE]
        self.assertEqual((mark["event_id"], mark["room_id"]), (said, self.dag_room_id))
        self.assertEqual(mark["signatures"], {US: {"ed25519:1": "y"}})

    def test_timestamps(self) -> None:
        """A carried event says when its original was sent."""
        said = self.dag.say(self.dag_room_id, self.alice, "then", ts=1_600_000_000_000)
        self.settle()
        self.assertEqual(self.lm_last(self.north, self.room_id).origin_server_ts, 1_600_000_000_000)
        self.assertEqual(self.dag.events_by_id[said].origin_server_ts, 1_600_000_000_000)

    def test_relations(self) -> None:
        """Edits, reactions, replies and redactions name the right event on either side."""
        first = self.successResultOf(self.north.send(self.room_id, self.bob, "first"))
        self.settle()
        [on_dag] = [one.event_id for one in self.dag.timeline(self.dag_room_id)]
        reply = self.dag.append(
            self.dag_room_id,
            self.alice,
            "m.room.message",
            {"msgtype": "m.text", "body": "reply", "m.relates_to": {"m.in_reply_to": {"event_id": on_dag}}},
        )
        self.settle()
        replied = self.lm_last(self.north, self.room_id)
        self.assertEqual(replied.content["m.relates_to"], {"m.in_reply_to": {"event_id": first}})
        self.lm_send(
            self.north,
            self.room_id,
            self.bob,
            "m.reaction",
            {"m.relates_to": {"rel_type": "m.annotation", "event_id": replied.event_id, "key": "+"}},
        )
        reaction = self.dag.timeline(self.dag_room_id)[-1]
        self.assertEqual(reaction.content["m.relates_to"]["event_id"], reply)
        self.dag.append(self.dag_room_id, self.alice, "m.room.redaction", {"redacts": reply, "reason": "oops"})
        self.settle()
        self.assertEqual(
            [pdu.content.get("body") for pdu in self.north.pdus(self.room_id) if pdu.type == "m.room.message"],
            ["first", None],
        )
        self.do(self.north.floor.local_users.redact(self.room_id, self.bob, first, None))
        self.assertEqual(self.dag.bodies(self.dag_room_id), [])

    def test_state_both_ways(self) -> None:
        """Names, topics, power levels, join rules: both sides say the same in the end."""
        self.lm_send(self.north, self.room_id, self.bob, "m.room.topic", {"topic": "By Bob"}, "")
        self.assertEqual(self.dag.current(self.dag_room_id)["m.room.topic", ""].content["topic"], "By Bob")
        levels = dict(self.lm_state(self.north, self.room_id, "m.room.power_levels") or {})
        levels["users"] = {**levels["users"], self.alice: 50}
        self.lm_send(self.north, self.room_id, self.bob, "m.room.power_levels", levels, "")
        self.dag.append(self.dag_room_id, self.alice, "m.room.topic", {"topic": "By Alice"}, "")
        self.settle()
        self.assertEqual(self.lm_state(self.north, self.room_id, "m.room.topic"), {"topic": "By Alice"})
        self.lm_send(self.north, self.room_id, self.bob, "m.room.join_rules", {"join_rule": "invite"}, "")
        self.assert_agree(self.room_id)

    def test_members_of_third_servers(self) -> None:
        """Users of other LM servers come, are called something, are kicked, banned and unbanned, as ghosts."""
        self.south.join(self.carol, self.room_id, self.north.name)
        self.settle()
        self.assertIn(self.carols_ghost, self.dag.members(self.dag_room_id))
        self.lm_send(
            self.south,
            self.room_id,
            self.carol,
            "m.room.member",
            {"membership": "join", "displayname": "Carol"},
            self.carol,
        )
        ghost = self.dag.ghosts[self.carols_ghost]
        self.assertEqual(None if ghost is None else ghost.displayname, "Carol")
        self.south.send(self.room_id, self.carol, "hello")
        self.settle()
        self.do(self.north.floor.local_users.membership(self.room_id, self.bob, self.carol, "leave", "out"))
        kicked = self.dag.current(self.dag_room_id)["m.room.member", self.carols_ghost]
        self.assertEqual((kicked.sender, kicked.content["reason"]), (self.bobs_ghost, "out"))
        self.do(self.north.floor.local_users.membership(self.room_id, self.bob, self.carol, "ban", None))
        self.assertEqual(self.dag.members(self.dag_room_id, "ban"), {self.carols_ghost})
        self.do(self.north.floor.local_users.membership(self.room_id, self.bob, self.carol, "leave", None))
        self.assertEqual(self.dag.members(self.dag_room_id, "ban"), set())
        self.assertEqual(self.dag.bodies(self.dag_room_id), ["hello"])
        self.assert_agree(self.room_id)

    def test_being_kicked(self) -> None:
        """A kick by the LM side reaches our user in the DAG room, with its reason."""
        self.do(self.north.floor.local_users.membership(self.room_id, self.bob, self.alice, "leave", "bye"))
        member = self.dag.current(self.dag_room_id)["m.room.member", self.alice]
        self.assertEqual((member.content["membership"], member.content["reason"]), ("leave", "bye"))
        self.assertIs(done(self.us.mirrors.statuses())[0].stage, Stage.INVITED)

    def test_inviting_from_the_dag_side(self) -> None:
        """Our user invites an LM user by its ghost; the LM server is really asked, and an acceptance comes back."""
        self.dag.member(self.dag_room_id, self.alice, self.carols_ghost, "invite", reason="come")
        self.settle()
        self.assertEqual(self.lm_members(self.north, self.room_id, "invite"), {self.carol})
        self.south.join(self.carol, self.room_id)
        self.settle()
        self.assertIn(self.carols_ghost, self.dag.members(self.dag_room_id))
        self.assert_agree(self.room_id)

    def test_an_invite_that_the_lm_side_refuses(self) -> None:
        """An LM user who does not exist declines by its ghost, with the reason."""
        ghost = f"@lm.nobody=3asouth.example:{US}"
        self.dag.member(self.dag_room_id, self.alice, ghost, "invite")
        self.settle()
        member = self.dag.current(self.dag_room_id)["m.room.member", ghost]
        self.assertEqual(member.content["membership"], "leave")
        self.assertIn("nobody", member.content["reason"])
        self.assert_agree(self.room_id)

    def test_refused_messages(self) -> None:
        """What the hub refuses is redacted on the DAG side, with the reason."""
        levels = dict(self.lm_state(self.north, self.room_id, "m.room.power_levels") or {})
        levels["events"] = {**levels["events"], "org.example.loud": 50}
        # The DAG side does not know of it yet when the message is sent.
        self.network.unreachable.add(self.us.name)
        changing = Deferred.fromCoroutine(
            self.north.floor.local_users.send(self.room_id, self.bob, "m.room.power_levels", levels, state_key="")
        )
        result_of(changing)
        said = self.dag.append(self.dag_room_id, self.alice, "org.example.loud", {"x": 1})
        self.network.unreachable.clear()
        self.north.delivery.destinations.add(self.us.name)
        self.settle()
        self.assertIn(said, self.dag.redacted)
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"refused": 1})
        self.assert_agree(self.room_id)

    def test_what_cannot_be_mapped(self) -> None:
        """It is counted, with its cause, and nothing is written."""
        self.dag.append(self.dag_room_id, self.alice, "m.room.encrypted", {"ciphertext": "x"})
        self.lm_send(
            self.north,
            self.room_id,
            self.bob,
            "m.reaction",
            {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$" + "x" * 43, "key": "+"}},
        )
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"encryption": 1, "unknown_target": 1})

    def test_typing_and_receipts(self) -> None:
        """Both are told to the other side's servers, and never back."""
        sent = self.successResultOf(self.north.send(self.room_id, self.bob, "hello"))
        self.settle()
        [event] = self.dag.timeline(self.dag_room_id)
        self.us.mirrors.typing_changed(self.dag_room_id, [self.alice, self.bobs_ghost])
        self.us.mirrors.typing_changed(self.dag_room_id, [])
        self.us.mirrors.read_up_to(self.dag_room_id, self.alice, event.event_id, 5)
        self.us.mirrors.read_up_to(self.dag_room_id, self.bobs_ghost, event.event_id, 5)
        self.settle()
        received = [edu for origin, edu in self.north.edus.received]  # type: ignore[attr-defined]
        self.assertEqual([edu["type"] for edu in received], ["m.typing", "m.receipt"])
        self.assertEqual(received[0]["content"], {"room_id": self.room_id, "user_id": self.alice, "typing": False})
        self.assertEqual(list(received[1]["content"][self.room_id]["m.read"]), [self.alice])
        self.assertEqual(received[1]["content"][self.room_id]["m.read"][self.alice]["event_ids"], [sent])

        typing: dict[str, Any] = {"room_id": self.room_id, "user_id": self.bob, "typing": True}
        receipt = {self.room_id: {"m.read": {self.bob: {"event_ids": [sent], "data": {"ts": 1}}}}}
        self.us.receive(
            self.north.name,
            "edus",
            [],
            edus=[
                {"type": "m.typing", "sender": self.bob, "content": typing},
                {"type": "m.receipt", "sender": self.bob, "content": receipt},
                {"type": "m.typing", "sender": self.bob, "content": {**typing, "user_id": self.carol}},
            ],
        )
        self.assertEqual(self.dag.typing, [(self.dag_room_id, self.bobs_ghost, True)])
        self.assertEqual(self.dag.read_marks, [(self.dag_room_id, self.bobs_ghost, event.event_id)])

    def test_redactions_by_whom(self) -> None:
        """A redaction that takes effect on the LM side does so on the DAG side, by whomever; another does not.
        What was redacted before it was carried over is not carried over, and is no loss.
        """
        self.south.join(self.carol, self.room_id, self.north.name)
        zoe = self.north.user("zoe")
        self.do(self.north.floor.local_users.join(zoe, self.room_id, [], None))
        sent = self.successResultOf(self.north.send(self.room_id, self.bob, "by bob"))
        self.settle()
        self.do(self.south.floor.local_users.redact(self.room_id, self.carol, sent, None))
        self.assertEqual(self.dag.bodies(self.dag_room_id), ["by bob"])
        # Users of one LM server may redact each other's; on the DAG side the bot does it for them.
        self.do(self.north.floor.local_users.redact(self.room_id, zoe, sent, None))
        self.assertEqual(self.dag.bodies(self.dag_room_id), [])

        self.dag.unavailable = True
        sent = self.successResultOf(self.north.send(self.room_id, self.bob, "regretted"))
        self.settle()
        self.do(self.north.floor.local_users.redact(self.room_id, self.bob, sent, None))
        said = self.dag.say(self.dag_room_id, self.alice, "regretted too")
        self.dag.append(self.dag_room_id, self.alice, "m.room.redaction", {"redacts": said})
        self.dag.unavailable = False
        self.pass_time(30)
        self.assertEqual(self.dag.bodies(self.dag_room_id), [])
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {})
        self.assert_agree(self.room_id)

    def test_speaking_of_ghosts(self) -> None:
        """Nobody on the LM side can do anything to the bot, or to a ghost by its DAG name."""
        levels = dict(self.lm_state(self.north, self.room_id, "m.room.power_levels") or {})
        forged = {self.dag.bot: -1, self.bobs_ghost: -1, f"@lm.zoe=3anorth.example:{US}": 70}
        levels["users"] = {**levels["users"], **forged}
        self.lm_send(self.north, self.room_id, self.bob, "m.room.power_levels", levels, "")
        users = self.dag.current(self.dag_room_id)["m.room.power_levels", ""].content["users"]
        self.assertEqual(users, {self.bobs_ghost: 100})
        for target in (self.dag.bot, self.bobs_ghost):
            self.lm_send(self.north, self.room_id, self.bob, "m.room.member", {"membership": "ban"}, target)
        self.assertEqual(self.dag.members(self.dag_room_id, "ban"), set())
        bot = self.dag.current(self.dag_room_id)["m.room.member", self.dag.bot]
        self.assertEqual(bot.content["membership"], "join")
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"unknown_user": 2})
        self.assert_agree(self.room_id)

    def test_large_messages(self) -> None:
        """A message that leaves no room for the whole mark is carried over with a short one."""
        self.dag.say(self.dag_room_id, self.alice, "x" * 64_200)
        self.settle()
        last = self.lm_last(self.north, self.room_id)
        self.assertEqual(set(last.content[SOURCE]), {"event_id", "room_id"})
        self.assert_agree(self.room_id)


class PrototypeTests(TrafficTests):
    """The same in rooms of the version that the prototypes speak."""

    version = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"
