"""What operators see and do: statuses, metrics, comparison, stopping; and names that must be remembered."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from lmatrix.replication.interfaces import DagRefused, Difference, Stage
from tests.replication.harness import MirrorTestCase
from tests.rooms.network import done


class OperatingTests(MirrorTestCase):
    def value(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        found = self.us.metrics.registry.get_sample_value(f"lmatrix_{name}", labels)
        return 0.0 if found is None else found

    def test_statuses(self) -> None:
        """Each mirror with its stage, its lag in events and time, and what was lost."""
        room_id, dag_room_id = self.invited_room()
        other = self.dag.make_room(self.dave)
        self.dag.member(other, self.dave, self.carols_ghost, "invite")
        self.settle()
        self.network.unreachable.add(self.north.name)
        self.dag.say(dag_room_id, self.alice, "waiting")
        self.dag.say(dag_room_id, self.alice, "too")
        self.pass_time(40)
        first, second = done(self.us.mirrors.statuses())
        self.assertEqual((first.lm_room_id, first.dag_room_id, first.stage), (room_id, dag_room_id, Stage.OPEN))
        self.assertEqual((first.inward_lag, first.outward_lag), (2, 0))
        self.assertGreaterEqual(first.inward_lag_ms, 40_000)
        self.assertEqual((second.dag_room_id, second.stage, second.inward_lag), (other, Stage.OPEN, 0))
        done(self.us.mirrors.measure())
        self.assertEqual(self.value("mirrors", stage="open"), 2)
        self.assertEqual(self.value("mirror_lag_events", direction="inward"), 2)
        self.assertGreaterEqual(self.value("mirror_lag_seconds", direction="inward"), 40)

    def test_lag_outward(self) -> None:
        """While the DAG server is away, what the LM side says waits."""
        room_id, _ = self.invited_room()
        self.dag.unavailable = True
        for n in range(3):
            self.north.send(room_id, self.bob, f"m{n}")
        self.settle()
        [status] = done(self.us.mirrors.statuses())
        self.assertEqual(status.outward_lag, 3)

    def test_counters(self) -> None:
        """Events carried each way, and losses by cause; the measurement repeats by itself."""
        room_id, dag_room_id = self.invited_room()
        before = self.value("mirror_events_total", direction="outward")
        self.north.send(room_id, self.bob, "one")
        self.settle()
        self.dag.say(dag_room_id, self.alice, "two")
        self.dag.append(dag_room_id, self.alice, "m.room.encrypted", {})
        self.pass_time(31)
        self.assertEqual(self.value("mirror_events_total", direction="outward"), before + 1)
        self.assertEqual(self.value("mirror_events_total", direction="inward"), 1)
        self.assertEqual(self.value("mirror_losses_total", direction="inward", cause="encryption"), 1)
        self.assertEqual(self.value("mirrors", stage="open"), 1)

    def test_comparison(self) -> None:
        """Differences are named as the LM side would say them; while something is on its way, that is said."""
        room_id, dag_room_id = self.invited_room()
        self.assertTrue(self.compare(room_id).settled)
        self.dag.advanced = lambda: None
        self.dag.append(dag_room_id, self.dag.bot, "m.room.topic", {"topic": "Other"}, "")
        self.dag.member(dag_room_id, self.dag.bot, self.bobs_ghost, "ban")
        expected = [
            Difference(f"m.room.member {self.bob}", {"membership": "join"}, {"membership": "ban"}),
            Difference("m.room.topic", {"topic": "Things"}, {"topic": "Other"}),
        ]
        self.assertEqual(list(self.compare(dag_room_id).differences), expected)
        unknown = Deferred.fromCoroutine(self.us.mirrors.compare("!unknown"))
        self.failureResultOf(unknown, DagRefused)

    def test_stopping_a_mirror(self) -> None:
        """An operator ends a mirror: both sides are told; a second invite is declined, with the reason."""
        room_id, dag_room_id = self.invited_room()
        self.do(self.us.mirrors.stop_mirror(dag_room_id, "Enough."))
        self.assertIn("Enough.", self.dag.bodies(dag_room_id)[-1])
        self.assertEqual(self.lm_members(self.north, room_id), {self.bob})
        [status] = done(self.us.mirrors.statuses())
        self.assertEqual((status.stage, status.reason), (Stage.STOPPED, "Enough."))
        self.us.die_and_restart()
        self.settle()
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.dave, None))
        self.settle()
        declined = self.lm_state(self.north, room_id, "m.room.member", self.dave) or {}
        self.assertEqual((declined["membership"], declined["reason"]), ("leave", "Enough."))
        stopping = Deferred.fromCoroutine(self.us.mirrors.stop_mirror("!unknown", ""))
        self.failureResultOf(stopping, DagRefused)

    def test_names_that_must_be_remembered(self) -> None:
        """A user whose name is too long to be spelt has a hashed one, which leads back also after a restart."""
        long = self.north.user("=" * 120)
        room_id, dag_room_id = self.invited_room()
        self.do(self.north.floor.local_users.join(long, room_id, [], None))
        [ghost] = self.dag.members(dag_room_id) - {self.alice, self.bobs_ghost}
        self.assertTrue(ghost.startswith("@lm.+"), ghost)
        self.us.die_and_restart()
        self.settle()
        levels = dict(self.lm_state(self.north, room_id, "m.room.power_levels") or {})
        levels["users"] = {**levels["users"], self.alice: 60}
        self.lm_send(self.north, room_id, self.bob, "m.room.power_levels", levels, "")
        self.dag.member(dag_room_id, self.alice, ghost, "leave", reason="bye")
        self.settle()
        self.assertNotIn(long, self.lm_members(self.north, room_id))
        self.assert_agree(room_id)
