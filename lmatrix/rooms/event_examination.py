"""One stored event, checked again from its bytes.

Owns: :func:`examine_event`. Pure. What an event owes to others (its place in the chain, the auth rules, the state) is
:mod:`lmatrix.rooms.room_examination`'s business.

Source: I-D "Receiving Events/PDUs", "Event Redactions"; protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from lmatrix import canonical_json
from lmatrix.errors import BadSignature, EventDropped, InvalidJson
from lmatrix.events.forms import Pdu
from lmatrix.events.redaction import redact
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.signatures import KnownKey, check_signatures
from lmatrix.events.verification import hashes_match
from lmatrix.rooms.examined import ExaminedEvent

Keys = Mapping[str, Mapping[str, KnownKey]]
"""Server name → key ID → key."""


@attrs.frozen(slots=True)
class EventExamination:
    """What became of one event.

    Attributes:
        pdu: the event; ``None`` when its bytes are none.
        faults: what is wrong with it, in words.
        redacted: whether its content is what redaction leaves of one.
    """

    pdu: Pdu | None
    faults: tuple[str, ...]
    redacted: bool


def parse_event(row: ExaminedEvent, version: RoomVersion) -> tuple[Pdu | None, str | None]:
    """The event in a row, and what is wrong with its bytes; one of the two."""
    try:
        pdu = Pdu.parse(canonical_json.parse(row.canonical), version)
    except (InvalidJson, EventDropped) as error:
        return None, f"it is no event: {error}"
    if pdu.canonical != row.canonical:
        return None, "its bytes are not canonical JSON"
    return pdu, None


def examine_event(row: ExaminedEvent, pdu: Pdu, room_id: str, keys: Keys) -> EventExamination:
    """Check an event by itself: event ID, columns, signatures, hashes.

    Args:
        row: the database's row.
        pdu: the event in it, see :func:`parse_event`.
        room_id: the room to which the row belongs.
        keys: the keys with which it may be signed, see :func:`lmatrix.events.signatures.keys_wanted`.
    """
    redacted = redact(pdu).canonical == pdu.canonical
    return EventExamination(pdu, tuple(_faults(row, pdu, room_id, keys, redacted=redacted)), redacted)


def _faults(row: ExaminedEvent, pdu: Pdu, room_id: str, keys: Keys, *, redacted: bool) -> Iterator[str]:
    if pdu.event_id != row.event_id:
        yield f"its hash gives it the event ID {pdu.event_id}"
    if pdu.room_id != room_id:
        yield f"it belongs to {pdu.room_id}"
    columns: tuple[tuple[str, Any, Any], ...] = (
        ("type", row.type, pdu.type),
        ("state_key", row.state_key, pdu.state_key),
        ("sender", row.sender, pdu.sender),
        ("origin_server_ts", row.origin_server_ts, pdu.origin_server_ts),
        ("lpdu_hash", row.lpdu_hash, pdu.lpdu_hash),
    )
    for name, column, value in columns:
        if column != value:
            yield f"the column {name} says {column!r}, the event {value!r}"
    try:
        check_signatures(pdu, keys)
    except BadSignature as error:
        yield str(error)
    # A redaction takes content away, and leaves the hashes of what was there.
    if not redacted and not hashes_match(pdu):
        yield "its content is not what its hashes say"
    if row.redacted_by is not None and not redacted:
        yield f"it was redacted by {row.redacted_by}, and still has its content"
