"""During which positions a server is owed a room's log.

Owns: the table ``server_spans``, and the making of delivery cursors. Invariants: at most one span of a server is open
in a room; spans of one server do not overlap; a cursor, once made, stays where delivery has brought it, since the
spans alone say what lies between it and the next event that is owed.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.rooms.interfaces import ServerSpan, SpanChange
from lmatrix.storage.engine import Transaction


def change_spans(tx: Transaction, room_nid: int, changes: Sequence[SpanChange]) -> None:
    """Open and close spans, in order. Opening what is open and closing what is not changes nothing."""
    for change in changes:
        if change.opened:
            _open(tx, room_nid, change.server, change.position)
        else:
            tx.execute(
                "UPDATE server_spans SET until_position = ?"
                " WHERE room_nid = ? AND server = ? AND until_position IS NULL AND since_position <= ?",
                (change.position, room_nid, change.server, change.position),
            )


def spans_of(tx: Transaction, room_nid: int, server: str) -> list[ServerSpan]:
    """A server's spans, ascending."""
    rows = tx.rows(
        "SELECT since_position, until_position FROM server_spans WHERE room_nid = ? AND server = ?"
        " ORDER BY since_position",
        (room_nid, server),
    )
    return [ServerSpan(since, until) for since, until in rows]


def servers_owed(tx: Transaction, room_nid: int) -> list[str]:
    """Servers with an open span."""
    rows = tx.rows(
        "SELECT server FROM server_spans WHERE room_nid = ? AND until_position IS NULL ORDER BY server", (room_nid,)
    )
    return [server for (server,) in rows]


def _open(tx: Transaction, room_nid: int, server: str, position: int) -> None:
    last = tx.row(
        "SELECT since_position, until_position FROM server_spans WHERE room_nid = ? AND server = ?"
        " ORDER BY since_position DESC LIMIT 1",
        (room_nid, server),
    )
    if last is None or (last[1] is not None and last[1] < position):
        tx.execute(
            "INSERT INTO server_spans (room_nid, server, since_position, until_position) VALUES (?, ?, ?, NULL)",
            (room_nid, server, position),
        )
    elif last[1] is not None:
        # It left and came back at one position (two events cannot share one, but a kick may be both): one span.
        tx.execute(
            "UPDATE server_spans SET until_position = NULL WHERE room_nid = ? AND server = ? AND since_position = ?",
            (room_nid, server, last[0]),
        )
    tx.execute(
        "INSERT INTO delivery_cursors (destination, room_nid, position) VALUES (?, ?, ?)"
        " ON CONFLICT (destination, room_nid) DO NOTHING",
        (server, room_nid, position - 1),
    )
