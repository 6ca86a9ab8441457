"""The mark of a copied database, and what is done once when a server starts from one.

Owns: the tables ``copied`` and ``held_rooms``. Invariants: a copy bears the mark before it has its name (see
:mod:`lmatrix.storage.backup`); the mark goes in the same transaction in which everything is done that it stands for.

What the copy does not know: which one-time keys were handed out since it was made, and which places in the stream
clients have been told of. So no one-time key of before is handed out any more (their devices see that none is left, and
make new ones), and the stream goes on far beyond any place that can have been given out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lmatrix.errors import StorageFailed
from lmatrix.rooms.restoration_store import HeldRoom
from lmatrix.storage.engine import Numbering, Transaction
from lmatrix.storage.migrations import migrate, missing_steps, schema_steps
from lmatrix.storage.side_stream import next_place
from lmatrix.storage.sqlite_engine import SqliteEngine

STREAM_STRIDE = 2**32
"""How far the stream jumps: more than a server gives out in its life, and a million restorations stay below 2^53."""


class SqlRestorationStore:
    """See :class:`~lmatrix.rooms.restoration_store.RestorationStore`."""

    def copied_ts(self, tx: Transaction) -> int | None:
        """When the copy was made that this database is."""
        row = tx.row("SELECT copied_ts FROM copied WHERE only_row = 1", ())
        return None if row is None else int(row[0])

    def begin(self, tx: Transaction, reason: str, now_ms: int) -> None:
        """See the module."""
        tx.execute(
            "INSERT INTO held_rooms (room_id, held_since_ts, reason) SELECT room_id, ?, ? FROM rooms WHERE true"
            " ON CONFLICT (room_id) DO NOTHING",
            (now_ms, reason),
        )
        tx.take_numbers(Numbering.STREAM, STREAM_STRIDE)
        place = next_place(tx)
        tx.execute("UPDATE one_time_keys SET value = NULL WHERE value IS NOT NULL", ())
        # The devices are told how many they have left, as after a claim.
        tx.execute(
            "INSERT INTO key_claims (user_id, device_id, stream)"
            " SELECT DISTINCT user_id, device_id, ? FROM one_time_keys WHERE true"
            " ON CONFLICT (user_id, device_id) DO UPDATE SET stream = excluded.stream",
            (place,),
        )
        tx.execute("DELETE FROM copied", ())

    def hold(self, tx: Transaction, room: HeldRoom) -> None:
        """Hold a room."""
        tx.execute(
            "INSERT INTO held_rooms (room_id, held_since_ts, reason) VALUES (?, ?, ?) ON CONFLICT (room_id) DO NOTHING",
            (room.room_id, room.since_ts, room.reason),
        )

    def release(self, tx: Transaction, room_id: str) -> None:
        """Hold it no longer."""
        tx.execute("DELETE FROM held_rooms WHERE room_id = ?", (room_id,))

    def held(self, tx: Transaction) -> Sequence[HeldRoom]:
        """By room ID."""
        rows = tx.rows("SELECT room_id, held_since_ts, reason FROM held_rooms ORDER BY room_id", ())
        return [HeldRoom(*row) for row in rows]


def mark(database: sqlite3.Connection, copied_ts: int) -> bool:
    """Mark a database as a copy; whether that was possible: one of an earlier version has no place for it.

    Args:
        database: not in a transaction.
        copied_ts: milliseconds since the epoch.
    """
    if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'copied'").fetchall():
        return False
    database.execute(
        "INSERT INTO copied (only_row, copied_ts) VALUES (1, ?) ON CONFLICT (only_row) DO UPDATE"
        " SET copied_ts = excluded.copied_ts",
        (copied_ts,),
    )
    return True


def mark_in_place(path: Path, now_ms: int) -> None:
    """Mark a server's own database, while the server is stopped; its schema is brought up to date for that.

    Raises:
        StorageFailed: it is not there, no such database, or in use.
    """
    if not path.exists():
        raise StorageFailed(f"{path} does not exist")
    engine = SqliteEngine(path)
    connection = engine.connect(read_only=False)
    try:
        missing_steps(connection, engine, schema_steps())
        migrate(connection, engine, schema_steps())
        mark(cast(sqlite3.Connection, connection), now_ms)
    except sqlite3.Error as error:
        raise StorageFailed(f"{path}: {error}") from error
    finally:
        connection.close()
