"""The three hashes of an event: LPDU hash, content hash, reference hash.

Owns: which fields each hash covers. The functions on *members* do the work; those on plain fields are for library users
and say the same thing.

Source: I-D "Hashes", as made precise in the protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmatrix.crypto.digest import sha256_base64, sha256_urlsafe
from lmatrix.events.members import Members, encode_members, encode_text, join, member
from lmatrix.events.redaction_rules import RedactionRules

JsonObject = dict[str, Any]

_NOT_IN_LPDU_HASH = frozenset({"signatures", "unsigned", "hashes", "auth_events", "prev_events"})
_NOT_SIGNED = frozenset({"signatures", "unsigned"})


def lpdu_hash(fields: Mapping[str, Any]) -> str:
    """The LPDU hash: unpadded base64 SHA-256 of what the participant vouches for. The same for an LPDU and its PDU."""
    return lpdu_hash_of(encode_members({key: fields[key] for key in fields.keys() - _NOT_IN_LPDU_HASH}))


def content_hash(fields: Mapping[str, Any]) -> str:
    """A PDU's content hash: unpadded base64 SHA-256 of all but signatures and the top-level hashes."""
    members = encode_members({key: fields[key] for key in fields.keys() - _NOT_SIGNED})
    lpdu = fields.get("hashes", {}).get("lpdu")
    return content_hash_of(members, None if lpdu is None else lpdu_hashes_member(lpdu))


def event_id_of(fields: Mapping[str, Any], rules: RedactionRules) -> str:
    """The event ID: ``$`` and the URL-safe reference hash. Of an LPDU's fields: the LPDU's own ID."""
    members = encode_members({key: fields[key] for key in fields.keys() - _NOT_SIGNED})
    return event_id_of_signed_bytes(signing_bytes(members, fields["type"], fields["content"], rules))


def lpdu_hash_of(members: Members) -> str:
    """:func:`lpdu_hash` of an event that is already in members."""
    return sha256_base64(join([part for key, part in members.items() if key not in _NOT_IN_LPDU_HASH]))


def content_hash_of(members: Members, lpdu_hashes: bytes | None) -> str:
    """:func:`content_hash` of an event that is already in members.

    Args:
        lpdu_hashes: its :func:`lpdu_hashes_member`; ``None`` when it has no LPDU hash.
    """
    if lpdu_hashes is None:
        covered = [part for key, part in members.items() if key != "signatures" and key != "hashes"]
    else:
        covered = [lpdu_hashes if key == "hashes" else part for key, part in members.items() if key != "signatures"]
    return sha256_base64(join(covered))


def signing_bytes(members: Members, event_type: str, content: JsonObject, rules: RedactionRules) -> bytes:
    """What a signature over the event covers, and what its event ID hashes: redacted, canonical, without signatures."""
    signed = rules.signed
    redacted = _redacted_content(members, event_type, content, rules)
    return join([redacted if key == "content" else part for key, part in members.items() if key in signed])


def lpdu_signing_bytes(
    members: Members, event_type: str, content: JsonObject, hashes: Mapping[str, Any], rules: RedactionRules
) -> bytes:
    """What the participant's signature over the LPDU form covers, rebuilt from the PDU's members."""
    lpdu = {key: part for key, part in members.items() if key != "auth_events" and key != "prev_events"}
    lpdu["hashes"] = lpdu_hashes_member(hashes["lpdu"])
    return signing_bytes(lpdu, event_type, content, rules)


def event_id_of_signed_bytes(signed: bytes) -> str:
    """The event ID of the event whose :func:`signing_bytes` these are."""
    return "$" + sha256_urlsafe(signed)


def lpdu_hashes_member(lpdu: Mapping[str, Any]) -> bytes:
    """The member ``hashes`` when there is nothing in it but ``lpdu``."""
    if len(lpdu) == 1 and "sha256" in lpdu:
        return b'"hashes":{"lpdu":{"sha256":%b}}' % encode_text(lpdu["sha256"])
    return member("hashes", {"lpdu": lpdu})


def redacted_members(members: Members, event_type: str, content: JsonObject, rules: RedactionRules) -> Members:
    """The members of the redacted event, signatures included."""
    redacted = _redacted_content(members, event_type, content, rules)
    return {key: redacted if key == "content" else part for key, part in members.items() if key in rules.top_level}


def _redacted_content(members: Members, event_type: str, content: JsonObject, rules: RedactionRules) -> bytes:
    if event_type not in rules.content:
        return b'"content":{}'
    redacted = rules.redacted_content(event_type, content)
    return members["content"] if redacted is content else member("content", redacted)
