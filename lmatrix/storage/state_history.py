"""State as a history: at which positions each piece of it changed.

Owns: the tables ``state_changes`` and ``current_state``. Invariants: for each (type, state key) the state at a
position is the latest change at or below it, within what :func:`~lmatrix.storage.runs.snapshot_before` lets count;
``current_state`` has a row for every key that ``state_changes`` has, so that a whole state is one index look-up for
each key, however long the history; state events are never removed, only superseded. A snapshot is a change of every
key that it has, at its own position.

In history that was fetched later and does not reach down to the room's creation, a key that was last changed further
down is unknown; what is returned is the state as far as it is held.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.events.forms import Pdu
from lmatrix.rooms.interfaces import StoredEvent
from lmatrix.storage.engine import Row, Transaction
from lmatrix.storage.rows import EVENT, insert_rows, stored_event, stored_events
from lmatrix.storage.runs import snapshot_before

MEMBER = "m.room.member"

_INSERT_CHANGES = "INSERT INTO state_changes (room_nid, type, state_key, position, event_nid) VALUES"
_INSERT_CURRENT = "INSERT INTO current_state (room_nid, type, state_key, event_nid, position, membership) VALUES"
_REPLACE = (
    "ON CONFLICT (room_nid, type, state_key) DO UPDATE SET"
    " event_nid = excluded.event_nid, position = excluded.position, membership = excluded.membership"
)

# An event's place in the room's order is its own position or, without one, that of the snapshot it came with.
_PLACE = "COALESCE(e.position, s.position)"

_CURRENT = (
    f"SELECT {_PLACE}, {EVENT} FROM current_state AS s"  # noqa: S608
    " JOIN events AS e ON e.event_nid = s.event_nid WHERE s.room_nid = ?"
)
_ORDER = f" ORDER BY {_PLACE}, e.event_nid"

_AT = (
    f"SELECT {_PLACE}, {EVENT} FROM current_state AS k JOIN state_changes AS s"  # noqa: S608
    " ON s.room_nid = k.room_nid AND s.type = k.type AND s.state_key = k.state_key AND s.position ="
    " (SELECT MAX(c.position) FROM state_changes AS c WHERE c.room_nid = k.room_nid AND c.type = k.type"
    " AND c.state_key = k.state_key AND c.position >= ? AND c.position <= ?)"
    " JOIN events AS e ON e.event_nid = s.event_nid WHERE k.room_nid = ?"
)


def record_changes(tx: Transaction, room_nid: int, changes: Sequence[tuple[int, Pdu, int]]) -> None:
    """Record live changes, ascending by position: (position, event, event number) of state events only."""
    if not changes:
        return
    insert_rows(tx, _INSERT_CHANGES, [_change(room_nid, *change) for change in changes])
    latest = {(pdu.type, pdu.state_key): (position, pdu, nid) for position, pdu, nid in changes}
    insert_rows(tx, _INSERT_CURRENT, [_current(room_nid, *change) for change in latest.values()], _REPLACE)


def record_snapshot(tx: Transaction, room_nid: int, position: int, events: Sequence[tuple[Pdu, int]]) -> None:
    """Record a state that was received whole: (event, event number), with one event for each key."""
    changes = [(position, pdu, nid) for pdu, nid in events]
    insert_rows(tx, _INSERT_CHANGES, [_change(room_nid, *change) for change in changes])
    insert_rows(tx, _INSERT_CURRENT, [_current(room_nid, *change) for change in changes], _REPLACE)


def record_history(tx: Transaction, room_nid: int, changes: Sequence[tuple[int, Pdu, int]]) -> None:
    """Record changes below what is held already; current state stays as it is."""
    # The event just below a run's first one shares its position with the snapshot, which has it for its key as well.
    insert_rows(tx, _INSERT_CHANGES, [_change(room_nid, *change) for change in changes], "ON CONFLICT DO NOTHING")
    keys = [(room_nid, pdu.type, pdu.state_key, None, position, None) for position, pdu, _ in reversed(changes)]
    insert_rows(tx, _INSERT_CURRENT, keys, "ON CONFLICT DO NOTHING")


def forget_current(tx: Transaction, room_nid: int) -> None:
    """Empty the current state. The keys stay known, and so does the history."""
    tx.execute("UPDATE current_state SET event_nid = NULL, membership = NULL WHERE room_nid = ?", (room_nid,))


def current_state(tx: Transaction, room_nid: int, room_id: str) -> list[StoredEvent]:
    """Current state in the room's order."""
    return stored_events(room_id, tx.rows(_CURRENT + _ORDER, (room_nid,)))


