"""Events as they are on the wire, made and checked without lmatrix: a second opinion.

Owns: LPDUs and PDUs as plain JSON objects — redaction, the three hashes, signatures, event IDs, the chain — written
from the I-D's text over ``canonicaljson``, ``signedjson`` and ``hashlib``.

``canonicaljson`` sorts keys by code point and prints ``1.0``; RFC 8785 does neither. What is made here keeps to what
both write alike: no floats, no keys beyond the Basic Multilingual Plane.

Source: I-D "Events", "Signing", "Event Redactions", "Hashes"; protocol notes, "Events".
"""

from __future__ import annotations

import copy
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import attrs
from canonicaljson import encode_canonical_json
from signedjson.key import decode_verify_key_bytes, encode_verify_key_base64, get_verify_key
from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json
from signedjson.types import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64

JsonObject = dict[str, Any]
Keys = Mapping[str, Mapping[str, VerifyKey]]
"""Server name → key ID → key."""

I1 = "I.1"
V02 = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"

_KEPT = (
    *("type", "room_id", "sender", "state_key", "content", "origin_server_ts", "hashes", "signatures"),
    *("prev_events", "auth_events", "hub_server"),
)
_LEVELS = (*("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default", "invite"),)
_KEPT_CONTENT: Mapping[str, Mapping[str, Sequence[str]]] = {
    I1: {
        "m.room.member": ("membership",),
        "m.room.join_rules": ("join_rule",),
        "m.room.power_levels": _LEVELS,
        "m.room.history_visibility": ("history_visibility",),
        "m.room.redaction": ("redacts",),
    },
    V02: {
        "m.room.member": ("membership", "join_authorised_via_users_server"),
        "m.room.join_rules": ("join_rule", "allow"),
        "m.room.power_levels": _LEVELS,
        "m.room.history_visibility": ("history_visibility",),
        "m.room.redaction": ("redacts",),
    },
}
_KEPT_WHOLE: Mapping[str, Sequence[str]] = {I1: ("m.room.create", "m.room.hub"), V02: ("m.room.create",)}


class WireError(Exception):
    """Something on the wire is not as it must be."""


@attrs.frozen(slots=True)
class Identity:
    """A server that signs.

    Attributes:
        server_name: its name.
        key: the key with which it signs (``signedjson``'s).
    """

    server_name: str
    key: SigningKey = attrs.field(repr=False)

    @property
    def key_id(self) -> str:
        """``ed25519:`` and the key's version."""
        return f"{self.key.alg}:{self.key.version}"

    @property
    def verify_key(self) -> VerifyKey:
        """The key's public half."""
        return get_verify_key(self.key)

    @property
    def public(self) -> str:
        """The key's public half, unpadded base64."""
        return encode_verify_key_base64(self.verify_key)

    def user(self, localpart: str) -> str:
        """A user ID of this server."""
        return f"@{localpart}:{self.server_name}"


# -- Redaction and hashes ---------------------------------------------------------------------------------------------


def canonical(value: object) -> bytes:
    """Canonical JSON."""
    return encode_canonical_json(value)


def redacted(event: JsonObject, version: str = I1) -> JsonObject:
    """A redacted copy of an event."""
    kept = {key: event[key] for key in _KEPT if key in event}
    if event["type"] not in _KEPT_WHOLE[version]:
        names = _KEPT_CONTENT[version].get(event["type"], ())
        content = event["content"]
        kept["content"] = {key: content[key] for key in names if key in content}
        if version == V02 and event["type"] == "m.room.member" and isinstance(content.get("third_party_invite"), dict):
            kept["content"]["third_party_invite"] = {
                key: value for key, value in content["third_party_invite"].items() if key == "signed"
            }
    return copy.deepcopy(kept)


def lpdu_hash(event: JsonObject) -> str:
    """What ``hashes.lpdu.sha256`` of an LPDU, or of the PDU made from it, must be."""
    left_out = ("signatures", "unsigned", "hashes", "auth_events", "prev_events")
    return _base64(sha256(canonical(_without(event, *left_out))).digest())


def content_hash(event: JsonObject) -> str:
    """What ``hashes.sha256`` of a PDU must be."""
    covered = _without(event, "signatures", "unsigned", "hashes")
    if "lpdu" in event.get("hashes", {}):
        covered["hashes"] = {"lpdu": event["hashes"]["lpdu"]}
    return _base64(sha256(canonical(covered)).digest())


def event_id(event: JsonObject, version: str = I1) -> str:
    """The event ID of a PDU, or an LPDU's own."""
    digest = sha256(canonical(_without(redacted(event, version), "signatures"))).digest()
    return "$" + urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def lpdu_form(event: JsonObject) -> JsonObject:
    """What the sender's server signed of a PDU."""
    form = _without(event, "auth_events", "prev_events")
    form["hashes"] = {"lpdu": event["hashes"]["lpdu"]}
    return form


