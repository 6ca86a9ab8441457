"""The factory behind a listener.

Owns: putting together a router, the bounds of a listener and the two HTTP versions, chosen by ALPN where there is TLS.

Implements the I-D's "Transport": HTTP/2 over TLS 1.3 is offered; HTTP/1.1, with or without TLS, is accepted too.
"""

# Twisted's HTTP internals have no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IProtocolNegotiationFactory
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from lmatrix.fairness import FairShare
from lmatrix.http.bounded_request import BoundedRequest
from lmatrix.http.http1 import Http1Channel
from lmatrix.http.http2 import Http2Connection
from lmatrix.http.listener_limits import ListenerLimits
from lmatrix.http.router import Router
from lmatrix.http.tls import ServerTls

__all__ = ["ApiSite", "ListenerLimits", "tls_factory"]


class _Connection(Protocol):
    """One connection: HTTP/1.1 until its first bytes show that ALPN has chosen HTTP/2.

    Args:
        site: what the connection belongs to.
    """

    _first_bytes = True

    def __init__(self, site: ApiSite) -> None:
        self._site = site
        self._channel: Any = self._configured(Http1Channel())

    def connectionMade(self) -> None:
        """The connection has been made."""
        self._site.connected(self)
        self._channel.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came in; before the first of them, TLS has settled on a protocol."""
        if self._first_bytes:
            self._first_bytes = False
            if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
                self._switch_to_http2()
        self._channel.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self._channel.connectionLost(reason)
        self._site.disconnected(self)

    def close(self) -> None:
        """End the connection when the answers that have been given are out."""
        self._channel.close()

    def abort(self) -> None:
        """End the connection now."""
        transport: Any = self.transport
        transport.abortConnection()

    def _switch_to_http2(self) -> None:
        transport: Any = self.transport
        self._channel.setTimeout(None)
        transport.unregisterProducer()
        self._channel = self._configured(Http2Connection(self._site.reactor))
        self._channel.makeConnection(transport)
        transport.registerProducer(self._channel, True)

    def _configured(self, channel: Any) -> Any:
        channel.site = self._site
        channel.requestFactory = BoundedRequest
        channel.timeOut = self._site.limits.idle_timeout
        channel.callLater = self._site.reactor.callLater
        return channel


@implementer(IProtocolNegotiationFactory)
class ApiSite(ServerFactory[_Connection]):
    """Serves a router's routes on a listener.

    Twisted's own access log is left out: it writes whole request targets, and those may hold access tokens.

    Args:
        router: what answers requests.
        reactor: time and scheduling (``IReactorTime``).
        limits: what the listener allows.
    """

    noisy = False
    _log = Logger()

    def __init__(self, router: Router, *, reactor: Any, limits: ListenerLimits | None = None) -> None:
        self.router = router
        self.reactor = reactor
        self.limits = ListenerLimits() if limits is None else limits
        self.body_bytes: FairShare[str] = FairShare(self.limits.max_buffered)
        self._connection_share: FairShare[str] = FairShare(self.limits.max_connections)
        self._connections: dict[_Connection, str] = {}
        self._closed: list[Deferred[None]] = []

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def has_room_for(self, address: IAddress | None) -> bool:
        """Whether another connection from this address may be opened."""
        return self._connection_share.may_take(self._sharer(address))

    def shed(self, what: str) -> None:
        """Count something that was refused because a bound had been reached."""
        self.router.shed(what)

    def buildProtocol(self, addr: IAddress | None) -> _Connection | None:
        """A new connection's protocol, or ``None`` (the connection is closed) when there are too many."""
        if not self.has_room_for(addr):
            self._log.warn(
                "{count} connections are open; one from {address} was closed", count=self.connections, address=addr
            )
            self.shed("connections")
            return None
        return _Connection(self)

    def connected(self, connection: _Connection) -> None:
        """Called by a connection when it begins."""
        transport: Any = connection.transport
        sharer = self._sharer(transport.getPeer())
        if self._connection_share.take(sharer):
            self._connections[connection] = sharer
        else:
            connection.abort()

    def disconnected(self, connection: _Connection) -> None:
        """Called by a connection when it has ended."""
        sharer = self._connections.pop(connection, None)
        if sharer is not None:
            self._connection_share.give_back(sharer)
        if not self._connections:
            closed, self._closed = self._closed, []
            for waiting in closed:
                waiting.callback(None)

    async def close_connections(self, grace: float = 5.0) -> None:
        """End every connection: at shutdown, when the port listens no more and the router has been drained.

        Args:
            grace: seconds after which connections are cut whose other side has not let go.
        """
        for connection in list(self._connections):
            connection.close()
        if not self._connections:
            return
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        cut = self.reactor.callLater(grace, self._abort_connections)
        await closed
        if cut.active():
            cut.cancel()

    def _sharer(self, address: IAddress | None) -> str:
        """With whom a connection shares: all from one IP address, but for those from a proxy or this machine, which
        speak for many.
        """
        host = str(getattr(address, "host", "unknown"))
        if self.router.forwarded or _is_loopback(host):
            return f"{host} {getattr(address, 'port', '')}"
        return host

    def _abort_connections(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def acceptableProtocols(self) -> list[bytes]:
        """What ALPN may choose, the best first."""
        return [b"h2", b"http/1.1"]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _TlsFactory(TLSMemoryBIOFactory):
    """TLS before a site; it does not even begin a handshake when the site is full."""

    def __init__(self, site: ApiSite, tls: ServerTls) -> None:
        super().__init__(tls, False, site, site.reactor)
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return super().buildProtocol(addr) if self._site.has_room_for(addr) else self._site.buildProtocol(addr)


def tls_factory(site: ApiSite, tls: ServerTls) -> IProtocolFactory:
    """A factory for a stream server endpoint that speaks TLS and hands what it decrypts to the site.

    Args:
        site: the site.
        tls: certificate and key.
    """
    return _TlsFactory(site, tls)
