"""The rooms that this server shows to everybody.

Owns: :class:`SqlPublishedRoomStore`, which implements :class:`~lmatrix.directory.interfaces.PublishedRoomStore`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lmatrix.canonical_json import parse_object
from lmatrix.directory.interfaces import PublishedState
from lmatrix.storage.engine import Transaction

_JOINED = (
    "SELECT COUNT(*), COALESCE(SUM(SUBSTR(state_key, LENGTH(state_key) - ?) = ?), 0) FROM current_state"
    " WHERE room_nid = ? AND type = 'm.room.member' AND membership = 'join'"
)
_STATE = (
    "SELECT s.type, e.canonical FROM current_state AS s JOIN events AS e ON e.event_nid = s.event_nid"
    " WHERE s.room_nid = ? AND s.type = ? AND s.state_key = ''"
)


class SqlPublishedRoomStore:
    """See :class:`~lmatrix.directory.interfaces.PublishedRoomStore`."""

    def is_published(self, tx: Transaction, room_id: str) -> bool:
        """Whether a room is listed."""
        return tx.row("SELECT 1 FROM published_rooms WHERE room_id = ?", (room_id,)) is not None

    def set_published(self, tx: Transaction, room_id: str, published: bool) -> None:
        """List a room, or do not."""
        if published:
            tx.execute("INSERT INTO published_rooms (room_id) VALUES (?) ON CONFLICT (room_id) DO NOTHING", (room_id,))
        else:
            tx.execute("DELETE FROM published_rooms WHERE room_id = ?", (room_id,))

    def published(
        self, tx: Transaction, server_name: str, types: Collection[str], limit: int
    ) -> Sequence[PublishedState]:
        """Listed rooms in which a user of the server is joined. Goes through their members."""
        rows = tx.rows(
            "SELECT p.room_id, r.room_nid FROM published_rooms AS p JOIN rooms AS r ON r.room_id = p.room_id"
            " ORDER BY p.room_id LIMIT ?",
            (limit,),
        )
        found = []
        for room_id, room_nid in rows:
            [(joined, ours)] = tx.rows(_JOINED, (len(server_name), f":{server_name}", room_nid))
            if ours == 0:
                continue
            state = [row for one in types for row in tx.rows(_STATE, (room_nid, one))]
            content = {kind: parse_object(canonical).get("content") for kind, canonical in state}
            shown = {kind: value for kind, value in content.items() if isinstance(value, dict)}
            found.append(PublishedState(room_id, joined, shown))
        return found
