"""Device objects, and when users' device lists changed.

Owns: :class:`SqlDeviceStore`, which implements :class:`~lmatrix.devices.interfaces.DeviceStore` and what ``/sync``
reads of it. Invariant: of each user a bounded number of device objects is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.interfaces import FetchedList
from lmatrix.storage.engine import Transaction
from lmatrix.storage.rows import find_room
from lmatrix.storage.side_stream import next_place

MAX_DEVICES_OF_USER = 500
"""Device objects of one user; a new one beyond them is not kept."""

_FEW_EVENTS = 1000


class SqlDeviceStore:
    """See :class:`~lmatrix.devices.interfaces.DeviceStore`.

    Args:
        max_devices_of_user: bound on the device objects of one user.
    """

    def __init__(self, max_devices_of_user: int = MAX_DEVICES_OF_USER) -> None:
        self._max_devices_of_user = max_devices_of_user

    def put_object(self, tx: Transaction, device: DeviceObject) -> bool:
        """Keep a device object; whether it is news."""
        before = self.object(tx, device.user_id, device.device_id)
        if before == device.canonical:
            return False
        if before is None:
            [(count,)] = tx.rows("SELECT COUNT(*) FROM device_objects WHERE user_id = ?", (device.user_id,))
            if count >= self._max_devices_of_user:
                return False
        tx.execute(
            "INSERT INTO device_objects (user_id, device_id, canonical) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id, device_id) DO UPDATE SET canonical = excluded.canonical",
            (device.user_id, device.device_id, device.canonical),
        )
        return True

    def object(self, tx: Transaction, user_id: str, device_id: str) -> bytes | None:
        """One device object, canonical JSON."""
        row = tx.row("SELECT canonical FROM device_objects WHERE user_id = ? AND device_id = ?", (user_id, device_id))
        return None if row is None else row[0]

    def objects(self, tx: Transaction, user_id: str) -> dict[str, bytes]:
        """All of a user's."""
        rows = tx.rows(
            "SELECT device_id, canonical FROM device_objects WHERE user_id = ? ORDER BY device_id", (user_id,)
        )
        return dict(rows)

    def remove_objects(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> list[str]:
        """Forget device objects; returns the IDs of those that were there."""
        return [
            device_id
            for device_id in device_ids
            if tx.rows(
                "DELETE FROM device_objects WHERE user_id = ? AND device_id = ? RETURNING device_id",
                (user_id, device_id),
            )
        ]

    def list_fetched(self, tx: Transaction, user_id: str, fetched: FetchedList) -> None:
        """Note that a user's device objects are all there are."""
        tx.execute(
            "INSERT INTO fetched_device_lists (user_id, stream, fetched_ts) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET stream = excluded.stream, fetched_ts = excluded.fetched_ts",
            (user_id, fetched.stream, fetched.ts),
        )

    def fetched_list(self, tx: Transaction, user_id: str) -> FetchedList | None:
        """What was noted last."""
        row = tx.row("SELECT stream, fetched_ts FROM fetched_device_lists WHERE user_id = ?", (user_id,))
        return None if row is None else FetchedList(*row)

    def list_changed_at(self, tx: Transaction, user_id: str) -> int:
        """Stream position of the last change; 0 for never."""
        row = tx.row("SELECT stream FROM device_list_changes WHERE user_id = ?", (user_id,))
        return 0 if row is None else int(row[0])

    def list_changed(self, tx: Transaction, user_id: str) -> int:
        """Note a change."""
        stream = next_place(tx)
        tx.execute(
            "INSERT INTO device_list_changes (user_id, stream) VALUES (?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET stream = excluded.stream",
            (user_id, stream),
        )
        return stream

    # -- What /sync reads ---------------------------------------------------------------------------------------------

    def changed_lists(self, tx: Transaction, user_id: str, since: int, up_to: int) -> list[str]:
        """Those among this user and whoever shares a room with it whose list changed at ``since < s <= up_to``."""
        rows = tx.rows(
            "SELECT d.user_id FROM device_list_changes AS d WHERE d.stream > ? AND d.stream <= ?"
            " AND (d.user_id = ? OR EXISTS (SELECT 1 FROM current_state AS mine JOIN current_state AS theirs"
            " ON theirs.room_nid = mine.room_nid AND theirs.type = 'm.room.member' AND theirs.state_key = d.user_id"
            " AND theirs.membership = 'join'"
            " WHERE mine.type = 'm.room.member' AND mine.state_key = ? AND mine.membership = 'join'))",
            (since, up_to, user_id, user_id),
        )
        return [changed for (changed,) in rows]

    def changed_members(self, tx: Transaction, room_id: str, after: int, up_to: int) -> list[tuple[str, str]]:
        """``(user_id, membership now)`` of those whose membership was set at positions ``after < p <= up_to``."""
        room_nid = find_room(tx, room_id)
        if up_to - after <= _FEW_EVENTS:
            # Looking through a few events is cheaper than looking through all members of a big room.
            rows = tx.rows(
                "SELECT DISTINCT s.state_key, s.membership FROM events AS e JOIN current_state AS s"
                " ON s.room_nid = e.room_nid AND s.type = e.type AND s.state_key = e.state_key"
                " WHERE e.room_nid = ? AND e.position > ? AND e.position <= ? AND e.type = 'm.room.member'"
                " AND s.membership IS NOT NULL",
                (room_nid, after, up_to),
            )
        else:
            rows = tx.rows(
                "SELECT state_key, membership FROM current_state"
                " WHERE room_nid = ? AND type = 'm.room.member' AND position > ? AND membership IS NOT NULL",
                (room_nid, after),
            )
        return [(user_id, membership) for user_id, membership in rows]
