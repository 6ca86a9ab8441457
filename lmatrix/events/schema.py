"""The shape of an event: which fields, of which type, within which bounds.

Owns: the schema checks that LPDUs and PDUs share and those in which they differ. Content is only required to be an
object: what stands in it is for the auth rules and the clients to judge.

Invariants: whatever the JSON, these functions raise nothing but :class:`~lmatrix.errors.SchemaViolation`.

Source: I-D "Events", "Linearized PDU"; protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lmatrix import ids
from lmatrix.canonical_json import MAX_SAFE_INTEGER
from lmatrix.errors import InvalidIdentifier, SchemaViolation

JsonObject = dict[str, Any]

MAX_EVENT_BYTES: Final = 65_536
"""Bytes of canonical JSON, signatures included."""
MAX_TEXT_BYTES: Final = 255
"""Bytes of a ``type`` or ``state_key``."""
MAX_AUTH_EVENTS: Final = 10
MAX_PREV_EVENTS: Final = 20

STRIPPED_FIELDS: Final = frozenset({"unsigned", "age_ts", "event_id"})
"""What is taken off an event that comes in, before anything else."""


def strip(raw: object) -> JsonObject:
    """An event's fields without those that never belong to it.

    Raises:
        SchemaViolation: it is not an object.
    """
    if not isinstance(raw, dict):
        raise SchemaViolation("event", "must be an object")
    if STRIPPED_FIELDS.isdisjoint(raw):
        return raw.copy()
    return {key: value for key, value in raw.items() if key not in STRIPPED_FIELDS}


def check_common(fields: JsonObject) -> None:
    """The fields that LPDUs and PDUs have alike."""
    identifier(fields, "room_id", ids.room_id)
    identifier(fields, "sender", ids.user_id)
    _check_text(fields, "type")
    if "state_key" in fields:
        _check_text(fields, "state_key")
    if "hub_server" in fields:
        identifier(fields, "hub_server", ids.server_name)
    ts = required(fields, "origin_server_ts")
    if type(ts) is not int or not -MAX_SAFE_INTEGER <= ts <= MAX_SAFE_INTEGER:
        raise SchemaViolation("origin_server_ts", "must be an integer")
    if not isinstance(required(fields, "content"), dict):
        raise SchemaViolation("content", "must be an object")
    _check_signatures(required(fields, "signatures"))


def check_lpdu(fields: JsonObject) -> None:
    """What an LPDU must have, and must not, beyond :func:`check_common`."""
    for key in ("auth_events", "prev_events"):
        if key in fields:
            raise SchemaViolation(key, "an LPDU has none")
    if "hub_server" not in fields:
        raise SchemaViolation("hub_server", "is missing")
    hashes = _hashes(fields)
    _check_lpdu_hashes(hashes)
    if len(hashes) != 1:
        raise SchemaViolation("hashes", "those of an LPDU have nothing but lpdu")


def check_pdu(fields: JsonObject) -> None:
    """What a PDU must have, and must not, beyond :func:`check_common`."""
    hashes = _hashes(fields)
    if "hub_server" in fields:
        _check_lpdu_hashes(hashes)
    elif "lpdu" in hashes:
        raise SchemaViolation("hashes.lpdu", "only an event with hub_server has it")
    if "sha256" not in hashes:
        raise SchemaViolation("hashes.sha256", "is missing")
    for algorithm, value in hashes.items():
        if algorithm != "lpdu" and not isinstance(value, str):
            raise SchemaViolation("hashes", "must be strings by algorithm")
    check_place(fields)


def check_place(fields: JsonObject) -> None:
    """The references by which a PDU takes its place in the room."""
    _check_event_ids(fields, "auth_events", MAX_AUTH_EVENTS)
    _check_event_ids(fields, "prev_events", MAX_PREV_EVENTS)
    if fields["type"] == "m.room.create":
        # That a create event has no predecessor is auth rule 3.1, not schema.
        return
    if not fields["prev_events"]:
        raise SchemaViolation("prev_events", "only m.room.create has none")
    if "hub_server" in fields and len(fields["prev_events"]) != 1:
        raise SchemaViolation("prev_events", "an event with hub_server has exactly one")


def required(fields: Mapping[str, Any], key: str) -> Any:
    """A field that must be there.

    Raises:
        SchemaViolation: it is not.
    """
    try:
        return fields[key]
    except KeyError:
        raise SchemaViolation(key, "is missing") from None


def identifier(fields: Mapping[str, Any], key: str, check: Callable[[object], str]) -> str:
    """A field that must be there and be an identifier.

    Raises:
        SchemaViolation: it is not.
    """
    try:
        return check(required(fields, key))
    except InvalidIdentifier as error:
        raise SchemaViolation(key, error.reason) from error


def _check_text(fields: JsonObject, key: str) -> None:
    text = required(fields, key)
    if not isinstance(text, str):
        raise SchemaViolation(key, "must be a string")
    # In UTF-8 a character has four bytes at most, so that most texts need no encoding to be measured.
    if len(text) * 4 > MAX_TEXT_BYTES and len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise SchemaViolation(key, f"is longer than {MAX_TEXT_BYTES} bytes")


def _check_signatures(signatures: object) -> None:
    if not isinstance(signatures, dict):
        raise SchemaViolation("signatures", "must be an object")
    for by_key in signatures.values():
        if not isinstance(by_key, dict):
            raise SchemaViolation("signatures", "must be objects by server name")
        for signature in by_key.values():
            if not isinstance(signature, str):
                raise SchemaViolation("signatures", "must be strings by key ID")


def _hashes(fields: JsonObject) -> JsonObject:
    hashes = required(fields, "hashes")
    if not isinstance(hashes, dict):
        raise SchemaViolation("hashes", "must be an object")
    return hashes


def _check_lpdu_hashes(hashes: JsonObject) -> None:
    lpdu = hashes.get("lpdu")
    if not isinstance(lpdu, dict):
        raise SchemaViolation("hashes.lpdu", "must be an object")
    if "sha256" not in lpdu:
        raise SchemaViolation("hashes.lpdu.sha256", "is missing")
    for value in lpdu.values():
        if not isinstance(value, str):
            raise SchemaViolation("hashes.lpdu", "must be strings by algorithm")


def _check_event_ids(fields: JsonObject, key: str, limit: int) -> None:
    event_ids = required(fields, key)
    if not isinstance(event_ids, list):
        raise SchemaViolation(key, "must be a list")
    if len(event_ids) > limit:
        raise SchemaViolation(key, f"has more than {limit} entries")
    for event_id in event_ids:
        try:
            ids.event_id(event_id)
        except InvalidIdentifier as error:
            raise SchemaViolation(key, error.reason) from error
