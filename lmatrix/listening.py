"""The open ports of a running server.

Owns: opening the listeners of the configuration, reading renewed certificates, and closing the listeners so that what
is being answered is answered to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.logger import Logger

from lmatrix import __version__
from lmatrix.config.listeners import ListenerConfig, Resource
from lmatrix.errors import LMatrixError
from lmatrix.http.listener_limits import ListenerLimits
from lmatrix.http.router import Router
from lmatrix.http.routes import RouteTable
from lmatrix.http.site import ApiSite, tls_factory
from lmatrix.http.tls import ServerTls
from lmatrix.metrics import Metrics

DRAIN_SECONDS = 15.0
"""How long requests that are being answered may take to be finished when the server stops."""


class CannotListen(LMatrixError):
    """A port could not be opened.

    Args:
        address: local IP address.
        port: TCP port.
        reason: the operating system's words.
    """

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on port {port} of {address}: {reason}")
        self.address = address
        self.port = port


@attrs.frozen(slots=True)
class PlannedListener:
    """A listener that is to be opened.

    Attributes:
        tls: its certificate; ``None`` without TLS.
    """

    config: ListenerConfig
    tls: ServerTls | None


class IReactorForListening(IReactorTCP, IReactorTime):
    """What of the reactor is needed, for type checkers."""


class Listeners:
    """All listeners of a server.

    Args:
        planned: what to open.
        tables: the routes of each resource.
        reactor: opens ports and tells the time.
        metrics: counts requests.
    """

    log = Logger()

    def __init__(
        self,
        planned: Sequence[PlannedListener],
        tables: Mapping[Resource, RouteTable],
        reactor: IReactorForListening,
        metrics: Metrics,
    ) -> None:
        self._planned = tuple(planned)
        self._tables = tables
        self._reactor = reactor
        self._metrics = metrics
        self._ports: list[IListeningPort] = []
        self._sites: list[ApiSite] = []

    def open(self) -> None:
        """Open every port.

        Raises:
            CannotListen: one could not be opened; those that were, stay open until :meth:`close`.
        """
        for listener in self._planned:
            router = Router(
                [self._tables[resource] for resource in listener.config.resources],
                clock=self._reactor,
                metrics=self._metrics,
                software=f"lmatrix/{__version__}",
                forwarded=listener.config.x_forwarded,
            )
            limits = ListenerLimits(max_connections=listener.config.max_connections)
            site = ApiSite(router, reactor=self._reactor, limits=limits)
            self._sites.append(site)
            factory = site if listener.tls is None else tls_factory(site, listener.tls)
            for address in listener.config.bind_addresses:
                port = self._open_one(factory, address, listener.config.port)
                self._ports.append(port)
                self.log.info("listening on {listener}", listener=_described(listener.config, address, port))

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Local address and port of everything that is open."""
        return tuple((host.host, host.port) for host in map(_host_of, self._ports))

    def reload_certificates(self) -> bool:
        """Read all certificates again; whether all of them could be used. Those that could not stay as they were."""
        results = [listener.tls.reload() for listener in self._planned if listener.tls is not None]
        return all(results)

    async def close(self) -> None:
        """Take no new connections, finish the requests that are being answered, end the long polls, close the rest."""
        ports, self._ports = self._ports, []
        await gatherResults([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)
        sites, self._sites = self._sites, []
        draining = gatherResults([Deferred.fromCoroutine(site.router.drain()) for site in sites], consumeErrors=True)
        draining.addTimeout(DRAIN_SECONDS, self._reactor, self._too_slow)
        await draining
        closing = [Deferred.fromCoroutine(site.close_connections()) for site in sites]
        await gatherResults(closing, consumeErrors=True)

    def _open_one(self, factory: Any, address: str, port: int) -> IListeningPort:
        try:
            return self._reactor.listenTCP(port, factory, interface=address)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise CannotListen(address, port, reason) from error

    def _too_slow(self, _result: object, seconds: float) -> list[None]:
        self.log.warn("some requests were still not answered after {seconds:.0f} s", seconds=seconds)
        return []


def _described(config: ListenerConfig, address: str, port: IListeningPort) -> str:
    return str(attrs.evolve(config, bind_addresses=(address,), port=_host_of(port).port))


def _host_of(port: IListeningPort) -> IPv4Address | IPv6Address:
    host = port.getHost()
    if not isinstance(host, IPv4Address | IPv6Address):
        raise TypeError(f"a TCP port without an IP address: {host!r}")
    return host
