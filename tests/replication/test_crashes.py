"""A death at any moment loses nothing and repeats nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tests.replication.harness import US, MirrorTestCase
from tests.rooms.network import done


class CrashTests(MirrorTestCase):
    """Each scenario is carried out once to count its steps, and then again and again, dying at each of them."""

    def at_every_step(
        self, prepare: Callable[[], Any], happen: Callable[[Any], None], check: Callable[[Any], None]
    ) -> None:
        """Let something happen, with a death before and after each commit and each write on the DAG side.

        Args:
            prepare: the beginning, without a death; what it returns is given to the others.
            happen: starts what happens; it must not wait for anything.
            check: how it must be in the end.
        """
        context = prepare()
        before = self.us.fuse.steps
        happen(context)
        self.settle()
        check(context)
        steps = self.us.fuse.steps - before
        self.assertGreater(steps, 1)
        # To die before a step is to die after the one before it.
        for at in range(steps + 1):
            self.setUp()
            context = prepare()
            fuse = self.us.fuse
            fuse.at, fuse.after = fuse.steps + max(at, 1), at > 0
            happen(context)
            self.settle()
            self.us.die_and_restart()
            self.settle()
            self.settle()
            try:
                check(context)
            except Exception as error:
                raise AssertionError(f"died after step {at} of {steps}: {error}") from error

    def test_messages(self) -> None:
        """Messages both ways at a participant: each is there once, on both sides."""

        def happen(rooms: tuple[str, str]) -> None:
            room_id, dag_room_id = rooms
            self.dag.say(dag_room_id, self.alice, "from alice")
            self.north.send(room_id, self.bob, "from bob")
            self.dag.append(dag_room_id, self.alice, "m.room.message", {"msgtype": "m.text", "body": "more"})

        def check(rooms: tuple[str, str]) -> None:
            room_id, dag_room_id = rooms
            said = ["from alice", "from bob", "more"]
            self.assertEqual(sorted(self.dag.bodies(dag_room_id)), said)
            self.assertEqual(sorted(self.north.bodies(room_id)), said)
            self.assert_agree(room_id)

        self.at_every_step(self.invited_room, happen, check)

    def test_messages_at_the_hub(self) -> None:
        """Likewise as hub."""

        def happen(rooms: tuple[str, str]) -> None:
            room_id, dag_room_id = rooms
            self.dag.say(dag_room_id, self.alice, "from alice")
            self.north.send(room_id, self.bob, "from bob")
            self.dag.append(dag_room_id, self.alice, "m.room.name", {"name": "New"}, "")

        def check(rooms: tuple[str, str]) -> None:
            room_id, dag_room_id = rooms
            for bodies in (self.dag.bodies(dag_room_id), self.north.bodies(room_id)):
                self.assertEqual(sorted(bodies), ["from alice", "from bob"])
            self.assertEqual(self.lm_state(self.north, room_id, "m.room.name"), {"name": "New"})
            self.assert_agree(room_id)

        self.at_every_step(self.opened_room, happen, check)

    def test_accepting_an_invite(self) -> None:
        """From the invite to the first message."""

        def prepare() -> str:
            return self.north.create_room(self.bob, name="Bob's")

        def happen(room_id: str) -> None:
            Deferred.fromCoroutine(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None)).addErrback(
                lambda _: None
            )
            self.settle()

        def check(room_id: str) -> None:
            if self.alice not in self.lm_members(self.north, room_id, "invite"):
                # Our server died before it could answer for the invite: the inviter was told, and does it again.
                happen(room_id)
            rooms = [one for one in self.dag.rooms if self.alice in self.dag.members(one, "invite")]
            self.assertEqual(len(rooms), 1)
            self.dag.join(rooms[0], self.alice)
            self.settle()
            self.north.send(room_id, self.bob, "hello")
            self.settle()
            self.assertEqual(self.dag.bodies(rooms[0]), ["hello"])
            self.assert_agree(room_id)

        self.at_every_step(prepare, happen, check)

    def test_joining(self) -> None:
        """From the user's acceptance to the whole state of the LM room."""

        def prepare() -> str:
            room_id = self.north.create_room(self.bob, name="Bob's")
            self.south.join(self.carol, room_id, self.north.name)
            self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
            return room_id

        def happen(room_id: str) -> None:
            self.dag.join(self.mirror_of(room_id), self.alice)

        def check(room_id: str) -> None:
            dag_room_id = self.mirror_of(room_id)
            self.assertEqual(self.dag.members(dag_room_id), {self.alice, self.bobs_ghost, self.carols_ghost})
            self.assertEqual(self.lm_members(self.north, room_id), {self.alice, self.bob, self.carol})
            joins = [one for one in self.north.pdus(room_id) if one.sender == self.alice]
            # The hub has a join as soon as it has answered; were we to die before that is on our disk, we join again.
            self.assertLessEqual(len(joins), 2)
            self.assert_agree(room_id)

        self.at_every_step(prepare, happen, check)

    def test_opening(self) -> None:
        """From the invite of a guest to the guest's acceptance."""

        def prepare() -> str:
            return self.dag.make_room(self.alice, name={"name": "Alice's"})

        def happen(dag_room_id: str) -> None:
            self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
            self.dag.say(dag_room_id, self.alice, "welcome")

        def check(dag_room_id: str) -> None:
            room_id = self.lm_of(dag_room_id)
            self.do(self.north.floor.local_users.join(self.bob, room_id, [], None))
            self.assertEqual(self.us.bodies(room_id), ["welcome"])
            self.assertEqual(self.dag.members(dag_room_id), {self.alice, self.bobs_ghost})
            self.assertEqual(len([one for one in self.us.pdus(room_id) if one.type == "m.room.create"]), 1)
            self.assert_agree(room_id)

        self.at_every_step(prepare, happen, check)

    def test_refusals(self) -> None:
        """What the LM side refuses is undone, also across a death."""

        def prepare() -> tuple[str, str]:
            room_id, dag_room_id = self.invited_room()
            self.dag.advanced = lambda: None
            self.dag.append(dag_room_id, self.dag.bot, "m.room.power_levels", {"users": {self.alice: 100}}, "")
            return room_id, dag_room_id

        def happen(rooms: tuple[str, str]) -> None:
            self.dag.append(rooms[1], self.alice, "m.room.topic", {"topic": "mine"}, "")
            self.dag.member(rooms[1], self.alice, self.bobs_ghost, "ban")
            self.us.mirrors.stream_advanced()

        def check(rooms: tuple[str, str]) -> None:
            self.assertEqual(self.dag.members(rooms[1]), {self.alice, self.bobs_ghost})
            self.assertEqual(self.dag.current(rooms[1])["m.room.topic", ""].content["topic"], "Things")
            self.assert_agree(rooms[0])

        self.at_every_step(prepare, happen, check)


