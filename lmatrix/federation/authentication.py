"""Which server made a request.

Owns: :class:`Authenticator`. The rules:

* at least one ``Authorization`` header, and every one of them good: one bad header spoils the request;
* all name the same ``origin``, a proper server name, and us as ``destination``;
* every signature verifies with a key that the origin lists under ``verify_keys`` and whose validity has not ended;
* what is signed is the request target byte for byte, and the body. For a request without a body both forms are good:
  with ``content: {}`` (the I-D's) and without ``content`` (Matrix's).

Everything else is :class:`~lmatrix.errors.Unauthenticated`, an origin whose keys cannot be had as well.

Implements the I-D's "Request Authentication", its receiving side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from lmatrix import canonical_json, ids
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import InvalidIdentifier, Unauthenticated, UnsafeJson
from lmatrix.federation.xmatrix import XMatrix, parse_authorization, request_signing_bytes

JsonObject = dict[str, Any]

MAX_HEADERS = 8
"""``Authorization`` headers in one request: one for each of the sender's keys."""


class CurrentKeys(Protocol):
    """See :meth:`lmatrix.federation.keyring.ServerKeyring.current_keys`, which bounds the time that it takes."""

    async def current_keys(self, server: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]: ...


class SignedRequest(Protocol):
    """What is looked at of a request; :class:`lmatrix.http.messages.JsonRequest` is one."""

    origin: str | None

    @property
    def method(self) -> str: ...

    @property
    def raw_uri(self) -> bytes: ...

    @property
    def body(self) -> bytes: ...

    def header_values(self, name: str) -> list[str]: ...


class Authenticator:
    """Tells which server made a request, or refuses it.

    Args:
        server_name: our own name.
        keyring: other servers' keys.
        allow_ip_literals: whether a server may be named by its IP address (development).
        on_heard: told the name of every server that has authenticated itself; must neither block nor raise.
    """

    def __init__(
        self,
        server_name: str,
        keyring: CurrentKeys,
        *,
        allow_ip_literals: bool = False,
        on_heard: Callable[[str], None] | None = None,
    ) -> None:
        self._server_name = server_name
        self._keyring = keyring
        self._allow_ip_literals = allow_ip_literals
        self._on_heard = on_heard

    async def authenticate(self, request: SignedRequest, content: JsonObject | None) -> str:
        """Check a request.

        Args:
            request: the request; its ``origin`` is set when it is good.
            content: its body, parsed from ``request.body``; ``None`` for a method that has no body.

        Returns:
            The origin's server name.

        Raises:
            Unauthenticated: see the module.
        """
        headers = self._headers(request)
        origin = headers[0].origin
        keys = await self._keyring.current_keys(origin, {header.key for header in headers})
        check = _SignatureCheck(request, content, origin, self._server_name)
        for header in headers:
            key = keys.get(header.key)
            if key is None:
                raise Unauthenticated(
                    f"the key {header.key} of {origin} is unknown, expired, or could not be fetched from {origin}"
                )
            if not check.passes(key, header.sig):
                raise Unauthenticated(f"the signature of {origin} with {header.key} does not verify")
        request.origin = origin
        if self._on_heard is not None:
            self._on_heard(origin)
        return origin

    def _headers(self, request: SignedRequest) -> list[XMatrix]:
        """The headers, as far as they can be checked without any key."""
        values = request.header_values("Authorization")
        if not values:
            raise Unauthenticated("the request has no Authorization header")
        if len(values) > MAX_HEADERS:
            raise Unauthenticated(f"the request has more than {MAX_HEADERS} Authorization headers")
        headers = [parse_authorization(value) for value in values]
        for header in headers:
            if header.destination != self._server_name:
                raise Unauthenticated(f"the request is for {header.destination[:255]}, and this is {self._server_name}")
        if len({header.origin for header in headers}) > 1:
            raise Unauthenticated("the Authorization headers name different origins")
        if len({header.key for header in headers}) < len(headers):
            raise Unauthenticated("two Authorization headers are for the same key")
        try:
            origin = ids.server_name(headers[0].origin)
            for header in headers:
                ids.key_id(header.key)
        except InvalidIdentifier as error:
            raise Unauthenticated(str(error)) from None
        if not self._allow_ip_literals and ids.is_ip_literal(origin):
            raise Unauthenticated("a server may not be named by its IP address")
        return headers


class _SignatureCheck:
    """Checks signatures over one request, which may have been signed in either of two forms.

    A request without a body: with ``content: {}`` or without. A request with one: first over the bytes as they came,
    which saves encoding them when the sender sent canonical JSON; then over their canonical JSON. (If the signature
    verifies over the bytes as they came, then these bytes, which parse to the very content that is acted on, are what
    was signed.)
    """

    def __init__(self, request: SignedRequest, content: JsonObject | None, origin: str, destination: str) -> None:
        try:
            self._uri = request.raw_uri.decode("utf-8")
        except UnicodeDecodeError:
            raise Unauthenticated("the request target is not UTF-8") from None
        self._method = request.method
        self._origin = origin
        self._destination = destination
        self._first: bytes = b"{}" if content is None else request.body
        self._content = content
        self._messages: list[bytes] = []

    def passes(self, key: VerifyKey, signature: str) -> bool:
        """Whether the signature is the key's over one of the forms."""
        return any(key.verify(self._message(form), signature) for form in range(2))

    def _message(self, form: int) -> bytes:
        while len(self._messages) <= form:
            content: bytes | None = self._first
            if self._messages:
                content = None if self._content is None else _canonical(self._content)
            self._messages.append(
                request_signing_bytes(self._method, self._uri, self._origin, self._destination, content)
            )
        return self._messages[form]


def _canonical(content: JsonObject) -> bytes:
    try:
        return canonical_json.encode(content)
    except UnsafeJson as error:
        raise Unauthenticated(f"the body cannot be canonicalised: {error}") from None
