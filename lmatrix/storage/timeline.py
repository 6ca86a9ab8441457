"""The logs as local users' clients read them.

Owns: :class:`SqlTimelineStore`. Invariants: only accepted events are in a timeline (what was rejected or soft-failed
holds its place in the log, and is never shown); a page never crosses a hole in the log; nothing here costs more than
what it returns, however long the room, but for what is said to go through a room's members.

A *token position* lies between events: ``p`` stands after the event at ``p`` and before the one at ``p + 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmatrix.rooms.interfaces import StoredEvent
from lmatrix.storage import state_history
from lmatrix.storage.engine import Transaction
from lmatrix.storage.invites import EndedInvite, SqlInviteStore
from lmatrix.storage.rows import EVENT, find_room, select_in, stored_event
from lmatrix.storage.runs import reach_down, reach_up, runs_of
from lmatrix.storage.side_stream import last_place


class UserRoom(NamedTuple):
    """A room that a user has, or had, to do with.

    Attributes:
        membership: the user's current membership.
        event_id: of its member event.
        position: of that event; of the snapshot that brought it, when it has no place in the log.
        stream: of that event; ``None`` when it was not live.
    """

    room_id: str
    membership: str
    event_id: str
    position: int
    stream: int | None


class Page(NamedTuple):
    """Some events of a room.

    Attributes:
        events: in the direction that was asked for.
        end: token position after the last of them, in that direction.
        more: whether there may be more that way.
    """

    events: list[StoredEvent]
    end: int
    more: bool


class SqlTimelineStore:
    """What ``/sync``, ``/messages`` and the like read."""

    def max_stream(self, tx: Transaction) -> int:
        """The last position of the stream; 0 when there is none."""
        [(events,)] = tx.rows("SELECT MAX(stream) FROM events WHERE stream IS NOT NULL")
        [(invites,)] = tx.rows("SELECT MAX(stream) FROM invites")
        return max(events or 0, invites or 0, last_place(tx))

    def rooms_of_user(self, tx: Transaction, user_id: str) -> list[UserRoom]:
        """Every room with a membership of the user, whatever it is, but for those that the user forgot."""
        rows = tx.rows(
            "SELECT r.room_id, s.membership, e.event_id, COALESCE(e.position, s.position), e.stream"
            " FROM current_state AS s JOIN rooms AS r ON r.room_nid = s.room_nid"
            " JOIN events AS e ON e.event_nid = s.event_nid"
            " WHERE s.type = 'm.room.member' AND s.state_key = ? AND s.membership IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM forgotten_rooms AS f"
            " WHERE f.user_id = s.state_key AND f.room_id = r.room_id AND f.event_id = e.event_id)"
            " ORDER BY s.room_nid",
            (user_id,),
        )
        return [UserRoom(*row) for row in rows]

    def user_in_room(self, tx: Transaction, room_id: str, user_id: str) -> UserRoom | None:
        """The user's membership in one room, forgotten or not."""
        row = tx.row(
            "SELECT r.room_id, s.membership, e.event_id, COALESCE(e.position, s.position), e.stream"
            " FROM rooms AS r JOIN current_state AS s ON s.room_nid = r.room_nid"
            " JOIN events AS e ON e.event_nid = s.event_nid"
            " WHERE r.room_id = ? AND s.type = 'm.room.member' AND s.state_key = ? AND s.membership IS NOT NULL",
            (room_id, user_id),
        )
        return None if row is None else UserRoom(*row)

    def forget_room(self, tx: Transaction, user_id: str, room_id: str) -> None:
        """Leave the room out of :meth:`rooms_of_user` until the user's membership changes."""
        found = self.user_in_room(tx, room_id, user_id)
        if found is not None:
            tx.execute(
                "INSERT INTO forgotten_rooms (user_id, room_id, event_id) VALUES (?, ?, ?)"
                " ON CONFLICT (user_id, room_id) DO UPDATE SET event_id = excluded.event_id",
                (user_id, room_id, found.event_id),
            )

    def joined_local_users(self, tx: Transaction, room_id: str, server_name: str) -> list[str]:
        """A server's joined users. Goes through the room's members."""
        pattern = server_name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        rows = tx.rows(
            "SELECT s.state_key FROM rooms AS r JOIN current_state AS s ON s.room_nid = r.room_nid"
            " WHERE r.room_id = ? AND s.type = 'm.room.member' AND s.membership = 'join'"
            " AND s.state_key LIKE ? ESCAPE '\\'",
            (room_id, f"@%:{pattern}"),
        )
        return [user_id for (user_id,) in rows if user_id.partition(":")[2] == server_name]

    def changes_since(self, tx: Transaction, room_ids: Sequence[str], since: int, up_to: int) -> list[str]:
        """Those of the rooms that have a live event at a stream position ``since < s <= up_to``."""
        rows = select_in(
            tx,
            "SELECT room_id, room_nid, head_stream FROM rooms WHERE head_stream > ? AND room_id IN {in}",
            (since,),
            sorted(set(room_ids)),
        )
        return [
            room_id
            for room_id, room_nid, head_stream in rows
            if head_stream <= up_to or self._has_live_event(tx, room_nid, since, up_to)
        ]

    def position_at(self, tx: Transaction, room_id: str, stream: int) -> int:
        """Position of the room's last live event at or below a stream position; 0 when there is none."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return 0
        for run in reversed(runs_of(tx, room_nid)):
            top = self._head(tx, room_nid) if run.end_position is None else run.end_position
            found = self._last_at(tx, room_nid, run.first_position, top, stream)
            if found is not None:
                return found
        return 0

    def events_page(self, tx: Transaction, room_id: str, position: int, direction: str, limit: int) -> Page:
        """Accepted events from a token position on.

        Args:
            position: where to begin.
            direction: ``"b"`` (towards the past) or ``"f"``.
        """
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return Page([], position, False)
        backwards = direction == "b"
        if backwards:
            low, high = reach_down(tx, room_nid, position), position
        else:
            low, top = position + 1, reach_up(tx, room_nid, position)
            high = self._head(tx, room_nid) if top is None else top
        rows = tx.rows(
            f"SELECT e.position, {EVENT} FROM events AS e"  # noqa: S608
            " WHERE e.room_nid = ? AND e.position >= ? AND e.position <= ? AND e.standing = 'accepted'"
            f" ORDER BY e.position {'DESC' if backwards else 'ASC'} LIMIT ?",
            (room_nid, low, high, limit + 1),
        )
        events = [stored_event(room_id, row) for row in rows[:limit]]
        if not events:
            return Page([], low - 1 if backwards else max(position, high), False)
        last = events[-1].position
        return Page(events, last - 1 if backwards else last, len(rows) > limit)

    def state_at(self, tx: Transaction, room_id: str, position: int) -> list[StoredEvent]:
        """State at a token position (after the event there), in the room's order."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else state_history.state_before(tx, room_nid, room_id, position + 1)

    def state_between(self, tx: Transaction, room_id: str, after: int, up_to: int) -> list[StoredEvent]:
        """State that changed at positions ``after < p <= up_to``, with its value at ``up_to``."""
        room_nid = find_room(tx, room_id)
        return [] if room_nid is None else state_history.state_between(tx, room_nid, room_id, after, up_to)

    def members(self, tx: Transaction, room_id: str, position: int | None = None) -> list[StoredEvent]:
        """Member events, whatever the membership: now, or at a token position. Goes through the room's members."""
        room_nid = find_room(tx, room_id)
        if room_nid is None:
            return []
        if position is None:
            return state_history.current_state_of_type(tx, room_nid, room_id, state_history.MEMBER)
        return state_history.state_before(tx, room_nid, room_id, position + 1, state_history.MEMBER)

    def member_counts(self, tx: Transaction, room_id: str) -> tuple[int, int]:
        """How many are joined and how many invited. Goes through the room's members."""
        rows = tx.rows(
            "SELECT s.membership, COUNT(*) FROM rooms AS r JOIN current_state AS s ON s.room_nid = r.room_nid"
            " WHERE r.room_id = ? AND s.type = 'm.room.member' AND s.membership IN ('join', 'invite')"
            " GROUP BY s.membership",
            (room_id,),
        )
        counts: dict[str, int] = dict(rows)
        return counts.get("join", 0), counts.get("invite", 0)

    def ended_invites(self, tx: Transaction, user_id: str, since: int, up_to: int) -> list[EndedInvite]:
        """Invites of a user that came to nothing at stream positions ``since < s <= up_to``."""
        return SqlInviteStore().ended_for_user(tx, user_id, since, up_to)

    def _has_live_event(self, tx: Transaction, room_nid: int, since: int, up_to: int) -> bool:
        row = tx.row(
            "SELECT 1 FROM events WHERE stream > ? AND stream <= ? AND room_nid = ? LIMIT 1", (since, up_to, room_nid)
        )
        return row is not None

    def _last_at(self, tx: Transaction, room_nid: int, first: int, top: int, stream: int) -> int | None:
        """The last of a run's live events, at ``first <= p <= top``, whose stream position is not above ``stream``."""
        # Both grow together. Most tokens are recent: look back from the top in growing steps, then halve what is left.
        low, step = top, 1
        while low >= first and self._stream(tx, room_nid, low) > stream:
            top, low, step = low - 1, low - step, step * 2
        if low < first:
            if first > top or self._stream(tx, room_nid, first) > stream:
                return None
            low = first
        while low < top:
            middle = (low + top + 1) // 2
            if self._stream(tx, room_nid, middle) > stream:
                top = middle - 1
            else:
                low = middle
        return low

    def _stream(self, tx: Transaction, room_nid: int, position: int) -> int:
        [(stream,)] = tx.rows("SELECT stream FROM events WHERE room_nid = ? AND position = ?", (room_nid, position))
        return int(stream)

    def _head(self, tx: Transaction, room_nid: int) -> int:
        [(head,)] = tx.rows("SELECT head_position FROM rooms WHERE room_nid = ?", (room_nid,))
        return int(head)
