"""Both sides act at random, the network is cut and heals, the process dies: in the end there is one room."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from lmatrix.replication.interfaces import DagRefused
from tests.replication.harness import MirrorTestCase

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["dag", "dag", "lm", "lm", "cut", "heal", "die", "lost answer", "wait"]),
        st.integers(0, 1),  # who
        st.sampled_from(["message", "message", "topic", "leave", "join", "kick", "levels", "redact"]),
    ),
    min_size=5,
    max_size=25,
)


class TrafficTests(MirrorTestCase):
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a failure is told as it is found: to make it smaller takes too long
    )
    @given(STEPS)
    def test_anything(self, steps: list[tuple[str, int, str]]) -> None:
        """Whatever happens in whatever order, both sides and all servers agree, and nothing was said twice."""
        self.setUp()
        room_id, dag_room_id = self.rooms_with_everybody()
        for number, (what, who, kind) in enumerate(steps):
            # The marks must do, without the DAG server's memory of transactions.
            self.dag.transactions.clear()
            if what == "cut":
                self.network.unreachable.add(self.us.name)
            elif what == "heal":
                self.heal()
            elif what == "die":
                self.us.die_and_restart()
            elif what == "lost answer":
                self.dag.mishaps.append("after")
            elif what == "wait":
                self.settle()
            elif what == "dag":
                with contextlib.suppress(DagRefused):
                    self.on_dag(dag_room_id, number, (self.alice, self.dave)[who], kind)
            else:
                self.on_lm(room_id, number, who, kind)
        self.heal()
        self.pass_time(150)
        self.assert_one_room(room_id, dag_room_id)

    def rooms_with_everybody(self) -> tuple[str, str]:
        room_id, dag_room_id = self.invited_room(power_level_content_override={"state_default": 0, "kick": 0})
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.dave, None))
        self.dag.join(dag_room_id, self.dave)
        self.settle()
        self.south.join(self.carol, room_id, self.north.name)
        self.settle()
        return room_id, dag_room_id

    def heal(self) -> None:
        self.network.unreachable.clear()
        for server in self.network.servers.values():
            server.delivery.destinations.update(name for name in self.network.servers if name != server.name)
            server.delivery.hubs.update(name for name in self.network.servers if name != server.name)
        self.settle()

    def on_dag(self, dag_room_id: str, number: int, sender: str, kind: str) -> None:
        if kind == "topic":
            self.dag.append(dag_room_id, sender, "m.room.topic", {"topic": f"d{number}"}, "")
        elif kind in ("leave", "join"):
            self.dag.member(dag_room_id, sender, sender, kind)
        elif kind == "kick":
            self.dag.member(dag_room_id, sender, self.carols_ghost, "leave")
        elif kind == "redact":
            own = [one for one in self.dag.timeline(dag_room_id) if one.sender == sender]
            if own:
                self.dag.append(dag_room_id, sender, "m.room.redaction", {"redacts": own[-1].event_id})
        elif kind == "message":
            self.dag.say(dag_room_id, sender, f"d{number}")

    def on_lm(self, room_id: str, number: int, who: int, kind: str) -> None:
        server, sender = ((self.north, self.bob), (self.south, self.carol))[who]
        users = server.floor.local_users
        work: Any = None
        if kind == "topic":
            work = users.send(room_id, sender, "m.room.topic", {"topic": f"l{number}"}, state_key="")
        elif kind == "leave" and sender == self.carol:
            work = users.leave(sender, room_id, None)
        elif kind == "join" and sender == self.carol:
            work = users.join(sender, room_id, [self.north.name], None)
        elif kind == "kick":
            work = users.membership(room_id, sender, self.dave, "leave", "out")
        elif kind == "levels":
            levels = dict(self.lm_state(self.north, room_id, "m.room.power_levels") or {})
            levels["users"] = {self.bob: 100, self.alice: number}
            work = users.send(room_id, sender, "m.room.power_levels", levels, state_key="")
        elif kind == "redact":
            own = [pdu for pdu in server.pdus(room_id) if pdu.sender == sender and pdu.type == "m.room.message"]
            work = users.redact(room_id, sender, own[-1].event_id, None) if own else None
        elif kind == "message":
            work = users.send(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": f"l{number}"})
        if work is not None:
            Deferred.fromCoroutine(work).addErrback(lambda _: None)

    def assert_one_room(self, room_id: str, dag_room_id: str) -> None:
        """Both sides agree; what one says, the other says, once."""
        self.assert_agree(room_id)
        in_lm = [body for pdu in self.north.pdus(room_id) if (body := pdu.content.get("body")) is not None]
        on_dag = self.dag.bodies(dag_room_id)
        self.assertEqual(sorted(set(in_lm)), sorted(in_lm))
        self.assertEqual(sorted(set(on_dag)), sorted(on_dag))
        if self.always_there(room_id):
            self.assertEqual(sorted(on_dag), sorted(in_lm))

    def always_there(self, room_id: str) -> bool:
        """Whether somebody of ours was in the LM room all the time: else something was said unheard."""
        ours, joined = {self.alice, self.dave}, set()
        present = False
        for pdu in self.north.pdus(room_id):
            if pdu.type == "m.room.member" and pdu.state_key in ours:
                (joined.add if pdu.content.get("membership") == "join" else joined.discard)(pdu.state_key)
                if present and not joined:
                    return False
                present = present or bool(joined)
        return True