# -- Making -----------------------------------------------------------------------------------------------------------


def make_lpdu(
    identity: Identity,
    *,
    room_id: str,
    sender: str,
    type: str,
    content: JsonObject,
    hub_server: str,
    origin_server_ts: int,
    state_key: str | None = None,
    version: str = I1,
) -> JsonObject:
    """An LPDU, hashed and signed."""
    lpdu: JsonObject = {
        "room_id": room_id,
        "sender": sender,
        "type": type,
        "content": content,
        "hub_server": hub_server,
        "origin_server_ts": origin_server_ts,
    }
    if state_key is not None:
        lpdu["state_key"] = state_key
    return rehashed(identity, lpdu, version)


def rehashed(identity: Identity, lpdu: JsonObject, version: str = I1) -> JsonObject:
    """A copy of an LPDU, whatever is wrong with its fields, with the hash and signature that they ask for."""
    fresh = _without(lpdu, "hashes", "signatures")
    fresh["hashes"] = {"lpdu": {"sha256": lpdu_hash(fresh)}}
    return signed_event(identity, fresh, version)


def complete(
    hub: Identity, lpdu: JsonObject, *, auth_events: Sequence[str], prev_events: Sequence[str], version: str = I1
) -> JsonObject:
    """The PDU that a hub makes of an LPDU."""
    pdu = copy.deepcopy(lpdu)
    pdu["auth_events"] = list(auth_events)
    pdu["prev_events"] = list(prev_events)
    pdu["hashes"]["sha256"] = content_hash(pdu)
    return signed_event(hub, pdu, version)


def signed_event(identity: Identity, event: JsonObject, version: str = I1) -> JsonObject:
    """A copy of an event with one more signature."""
    signed: JsonObject = sign_json(redacted(event, version), identity.server_name, identity.key)
    return {**event, "signatures": signed["signatures"]}


def signed_object(identity: Identity, value: JsonObject) -> JsonObject:
    """A signed copy of any object."""
    signed: JsonObject = sign_json(copy.deepcopy(value), identity.server_name, identity.key)
    return signed


# -- Checking ---------------------------------------------------------------------------------------------------------


def check_pdu(event: JsonObject, keys: Keys, version: str = I1) -> None:
    """That a PDU has the hashes and the signatures that it must have.

    Raises:
        WireError: it does not.
    """
    hub, sender_server = event.get("hub_server"), event["sender"].partition(":")[2]
    if event["hashes"].get("sha256") != content_hash(event):
        raise WireError(f"{event_id(event, version)}: wrong content hash")
    if hub is not None and event["hashes"].get("lpdu", {}).get("sha256") != lpdu_hash(event):
        raise WireError(f"{event_id(event, version)}: wrong LPDU hash")
    if hub is None and "lpdu" in event["hashes"]:
        raise WireError(f"{event_id(event, version)}: an LPDU hash without a hub_server")
    check_signature(redacted(event, version), hub or sender_server, keys)
    if hub is not None and hub != sender_server:
        check_signature(redacted(lpdu_form(event), version), sender_server, keys)


def check_signature(signed: JsonObject, server_name: str, keys: Keys) -> None:
    """That an object (an event: redacted) is signed by a server, with one of these keys.

    Raises:
        WireError: it is not.
    """
    claimed = signed.get("signatures", {}).get(server_name, {})
    known = keys.get(server_name, {})
    for key_id in claimed.keys() & known.keys():
        try:
            verify_signed_json(signed, server_name, known[key_id])
        except SignatureVerifyException:
            continue
        return
    raise WireError(f"no valid signature of {server_name} with one of {sorted(known)}; it has {sorted(claimed)}")


def check_chain(events: Iterable[JsonObject], version: str = I1) -> list[str]:
    """That each event names the one before it, and no event comes twice.

    Returns:
        The event IDs, in order.

    Raises:
        WireError: it is no chain.
    """
    order: list[str] = []
    for event in events:
        this = event_id(event, version)
        if order and event["prev_events"] != [order[-1]]:
            raise WireError(f"event {len(order)}, {this}, follows {event['prev_events']}, and not {order[-1]}")
        order.append(this)
    if len(set(order)) != len(order):
        raise WireError("an event is there twice")
    return order


def verify_keys_of(published: JsonObject, *, with_old: bool = True) -> dict[str, VerifyKey]:
    """The keys in an answer to ``GET /_matrix/key/v2/server``, by key ID."""
    listed = dict(published["verify_keys"])
    if with_old:
        listed |= published.get("old_verify_keys", {})
    return {key_id: decode_verify_key_bytes(key_id, decode_base64(key["key"])) for key_id, key in listed.items()}


def _without(event: JsonObject, *names: str) -> JsonObject:
    return {key: value for key, value in event.items() if key not in names}


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode("ascii").rstrip("=")
