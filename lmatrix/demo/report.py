"""Printing a room as a server holds it. Pure: values in, lines out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lmatrix.demo.evidence import HeldEvent, HeldRoom
from lmatrix.events.forms import Pdu
from lmatrix.rooms.interfaces import Standing

_ID_LENGTH = 12
_WHAT_LENGTH = 60

Labels = Mapping[str, str]

_MEMBERSHIPS = {
    "join": "joins",
    "leave": "leaves",
    "invite": "invites",
    "ban": "bans",
    "knock": "knocks",
}


def room_table(room: HeldRoom, labels: Labels) -> Iterator[str]:
    """A room, one line for each event.

    Args:
        labels: short names of servers, by server name.
    """
    yield f"as {room.place.label} ({room.place.server_name}) holds it, {len(room.events)} events:"
    rows = [("position", "event ID", "sender", "what", "verified signatures")]
    rows.extend(_row(held, labels) for held in room.events)
    yield from aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines with aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if index == 0:
            yield "  " + "  ".join("-" * width for width in widths)


def what_happens(pdu: Pdu) -> str:
    """An event in a few words."""
    content = pdu.content
    if pdu.type == "m.room.create":
        return f"creates the room, version {content.get('room_version')}"
    if pdu.type == "m.room.message":
        return f"says {_quoted(content.get('body'))}"
    if pdu.type == "m.room.member" and pdu.state_key is not None:
        membership = _MEMBERSHIPS.get(str(content.get("membership")), str(content.get("membership")))
        return membership if pdu.state_key == pdu.sender else f"{membership} {pdu.state_key}"
    kind = pdu.type.removeprefix("m.room.").replace("_", " ")
    values = [value for value in content.values() if isinstance(value, str)]
    if len(values) == 1 and len(content) == 1:
        return f"sets {kind} to {_quoted(values[0])}"
    return f"sets {kind}" if pdu.state_key is not None else kind


def signatures(held: HeldEvent, labels: Labels) -> str:
    """Which signatures were verified, over which form: ``"LPDU: second, PDU: hub"``."""
    return ", ".join(f"{signed.form.value}: {labels.get(signed.server, signed.server)}" for signed in held.signed_by)


def percentiles(seconds: Iterable[float]) -> str:
    """Latencies in milliseconds at 50, 95 and 99 per cent, and the worst."""
    ordered = sorted(seconds)
    if not ordered:
        return "no measurements"

    def at(share: float) -> str:
        return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000:.1f} ms"

    return f"p50 {at(0.50)}, p95 {at(0.95)}, p99 {at(0.99)}, worst {ordered[-1] * 1000:.1f} ms"


def _row(held: HeldEvent, labels: Labels) -> tuple[str, str, str, str, str]:
    what = _shortened(what_happens(held.pdu), _WHAT_LENGTH)
    if held.standing is not Standing.ACCEPTED:
        what += f" [{held.standing.value}]"
    if held.redacted:
        what += " [redacted]"
    event_id = _shortened(held.pdu.event_id, _ID_LENGTH)
    return str(held.position), event_id, held.pdu.sender, what, signatures(held, labels)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 2] + ".."
