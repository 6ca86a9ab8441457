"""What one run of a server's process has of a reactor: its time, and a port that the network delivers to."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address

from tests.simulation.clocks import ServerClock, WorldClock


class ServerReactor(ServerClock):
    """The reactor of a process.

    Attributes:
        site: what listens, while something does.
    """

    def __init__(self, world: WorldClock, ahead: float = 0.0) -> None:
        super().__init__(world, ahead)
        self.site: Any = None

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> _Port:
        """The network delivers to this from now on."""
        self.site = factory
        return _Port(self, interface, port)

    def getThreadPool(self) -> None:
        """There are no threads here."""


class _Port:
    def __init__(self, reactor: ServerReactor, interface: str, number: int) -> None:
        self._reactor = reactor
        self._address = IPv4Address("TCP", interface, number)

    def getHost(self) -> IPv4Address:
        return self._address

    def stopListening(self) -> None:
        self._reactor.site = None
