"""Random DAGs, in any grouping of their arrival: the LM room is legal at each position, and both sides agree."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lmatrix.events.auth_rules import authorise
from lmatrix.events.state import StateEvent, StateMap
from lmatrix.replication.interfaces import DagRefused
from tests.replication.harness import US, MirrorTestCase

USERS = ("@erin:dag.example", "@frank:dag.example", "@gina:third.example", f"@alice:{US}")

KINDS = st.sampled_from(["message", "topic", "name", "kick", "ban", "join", "leave", "levels", "rules"])
STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # who
        KINDS,
        st.integers(0, 3),  # to whom
        st.integers(0, 4),  # how many events back it forks; 0: it does not
        st.integers(0, 50),  # when
        st.booleans(),  # whether what there is arrives now
    ),
    max_size=12,
)


class ForkTests(MirrorTestCase):
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a failure is told as it is found: to make it smaller takes too long
    )
    @given(STEPS)
    def test_any_dag(self, steps: list[tuple[int, str, int, int, int, bool]]) -> None:
        """Whatever other servers' users do, on whichever fork, and whenever it arrives."""
        self.setUp()
        room_id, dag_room_id = self.opened_room(public=True)
        for user_id in USERS[:3]:
            self.dag.join(dag_room_id, user_id)
        levels = {"users": {USERS[0]: 50, USERS[1]: 75, self.dag.bot: 100}, "invite": 0}
        self.dag.append(dag_room_id, self.alice, "m.room.power_levels", levels, "")
        self.settle()
        advanced = self.dag.advanced
        first = len(self.dag.rooms[dag_room_id].order)
        for number, step in enumerate(steps):
            self.dag.advanced = lambda: None
            self.carry_out(dag_room_id, number, step, first)
            self.dag.advanced = advanced
            if step[-1]:
                advanced()
                self.settle()
        advanced()
        self.settle()
        self.pass_time(6)
        self.assert_legal(room_id)
        self.assert_same_messages(room_id, dag_room_id)
        self.assert_agree(room_id)

    def carry_out(self, dag_room_id: str, number: int, step: tuple[int, str, int, int, int, bool], first: int) -> None:
        who, kind, whom, back, when, _ = step
        sender, target, prev = USERS[who], USERS[whom], None
        order = self.dag.rooms[dag_room_id].order
        if back and len(order) - back >= first:
            prev = [order[-back]]
        content: dict[str, Any] = {
            "membership": {"kick": "leave", "ban": "ban", "join": "join", "leave": "leave"}.get(kind)
        }
        event_type, state_key = "m.room.member", target if kind in ("kick", "ban") else sender
        if kind == "message":
            event_type, state_key, content = "m.room.message", None, {"msgtype": "m.text", "body": f"m{number}"}  # type: ignore[assignment]
        elif kind in ("topic", "name"):
            event_type, state_key, content = f"m.room.{kind}", "", {kind: f"{kind}{number}"}
        elif kind == "levels":
            users = {USERS[0]: 10 * whom, USERS[1]: 75, self.dag.bot: 100}
            event_type, state_key, content = "m.room.power_levels", "", {"users": users, "invite": 0}
        elif kind == "rules":
            event_type, state_key, content = "m.room.join_rules", "", {"join_rule": ("public", "invite")[whom % 2]}
        with contextlib.suppress(DagRefused):  # nobody may do that there
            self.dag.append(dag_room_id, sender, event_type, content, state_key, prev=prev, ts=1000 + when)

    def assert_legal(self, room_id: str) -> None:
        """Every event of the LM log is allowed by the state before it, and follows the one before it."""
        state, last = StateMap(), None
        for pdu in self.us.pdus(room_id):
            authorise(pdu, state, prev_events=pdu.prev_events)
            self.assertEqual(list(pdu.prev_events), [last] if last else [])
            if pdu.state_key is not None:
                state.set(StateEvent.from_pdu(pdu))
            last = pdu.event_id

    def assert_same_messages(self, room_id: str, dag_room_id: str) -> None:
        """What the LM side did not refuse is there once; what it did is redacted on the DAG side."""
        bodies = [pdu.content["body"] for pdu in self.us.pdus(room_id) if pdu.type == "m.room.message"]
        self.assertEqual(sorted(bodies), sorted(set(bodies)))
        shown = set(self.dag.bodies(dag_room_id))
        self.assertEqual(shown, set(bodies) & shown)
        self.assertEqual(set(bodies) - shown, set())
