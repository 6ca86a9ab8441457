"""The runs of a room's log.

Owns: the table ``room_runs``. A participant that leaves a room and comes back has a log with a hole: each stay is a
*run*, and runs lie :data:`~lmatrix.rooms.interfaces.SEGMENT_STRIDE` apart, so that history fetched later fits below.
Invariants: positions from ``low_position`` to ``end_position`` of a run are without gaps, and every position above the
end of one run and up to the end of the next belongs to the latter. Two runs *join up* when the event at
``low_position`` names the last event of the run before as its predecessor; that is looked at when a run gets its first
event, and whenever its low end moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from lmatrix.storage.engine import Transaction


@attrs.frozen(slots=True)
class Run:
    """One run.

    Attributes:
        first_position: where it was opened; what is below was fetched later.
        low_position: its lowest position; ``first_position`` also while it is empty.
        end_position: its last position; ``None`` while it is the current one.
        joined: whether it joins up with the run before it.
    """

    first_position: int
    low_position: int
    end_position: int | None
    joined: bool


def runs_of(tx: Transaction, room_nid: int) -> list[Run]:
    """All runs, the oldest first."""
    rows = tx.rows(
        "SELECT first_position, low_position, end_position, joined FROM room_runs WHERE room_nid = ?"
        " ORDER BY first_position",
        (room_nid,),
    )
    return [Run(first, low, end, bool(joined)) for first, low, end, joined in rows]


def open_run(tx: Transaction, room_nid: int, first_position: int, previous_end: int | None) -> None:
    """Begin a run, and end the current one at ``previous_end`` if there is one."""
    if previous_end is not None:
        if first_position <= previous_end:
            raise ValueError(f"a run cannot begin at {first_position}: the one before it ends at {previous_end}")
        tx.execute(
            "UPDATE room_runs SET end_position = ? WHERE room_nid = ? AND end_position IS NULL",
            (previous_end, room_nid),
        )
    tx.execute(
        "INSERT INTO room_runs (room_nid, first_position, low_position, end_position, joined) VALUES (?, ?, ?, NULL, 0)"
        " ON CONFLICT (room_nid, first_position) DO UPDATE SET end_position = NULL",
        (room_nid, first_position, first_position),
    )


def lower_run(tx: Transaction, room_nid: int, position: int, prev_events: Sequence[str]) -> None:
    """The lowest event of a run is now the one at ``position``, with these predecessors."""
    index, runs = _find(tx, room_nid, position)
    run = runs[index]
    tx.execute(
        "UPDATE room_runs SET low_position = ?, joined = ? WHERE room_nid = ? AND first_position = ?",
        (position, int(_joins(tx, room_nid, runs[:index], prev_events)), room_nid, run.first_position),
    )


def reach_down(tx: Transaction, room_nid: int, position: int) -> int:
    """The lowest position that can be reached from ``position`` without crossing a hole."""
    index, runs = _find(tx, room_nid, position)
    while index > 0 and runs[index].joined:
        index -= 1
    return runs[index].low_position


def reach_up(tx: Transaction, room_nid: int, position: int) -> int | None:
    """The highest position that can be reached from ``position`` without crossing a hole; ``None``: the head."""
    index, runs = _find(tx, room_nid, position)
    while index + 1 < len(runs) and runs[index + 1].joined:
        index += 1
    return runs[index].end_position


def snapshot_before(tx: Transaction, room_nid: int, position: int) -> int:
    """The position of the last state snapshot below ``position`` (one before a run's first), 0 if there is none.

    What changed before it is of no account for the state at ``position``: a snapshot says it all.
    """
    row = tx.row(
        "SELECT MAX(first_position) FROM room_runs WHERE room_nid = ? AND first_position <= ?", (room_nid, position)
    )
    return 0 if row is None or row[0] is None else int(row[0]) - 1


def _find(tx: Transaction, room_nid: int, position: int) -> tuple[int, list[Run]]:
    runs = runs_of(tx, room_nid)
    for index, run in enumerate(runs):
        if run.end_position is None or position <= run.end_position:
            return index, runs
    raise LookupError(f"room {room_nid} has no current run")


def _joins(tx: Transaction, room_nid: int, older: Sequence[Run], prev_events: Sequence[str]) -> bool:
    if not older or not prev_events:
        return False
    row = tx.row("SELECT event_id FROM events WHERE room_nid = ? AND position = ?", (room_nid, older[-1].end_position))
    return row is not None and row[0] in prev_events
