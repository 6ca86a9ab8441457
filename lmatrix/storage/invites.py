"""Invites and knocks of local users for rooms that this server is not in.

Owns: :class:`SqlInviteStore`, which implements :class:`~lmatrix.rooms.interfaces.InviteStore`. Invariants: there is
one row for a user and a room; it stays when the invite is over, so that ``/sync`` can tell of the end, and the stream
never gives a number out again.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from lmatrix.canonical_json import encode, parse
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.rooms.interfaces import JsonObject, PendingInvite
from lmatrix.storage.engine import Numbering, Row, Transaction

_COLUMNS = "user_id, room_id, room_version, hub_server, canonical, stripped_state, stream"


@attrs.frozen(slots=True)
class EndedInvite:
    """An invite that came to nothing.

    Attributes:
        canonical: the membership event that ended it, canonical JSON.
        stream: where the end stands in the stream.
    """

    user_id: str
    room_id: str
    room_version: str
    canonical: bytes
    stream: int


class SqlInviteStore:
    """See :class:`~lmatrix.rooms.interfaces.InviteStore`."""

    def put(
        self,
        tx: Transaction,
        user_id: str,
        room_id: str,
        room_version: str,
        hub_server: str,
        pdu: Pdu | Lpdu,
        stripped_state: Sequence[JsonObject],
    ) -> int:
        """Keep an invite; returns its stream position."""
        stream = tx.take_numbers(Numbering.STREAM, 1)
        tx.execute(
            "INSERT INTO invites"
            " (user_id, room_id, room_version, hub_server, stream, pending, canonical, stripped_state)"
            " VALUES (?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT (user_id, room_id) DO UPDATE SET"
            " room_version = excluded.room_version, hub_server = excluded.hub_server, stream = excluded.stream,"
            " pending = 1, canonical = excluded.canonical, stripped_state = excluded.stripped_state, ended_by = NULL",
            (user_id, room_id, room_version, hub_server, stream, pdu.canonical, encode(list(stripped_state))),
        )
        return stream

    def remove(self, tx: Transaction, user_id: str, room_id: str, by: Pdu | Lpdu | None = None) -> int | None:
        """End an invite; returns the end's stream position, ``None`` when nothing was pending."""
        rows = tx.rows(
            "UPDATE invites SET pending = 0, ended_by = ?, stream = ? WHERE user_id = ? AND room_id = ? AND pending = 1"
            " RETURNING stream",
            (None if by is None else by.canonical, tx.take_numbers(Numbering.STREAM, 1), user_id, room_id),
        )
        return int(rows[0][0]) if rows else None

    def get(self, tx: Transaction, user_id: str, room_id: str) -> PendingInvite | None:
        """The pending invite, if there is one."""
        row = tx.row(
            f"SELECT {_COLUMNS} FROM invites WHERE user_id = ? AND room_id = ? AND pending = 1",  # noqa: S608
            (user_id, room_id),
        )
        return None if row is None else _invite(row)

    def for_user(self, tx: Transaction, user_id: str) -> list[PendingInvite]:
        """Every pending invite, the oldest first."""
        rows = tx.rows(f"SELECT {_COLUMNS} FROM invites WHERE user_id = ? AND pending = 1 ORDER BY stream", (user_id,))  # noqa: S608
        return [_invite(row) for row in rows]

    def pending_count(self, tx: Transaction, user_id: str, room_id: str) -> int:
        """How many of a user's are pending, not counting one for this room."""
        [(count,)] = tx.rows(
            "SELECT COUNT(*) FROM invites WHERE user_id = ? AND pending = 1 AND room_id <> ?", (user_id, room_id)
        )
        return int(count)

    def all_pending(self, tx: Transaction) -> list[tuple[str, str]]:
        """User and room of everything that is pending."""
        return [
            (user_id, room_id) for user_id, room_id in tx.rows("SELECT user_id, room_id FROM invites WHERE pending = 1")
        ]

    def ended_for_user(self, tx: Transaction, user_id: str, since: int, up_to: int) -> list[EndedInvite]:
        """Invites that came to nothing at stream positions ``since < s <= up_to``, ascending."""
        rows = tx.rows(
            "SELECT user_id, room_id, room_version, ended_by, stream FROM invites"
            " WHERE user_id = ? AND pending = 0 AND ended_by IS NOT NULL AND stream > ? AND stream <= ?"
            " ORDER BY stream",
            (user_id, since, up_to),
        )
        return [EndedInvite(*row) for row in rows]


def every_pending_invite(tx: Transaction) -> list[PendingInvite]:
    """Every user's pending invites and knocks, the oldest first."""
    return [_invite(row) for row in tx.rows(f"SELECT {_COLUMNS} FROM invites WHERE pending = 1 ORDER BY stream")]  # noqa: S608


def _invite(row: Row) -> PendingInvite:
    user_id, room_id, room_version, hub_server, canonical, stripped_state, stream = row
    return PendingInvite(user_id, room_id, room_version, hub_server, canonical, parse(stripped_state), stream)
