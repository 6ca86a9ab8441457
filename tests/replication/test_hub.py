"""Rooms of the DAG server that are offered to LM servers: this server is the hub."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from lmatrix.replication.interfaces import DagRefused, Stage
from tests.replication.harness import US, MirrorTestCase
from tests.rooms.network import done, result_of

ERIN = "@erin:dag.example"
ERINS_GHOST = f"@dag.erin=3adag.example:{US}"


class OpeningTests(MirrorTestCase):
    def test_inviting_a_guest_opens_the_room(self) -> None:
        """An ordinary invite of a ghost makes an LM room with the DAG room's state, and invites the LM user for real;
        accepting brings the ghost in.
        """
        dag_room_id = self.dag.make_room(self.alice, name={"name": "Alice's"}, topic={"topic": "T"})
        self.dag.member(dag_room_id, self.alice, self.dave, "invite")
        self.dag.join(dag_room_id, self.dave, displayname="Dave")
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite", reason="come")
        self.settle()
        room_id = self.lm_of(dag_room_id)
        [invite] = result_of(self.north.database.read(lambda tx: self.north.invites.for_user(tx, self.bob)))
        self.assertEqual((invite.room_id, invite.hub_server), (room_id, US))
        shown = {event["type"]: event["content"].get("name") for event in invite.stripped_state}
        self.assertEqual(shown["m.room.name"], "Alice's")
        self.do(self.north.floor.local_users.join(self.bob, room_id, [], None))
        self.assertEqual(self.lm_members(self.north, room_id), {self.alice, self.bob, self.dave})
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.name"), {"name": "Alice's"})
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.join_rules"), {"join_rule": "invite"})
        self.assertEqual(
            self.lm_state(self.north, room_id, "m.room.member", self.dave),
            {"membership": "join", "displayname": "Dave"},
        )
        self.assertEqual(self.dag.members(dag_room_id), {self.alice, self.dave, self.bobs_ghost})
        self.assert_agree(room_id)

    def test_talking(self) -> None:
        """Messages of both sides, once, in one order."""
        room_id, dag_room_id = self.opened_room()
        self.dag.say(dag_room_id, self.alice, "one")
        self.settle()
        self.north.send(room_id, self.bob, "two")
        self.settle()
        self.dag.say(dag_room_id, self.alice, "three")
        self.settle()
        for bodies in (self.dag.bodies(dag_room_id), self.north.bodies(room_id), self.us.bodies(room_id)):
            self.assertEqual(bodies, ["one", "two", "three"])
        self.assert_agree(room_id)

    def test_what_was_said_before(self) -> None:
        """What was said before the guest was invited is not carried over; what was said after it is."""
        dag_room_id = self.dag.make_room(self.alice)
        self.dag.say(dag_room_id, self.alice, "before")
        self.dag.advanced = lambda: None
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
        self.dag.say(dag_room_id, self.alice, "after")
        self.us.mirrors.stream_advanced()
        self.settle()
        room_id = self.lm_of(dag_room_id)
        self.assertEqual(self.us.bodies(room_id), ["after"])

    def test_users_of_other_dag_servers(self) -> None:
        """They are members of the LM room under names of ours; what they say and do is carried over; so is what is done
        to them.
        """
        dag_room_id = self.dag.make_room(self.alice, public=True)
        self.dag.join(dag_room_id, ERIN, displayname="Erin")
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
        self.settle()
        room_id = self.lm_of(dag_room_id)
        self.do(self.north.floor.local_users.join(self.bob, room_id, [], None))
        self.dag.say(dag_room_id, ERIN, "hello")
        self.settle()
        self.assertIn(ERINS_GHOST, self.lm_members(self.north, room_id))
        self.assertEqual(self.lm_last(self.north, room_id).sender, ERINS_GHOST)
        levels = {"users": {self.bobs_ghost: 60, self.dag.bot: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.alice, "m.room.power_levels", levels, "")
        self.settle()
        self.do(self.north.floor.local_users.membership(room_id, self.bob, ERINS_GHOST, "ban", "rude"))
        banned = self.dag.current(dag_room_id)["m.room.member", ERIN]
        self.assertEqual((banned.sender, banned.content["reason"]), (self.bobs_ghost, "rude"))
        self.assert_agree(room_id)

    def test_an_operator_opens_a_room(self) -> None:
        """The same by a command; a second time gives the same room."""
        dag_room_id = self.dag.make_room(self.alice, name={"name": "x"})
        room_id = self.do(self.us.mirrors.open_room(dag_room_id, self.alice, [self.bob]))
        self.assertEqual(self.lm_members(self.us, room_id, "invite"), {self.bob})
        self.assertEqual(self.dag.members(dag_room_id, "invite"), {self.bobs_ghost})
        again = self.do(self.us.mirrors.open_room(dag_room_id, self.alice, [self.carol]))
        self.assertEqual(again, room_id)
        self.do(self.north.floor.local_users.join(self.bob, room_id, [], None))
        self.do(self.south.floor.local_users.join(self.carol, room_id, [], None))
        self.assertEqual(self.dag.members(dag_room_id), {self.alice, self.bobs_ghost, self.carols_ghost})
        self.assert_agree(room_id)

    def test_who_may_open_a_room(self) -> None:
        """Only somebody who is in it; an unknown room cannot be opened."""
        dag_room_id = self.dag.make_room(self.alice)
        for room_id, opener in ((dag_room_id, self.dave), ("!unknown", self.alice)):
            opening = Deferred.fromCoroutine(self.us.mirrors.open_room(room_id, opener))
            self.settle()
            self.failureResultOf(opening, DagRefused)
        self.assertEqual(done(self.us.mirrors.statuses()), [])

    def test_an_old_room_s_members(self) -> None:
        """Banned and invited users keep their memberships; a creator who left is not a member; names that the LM side
        cannot spell are left out.
        """
        dag_room_id = self.dag.make_room(self.dave, public=True)
        old = self.dag.user("Old")
        for user_id in (self.alice, old, ERIN):
            self.dag.join(dag_room_id, user_id)
        levels = {"users": {self.alice: 100}, "invite": 0}
        if not self.creators_rule:
            levels = {"users": {self.alice: 100, self.dave: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.dave, "m.room.power_levels", levels, "")
        self.dag.member(dag_room_id, self.dave, ERIN, "ban")
        self.dag.member(dag_room_id, self.dave, "@frank:dag.example", "invite")
        self.dag.member(dag_room_id, self.dave, self.dave, "leave")
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
        self.settle()
        room_id = self.lm_of(dag_room_id)
        self.assertEqual(self.lm_members(self.us, room_id), {self.alice})
        self.assertEqual(self.lm_members(self.us, room_id, "ban"), {ERINS_GHOST})
        self.assertIn(f"@dag.frank=3adag.example:{US}", self.lm_members(self.us, room_id, "invite"))
        self.assert_agree(room_id)

    def test_restricted_rooms(self) -> None:
        """Whom the DAG room lets in by a rule that the LM room does not know is invited there first."""
        room_id, dag_room_id = self.opened_room(public=True)
        self.dag.append(dag_room_id, self.alice, "m.room.join_rules", {"join_rule": "restricted"}, "")
        self.settle()
        self.assertEqual(self.lm_state(self.us, room_id, "m.room.join_rules"), {"join_rule": "invite"})
        # The fake's rules know no "restricted" either: the user was let in by somebody else's server.
        self.dag.append(dag_room_id, self.alice, "m.room.join_rules", {"join_rule": "public"}, "", hidden=True)
        self.dag.join(dag_room_id, ERIN)
        self.dag.append(dag_room_id, self.alice, "m.room.join_rules", {"join_rule": "restricted"}, "", hidden=True)
        self.settle()
        self.assertIn(ERINS_GHOST, self.lm_members(self.north, room_id))
        self.assertIn(ERIN, self.dag.members(dag_room_id))


class EncryptionTests(MirrorTestCase):
    def test_an_encrypted_room_is_not_opened(self) -> None:
        """The guest declines, and says why."""
        dag_room_id = self.dag.make_room(self.alice, encryption={"algorithm": "m.megolm.v1.aes-sha2"})
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
        self.settle()
        member = self.dag.current(dag_room_id)["m.room.member", self.bobs_ghost]
        self.assertEqual(member.content["membership"], "leave")
        self.assertIn("encrypted", member.content["reason"])
        self.assertIs(done(self.us.mirrors.statuses())[0].stage, Stage.STOPPED)
        opening = Deferred.fromCoroutine(self.us.mirrors.open_room(dag_room_id, self.alice))
        self.failureResultOf(opening, DagRefused)

    def test_turned_on_in_the_dag_room(self) -> None:
        """The mirror stops: the bot says so, our users leave the LM room with the reason, nothing more is carried
        over.
        """
        room_id, dag_room_id = self.opened_room()
        self.dag.append(dag_room_id, self.alice, "m.room.encryption", {"algorithm": "x"}, "")
        self.settle()
        self.assertIn("encrypted", self.dag.bodies(dag_room_id)[-1])
        left = self.lm_state(self.north, room_id, "m.room.member", self.alice) or {}
        self.assertEqual(left["membership"], "leave")
        self.assertIn("encrypted", left["reason"])
        self.dag.say(dag_room_id, self.alice, "secret")
        self.north.send(room_id, self.bob, "anybody?")
        self.settle()
        self.assertNotIn("secret", self.north.bodies(room_id))
        self.assertNotIn("anybody?", self.dag.bodies(dag_room_id))
        [status] = done(self.us.mirrors.statuses())
        self.assertIs(status.stage, Stage.STOPPED)

    def test_turned_on_in_the_lm_room(self) -> None:
        """Likewise the other way."""
        room_id, dag_room_id = self.invited_room()
        self.lm_send(self.north, room_id, self.bob, "m.room.encryption", {"algorithm": "m.mls.v1"}, "")
        self.assertIn("encrypted", self.dag.bodies(dag_room_id)[-1])
        self.assertEqual(self.lm_members(self.north, room_id), {self.bob})
        self.assertNotIn(("m.room.encryption", ""), self.dag.current(dag_room_id))

    def test_an_encrypted_lm_room(self) -> None:
        """A user who accepts an invite to an encrypted LM room is shown out again, and told why."""
        room_id = self.north.create_room(self.bob)
        self.lm_send(self.north, room_id, self.bob, "m.room.encryption", {"algorithm": "m.mls.v1"}, "")
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        dag_room_id = self.mirror_of(room_id)
        self.dag.join(dag_room_id, self.alice)
        self.settle()
        self.assertEqual(self.lm_members(self.north, room_id), {self.bob})
        member = self.dag.current(dag_room_id)["m.room.member", self.alice]
        self.assertEqual(member.content["membership"], "leave")
        self.assertIn("encrypted", member.content["reason"])
        # A second invite is declined at once.
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.dave, None))
        self.assertEqual((self.lm_state(self.north, room_id, "m.room.member", self.dave) or {})["membership"], "leave")
        self.assertIn("encrypted", self.dag.told[-1][1])


class OldVersionTests(OpeningTests):
    """The same with rooms of before version 12, whose creators are listed among the power levels."""

    creators_rule = False
