"""A server that lmatrix servers talk to, made without lmatrix: it publishes its key, and takes what it is sent.

Owns: :class:`SigningServer`, a small site on loopback, with TLS or without. It authenticates every request by itself,
keeps what came in the order in which it came, and answers what its handlers say; what is wrong with a request is kept
as a complaint.

Source: I-D "Transport".
"""

# Twisted's HTTP server has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs
from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tests.end_to_end.raw_http import RawHttp
from tests.end_to_end.signing_client import SigningClient
from tests.end_to_end.wire_events import Identity, JsonObject, WireError, canonical, check_signature, signed_object

Reply = tuple[int, JsonObject]

DAY_MS = 24 * 60 * 60 * 1000

_ENDPOINT = re.compile(r"/_matrix/federation/(?:v[0-9]+|unstable/[^/]+)/(?P<name>[a-z_]+)(?:/(?P<rest>.*))?\Z")
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@attrs.frozen(slots=True)
class Incoming:
    """A request to a federation endpoint.

    Attributes:
        origin: who made it, as authenticated.
        method: the HTTP method.
        name: the endpoint's first word: ``"send"``.
        segments: what follows it in the path, decoded.
        query: the query's parameters; of one that came several times, the last.
        content: the body, parsed; ``{}`` when there was none.
    """

    origin: str
    method: str
    name: str
    segments: tuple[str, ...]
    query: dict[str, str]
    content: JsonObject


Handler = Callable[[Incoming], Awaitable[Reply]]


