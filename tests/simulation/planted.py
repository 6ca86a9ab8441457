"""Damage done on purpose, so that it can be seen that each kind of violation is found.

Owns: :func:`do_damage`. It reaches into the disk or the memory of a server at the end of a run, when everything is at
rest and nothing has been checked yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from tests.simulation.node import Node
from tests.simulation.workload import Operation, Workload

_NO_EVENT = "$" + "A" * 43


def do_damage(kind: str, nodes: Mapping[str, Node], workload: Workload) -> None:
    """Do damage that is found as a violation of that kind, if the run has what it can be done to.

    Args:
        kind: one of :data:`tests.simulation.plan.PLANTS`.
    """
    for node in nodes.values():
        for operation in workload.operations:
            if operation.state == "done" and operation.token and operation.event_id and _has_it(node, operation):
                globals()[f"_{kind}"](node, operation)
                return


def _sql(node: Node, statement: str, *parameters: Any) -> list[Any]:
    assert node.process is not None
    connection = node.process.disk._writer.connection
    connection.execute("BEGIN")
    rows: list[Any] = connection.execute(statement, parameters).fetchall()
    connection.execute("COMMIT")
    return rows


def _has_it(node: Node, operation: Operation) -> bool:
    """Whether the event is in the middle of this server's log of a room whose hub it is."""
    assert node.process is not None
    loaded = node.process.rooms.rooms._loaded.get(operation.room_id)
    return loaded is not None and loaded.room.is_hub and len(list(_neighbours(node, operation))) == 3


def _neighbours(node: Node, operation: Operation) -> Iterator[tuple[int, int]]:
    """Number and position of the event and those beside it."""
    yield from _sql(
        node,
        "SELECT o.event_nid, o.position FROM events AS e JOIN events AS o ON o.room_nid = e.room_nid"
        " AND abs(o.position - e.position) <= 1 AND o.state_key IS NULL"
        " WHERE e.event_id = ? AND e.redacted_by IS NULL ORDER BY o.position",
        operation.event_id,
    )


def _lost(node: Node, operation: Operation) -> None:
    _sql(node, "UPDATE events SET event_id = ? WHERE event_id = ?", _NO_EVENT, operation.event_id)


def _order(node: Node, operation: Operation) -> None:
    _, (one, here), (other, there) = _neighbours(node, operation)
    _sql(node, "UPDATE events SET position = -1 WHERE event_nid = ?", one)
    _sql(node, "UPDATE events SET position = ? WHERE event_nid = ?", here, other)
    _sql(node, "UPDATE events SET position = ? WHERE event_nid = ?", there, one)


def _bytes(node: Node, operation: Operation) -> None:
    _sql(
        node,
        'UPDATE events SET canonical = CAST(replace(CAST(canonical AS TEXT), \'"content":{\', \'"content":{"A":1,\')'
        " AS BLOB) WHERE event_id = ?",
        operation.event_id,
    )


def _standing(node: Node, operation: Operation) -> None:
    _sql(node, "UPDATE events SET standing = 'soft_failed' WHERE event_id = ?", operation.event_id)


def _refused(node: Node, operation: Operation) -> None:
    operation.state, operation.reason = "refused", "planted"


def _twice(node: Node, operation: Operation) -> None:
    [(canonical,)] = _sql(node, "SELECT canonical FROM events WHERE event_id = ?", operation.event_id)
    _, _, (other, _) = _neighbours(node, operation)
    _sql(node, "UPDATE events SET canonical = ? WHERE event_nid = ?", canonical, other)


def _pending(node: Node, operation: Operation) -> None:
    _sql(
        node,
        "INSERT INTO pending_lpdus (room_id, room_version, hub_server, sender, lpdu_event_id, lpdu_hash, canonical)"
        " VALUES (?, 'I.1', ?, ?, ?, '', x'7b7d')",
        operation.room_id,
        node.name,
        operation.user_id,
        _NO_EVENT,
    )


def _owed(node: Node, operation: Operation) -> None:
    _sql(node, "UPDATE delivery_cursors SET position = 0")
    _sql(node, "UPDATE server_spans SET until_position = NULL, since_position = 1")


def _hanging(node: Node, operation: Operation) -> None:
    assert node.process is not None

    async def wait() -> None:
        await Deferred()

    node.process.rooms.rooms.__dict__["forgotten"] = Deferred.fromCoroutine(wait())


def _leak(node: Node, operation: Operation) -> None:
    assert node.process is not None
    node.process.rooms.transfer._moving[operation.room_id] = node.name
