"""An event's canonical JSON in pieces, so that no field is encoded twice.

Owns: the *members* of an event: for each top-level field, the bytes ``"key":value`` of its canonical JSON, in canonical
order. Every form that is hashed, signed, stored or sent (content hash, LPDU hash, redacted form, the event itself) is a
choice of some members, so it is joined from bytes that exist and ``content`` is encoded once in an event's life.

Invariant: for every selection of an event's fields, :func:`join` of the selected members equals
:func:`lmatrix.canonical_json.encode` of the selected fields.

Source: I-D "Canonical JSON" (RFC 8785).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lmatrix import canonical_json
from lmatrix.canonical_json import MAX_SAFE_INTEGER

Members = dict[str, bytes]
"""Field name → ``"key":value``; iteration is in canonical order."""

MAX_EVENT_DEPTH: Final = canonical_json.MAX_DEPTH - 10
"""How deep a field of an event may be nested: less than JSON that is parsed may be.

Whatever wraps the event on its way (a transaction, an answer) can then be parsed too, and one deep event cannot hold up
those that travel with it."""

_PREFIXES: Final = {
    name: b'"%b":' % name.encode("ascii")
    for name in (
        "auth_events",
        "content",
        "hashes",
        "hub_server",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    )
}


def encode_members(fields: Mapping[str, Any]) -> Members:
    """The members of a JSON object.

    Raises:
        UnsafeJson: a value has no canonical JSON.
    """
    return {key: member(key, fields[key]) for key in canonical_order(fields)}


def member(key: str, value: object) -> bytes:
    """``"key":value`` in canonical JSON.

    Raises:
        UnsafeJson: ``value`` has no canonical JSON.
    """
    prefix = _PREFIXES.get(key) or encode_text(key) + b":"
    if type(value) is str:
        return prefix + encode_text(value)
    if type(value) is int and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        return prefix + b"%d" % value
    return prefix + canonical_json.encode(value, max_depth=MAX_EVENT_DEPTH)


def encode_text(text: str) -> bytes:
    """A string in canonical JSON.

    Raises:
        UnsafeJson: ``text`` has a lone surrogate.
    """
    # Nearly every string outside of content is one that canonical JSON leaves as it is.
    return b'"%b"' % text.encode("ascii") if _is_plain(text) else canonical_json.encode(text)


def encode_texts(texts: Sequence[str]) -> bytes:
    """A list of strings in canonical JSON.

    Raises:
        UnsafeJson: one of them has a lone surrogate.
    """
    if texts and _is_plain("".join(texts)):
        return b'["%b"]' % '","'.join(texts).encode("ascii")
    return canonical_json.encode(list(texts))


def _is_plain(text: str) -> bool:
    """Whether there is nothing but printable ASCII in it, and nothing to escape."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def canonical_order(keys: Iterable[str]) -> list[str]:
    """Keys in RFC 8785's order: by UTF-16 code unit."""
    ordered = sorted(keys)
    if not "".join(ordered).isascii():
        # Code points and UTF-16 code units sort alike up to the surrogates' place in the alphabet, and differ beyond.
        ordered.sort(key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    return ordered


def join(members: Iterable[bytes]) -> bytes:
    """The canonical JSON of an object, from its members in canonical order."""
    return b"{%b}" % b",".join(members)
