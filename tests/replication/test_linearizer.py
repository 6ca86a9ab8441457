"""The linearizer over random DAGs: append-only, topological, complete, deterministic."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.replication.linearizer import Node, linearize

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def dags(draw: st.DrawFn) -> list[Node]:
    """A DAG, each event after its predecessors; with forks, merges, gaps and equal timestamps."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(0, 14))):
        earlier = [node.event_id for node in nodes]
        chosen = draw(st.lists(st.sampled_from([*earlier, "$gap"]), max_size=3, unique=True))
        # The ID says nothing about the place.
        event_id = f"${draw(st.integers(0, 9))}-{number}"
        nodes.append(Node(event_id, tuple(chosen), draw(st.integers(0, 4))))
    return nodes


@st.composite
def arrivals(draw: st.DrawFn) -> list[list[Node]]:
    """A DAG that arrives in groups, in any order, with repetitions."""
    nodes = draw(dags())
    order = draw(st.permutations(nodes))
    groups: list[list[Node]] = []
    while order:
        size = draw(st.integers(1, len(order)))
        groups.append(list(order[:size]))
        order = order[size:]
    if groups:
        groups.append(draw(st.lists(st.sampled_from(nodes), max_size=3)))
    return groups


def run(groups: list[list[Node]]) -> list[tuple[str, int]]:
    """The whole list that comes of it, with depths."""
    out: list[tuple[str, int]] = []
    for group in groups:
        known = dict(out)
        placed = linearize(group, known, max(known.values(), default=0))
        out += [(one.event_id, one.depth) for one in placed]
    return out


def ids(groups: list[list[Node]]) -> list[str]:
    return [event_id for event_id, _ in run(groups)]


def node(event_id: str, *prev_events: str, ts: int = 0) -> Node:
    return Node(event_id, prev_events, ts)


class LinearizerTests(SynchronousTestCase):
    @UNHURRIED
    @given(arrivals())
    def test_every_event_once(self, groups: list[list[Node]]) -> None:
        """Everything that arrived is given out, once."""
        given_out = ids(groups)
        self.assertEqual(sorted(given_out), sorted({one.event_id for group in groups for one in group}))

    @UNHURRIED
    @given(arrivals())
    def test_append_only(self, groups: list[list[Node]]) -> None:
        """What arrives later never comes before what was given out."""
        for count in range(len(groups)):
            before = ids(groups[:count])
            self.assertEqual(ids(groups)[: len(before)], before)

    @UNHURRIED
    @given(arrivals())
    def test_after_its_predecessors(self, groups: list[list[Node]]) -> None:
        """An event comes after each predecessor that arrived in its own group or in an earlier one."""
        arrived: set[str] = set()
        places = {event_id: place for place, event_id in enumerate(ids(groups))}
        for group in groups:
            new = {one.event_id for one in group} - arrived
            arrived |= new
            for one in group:
                for prev in one.prev_events:
                    if one.event_id in new and prev in arrived:
                        self.assertLess(places[prev], places[one.event_id])

    @UNHURRIED
    @given(arrivals(), st.randoms())
    def test_deterministic(self, groups: list[list[Node]], rng: Random) -> None:
        """The order within a group does not matter."""
        shuffled = [rng.sample(group, len(group)) for group in groups]
        self.assertEqual(run(shuffled), run(groups))

    @UNHURRIED
    @given(dags())
    def test_depth_is_the_longest_path(self, nodes: list[Node]) -> None:
        """In one group, the order is by longest path, timestamp and event ID."""
        longest: dict[str, int] = {"$gap": 0}
        for one in nodes:
            longest[one.event_id] = 1 + max((longest[prev] for prev in one.prev_events), default=0)
        expected = sorted(nodes, key=lambda one: (longest[one.event_id], one.origin_server_ts, one.event_id))
        self.assertEqual(ids([nodes]), [one.event_id for one in expected])

    def test_the_proposal_s_example(self) -> None:
        """MSC3995's drawing: A B C E G H is the main line, D and F are off it; D ties with C, F with E."""
        drawing = [
            node("$A"),
            node("$B", "$A"),
            node("$C", "$B", ts=2),
            node("$D", "$B", ts=1),
            node("$E", "$C", ts=3),
            node("$F", "$D", ts=4),
            node("$G", "$E"),
            node("$H", "$G", "$F"),
        ]
        self.assertEqual(ids([drawing]), ["$A", "$B", "$D", "$C", "$E", "$F", "$G", "$H"])
        self.assertEqual(dict(run([drawing]))["$H"], 6)

    def test_after_a_gap(self) -> None:
        """What follows events that were never received goes on where the list ends."""
        placed = run([[node("$A"), node("$B", "$A")], [node("$X", "$lost"), node("$C", "$B", ts=9)]])
        self.assertEqual(placed[2:], [("$X", 3), ("$C", 3)])

    def test_a_circle(self) -> None:
        """A server that claims the impossible is given an order all the same."""
        self.assertEqual(sorted(ids([[node("$A", "$B"), node("$B", "$A")]])), ["$A", "$B"])
