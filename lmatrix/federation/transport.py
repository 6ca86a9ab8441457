"""One HTTP exchange with a server whose route is known: connections, their pool, and the bounds on an answer.

Owns: :class:`PeerTransport`, what the signed client needs of the network, and :class:`HttpTransport`, which is that
over Twisted's HTTP agent.

Invariants:

* the request target goes out byte for byte as it was signed;
* connections are shared by requests whose whole route is the same (name in the certificate, ``Host``, targets), never
  by address alone: what was authenticated as one server is not used for another;
* redirects are not followed (a signed request is for one server), cookies are not kept, content is not decompressed
  (a few bytes could become many).

HTTP/1.1 only: Twisted has no HTTP/2 client. Its agent is used directly rather than through treq, which would parse and
re-assemble the URL (a signed target must not change) and costs a fifth of a millisecond for each request.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import attrs
from OpenSSL import SSL
from twisted.internet import error as internet_error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from lmatrix.federation.bodies import BytesProducer, read_bounded
from lmatrix.federation.bounded import BoundedCache
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.tls import ClientTls, PromptTlsFactory

CONNECT_TIMEOUT_S = 10.0
IDLE_CONNECTION_S = 120
CONNECTIONS_KEPT_PER_ROUTE = 4
_ROUTE_LABELS_KEPT = 10_000

NETWORK_ERRORS = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionLost,
    ConnectionDone,
    ConnectionAborted,
    DNSLookupError,
    OSError,
    SSL.Error,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
"""The ways in which an exchange fails for reasons that lie in the network or in the peer."""

GivenUp = Callable[[], bool]
T = TypeVar("T")


@attrs.frozen(slots=True)
class OutgoingRequest:
    """A request, ready to be written.

    Attributes:
        method: ``"GET"``.
        target: path and query, percent-encoded.
        headers: header fields but ``Host`` and ``Content-Length``.
        body: ``None`` when there is none.
        repeatable: whether sending it twice does no harm, so that it may be sent again when a connection that was kept
            turns out to be dead.
    """

    method: str
    target: str
    headers: Mapping[str, list[str]]
    body: bytes | None
    repeatable: bool


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
    body: bytes


class PeerTransport(Protocol):
    """Carries one request to the end of a route."""

    def exchange(self, route: Route, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        """Send a request and read its answer.

        Args:
            route: where to.
            request: what.
            max_body: bytes of the answer, at most.

        Returns:
            Fires with the answer, whatever its status. Fails with :class:`~lmatrix.errors.TooLarge` when it is too
            long, and with an error of Twisted's or OpenSSL's when there is none; :func:`words_for` puts that into
            words. Cancelling it ends the exchange and its connection.
        """


class HttpTransport:
    """A :class:`PeerTransport` over sockets.

    Args:
        reactor: connects and tells the time. Give it wrapped in the guard against private addresses.
        tls: how connections are secured.
    """

    def __init__(self, reactor: Any, *, tls: ClientTls) -> None:
        self._reactor = reactor
        self._tls = tls
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = CONNECTIONS_KEPT_PER_ROUTE
        self._pool.cachedConnectionTimeout = IDLE_CONNECTION_S
        # Twisted would repeat a GET but never a PUT; the rule here is another, see _exchange.
        self._pool.retryAutomatically = False
        self._labels: BoundedCache[Route, bytes] = BoundedCache(_ROUTE_LABELS_KEPT)

    def exchange(self, route: Route, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        """See :meth:`PeerTransport.exchange`."""
        return _cancellable(lambda given_up: self._exchange(route, request, max_body, given_up))

    async def close(self) -> None:
        """Close every idle connection, and keep none from now on."""
        self._pool.persistent = False
        await self._pool.closeCachedConnections()

    async def _exchange(self, route: Route, request: OutgoingRequest, max_body: int, given_up: GivenUp) -> Answer:
        try:
            return await self._once(route, request, max_body)
        except (RequestTransmissionFailed, ResponseNeverReceived) as error:
            # A connection that the pool had kept may have been closed by the peer just as it was used. TLS failures
            # look alike, and would be the same the next time.
            if not request.repeatable or given_up() or any(reason.check(SSL.Error) for reason in error.reasons):
                raise
        return await self._once(route, request, max_body)

    async def _once(self, route: Route, request: OutgoingRequest, max_body: int) -> Answer:
        endpoint = RouteEndpoint(self._reactor, route, self._tls)
        agent = Agent.usingEndpointFactory(self._reactor, _OneEndpoint(endpoint), self._pool)
        headers = Headers({"Host": [route.host_header], **request.headers})
        response = await agent.request(
            request.method.encode("ascii"),
            self._label(route) + request.target.encode("ascii"),
            headers,
            None if request.body is None else BytesProducer(request.body),
        )
        return Answer(response.code, response.headers, await read_bounded(response, max_body))

    def _label(self, route: Route) -> bytes:
        """Scheme and authority under which the pool keeps the route's connections. Nothing ever resolves it."""
        label = self._labels.get(route)
        if label is None:
            # SRV records come in another order each time; the connections are the same ones.
            identity = (route.tls_name, route.host_header, route.plaintext, sorted(map(attrs.astuple, route.targets)))
            label = b"https://" + sha256(repr(identity).encode("ascii")).hexdigest().encode("ascii")
            self._labels.put(route, label)
        return label


