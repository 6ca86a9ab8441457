"""Who shares rooms with whom.

Owns: :class:`SqlSharingStore`, which implements :class:`~lmatrix.devices.interfaces.SharingStore`. Read off the current
state of rooms: a room that this server has left keeps the state that it had then, in which none of our users is
joined.
"""

from __future__ import annotations

from lmatrix.ids import server_of
from lmatrix.storage.engine import Transaction
from lmatrix.storage.rows import find_room

_MINE = "mine.type = 'm.room.member' AND mine.state_key = ? AND mine.membership = 'join'"
_THEIRS = (
    "current_state AS mine JOIN current_state AS theirs ON theirs.room_nid = mine.room_nid"
    f" AND theirs.type = 'm.room.member' AND theirs.membership = 'join' WHERE {_MINE}"
)


class SqlSharingStore:
    """See :class:`~lmatrix.devices.interfaces.SharingStore`."""

    def is_joined(self, tx: Transaction, room_id: str, user_id: str) -> bool:
        """Whether a user is in a room."""
        row = tx.row(
            "SELECT 1 FROM rooms AS r JOIN current_state AS s ON s.room_nid = r.room_nid"
            " WHERE r.room_id = ? AND s.type = 'm.room.member' AND s.state_key = ? AND s.membership = 'join'",
            (room_id, user_id),
        )
        return row is not None

    def joined_rooms(self, tx: Transaction, user_id: str) -> list[str]:
        """The rooms that a user is in."""
        rows = tx.rows(
            "SELECT r.room_id FROM current_state AS mine JOIN rooms AS r ON r.room_nid = mine.room_nid"  # noqa: S608
            f" WHERE {_MINE}",
            (user_id,),
        )
        return [room_id for (room_id,) in rows]

    def joined_users(self, tx: Transaction, room_id: str) -> list[str]:
        """Everybody in a room. Goes through its members."""
        room_nid = find_room(tx, room_id)
        rows = tx.rows(
            "SELECT state_key FROM current_state"
            " WHERE room_nid = ? AND type = 'm.room.member' AND membership = 'join' ORDER BY state_key",
            (room_nid,),
        )
        return [user_id for (user_id,) in rows]

    def servers_sharing(self, tx: Transaction, user_id: str) -> frozenset[str]:
        """Servers of those with whom a user shares a room. Goes through the members of its rooms."""
        rows = tx.rows(f"SELECT DISTINCT theirs.state_key FROM {_THEIRS}", (user_id,))  # noqa: S608
        return frozenset(server_of(other) for (other,) in rows)

    def shares_with_server(self, tx: Transaction, user_id: str, server_name: str, since: int | None = None) -> bool:
        """Whether somebody of a server shares a room with a user; with ``since``: and has done so, without a break,
        from that stream position on.
        """
        sql = f"SELECT 1 FROM {_THEIRS} AND SUBSTR(theirs.state_key, LENGTH(theirs.state_key) - ?) = ?"  # noqa: S608
        parameters: list[object] = [user_id, len(server_name), f":{server_name}"]
        if since is not None:
            sql += (
                " AND NOT EXISTS (SELECT 1 FROM events AS e"
                " WHERE e.event_nid IN (mine.event_nid, theirs.event_nid) AND e.stream > ?)"
            )
            parameters.append(since)
        return tx.row(f"{sql} LIMIT 1", parameters) is not None

    def servers_share_a_room(self, tx: Transaction, server_name: str, other: str) -> bool:
        """Whether somebody of one server is in a room with somebody of another. Goes through all members."""
        row = tx.row(
            "SELECT 1 FROM current_state AS theirs WHERE theirs.type = 'm.room.member' AND theirs.membership = 'join'"
            " AND SUBSTR(theirs.state_key, LENGTH(theirs.state_key) - ?) = ? AND EXISTS ("
            "SELECT 1 FROM current_state AS ours WHERE ours.room_nid = theirs.room_nid"
            " AND ours.type = 'm.room.member' AND ours.membership = 'join'"
            " AND SUBSTR(ours.state_key, LENGTH(ours.state_key) - ?) = ?) LIMIT 1",
            (len(other), f":{other}", len(server_name), f":{server_name}"),
        )
        return row is not None

    def share_a_room(self, tx: Transaction, user_id: str, other: str) -> bool:
        """Whether two users share a room."""
        row = tx.row(f"SELECT 1 FROM {_THEIRS} AND theirs.state_key = ? LIMIT 1", (user_id, other))  # noqa: S608
        return row is not None
