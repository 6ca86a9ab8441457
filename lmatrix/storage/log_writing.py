"""Putting events into a room's log: live ones at its head, fetched ones below what is held.

Owns: the writing of the table ``events`` and, with it, of a room's head. Invariants: a position is given once; an
event that is known from a snapshot gets its place in its existing row, so that whatever refers to it stays right; a
redaction changes its target's only copy, which the state shares. The cost depends on the number of events in hand, not
on how long the log is or how many members the room has.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.events.forms import Pdu
from lmatrix.rooms.interfaces import AppendedEvent, RoomAppend, Standing
from lmatrix.storage.engine import Numbering, Row, Transaction
from lmatrix.storage.rows import insert_rows, need_room, select_in
from lmatrix.storage.runs import lower_run
from lmatrix.storage.spans import change_spans
from lmatrix.storage.state_history import record_changes, record_history, record_snapshot

_INSERT = (
    "INSERT INTO events (event_nid, room_nid, position, stream, event_id, type, state_key, sender, origin_server_ts,"
    " lpdu_hash, standing, canonical) VALUES"
)


def append(tx: Transaction, batch: RoomAppend) -> list[int]:
    """Append live events; returns their stream positions. See :class:`~lmatrix.rooms.interfaces.RoomStore`.

    Raises:
        NotFound: unknown room.
        ValueError: an event already has another place in a log.
    """
    if not batch.events:
        change_spans(tx, need_room(tx, batch.room_id), batch.spans)
        return []
    first_stream = tx.take_numbers(Numbering.STREAM, len(batch.events))
    streams = list(range(first_stream, first_stream + len(batch.events)))
    room_nid, first_position = _move_head(tx, batch.room_id, batch.events[-1], streams[-1])
    known = _known_state(tx, batch.events)
    numbers = _place(tx, room_nid, batch.events, streams, known)
    record_changes(tx, room_nid, _changes(batch.events, numbers))
    if batch.spans:
        change_spans(tx, room_nid, batch.spans)
    _redact_targets(tx, room_nid, batch.events)
    lowest = batch.events[0]
    if lowest.position == first_position:
        lower_run(tx, room_nid, lowest.position, lowest.pdu.prev_events)
    return streams


def prepend(tx: Transaction, room_id: str, events: Sequence[AppendedEvent]) -> None:
    """Add history. See :class:`~lmatrix.rooms.interfaces.RoomStore`. Events that have a place already keep it.

    Raises:
        NotFound: unknown room.
    """
    room_nid = need_room(tx, room_id)
    ids = [event.pdu.event_id for event in events]
    known = {
        event_id: (nid, position)
        for event_id, nid, position in select_in(
            tx, "SELECT event_id, event_nid, position FROM events WHERE event_id IN {in}", (), ids
        )
    }
    fresh = [event for event in events if event.pdu.event_id not in known or known[event.pdu.event_id][1] is None]
    if not fresh:
        return
    fresh.sort(key=lambda event: event.position)
    numbers = _place(tx, room_nid, fresh, [None] * len(fresh), {event_id: nid for event_id, (nid, _) in known.items()})
    record_history(tx, room_nid, _changes(fresh, numbers))
    _redact_targets(tx, room_nid, fresh)
    lower_run(tx, room_nid, fresh[0].position, fresh[0].pdu.prev_events)


def put_state_snapshot(tx: Transaction, room_id: str, position: int, events: Sequence[Pdu]) -> None:
    """Keep a state that was received whole. See :class:`~lmatrix.rooms.interfaces.RoomStore`.

    Of several events for one key the last counts. An event that is held already is held from now on as it has come: it
    may have been redacted while we were not in the room. Raises :class:`NotFound` for an unknown room.
    """
    room_nid = need_room(tx, room_id)
    latest = {(pdu.type, pdu.state_key): pdu for pdu in events if pdu.state_key is not None}
    chosen = list(latest.values())
    ids = [pdu.event_id for pdu in chosen]
    numbers: dict[str, int] = dict(
        select_in(tx, "SELECT event_id, event_nid FROM events WHERE event_id IN {in}", (), ids)
    )
    missing = [pdu for pdu in chosen if pdu.event_id not in numbers]
    put_contents(tx, [pdu for pdu in chosen if pdu.event_id in numbers])
    if missing:
        first = tx.take_numbers(Numbering.EVENT, len(missing))
        numbers.update((pdu.event_id, first + offset) for offset, pdu in enumerate(missing))
        rows = [
            _row(numbers[pdu.event_id], room_nid, None, None, pdu, pdu.lpdu_hash, Standing.ACCEPTED) for pdu in missing
        ]
        insert_rows(tx, _INSERT, rows)
    record_snapshot(tx, room_nid, position, [(pdu, numbers[pdu.event_id]) for pdu in chosen])


def put_contents(tx: Transaction, events: Sequence[Pdu]) -> None:
    """Hold events as they are given here, but for those that were redacted by an event that we know."""
    for pdu in events:
        tx.execute(
            "UPDATE events SET canonical = ? WHERE event_id = ? AND redacted_by IS NULL", (pdu.canonical, pdu.event_id)
        )


def _move_head(tx: Transaction, room_id: str, last: AppendedEvent, stream: int) -> tuple[int, int]:
    rows = tx.rows(
        "UPDATE rooms SET head_position = ?, head_event_id = ?, head_stream = ? WHERE room_id = ?"
        " RETURNING room_nid, first_position",
        (last.position, last.pdu.event_id, stream, room_id),
    )
    if not rows:
        need_room(tx, room_id)
    room_nid, first_position = rows[0]
    return room_nid, first_position


def _known_state(tx: Transaction, events: Sequence[AppendedEvent]) -> dict[str, int]:
    # Only state events can have come with a snapshot; any other event that is known already fails on its unique ID.
    ids = [event.pdu.event_id for event in events if event.pdu.state_key is not None]
    if not ids:
        return {}
    known = {}
    for event_id, nid, position in select_in(
        tx, "SELECT event_id, event_nid, position FROM events WHERE event_id IN {in}", (), ids
    ):
        if position is not None:
            raise ValueError(f"{event_id} already has position {position}")
        known[event_id] = nid
    return known


def _place(
    tx: Transaction,
    room_nid: int,
    events: Sequence[AppendedEvent],
    streams: Sequence[int | None],
    known: dict[str, int],
) -> list[int]:
    """Give events their places; returns their numbers. ``known``: the numbers of those that have a row already."""
    missing = sum(event.pdu.event_id not in known for event in events)
    next_nid = tx.take_numbers(Numbering.EVENT, missing) if missing else 0
    numbers, rows = [], []
    for event, stream in zip(events, streams, strict=True):
        nid = known.get(event.pdu.event_id)
        if nid is None:
            nid, next_nid = next_nid, next_nid + 1
            rows.append(_row(nid, room_nid, event.position, stream, event.pdu, event.lpdu_hash, event.standing))
        else:
            tx.execute(
                "UPDATE events SET position = ?, stream = ?, standing = ?, lpdu_hash = ? WHERE event_nid = ?",
                (event.position, stream, event.standing.value, event.lpdu_hash, nid),
            )
        numbers.append(nid)
    insert_rows(tx, _INSERT, rows)
    return numbers


def _changes(events: Sequence[AppendedEvent], numbers: Sequence[int]) -> list[tuple[int, Pdu, int]]:
    return [
        (event.position, event.pdu, nid)
        for event, nid in zip(events, numbers, strict=True)
        if event.pdu.state_key is not None and event.standing is not Standing.REJECTED
    ]


def _redact_targets(tx: Transaction, room_nid: int, events: Sequence[AppendedEvent]) -> None:
    for event in events:
        if event.redacts is None or event.redact is None:
            continue
        target = tx.row(
            "SELECT event_nid, canonical, redacted_by FROM events WHERE event_id = ? AND room_nid = ?",
            (event.redacts, room_nid),
        )
        if target is None or target[2] is not None:
            continue
        redacted = event.redact(target[1])
        if redacted is not None:
            tx.execute(
                "UPDATE events SET canonical = ?, redacted_by = ? WHERE event_nid = ?",
                (redacted, event.pdu.event_id, target[0]),
            )


def _row(
    nid: int,
    room_nid: int,
    position: int | None,
    stream: int | None,
    pdu: Pdu,
    lpdu_hash: str | None,
    standing: Standing,
) -> Row:
    return (
        nid,
        room_nid,
        position,
        stream,
        pdu.event_id,
        pdu.type,
        pdu.state_key,
        pdu.sender,
        pdu.origin_server_ts,
        lpdu_hash,
        standing.value,
        pdu.canonical,
    )
