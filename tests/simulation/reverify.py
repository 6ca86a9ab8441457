"""Events, verified from their bytes by somebody else's code.

Owns: :func:`problems_of`, :func:`is_redacted_copy` and :class:`PublicKey`. Signatures are checked with ``signedjson``,
hashes with ``hashlib`` over what ``canonicaljson`` encodes; redaction is written here once more, from the protocol's
text. Nothing of lmatrix's own event code is used, so that a mistake in it does not hide itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from canonicaljson import encode_canonical_json
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import SignatureVerifyException, verify_signed_json
from unpaddedbase64 import decode_base64, encode_base64

Event = dict[str, Any]

_TOP = frozenset(
    [
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "prev_events",
        "auth_events",
        "origin_server_ts",
        "hub_server",
    ]
)
_POWER = ["ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"]
_KEPT_I1: Mapping[str, list[str] | None] = {
    "m.room.create": None,
    "m.room.member": ["membership"],
    "m.room.join_rules": ["join_rule"],
    "m.room.power_levels": _POWER,
    "m.room.history_visibility": ["history_visibility"],
    "m.room.redaction": ["redacts"],
    "m.room.hub": None,
}
_KEPT_V11: Mapping[str, list[str] | None] = {
    "m.room.create": None,
    "m.room.member": ["membership", "join_authorised_via_users_server"],
    "m.room.join_rules": ["join_rule", "allow"],
    "m.room.power_levels": _POWER,
    "m.room.history_visibility": ["history_visibility"],
    "m.room.redaction": ["redacts"],
}


@attrs.frozen(slots=True)
class PublicKey:
    """A key as its server publishes it.

    Attributes:
        key: unpadded base64.
        expired_ts: after which it did not sign any more, milliseconds since the epoch; ``None`` while it does.
    """

    key: str
    expired_ts: int | None


Keys = Mapping[str, Mapping[str, PublicKey]]


def problems_of(canonical: bytes, event_id: str, version: str, keys: Keys, *, redacted: bool) -> Iterator[str]:
    """What is wrong with a stored event.

    Args:
        canonical: its bytes.
        event_id: the name under which it is stored.
        version: of its room.
        keys: of every server, by server name and key ID.
        redacted: whether it was redacted since, so that its content is not what was hashed.
    """
    event = json.loads(canonical)
    if encode_canonical_json(event) != canonical:
        yield "its bytes are not canonical"
    if _event_id(event, version) != event_id:
        yield "its event ID is not its hash"
    hashes = event["hashes"]
    lpdu_hash = hashes.get("lpdu", {}).get("sha256")
    if not redacted:
        if lpdu_hash is not None and _hash(_without(event, "hashes", "auth_events", "prev_events")) != lpdu_hash:
            yield "its LPDU hash does not match"
        inner = {"hashes": {"lpdu": hashes["lpdu"]}} if "lpdu" in hashes else {}
        if _hash({**_without(event, "hashes"), **inner}) != hashes.get("sha256"):
            yield "its content hash does not match"
    sender_server = event["sender"].partition(":")[2]
    hub = event.get("hub_server")
    if hub is None or hub == sender_server:
        yield from _unsigned(event, event, sender_server, version, keys)
    else:
        lpdu = {**_without(event, "auth_events", "prev_events"), "hashes": {"lpdu": hashes["lpdu"]}}
        yield from _unsigned(lpdu, event, sender_server, version, keys)
        yield from _unsigned(event, event, hub, version, keys)


def is_redacted_copy(copy: bytes, of: bytes, version: str) -> bool:
    """Whether an event is what redaction leaves of another, signatures aside."""
    stripped = _redacted(json.loads(of), version)
    return {**stripped, "signatures": None} == {**json.loads(copy), "signatures": None}


def _unsigned(form: Event, event: Event, server: str, version: str, keys: Keys) -> Iterator[str]:
    """Says so unless a server's key has signed this form of the event."""
    message = {**_redacted(form, version), "signatures": event["signatures"]}
    for key_id in event["signatures"].get(server, {}):
        key = keys[server].get(key_id)
        if key is None or (key.expired_ts is not None and event["origin_server_ts"] > key.expired_ts):
            continue
        try:
            verify_signed_json(message, server, decode_verify_key_bytes(key_id, decode_base64(key.key)))
        except SignatureVerifyException:
            continue
        return
    yield f"{server} has not signed it"


def _redacted(event: Event, version: str) -> Event:
    kept = (_KEPT_I1 if version == "I.1" else _KEPT_V11).get(event["type"], [])
    content = event["content"]
    if kept is not None:
        content = {key: content[key] for key in kept if key in content}
    return {**{key: value for key, value in event.items() if key in _TOP}, "content": content}


def _without(event: Event, *names: str) -> Event:
    return {key: value for key, value in event.items() if key not in ("signatures", "unsigned", *names)}


def _hash(event: Event) -> str:
    return encode_base64(hashlib.sha256(encode_canonical_json(event)).digest())


def _event_id(event: Event, version: str) -> str:
    redacted = _without(_redacted(event, version))
    digest = hashlib.sha256(encode_canonical_json(redacted)).digest()
    return "$" + encode_base64(digest, urlsafe=True)
