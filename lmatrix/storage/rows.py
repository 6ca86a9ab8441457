"""What the stores of rooms share: reading events out of rows, finding rooms, and statements for many rows at once.

Many rows go into the database by one statement with many ``VALUES``, not by one statement for each row: every statement
gives up Python's interpreter lock twice, and getting it back from a busy reactor thread is what costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from lmatrix.errors import NotFound
from lmatrix.rooms.interfaces import Standing, StoredEvent
from lmatrix.storage.engine import Row, Transaction

EVENT = "e.event_id, e.stream, e.canonical, e.standing, e.redacted_by"
"""Columns for :func:`stored_event`, after the position."""

_STANDINGS = {standing.value: standing for standing in Standing}
_LARGEST_CHUNK = 64


def stored_event(room_id: str, row: Row) -> StoredEvent:
    """From a position and the columns of :data:`EVENT`. Position 0 for an event that has no place in the log."""
    position, event_id, stream, canonical, standing, redacted_by = row
    return StoredEvent(room_id, position or 0, event_id, stream, canonical, _STANDINGS[standing], redacted_by)


def stored_events(room_id: str, rows: Sequence[Row]) -> list[StoredEvent]:
    """The same for many."""
    return [stored_event(room_id, row) for row in rows]


def find_room(tx: Transaction, room_id: str) -> int | None:
    """A room's number; ``None`` for an unknown room."""
    row = tx.row("SELECT room_nid FROM rooms WHERE room_id = ?", (room_id,))
    return None if row is None else int(row[0])


def need_room(tx: Transaction, room_id: str) -> int:
    """A room's number. Raises :class:`NotFound`."""
    room_nid = find_room(tx, room_id)
    if room_nid is None:
        raise NotFound(f"unknown room {room_id}")
    return room_nid


def select_in(tx: Transaction, sql: str, before: Sequence[Any], values: Sequence[Any]) -> list[Row]:
    """All rows of a query with a long ``IN``.

    Args:
        sql: with ``{in}`` where the list belongs (parentheses included), as the last parameters.
        before: the parameters before the list.
        values: the list; the order of rows is not promised.
    """
    found: list[Row] = []
    for start in range(0, len(values), _LARGEST_CHUNK):
        chunk = list(values[start : start + _LARGEST_CHUNK])
        size = _padded(len(chunk))
        chunk += chunk[-1:] * (size - len(chunk))  # few different statements, so that they stay prepared
        found += tx.rows(_with_list(sql, size), [*before, *chunk])
    return found


def insert_rows(tx: Transaction, head: str, rows: Sequence[Row], tail: str = "") -> None:
    """Insert many rows by few statements.

    Args:
        head: ``"INSERT INTO t (a, b) VALUES"``.
        rows: each as wide as the column list.
        tail: ``"ON CONFLICT …"``; it applies to each row.
    """
    start = 0
    for size in _powers(len(rows)):
        chunk = rows[start : start + size]
        start += size
        tx.execute(_with_rows(head, tail, size, len(chunk[0])), [value for row in chunk for value in row])


def _powers(count: int) -> Iterator[int]:
    while count > 0:
        size = min(_LARGEST_CHUNK, 1 << (count.bit_length() - 1))
        yield size
        count -= size


def _padded(count: int) -> int:
    return 1 << (count - 1).bit_length()


@lru_cache(maxsize=256)
def _with_rows(head: str, tail: str, size: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{head} {', '.join([row] * size)} {tail}"


@lru_cache(maxsize=256)
def _with_list(sql: str, size: int) -> str:
    return sql.replace("{in}", f"({', '.join('?' * size)})")
