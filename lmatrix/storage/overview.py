"""What operators are told of rooms and destinations.

Owns: :class:`SqlOverviewStore`, which implements :class:`~lmatrix.rooms.overview.OverviewStore`. It only reads, and
answers in pages: an operator's question must not keep the database from its work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lmatrix.ids import server_of
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.interfaces import Evidence
from lmatrix.rooms.overview import DestinationOverview, KeptEvidence, RoomBacklog, RoomOverview
from lmatrix.storage.delivery import SqlDeliveryStore
from lmatrix.storage.engine import Row, Transaction
from lmatrix.storage.rows import EVENT, stored_events

_ROOM = "SELECT room_nid, room_id, room_version, first_position, head_position, head_event_id FROM rooms"


class SqlOverviewStore:
    """See :class:`~lmatrix.rooms.overview.OverviewStore`."""

    def __init__(self) -> None:
        self._delivery = SqlDeliveryStore()

    def rooms_after(self, tx: Transaction, room_id: str, limit: int) -> Sequence[RoomOverview]:
        """A page of rooms."""
        rows = tx.rows(f"{_ROOM} WHERE room_id > ? ORDER BY room_id LIMIT ?", (room_id, limit))
        return [_overview(tx, row) for row in rows]

    def room(self, tx: Transaction, room_id: str) -> RoomOverview | None:
        """One room."""
        row = tx.row(f"{_ROOM} WHERE room_id = ?", (room_id,))
        return None if row is None else _overview(tx, row)

    def backlog(self, tx: Transaction, room_id: str) -> RoomBacklog:
        """What waits for a room; nothing for an unknown one."""
        [(pending,)] = tx.rows("SELECT COUNT(*) FROM pending_lpdus WHERE room_id = ?", (room_id,))
        [(evidence,)] = tx.rows("SELECT COUNT(*) FROM evidence WHERE room_id = ?", (room_id,))
        return RoomBacklog(pending, evidence)

    def evidence_after(self, tx: Transaction, room_id: str, number: int, limit: int) -> Sequence[KeptEvidence]:
        """A page of evidence."""
        rows = tx.rows(
            "SELECT evidence_nid, room_id, kind, event_id, event, against, reason, seen_ts FROM evidence"
            " WHERE room_id = ? AND evidence_nid > ? ORDER BY evidence_nid LIMIT ?",
            (room_id, number, limit),
        )
        return [KeptEvidence(row[0], Evidence(*row[1:])) for row in rows]

    def owed_after(self, tx: Transaction, destination: str, limit: int) -> Sequence[DestinationOverview]:
        """A page of destinations."""
        names = {
            *self._delivery.all_owing(tx),
            *(name for (name,) in tx.rows("SELECT DISTINCT hub_server FROM pending_lpdus")),
            *(name for (name,) in tx.rows("SELECT destination FROM destinations WHERE failing_since_ms IS NOT NULL")),
        }
        page = sorted(name for name in names if name > destination)[:limit]
        return [self._destination(tx, name) for name in page]

    def _destination(self, tx: Transaction, name: str) -> DestinationOverview:
        [(pending,)] = tx.rows("SELECT COUNT(*) FROM pending_lpdus WHERE hub_server = ?", (name,))
        [(edus,)] = tx.rows("SELECT COUNT(*) FROM edu_outbox WHERE destination = ?", (name,))
        return DestinationOverview(
            name,
            self._delivery.lag(tx, name),
            len(self._delivery.owed_rooms(tx, name)),
            pending,
            edus,
            self._delivery.destination(tx, name) or DestinationState(),
        )


def _overview(tx: Transaction, row: Row) -> RoomOverview:
    room_nid, room_id, room_version, first_position, head_position, head_event_id = row
    members = tx.rows(
        "SELECT state_key FROM current_state WHERE room_nid = ? AND type = 'm.room.member' AND membership = 'join'",
        (room_nid,),
    )
    hub_state = tx.rows(
        f"SELECT e.position, {EVENT} FROM current_state AS s JOIN events AS e ON e.event_nid = s.event_nid"  # noqa: S608
        " WHERE s.room_nid = ? AND s.type IN ('m.room.create', 'm.room.hub') AND s.state_key = ''",
        (room_nid,),
    )
    joined = Counter(server_of(user_id) for (user_id,) in members)
    return RoomOverview(
        room_id,
        room_version,
        first_position,
        head_position,
        head_event_id,
        stored_events(room_id, hub_state),
        dict(sorted(joined.items())),
    )