class SigningServer:
    """A server with its own key, on a port of its own.

    Args:
        reactor: Twisted's.
        http: for its own requests.
        urls: where servers are, by name; its own address is added when it starts.
        certificate: of the TLS side; ``None`` for plain HTTP.
        key_version: of its signing key.

    Attributes:
        requests: what came and was authenticated, in order.
        complaints: what came and was wrong.
        handlers: by endpoint name, what to answer; ``send`` is answered with success, all others with 404.
        old_keys: further keys to publish under ``old_verify_keys``: key → time of expiry.
        valid_for_ms: how long its published keys are valid, from now.
        key_gate: when set, its keys are not handed out before it fires.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        http: RawHttp,
        urls: dict[str, str],
        *,
        certificate: CertificateOptions | None,
        key_version: str = "raw",
    ) -> None:
        self._reactor = reactor
        self._http = http
        self._urls = urls
        self._certificate = certificate
        self._key = generate_signing_key(key_version)
        self._port: Any = None
        self._factory = WrappingFactory(Site(_Root(self), reactor=reactor))
        self.identity: Identity
        self.client: SigningClient
        self.requests: list[Incoming] = []
        self.complaints: list[str] = []
        self.handlers: dict[str, Handler] = {"send": _taken}
        self.old_keys: list[tuple[Identity, int]] = []
        self.valid_for_ms = DAY_MS
        self.key_gate: Deferred[None] | None = None
        self.keys_asked = 0

    @property
    def server_name(self) -> str:
        """Its name: ``localhost`` and its port."""
        return self.identity.server_name

    def start(self) -> None:
        """Listen on a free port of loopback."""
        if self._certificate is None:
            self._port = self._reactor.listenTCP(0, self._factory, interface="127.0.0.1")
        else:
            self._port = self._reactor.listenSSL(0, self._factory, self._certificate, interface="127.0.0.1")
        number = self._port.getHost().port
        self.identity = Identity(f"localhost:{number}", self._key)
        scheme = "http" if self._certificate is None else "https"
        self._urls[self.server_name] = f"{scheme}://127.0.0.1:{number}"
        self.client = SigningClient(self.identity, self._http, self._urls, self._reactor)

    async def stop(self) -> None:
        """Listen no longer, and end all connections."""
        if self._port is None:
            return
        port, self._port = self._port, None
        await port.stopListening()
        while self._factory.protocols:
            for protocol in list(self._factory.protocols):
                protocol.transport.abortConnection()
            await deferLater(self._reactor, 0, lambda: None)

    def change_key(self, key_version: str, *, keep_old: bool) -> Identity:
        """Sign with a new key from now on; returns the identity that it had."""
        before = self.identity
        if keep_old:
            self.old_keys.append((before, self.now_ms()))
        self._key = generate_signing_key(key_version)
        self.identity = Identity(before.server_name, self._key)
        self.client.identity = self.identity
        return before

    def received(self, name: str) -> list[Incoming]:
        """The requests to one endpoint."""
        return [request for request in self.requests if request.name == name]

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._reactor.seconds() * 1000)

    def published_keys(self) -> JsonObject:
        """The answer to ``GET /_matrix/key/v2/server``."""
        return signed_object(
            self.identity,
            {
                "server_name": self.server_name,
                "valid_until_ts": self.now_ms() + self.valid_for_ms,
                "m.linearized": True,
                "verify_keys": {self.identity.key_id: {"key": self.identity.public}},
                "old_verify_keys": {
                    old.key_id: {"key": old.public, "expired_ts": expired_ts} for old, expired_ts in self.old_keys
                },
            },
        )

    async def answer(self, method: str, target: str, authorization: list[str], body: bytes) -> Reply:
        """What to answer to a request."""
        if target == "/_matrix/key/v2/server":
            self.keys_asked += 1
            if self.key_gate is not None:
                gate: Deferred[None] = Deferred()
                self.key_gate.chainDeferred(gate)
                await gate
            return 200, self.published_keys()
        found = _ENDPOINT.match(target.partition("?")[0])
        handler = None if found is None else self.handlers.get(found["name"])
        if found is None or handler is None:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "unknown endpoint"}
        content = json.loads(body) if body else {}
        try:
            origin = await self._authenticated(method, target, authorization, content)
        except WireError as error:
            self.complaints.append(f"{method} {target}: {error}")
            return 401, {"errcode": "M_FORBIDDEN", "error": str(error)}
        segments = tuple(unquote(segment) for segment in (found["rest"] or "").split("/"))
        query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
        incoming = Incoming(origin, method, found["name"], segments, query, content)
        self.requests.append(incoming)
        return await handler(incoming)

    async def _authenticated(self, method: str, target: str, authorization: list[str], content: JsonObject) -> str:
        if not authorization:
            raise WireError("no Authorization header")
        origin = ""
        for header in authorization:
            scheme, _, rest = header.partition(" ")
            parameters = dict(_PARAMETER.findall(rest))
            origin = parameters.get("origin", "")
            if scheme != "X-Matrix" or parameters.get("destination") != self.server_name or not origin:
                raise WireError(f"bad header {header}")
            request: JsonObject = {
                "method": method,
                "uri": target,
                "origin": origin,
                "destination": self.server_name,
                "content": content,
                "signatures": {origin: {parameters.get("key", ""): parameters.get("sig", "")}},
            }
            keys = {origin: await self.client.keys(origin)}
            if parameters.get("key") not in keys[origin]:
                keys = {origin: await self.client.keys(origin, fresh=True)}
            check_signature(request, origin, keys)
        return origin


async def _taken(incoming: Incoming) -> Reply:
    return 200, {"failed_pdus": {}}


@implementer(IResource)
class _Root:
    isLeaf = True  # noqa: N815 - IResource names it so

    def __init__(self, server: SigningServer) -> None:
        self._server = server

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError("it has no children")

    def render(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        headers = request.requestHeaders.getRawHeaders(b"authorization") or []
        authorization = [header.decode("latin-1") for header in headers]
        method, target = request.method.decode("ascii"), request.uri.decode("ascii")
        body = b"" if request.content is None else request.content.read()

        def write(reply: Reply) -> None:
            if gone:
                return
            status, content = reply
            request.setResponseCode(status)
            request.setHeader(b"Content-Type", b"application/json")
            request.write(canonical(content))
            request.finish()

        def failed(failure: Failure) -> None:
            # A failed assertion in a handler, or a server's keys that could not be had.
            self._server.complaints.append(f"{method} {target}: {failure.getErrorMessage()}")
            write((500, {"errcode": "M_UNKNOWN", "error": failure.getErrorMessage()}))

        answering = Deferred.fromCoroutine(self._server.answer(method, target, authorization, body))
        answering.addCallbacks(write, failed)
        answering.addErrback(lambda failure: SigningServer.log.failure("an answer failed", failure=failure))
        return NOT_DONE_YET
