"""Making events: a participant's LPDU, the hub's PDU from it, and the hub's own.

Owns: the order in which an event is hashed and signed. What is built here passes the checks of
:mod:`~lmatrix.events.schema` and :mod:`~lmatrix.events.verification` by construction.

Completing an LPDU is the hub's hot path: the encoded members of the LPDU are taken over, so that its content is not
encoded a second time.

Source: I-D "Linearized PDU", "Signing Events", "Content Hash Calculation"; protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lmatrix import ids
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import InvalidIdentifier, SchemaViolation, UnsafeJson
from lmatrix.events import schema
from lmatrix.events.forms import Lpdu, Pdu, of_members
from lmatrix.events.hashing import content_hash_of, lpdu_hash_of, lpdu_hashes_member, signing_bytes
from lmatrix.events.members import Members, canonical_order, encode_members, encode_texts, member
from lmatrix.events.room_versions import RoomVersion

JsonObject = dict[str, Any]
E = TypeVar("E", Lpdu, Pdu)


def build_lpdu(
    version: RoomVersion,
    *,
    room_id: str,
    type: str,
    sender: str,
    content: JsonObject,
    origin_server_ts: int,
    hub_server: str,
    server_name: str,
    keys: Sequence[SigningKey],
    state_key: str | None = None,
) -> Lpdu:
    """A participant's event, hashed and signed for one hub.

    Args:
        origin_server_ts: milliseconds since the epoch.
        hub_server: the hub that it is for.
        server_name: the participant's own name.
        keys: the participant's signing keys; each signs.

    Raises:
        SchemaViolation: the arguments do not make an event.
        EventTooLarge: more than 65 536 bytes.
    """
    fields = _fields(room_id, type, sender, content, origin_server_ts, state_key)
    fields["hub_server"] = hub_server
    members = _encode(fields)
    fields["hashes"] = {"lpdu": {"sha256": lpdu_hash_of(members)}}
    members["hashes"] = lpdu_hashes_member(fields["hashes"]["lpdu"])
    return _signed(Lpdu, fields, version, _in_order(members, "signatures"), server_name, keys, {})


def complete_lpdu(
    lpdu: Lpdu,
    *,
    auth_events: Sequence[str],
    prev_events: Sequence[str],
    server_name: str,
    keys: Sequence[SigningKey],
) -> Pdu:
    """The PDU that the hub makes of an LPDU: in its place, hashed, and signed by the hub.

    Of the LPDU's signatures only those of the sender's server with a well-formed key ID are taken over: no other
    counts, and a stray one might make another server refuse the event.

    Args:
        auth_events, prev_events: event IDs.
        server_name: the hub's own name, which the LPDU must name too.
        keys: the hub's signing keys; each signs.

    Raises:
        ValueError: the LPDU is for another hub.
        SchemaViolation: the references do not make a PDU.
        EventTooLarge: more than 65 536 bytes.
    """
    if lpdu.hub_server != server_name:
        raise ValueError(f"the LPDU is for {lpdu.hub_server}, not {server_name}")
    fields = lpdu.fields.copy()
    fields["auth_events"] = list(auth_events)
    fields["prev_events"] = list(prev_events)
    signatures: Mapping[str, Mapping[str, str]] = {}
    if lpdu.sender_server != server_name:
        signatures = {lpdu.sender_server: _well_formed(lpdu.signatures.get(lpdu.sender_server, {}))}
    return _completed(fields, lpdu.members, lpdu.room_version, server_name, keys, signatures)


def build_hub_event(
    version: RoomVersion,
    *,
    room_id: str,
    type: str,
    sender: str,
    content: JsonObject,
    origin_server_ts: int,
    hub_server: str,
    auth_events: Sequence[str],
    prev_events: Sequence[str],
    keys: Sequence[SigningKey],
    state_key: str | None = None,
) -> Pdu:
    """An event of one of the hub's own users, complete.

    Whether it carries ``hub_server`` and ``hashes.lpdu`` is a property of the room version.

    Args:
        origin_server_ts: milliseconds since the epoch.
        hub_server: the hub's own name, which is the sender's server too.
        auth_events, prev_events: event IDs.
        keys: the hub's signing keys; each signs.

    Raises:
        SchemaViolation: the arguments do not make an event.
        EventTooLarge: more than 65 536 bytes.
    """
    fields = _fields(room_id, type, sender, content, origin_server_ts, state_key)
    if version.hub_events_carry_lpdu:
        fields["hub_server"] = hub_server
    members = _encode(fields)
    fields["hashes"] = {}
    if version.hub_events_carry_lpdu:
        fields["hashes"] = {"lpdu": {"sha256": lpdu_hash_of(members)}}
        members["hashes"] = lpdu_hashes_member(fields["hashes"]["lpdu"])
    fields["auth_events"] = list(auth_events)
    fields["prev_events"] = list(prev_events)
    return _completed(fields, members, version, hub_server, keys, {})


def add_signature(pdu: Pdu, server_name: str, keys: Sequence[SigningKey]) -> Pdu:
    """The same event with one more server's signature over the PDU (the target server of an invite).

    Raises:
        EventTooLarge: more than 65 536 bytes.
    """
    fields, members = pdu.fields.copy(), pdu.members.copy()
    return _signed(Pdu, fields, pdu.room_version, members, server_name, keys, pdu.signatures)


def _fields(
    room_id: str, event_type: str, sender: str, content: JsonObject, origin_server_ts: int, state_key: str | None
) -> JsonObject:
    fields: JsonObject = {
        "room_id": room_id,
        "type": event_type,
        "sender": sender,
        "content": content,
        "origin_server_ts": origin_server_ts,
    }
    if state_key is not None:
        fields["state_key"] = state_key
    return fields


def _encode(fields: JsonObject) -> Members:
    schema.check_common({**fields, "signatures": {}})
    try:
        return encode_members(fields)
    except UnsafeJson as error:
        raise SchemaViolation("content", str(error)) from error


def _completed(
    fields: JsonObject,
    members: Members,
    version: RoomVersion,
    server_name: str,
    keys: Sequence[SigningKey],
    signatures: Mapping[str, Mapping[str, str]],
) -> Pdu:
    """Add the content hash and the hub's signature; ``fields`` is this function's to change."""
    schema.check_place(fields)
    members = _in_order(members, "auth_events", "prev_events", "hashes", "signatures")
    members["auth_events"] = b'"auth_events":' + encode_texts(fields["auth_events"])
    members["prev_events"] = b'"prev_events":' + encode_texts(fields["prev_events"])
    hashes = fields["hashes"]
    lpdu_hashes = lpdu_hashes_member(hashes["lpdu"]) if hashes else None
    content_hash = content_hash_of(members, lpdu_hashes)
    fields["hashes"] = {**hashes, "sha256": content_hash}
    # "lpdu" sorts before "sha256", and is all that there was before.
    before = b'"hashes":{' if lpdu_hashes is None else lpdu_hashes[:-1] + b","
    members["hashes"] = b'%b"sha256":"%b"}' % (before, content_hash.encode("ascii"))
    return _signed(Pdu, fields, version, members, server_name, keys, signatures)


def _signed(
    cls: type[E],
    fields: JsonObject,
    version: RoomVersion,
    members: Members,
    server_name: str,
    keys: Sequence[SigningKey],
    signatures: Mapping[str, Mapping[str, str]],
) -> E:
    """Sign, beside ``signatures``.

    ``members`` is in order and has a place for ``signatures``; it and ``fields`` are this function's to change.
    """
    message = signing_bytes(members, fields["type"], fields["content"], version.redaction)
    own = {key.key_id: key.sign(message) for key in keys}
    fields["signatures"] = {**signatures, server_name: {**signatures.get(server_name, {}), **own}}
    members["signatures"] = member("signatures", fields["signatures"])
    return of_members(cls, fields, version, members, message)


def _well_formed(signatures: Mapping[str, str]) -> Mapping[str, str]:
    return {key_id: signature for key_id, signature in signatures.items() if signature and _is_key_id(key_id)}


def _is_key_id(value: str) -> bool:
    try:
        ids.key_id(value)
    except InvalidIdentifier:
        return False
    return True


def _in_order(members: Members, *places: str) -> Members:
    """The members in canonical order, with an empty place for each of ``places`` that is not there yet."""
    keys = canonical_order({*members, *places})
    return {key: members.get(key, b"") for key in keys}