class OutageTests(MirrorTestCase):
    def test_lost_answers(self) -> None:
        """A write that the DAG server answers with a failure, whether it took place or not, is in the room once."""
        room_id, dag_room_id = self.invited_room()
        self.dag.mishaps = ["before", "after", "", "after", "before"]
        # Without the DAG server's own memory of transactions: the marks alone must do.
        for n in range(5):
            self.north.send(room_id, self.bob, f"m{n}")
            self.network.settle()
            self.dag.transactions.clear()
        self.pass_time(120)
        self.assertEqual(self.dag.bodies(dag_room_id), [f"m{n}" for n in range(5)])
        self.assert_agree(room_id)

    def test_hours_of_absence(self) -> None:
        """Either side goes on while we are away; afterwards everything is there, in each side's order."""
        room_id, dag_room_id = self.invited_room()
        self.dag.unavailable = True
        self.network.unreachable.add(US)
        self.us.fuse.dead.forever()
        for n in range(300):
            self.dag.advanced = lambda: None
            self.dag.say(dag_room_id, self.alice, f"a{n}")
            self.north.send(room_id, self.bob, f"b{n}")
        self.pass_time(30)
        self.dag.unavailable = False
        self.network.unreachable.clear()
        self.us.die_and_restart()
        self.north.delivery.destinations.add(US)
        self.settle()
        for bodies in (self.dag.bodies(dag_room_id), self.north.bodies(room_id)):
            self.assertEqual([body for body in bodies if body.startswith("a")], [f"a{n}" for n in range(300)])
            self.assertEqual([body for body in bodies if body.startswith("b")], [f"b{n}" for n in range(300)])
        self.assert_agree(room_id)

    def test_a_dag_server_that_is_away(self) -> None:
        """While it cannot be reached nothing is lost, and it is not asked all the time."""
        room_id, dag_room_id = self.invited_room()
        self.dag.unavailable = True
        self.north.send(room_id, self.bob, "hello")
        self.pass_time(60)
        self.assertGreater(self.us.mirrors.busy, False)
        self.dag.unavailable = False
        self.pass_time(60)
        self.assertEqual(self.dag.bodies(dag_room_id), ["hello"])
        self.assert_agree(room_id)

    def test_an_event_that_always_fails(self) -> None:
        """One that the DAG server fails at again and again, being there otherwise, is given up, and counted: the others
        go on.
        """
        room_id, dag_room_id = self.invited_room()
        self.dag.mishaps = ["before"] * 12
        self.north.send(room_id, self.bob, "poison")
        self.north.send(room_id, self.bob, "next")
        self.pass_time(600)
        self.assertEqual(self.dag.bodies(dag_room_id), ["next"])
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"dag_failed": 1})
        self.assert_agree(room_id)

    def test_a_hub_that_is_away(self) -> None:
        """What our users say waits, durably, and holds up no other room."""
        room_id, dag_room_id = self.invited_room()
        other_dag_room = self.dag.make_room(self.dave)
        self.dag.member(other_dag_room, self.dave, self.carols_ghost, "invite")
        self.settle()
        other = self.lm_of(other_dag_room)
        self.network.unreachable.add(self.north.name)
        for n in range(3):
            self.dag.say(dag_room_id, self.alice, f"a{n}")
        self.dag.say(other_dag_room, self.dave, "elsewhere")
        self.pass_time(100)
        self.assertEqual(self.us.bodies(other), ["elsewhere"])
        self.us.die_and_restart()
        self.pass_time(10)
        self.network.unreachable.clear()
        self.us.delivery.hubs.add(self.north.name)
        self.pass_time(100)
        self.assertEqual(self.north.bodies(room_id), ["a0", "a1", "a2"])
        self.assert_agree(room_id)

    def test_stopping(self) -> None:
        """After a stop nothing is written any more."""
        room_id, dag_room_id = self.invited_room()
        self.do(self.us.mirrors.stop())
        self.north.send(room_id, self.bob, "hello")
        self.dag.say(dag_room_id, self.alice, "hello")
        self.pass_time(5)
        self.assertEqual(self.dag.bodies(dag_room_id), ["hello"])
        self.assertEqual(self.north.bodies(room_id), ["hello"])
        self.us.die_and_restart()
        self.settle()
        self.assertEqual(len(self.dag.bodies(dag_room_id)), 2)
        self.assert_agree(room_id)
