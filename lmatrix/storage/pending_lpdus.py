"""The LPDUs of local users that wait for their hub.

Owns: :class:`SqlPendingLpduStore`, which implements :class:`~lmatrix.rooms.interfaces.PendingLpduStore`. Invariant: a
number is never given out twice, so that "everything after this number" misses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.events.forms import Lpdu
from lmatrix.rooms.interfaces import PendingLpdu
from lmatrix.storage.engine import Transaction

_COLUMNS = "pending_id, room_id, room_version, hub_server, sender, lpdu_event_id, lpdu_hash, canonical"


class SqlPendingLpduStore:
    """See :class:`~lmatrix.rooms.interfaces.PendingLpduStore`."""

    def add(self, tx: Transaction, lpdu: Lpdu, hub_server: str) -> int:
        """Returns its number; the one that it has, for an LPDU that is pending already.

        Raises:
            ValueError: it has no LPDU hash.
        """
        if lpdu.lpdu_hash is None:
            raise ValueError(f"{lpdu.event_id} has no LPDU hash")
        rows = tx.rows(
            "INSERT INTO pending_lpdus (room_id, room_version, hub_server, sender, lpdu_event_id, lpdu_hash, canonical)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (lpdu_event_id) DO NOTHING RETURNING pending_id",
            (
                lpdu.room_id,
                lpdu.room_version.identifier,
                hub_server,
                lpdu.sender,
                lpdu.event_id,
                lpdu.lpdu_hash,
                lpdu.canonical,
            ),
        )
        if not rows:
            rows = tx.rows("SELECT pending_id FROM pending_lpdus WHERE lpdu_event_id = ?", (lpdu.event_id,))
        return int(rows[0][0])

    def settle(self, tx: Transaction, lpdu_event_ids: Sequence[str]) -> None:
        """Their hub has answered, one way or the other."""
        tx.executemany(
            "DELETE FROM pending_lpdus WHERE lpdu_event_id = ?", [(event_id,) for event_id in lpdu_event_ids]
        )

    def has_so_many(self, tx: Transaction, hub_server: str, count: int) -> bool:
        """Whether at least so many wait for a hub."""
        sql = "SELECT 1 FROM pending_lpdus WHERE hub_server = ? ORDER BY pending_id LIMIT 1 OFFSET ?"
        return tx.row(sql, (hub_server, count - 1)) is not None

    def for_hub(self, tx: Transaction, hub_server: str, after: int, limit: int) -> list[PendingLpdu]:
        """Those for one hub with a number above ``after``, ascending."""
        rows = tx.rows(
            f"SELECT {_COLUMNS} FROM pending_lpdus WHERE hub_server = ? AND pending_id > ? ORDER BY pending_id LIMIT ?",  # noqa: S608
            (hub_server, after, limit),
        )
        return [PendingLpdu(*row) for row in rows]

    def get(self, tx: Transaction, lpdu_event_id: str) -> PendingLpdu | None:
        """The pending LPDU with an event ID."""
        row = tx.row(f"SELECT {_COLUMNS} FROM pending_lpdus WHERE lpdu_event_id = ?", (lpdu_event_id,))  # noqa: S608
        return None if row is None else PendingLpdu(*row)

    def by_hash(self, tx: Transaction, room_id: str, sender: str, lpdu_hash: str) -> PendingLpdu | None:
        """The pending LPDU that a PDU was made from."""
        row = tx.row(
            f"SELECT {_COLUMNS} FROM pending_lpdus WHERE room_id = ? AND sender = ? AND lpdu_hash = ?"  # noqa: S608
            " ORDER BY pending_id LIMIT 1",
            (room_id, sender, lpdu_hash),
        )
        return None if row is None else PendingLpdu(*row)

    def for_room(self, tx: Transaction, room_id: str) -> list[PendingLpdu]:
        """All of one room, ascending."""
        rows = tx.rows(f"SELECT {_COLUMNS} FROM pending_lpdus WHERE room_id = ? ORDER BY pending_id", (room_id,))  # noqa: S608
        return [PendingLpdu(*row) for row in rows]

    def rooms(self, tx: Transaction) -> list[str]:
        """Every room for which something is pending."""
        return [room_id for (room_id,) in tx.rows("SELECT DISTINCT room_id FROM pending_lpdus ORDER BY room_id")]

    def hubs(self, tx: Transaction) -> list[str]:
        """Every hub for which something is pending."""
        return [hub for (hub,) in tx.rows("SELECT DISTINCT hub_server FROM pending_lpdus ORDER BY hub_server")]
