"""The ``X-Matrix`` authorization scheme: what is signed, how the header is written, how it is read. Pure.

Owns: :class:`XMatrix`, :func:`parse_authorization`, :func:`format_authorization`, :func:`request_signing_bytes`.

The header follows RFC 9110, section 11.4: a scheme, spaces, and a list of ``name = value`` in any order, where a
value is a token or a quoted string with backslash escapes. It is read character class by character class, never split
on commas: a quoted value may contain one. Beyond the grammar one thing is let through, as Matrix recommends: a colon
in an unquoted value (``key=ed25519:1``), which old servers send.

Implements the I-D's "Request Authentication"; the signature's parameter is sent as ``sig``, ``signature`` is accepted.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

from lmatrix import canonical_json
from lmatrix.errors import Unauthenticated

SCHEME = "X-Matrix"

MAX_HEADER_LENGTH = 4096
"""Characters of one header; the four values that matter are 255 or fewer each."""

_SCHEME = re.compile(r"(?P<scheme>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?: +|\Z)")
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")
_PARAMETER = re.compile(
    r"""(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)   # token
        [ \t]*=[ \t]*                            # "bad" white space is allowed around the sign
        (?: "(?P<quoted>(?:[\t \x21\x23-\x5B\x5D-\x7E]|\\[\t \x21-\x7E])*)"
          | (?P<plain>[!#$%&'*+\-.^_`|~0-9A-Za-z:]+) )""",
    re.VERBOSE,
)
_QUOTED_PAIR = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'(["\\])')
_LEADING = re.compile(r"[ \t]*(?:,[ \t]*)*")
_TRAILING = re.compile(r"[ \t]*(?:,[ \t]*)*\Z")


@attrs.frozen(slots=True)
class XMatrix:
    """The parameters of one header.

    Attributes:
        origin: server name of the sender.
        destination: server name of the receiver.
        key: ID of the key that signed.
        sig: the signature, unpadded base64.
    """

    origin: str
    destination: str
    key: str
    sig: str


def parse_authorization(header: str) -> XMatrix:
    """Read an ``Authorization`` header.

    Args:
        header: the field's value.

    Returns:
        Its parameters, unescaped and not yet checked against any identifier's grammar.

    Raises:
        Unauthenticated: another scheme, a malformed header, a parameter that is missing, or one that came twice (it
            would be unclear which of them was meant).
    """
    # RFC 9110, section 5.5: the white space around a field's value is no part of it.
    header = header.strip(" \t")
    if len(header) > MAX_HEADER_LENGTH:
        raise Unauthenticated(f"the Authorization header is longer than {MAX_HEADER_LENGTH} characters")
    scheme = _SCHEME.match(header)
    if scheme is None or scheme["scheme"].lower() != SCHEME.lower():
        raise Unauthenticated(f"the Authorization header's scheme is not {SCHEME}")
    parameters = _parameters(header, scheme.end())
    return XMatrix(
        origin=_required(parameters, "origin"),
        destination=_required(parameters, "destination"),
        key=_required(parameters, "key"),
        sig=_signature(parameters),
    )


def format_authorization(authorization: XMatrix) -> str:
    """Write the header's value: ``X-Matrix origin="…",destination="…",key="…",sig="…"``."""
    return (
        f"{SCHEME} origin={_quoted(authorization.origin)},destination={_quoted(authorization.destination)},"
        f"key={_quoted(authorization.key)},sig={_quoted(authorization.sig)}"
    )


def signed_request_object(
    method: str, uri: str, origin: str, destination: str, content: dict[str, Any] | None
) -> dict[str, Any]:
    """The object that stands for a request and is signed.

    Args:
        method: HTTP method in capitals.
        uri: the request target, from its first slash to the end of the query, byte for byte as on the wire.
        origin: the sender's server name.
        destination: the receiver's server name.
        content: the JSON body; ``None`` leaves it out, which is Matrix's form for a request without a body. The I-D's
            form for it is ``{}``.
    """
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    if content is not None:
        request["content"] = content
    return request


def request_signing_bytes(
    method: str, uri: str, origin: str, destination: str, content_canonical: bytes | None
) -> bytes:
    """Canonical JSON of :func:`signed_request_object`, without encoding the body a second time.

    Args:
        content_canonical: canonical JSON of the body, put in as it is; ``None`` leaves ``content`` out.

    Raises:
        UnsafeJson: one of the strings cannot be written as JSON.
    """
    # The keys in RFC 8785's order. "content" comes before all others.
    head = b"{" if content_canonical is None else b'{"content":' + content_canonical + b","
    return b"".join(
        (
            head,
            b'"destination":',
            canonical_json.encode(destination),
            b',"method":',
            canonical_json.encode(method),
            b',"origin":',
            canonical_json.encode(origin),
            b',"uri":',
            canonical_json.encode(uri),
            b"}",
        )
    )


def _parameters(header: str, position: int) -> dict[str, str]:
    found: dict[str, str] = {}
    # RFC 9110, section 5.6.1: empty list elements are ignored.
    position = _end(_LEADING, header, position)
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter is None:
            raise Unauthenticated(f"the Authorization header is malformed at character {position}")
        name = parameter["name"].lower()
        if name in found:
            raise Unauthenticated(f"the Authorization header has {name} twice")
        quoted = parameter["quoted"]
        found[name] = parameter["plain"] if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = parameter.end()
        if _TRAILING.match(header, position):
            break
        separator = _SEPARATOR.match(header, position)
        if separator is None:
            raise Unauthenticated(f"the Authorization header is malformed at character {position}")
        position = separator.end()
    return found


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _required(parameters: dict[str, str], name: str) -> str:
    value = parameters.get(name)
    if not value:
        raise Unauthenticated(f"the Authorization header lacks {name}")
    return value


def _signature(parameters: dict[str, str]) -> str:
    ours, theirs = parameters.get("sig"), parameters.get("signature")
    if ours and theirs and ours != theirs:
        raise Unauthenticated("the Authorization header has two different signatures")
    if not (ours or theirs):
        raise Unauthenticated("the Authorization header lacks sig")
    return ours or theirs or ""


def _quoted(value: str) -> str:
    return '"' + _TO_ESCAPE.sub(r"\\\1", value) + '"'
