"""A request and an answer, as handlers see them.

Owns: :class:`JsonRequest` and :class:`JsonAnswer`, the two values that cross the line between HTTP and the endpoints of
both APIs, and the reading of a request target into path segments and query. Nothing here touches a socket.

Invariants: ``raw_uri`` is the request target byte for byte, because that is what a peer signs (I-D "Request
Authentication"); everything else that comes from the target is decoded from it once, strictly as UTF-8.

Implements the I-D's "Requests and Responses" and "Malformed Requests".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import attrs
from twisted.web.http_headers import Headers

from lmatrix import canonical_json
from lmatrix.errors import BadRequest
from lmatrix.http.limits import Place

JsonObject = dict[str, Any]

MAX_QUERY_FIELDS = 1000
"""Query parameters in one request, at most."""


@attrs.define(slots=True, kw_only=True)
class JsonRequest:
    """One request, read whole and not yet authenticated.

    Attributes:
        method: the HTTP method: ``"PUT"``.
        raw_uri: the request target as it came (path and query, percent-encoded).
        params: the path's parameters by name, percent-decoded.
        query: each query key's values in the order in which they came, decoded.
        headers: the request's header fields.
        body: the bytes of the body, at most as many as the route allows.
        client_address: IP address of the client, or ``"unknown"``.
        origin: server name or user ID that made the request. Set by whoever authenticates it; only logs read it here.
        place: what the request takes up of its API; ``None`` when nobody counts.
    """

    method: str = attrs.field(on_setattr=attrs.setters.frozen)
    raw_uri: bytes = attrs.field(on_setattr=attrs.setters.frozen)
    params: dict[str, str] = attrs.field(factory=dict, on_setattr=attrs.setters.frozen)
    query: dict[str, list[str]] = attrs.field(factory=dict, on_setattr=attrs.setters.frozen)
    headers: Headers = attrs.field(factory=Headers, on_setattr=attrs.setters.frozen)
    body: bytes = attrs.field(default=b"", on_setattr=attrs.setters.frozen, repr=lambda body: f"<{len(body)} bytes>")
    client_address: str = attrs.field(default="unknown", on_setattr=attrs.setters.frozen)
    origin: str | None = None
    place: Place | None = attrs.field(default=None, repr=False)

    def json(self) -> JsonObject:
        """The body as a JSON object.

        A ``Content-Type`` is not asked for: senders only SHOULD give one (I-D "Requests and Responses").

        Raises:
            NotJson: the body is not JSON.
            UnsafeJson: it is JSON that does not survive canonicalisation.
            BadRequest: it is JSON, but not an object.
        """
        return canonical_json.parse_object(self.body)

    def json_or_empty(self) -> JsonObject:
        """Like :meth:`json`, but no body at all counts as ``{}``: clients of a homeserver often leave it out."""
        return self.json() if self.body.strip() else {}

    def header(self, name: str) -> str | None:
        """The first value of a header field, or ``None``. Bytes beyond ASCII are read as Latin-1, as HTTP has it."""
        values = self.header_values(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        """All values of a header field, in the order in which they came."""
        raw = self.headers.getRawHeaders(name.encode("ascii"))
        return [] if raw is None else [value.decode("latin-1") for value in raw]

    def query_one(self, name: str) -> str | None:
        """The value of a query key that may come once at most, or ``None``.

        Raises:
            BadRequest: it came several times.
        """
        values = self.query.get(name)
        if not values:
            return None
        if len(values) > 1:
            raise BadRequest(f"query parameter {name} was given {len(values)} times; once is allowed")
        return values[0]

    def query_int(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """An integer query parameter, brought down to ``maximum`` when it is larger.

        Raises:
            BadRequest: it is not a decimal integer, is below ``minimum``, or came several times.
        """
        text = self.query_one(name)
        if text is None:
            return default
        # 16 digits hold every integer that JSON may carry; more is no honest number and would only cost time to read.
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 16):
            raise BadRequest(f"query parameter {name} must be an integer")
        value = int(text)
        if value < minimum:
            raise BadRequest(f"query parameter {name} must be at least {minimum}")
        return min(value, maximum)


@attrs.frozen(slots=True)
class JsonAnswer:
    """What to send back.

    Attributes:
        status: HTTP status.
        body: a JSON object, or bytes that are already encoded.
        headers: more header fields; a ``Content-Type`` here replaces ``application/json``.
    """

    status: int
    body: JsonObject | bytes = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def encoded(self) -> bytes:
        """The body's bytes (UTF-8).

        Raises:
            UnsafeJson: the object cannot be written as canonical JSON.
        """
        return self.body if isinstance(self.body, bytes) else canonical_json.encode(self.body)


def split_target(raw_uri: bytes) -> tuple[list[str] | None, bytes]:
    """Take a request target apart.

    Args:
        raw_uri: the target as it came.

    Returns:
        The path's segments, each percent-decoded on its own, so that ``%2F`` stays inside its segment; and the raw
        query string. A trailing or a double slash shows as an empty segment. The segments are ``None`` when the target
        is not a path at all.

    Raises:
        BadRequest: a segment is not UTF-8.
    """
    path, _, query = raw_uri.partition(b"?")
    if not path.startswith(b"/"):
        return None, query
    try:
        return [unquote_to_bytes(raw).decode("utf-8") for raw in path[1:].split(b"/")], query
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """Read a query string (``application/x-www-form-urlencoded``).

    Args:
        raw: what follows the question mark.

    Returns:
        Every key's values in order. A key without ``=`` has the value ``""``.

    Raises:
        BadRequest: it is not ASCII, does not decode to UTF-8, or has more than :data:`MAX_QUERY_FIELDS` fields.
    """
    if not raw:
        return {}
    if raw.count(b"&") >= MAX_QUERY_FIELDS:
        raise BadRequest(f"more than {MAX_QUERY_FIELDS} query parameters")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the query string is not UTF-8") from None
    query: dict[str, list[str]] = {}
    for key, value in pairs:
        query.setdefault(key, []).append(value)
    return query
