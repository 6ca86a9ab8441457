"""The linearizer: from any DAG to an append-only list.

Owns: :func:`linearize`, which puts newly arrived events in the order in which they are handed to the linearized room.

Invariants: what was given out stays where it is, and nothing is put before it; an event comes after each of its
predecessors that arrived with it or earlier; nothing is given out twice; the order depends on what arrived (as a set)
and on what was known, and on nothing else. Whether the linear room *allows* an event at its place is the room's own
decision: the auth rules are asked for each, so that any grouping of arrivals makes a legal room.

Among the new events the order is by depth, then by ``origin_server_ts``, then by event ID, the lowest first. The depth
of an event is the length of the longest path to it: one more than the greatest depth of its predecessors. A predecessor
that nobody knows (from before the mirror, or never received) counts as the deepest event given out so far, so that what
follows a gap goes on where the list ends.

Source: MSC3995 "Topological ordering / linearization".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import attrs


@attrs.frozen(slots=True)
class Node:
    """As much of an event as its place depends on.

    Attributes:
        prev_events: event IDs.
        origin_server_ts: milliseconds since the epoch.
    """

    event_id: str
    prev_events: tuple[str, ...]
    origin_server_ts: int


@attrs.frozen(slots=True)
class Placed:
    """One item of the list.

    Attributes:
        depth: to be remembered, for events that will name this one as their predecessor.
    """

    event_id: str
    depth: int


def linearize(arrived: Iterable[Node], known: Mapping[str, int], horizon: int) -> list[Placed]:
    """The next items of the list.

    Args:
        arrived: events that arrived together, in any order; those that are in ``known`` are ignored.
        known: the depths of events given out before; at least of those that are in ``arrived`` or are predecessors of
            something in it.
        horizon: the greatest depth given out so far, 0 when nothing was.
    """
    nodes = {node.event_id: node for node in arrived if node.event_id not in known}
    depths = _depths(nodes, known, horizon)
    ordered = sorted(nodes.values(), key=lambda node: (depths[node.event_id], node.origin_server_ts, node.event_id))
    return [Placed(node.event_id, depths[node.event_id]) for node in ordered]


def _depths(nodes: Mapping[str, Node], known: Mapping[str, int], horizon: int) -> dict[str, int]:
    depths: dict[str, int] = {}
    waits_for: dict[str, set[str]] = {}
    followers: dict[str, list[str]] = {}
    for node in nodes.values():
        waits_for[node.event_id] = parents = {prev for prev in node.prev_events if prev in nodes}
        for parent in parents:
            followers.setdefault(parent, []).append(node.event_id)
    ready = deque(event_id for event_id, parents in waits_for.items() if not parents)
    while ready:
        event_id = ready.popleft()
        depths[event_id] = _depth(nodes[event_id], depths, known, horizon)
        for follower in followers.get(event_id, ()):
            waits_for[follower].discard(event_id)
            if not waits_for[follower]:
                ready.append(follower)
    # Event IDs are hashes over the predecessors, so that a circle cannot be; a server that lies does not stop us.
    for event_id in sorted(nodes.keys() - depths.keys()):
        depths[event_id] = _depth(nodes[event_id], depths, known, horizon)
    return depths


def _depth(node: Node, depths: Mapping[str, int], known: Mapping[str, int], horizon: int) -> int:
    return 1 + max(
        (depths.get(prev, known.get(prev, horizon)) for prev in node.prev_events),
        default=0,
    )
