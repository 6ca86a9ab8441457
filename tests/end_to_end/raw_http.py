"""HTTP/1.1 requests that go out byte for byte as they were made, and their answers.

Owns: :class:`RawHttp`, a pool of connections over Twisted's agent that checks no certificate, and :class:`Answer`.
Nothing of lmatrix is used here, so that what speaks to a server through it is a second opinion.
"""

# Twisted's HTTP client has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IConsumer, IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
    readBody,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

SECONDS = 60.0
"""How long an answer may take, unless the request says otherwise."""

NO_ANSWER = (ConnectError, ResponseNeverReceived, ResponseFailed, RequestTransmissionFailed)
"""What is raised when the other side is not there, or goes away in the middle."""


@attrs.frozen(slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status.
        headers: header fields.
        body: the whole body.
    """

    status: int
    headers: Headers
    body: bytes = attrs.field(repr=lambda body: repr(body[:300]))

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def errcode(self) -> str | None:
        """Matrix's error code, ``None`` when the answer is not an error object."""
        try:
            answer = self.json
        except ValueError:
            return None
        return answer.get("errcode") if isinstance(answer, dict) else None


class RawHttp:
    """Makes requests.

    Args:
        reactor: Twisted's; also tells the time, as ``clock``.
    """

    def __init__(self, reactor: Any) -> None:
        self.clock = reactor
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = 16
        self._agent = Agent(reactor, AnyCertificate(), connectTimeout=10, pool=self._pool)

    async def request(
        self,
        method: str,
        base_url: str,
        target: str,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        body: bytes | None = None,
        seconds: float = SECONDS,
    ) -> Answer:
        """Make a request.

        Args:
            base_url: scheme, host and port: ``"https://127.0.0.1:8448"``.
            target: what follows it in the request line, percent-encoded.
            headers: header fields, each with its values.
            body: ``None`` for none.
            seconds: how long all of it may take.

        Raises:
            one of :data:`NO_ANSWER`; Twisted's ``TimeoutError`` when it takes too long.
        """
        fields = Headers({name: list(values) for name, values in (headers or {}).items()})
        producer = None if body is None else _Bytes(body)
        url = (base_url + target).encode("ascii")

        async def exchange() -> Answer:
            try:
                response = await self._agent.request(method.encode("ascii"), url, fields, producer)
                content = await readBody(response)
            except ResponseFailed as failed:
                if any(reason.check(CancelledError) for reason in failed.reasons):
                    # Not the other side's doing.
                    raise CancelledError from failed
                raise
            except ConnectingCancelledError as cancelled:
                raise CancelledError from cancelled
            return Answer(response.code, response.headers, content)

        return await Deferred.fromCoroutine(exchange()).addTimeout(seconds, self.clock)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


@implementer(IPolicyForHTTPS)
class AnyCertificate:
    """Takes whatever certificate a server shows: those of tests are self-signed."""

    def __init__(self) -> None:
        self._context: SSL.Context = CertificateOptions().getContext()

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return _Creator(self._context)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)


@implementer(IBodyProducer)
class _Bytes:
    """A request body that is at hand."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing left to hold back."""

    def resumeProducing(self) -> None:
        """There is nothing left to go on with."""

    def stopProducing(self) -> None:
        """There is nothing left to stop."""
