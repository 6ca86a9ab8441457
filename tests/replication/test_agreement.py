"""Both sides say the same in the end: after races, after refusals, after state resolution has changed its mind."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.replication.harness import MirrorTestCase
from tests.rooms.network import done, result_of

ERIN = "@erin:dag.example"


class AgreementTests(MirrorTestCase):
    def topic(self, dag_room_id: str) -> str:
        return str(self.dag.current(dag_room_id)["m.room.topic", ""].content["topic"])

    def test_a_race(self) -> None:
        """State that both sides changed at once: the LM room's order decides, in every room."""
        for index, first in enumerate(("lm", "dag")):
            room_id, dag_room_id = self.invited_room(power_level_content_override={"state_default": 0})
            self.network.unreachable.add(self.us.name)
            if first == "lm":
                self.lm_race(room_id, index)
                self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": f"alice{index}"}, "")
            else:
                self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": f"alice{index}"}, "")
                self.lm_race(room_id, index)
            self.network.unreachable.clear()
            self.north.delivery.destinations.add(self.us.name)
            self.pass_time(5)
            theirs = self.lm_state(self.north, room_id, "m.room.topic")
            self.assertEqual(theirs, {"topic": self.topic(dag_room_id)})
            self.assert_agree(room_id)

    def lm_race(self, room_id: str, index: int) -> None:
        content = {"topic": f"bob{index}"}
        sending = self.north.floor.local_users.send(room_id, self.bob, "m.room.topic", content, state_key="")
        result_of(Deferred.fromCoroutine(sending))

    def test_a_race_at_the_hub(self) -> None:
        """As hub: a change from the LM side that reaches the DAG side after one of the DAG side, and the other way."""
        room_id, dag_room_id = self.opened_room()
        levels = {"users": {self.bobs_ghost: 100, self.dag.bot: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.alice, "m.room.power_levels", levels, "")
        self.settle()
        advanced, self.dag.advanced = self.dag.advanced, lambda: None
        self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": "alice"}, "")
        self.lm_send(self.north, room_id, self.bob, "m.room.topic", {"topic": "bob"}, "")
        self.dag.advanced = advanced
        self.us.mirrors.stream_advanced()
        self.settle()
        # Bob's came first into the LM room's order, Alice's into the DAG room's.
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.topic"), {"topic": "alice"})
        self.assertEqual(self.topic(dag_room_id), "alice")
        self.assert_agree(room_id)

    def alice_has_power(self, dag_room_id: str) -> None:
        """On the DAG side only, and unnoticed until later."""
        self.dag.advanced = lambda: None
        self.dag.append(dag_room_id, self.dag.bot, "m.room.power_levels", {"users": {self.alice: 100}}, "")

    def test_refused_state(self) -> None:
        """State that the LM room refuses is put back on the DAG side, power levels too."""
        room_id, dag_room_id = self.invited_room()
        advanced = self.dag.advanced
        self.alice_has_power(dag_room_id)
        self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": "mine"}, "")
        self.dag.advanced = advanced
        advanced()
        self.settle()
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.topic"), {"topic": "Things"})
        self.assertEqual(self.topic(dag_room_id), "Things")
        self.assert_agree(room_id)

    def test_state_that_the_lm_room_never_had(self) -> None:
        """Where there is nothing to put back, refused state is emptied."""
        _, dag_room_id = self.invited_room()
        advanced = self.dag.advanced
        self.alice_has_power(dag_room_id)
        self.dag.append(dag_room_id, self.alice, "m.room.avatar", {"url": "mxc://a/b"}, "")
        self.dag.advanced = advanced
        advanced()
        self.settle()
        self.assertIsNone(self.dag.current(dag_room_id)["m.room.avatar", ""].content.get("url"))

    def test_a_member_whom_the_dag_side_threw_out(self) -> None:
        """A ghost that is in the LM room is brought back; nobody on the DAG side may throw out who may stay."""
        room_id, dag_room_id = self.invited_room()
        self.dag.member(dag_room_id, self.dag.bot, self.bobs_ghost, "ban")
        self.settle()
        self.north.send(room_id, self.bob, "still here")
        self.settle()
        self.assertEqual(self.dag.bodies(dag_room_id), ["still here"])
        self.assertIn(self.bobs_ghost, self.dag.members(dag_room_id))
        self.assert_agree(room_id)

    def test_state_resolution_undoes_something(self) -> None:
        """A fork brings back an older topic: what was linearized already is corrected, and nothing is taken out of the
        log.
        """
        room_id, dag_room_id = self.opened_room(public=True, topic={"topic": "old"})
        self.dag.join(dag_room_id, ERIN)
        levels: dict[str, Any] = {"users": {ERIN: 50, self.dag.bot: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.alice, "m.room.power_levels", levels, "")
        fork = sorted(self.dag.rooms[dag_room_id].extremities)
        self.settle()
        self.dag.append(dag_room_id, ERIN, "m.room.topic", {"topic": "erin's"}, "")
        self.settle()
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.topic"), {"topic": "erin's"})
        # Alice's server had not seen it. She is stronger, so that the resolved state is hers, although it was sent
        # first.
        before = [one.event_id for one in self.us.log(room_id)]
        self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": "alice's"}, "", prev=fork, ts=5)
        self.settle()
        self.assertEqual(self.topic(dag_room_id), "alice's")
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.topic"), {"topic": "alice's"})
        self.assertEqual([one.event_id for one in self.us.log(room_id)][: len(before)], before)
        self.assert_agree(room_id)

    def test_a_weaker_fork(self) -> None:
        """A fork whose state loses is linearized like everything, and then undone by a correction."""
        room_id, dag_room_id = self.opened_room(public=True, topic={"topic": "old"})
        self.dag.join(dag_room_id, ERIN)
        levels: dict[str, Any] = {"users": {ERIN: 50, self.dag.bot: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.alice, "m.room.power_levels", levels, "")
        fork = sorted(self.dag.rooms[dag_room_id].extremities)
        self.dag.append(dag_room_id, self.alice, "m.room.topic", {"topic": "alice's"}, "")
        self.settle()
        self.dag.append(dag_room_id, ERIN, "m.room.topic", {"topic": "erin's"}, "", prev=fork)
        self.settle()
        self.assertEqual(self.topic(dag_room_id), "alice's")
        self.assertEqual(self.lm_state(self.north, room_id, "m.room.topic"), {"topic": "alice's"})
        self.assert_agree(room_id)

    def test_corrections_come_to_an_end(self) -> None:
        """What cannot be put right is tried once, and named by the comparison; it is put right when it can be."""
        room_id, dag_room_id = self.invited_room()
        self.dag.refused_types.add("m.room.topic")
        self.lm_send(self.north, room_id, self.bob, "m.room.topic", {"topic": "bob's"}, "")
        writes = self.dag.writes
        for _ in range(3):
            self.dag.append(dag_room_id, self.dag.bot, "m.room.topic", {"topic": "Things"}, "")
            self.settle()
        self.assertLess(self.dag.writes, writes + 5)
        [difference] = self.compare(room_id).differences
        self.assertEqual(
            (difference.what, difference.lm, difference.dag),
            ("m.room.topic", {"topic": "bob's"}, {"topic": "Things"}),
        )
        self.assertEqual(done(self.us.mirrors.statuses())[0].lost, {"dag_refused": 1})
        self.dag.refused_types.clear()
        self.us.die_and_restart()
        self.settle()
        self.assert_agree(room_id)

    def test_many_servers_at_once(self) -> None:
        """Forks by other DAG servers and traffic of the LM side at the same time: one room in the end, nothing
        twice.
        """
        room_id, dag_room_id = self.opened_room(public=True)
        others = [f"@u{n}:dag{n}.example" for n in range(4)]
        for user_id in others:
            self.dag.join(dag_room_id, user_id)
        self.settle()
        for turn in range(5):
            fork = sorted(self.dag.rooms[dag_room_id].extremities)
            for user_id in others:
                self.dag.say(dag_room_id, user_id, f"{user_id} {turn}", prev=fork, ts=1000 + turn)
            self.north.send(room_id, self.bob, f"bob {turn}")
            self.settle()
        said = [f"{user_id} {turn}" for turn in range(5) for user_id in others] + [f"bob {turn}" for turn in range(5)]
        self.assertEqual(sorted(self.north.bodies(room_id)), sorted(said))
        self.assertEqual(sorted(self.dag.bodies(dag_room_id)), sorted(said))
        self.assertEqual(self.north.bodies(room_id), self.us.bodies(room_id))
        self.assert_agree(room_id)