def current_state_of_type(tx: Transaction, room_nid: int, room_id: str, event_type: str) -> list[StoredEvent]:
    """Current state events of one type, in the room's order."""
    return stored_events(room_id, tx.rows(f"{_CURRENT} AND s.type = ?{_ORDER}", (room_nid, event_type)))


def current_state_event(
    tx: Transaction, room_nid: int, room_id: str, event_type: str, state_key: str
) -> StoredEvent | None:
    """One current state event."""
    row = tx.row(f"{_CURRENT} AND s.type = ? AND s.state_key = ?", (room_nid, event_type, state_key))
    return None if row is None else stored_event(room_id, row)


def state_before(
    tx: Transaction, room_nid: int, room_id: str, position: int, event_type: str | None = None
) -> list[StoredEvent]:
    """State just before a position, in the room's order; of one type only when ``event_type`` is given."""
    parameters: list[object] = [snapshot_before(tx, room_nid, position), position - 1, room_nid]
    narrowed = ""
    if event_type is not None:
        narrowed = " AND k.type = ?"
        parameters.append(event_type)
    return stored_events(room_id, tx.rows(_AT + narrowed + _ORDER, parameters))


def state_event_before(
    tx: Transaction, room_nid: int, room_id: str, position: int, event_type: str, state_key: str
) -> StoredEvent | None:
    """One state event as of just before a position."""
    row = tx.row(
        f"SELECT {_PLACE}, {EVENT} FROM state_changes AS s JOIN events AS e ON e.event_nid = s.event_nid"  # noqa: S608
        " WHERE s.room_nid = ? AND s.type = ? AND s.state_key = ? AND s.position >= ? AND s.position < ?"
        " ORDER BY s.position DESC LIMIT 1",
        (room_nid, event_type, state_key, snapshot_before(tx, room_nid, position), position),
    )
    return None if row is None else stored_event(room_id, row)


def state_history(tx: Transaction, room_nid: int, room_id: str, event_type: str, state_key: str) -> list[StoredEvent]:
    """Every value that one piece of state had, ascending by position; a snapshot that only repeats a value adds
    nothing.
    """
    rows = tx.rows(
        f"SELECT {_PLACE}, {EVENT} FROM state_changes AS s JOIN events AS e ON e.event_nid = s.event_nid"  # noqa: S608
        " WHERE s.room_nid = ? AND s.type = ? AND s.state_key = ? ORDER BY s.position",
        (room_nid, event_type, state_key),
    )
    values: list[StoredEvent] = []
    for event in stored_events(room_id, rows):
        if not values or values[-1].event_id != event.event_id:
            values.append(event)
    return values


def state_between(tx: Transaction, room_nid: int, room_id: str, after: int, up_to: int) -> list[StoredEvent]:
    """What changed at positions ``after < p <= up_to``: the last value of each key that did, in the room's order."""
    # A key that changed since then has a current value from since then: only those keys are looked up.
    rows = tx.rows(f"{_AT} AND k.position > ?{_ORDER}", (after + 1, up_to, room_nid, after))
    return stored_events(room_id, rows)


def _change(room_nid: int, position: int, pdu: Pdu, event_nid: int) -> Row:
    return room_nid, pdu.type, pdu.state_key, position, event_nid


def _current(room_nid: int, position: int, pdu: Pdu, event_nid: int) -> Row:
    membership = pdu.content.get("membership") if pdu.type == MEMBER else None
    return room_nid, pdu.type, pdu.state_key, event_nid, position, membership if isinstance(membership, str) else None