@implementer(IStreamClientEndpoint)
class RouteEndpoint:
    """Connects to the first of a route's targets that answers, with TLS unless the route has none.

    Args:
        reactor: connects.
        route: where to.
        tls: how the connection is secured.
    """

    _log = Logger()

    def __init__(self, reactor: Any, route: Route, tls: ClientTls) -> None:
        self._reactor = reactor
        self._route = route
        self._tls = tls

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fails as the last target failed."""
        return _cancellable(lambda given_up: self._connect(protocolFactory, given_up))

    async def _connect(self, factory: IProtocolFactory, given_up: GivenUp) -> IProtocol:
        *others, last = self._route.targets
        for target in others:
            try:
                return await self._connect_to(target, factory)
            except Exception as error:
                # Whatever kept us from one target (the guard's refusal, too) says nothing about the next.
                if given_up():
                    raise
                self._log.debug(
                    "{name}: {host}:{port} does not answer: {error}",
                    name=self._route.host_header,
                    host=target.host,
                    port=target.port,
                    error=error,
                )
        return await self._connect_to(last, factory)

    def _connect_to(self, target: Target, factory: IProtocolFactory) -> Deferred[IProtocol]:
        endpoint = HostnameEndpoint(self._reactor, target.host, target.port, timeout=CONNECT_TIMEOUT_S)
        if not self._route.plaintext:
            clock: IReactorTime = self._reactor
            factory = PromptTlsFactory(self._tls.creator_for(self._route.tls_name), factory, clock)
        connecting: Deferred[Any] = endpoint.connect(factory)
        if not self._route.plaintext:
            # The agent wants the protocol that its own factory made, which is inside of the TLS.
            connecting.addCallback(lambda secured: secured.wrappedProtocol)
        return connecting


@implementer(IAgentEndpointFactory)
@attrs.frozen(slots=True)
class _OneEndpoint:
    endpoint: RouteEndpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self.endpoint


def words_for(error: BaseException) -> str:
    """Why there was no answer, in a few words that a user may read."""
    reasons = getattr(error, "reasons", None)
    if isinstance(error, ResponseFailed | RequestTransmissionFailed) and reasons:
        return words_for(reasons[0].value)
    if isinstance(error, SSL.Error):
        details = error.args[0] if error.args and isinstance(error.args[0], list) else []
        said = "; ".join(str(detail[-1]) for detail in details if detail)
        return f"TLS failure{': ' if said else ''}{said}"
    if isinstance(error, DNSLookupError):
        return "its host name is not found"
    if isinstance(error, internet_error.TimeoutError):
        return "the connection timed out"
    text = (str(error) or type(error).__name__).rstrip(".")
    return text if len(text) <= 200 else text[:197] + "..."


def _cancellable(work: Callable[[GivenUp], Coroutine[Any, Any, T]]) -> Deferred[T]:
    """Run a coroutine so that cancelling it ends what it waits for, and always looks like a cancellation.

    What Twisted makes of a cancelled connection depends on how far it got: a DNS error, a connection error, a response
    that never came. None of these must be taken for a failure of the peer, or as a reason to try again.

    Args:
        work: makes the coroutine; it may ask whether it was cancelled.
    """
    cancelled = False

    def cancel(_: object) -> None:
        nonlocal cancelled
        cancelled = True
        working.cancel()

    outcome: Deferred[T] = Deferred(cancel)

    def finished(result: T | Failure) -> None:
        # After a cancellation the outcome is Twisted's own CancelledError, whatever the coroutine still has to say.
        if cancelled:
            return
        if isinstance(result, Failure):
            outcome.errback(result)
        else:
            outcome.callback(result)

    working = Deferred.fromCoroutine(work(lambda: cancelled))
    working.addBoth(finished)
    return outcome
