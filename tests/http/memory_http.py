"""HTTP without a network: a site on one side, bytes on the other, a :class:`Clock` for both.

Owns: :class:`Wire` (an HTTP/1.1 client on an in-memory connection) and :class:`Answer`, what it reads back.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from lmatrix.http.router import Route, Router, RouteTable
from lmatrix.http.site import ApiSite, ListenerLimits

_PORTS = count(50_000)


@attrs.frozen
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RecordingTransport(StringTransport):
    """A transport that remembers that it was aborted, and says nothing more once it is closed."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class Wire:
    """One HTTP/1.1 connection to a site.

    Args:
        site: the site.
        address: where the client is.
    """

    def __init__(self, site: ApiSite, address: str = "192.168.1.1") -> None:
        peer = IPv4Address("TCP", address, next(_PORTS))
        self.transport = RecordingTransport(peerAddress=peer)
        protocol = site.buildProtocol(peer)
        assert protocol is not None
        self.protocol = protocol
        self.gone = False
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Bytes from the client."""
        self.protocol.dataReceived(data)

    def request(self, method: str, target: str, body: bytes = b"", headers: str = "") -> None:
        """A whole request from the client, with its Content-Length."""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.send(head.encode() + body)

    def hang_up(self) -> None:
        """The client goes away, unless it has already."""
        if self.gone:
            return
        self.gone = True
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self.transport.disconnecting

    def answers(self) -> list[Answer]:
        """Every answer since the last call."""
        data = self.transport.value()
        self.transport.clear()
        answers = []
        while data:
            head, _, rest = data.partition(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in headers.items()}
            length = int(headers.get("content-length", "0"))
            answers.append(Answer(int(status_line.split()[1]), headers, rest[:length]))
            data = rest[length:]
        return answers

    def answer(self) -> Answer:
        """The one answer since the last call."""
        [answer] = self.answers()
        return answer


def site_for(
    *routes: Route,
    clock: Clock,
    limits: ListenerLimits | None = None,
    table: dict[str, Any] | None = None,
    **router: Any,
) -> ApiSite:
    """A site with one route table, called ``test``."""
    tables = [RouteTable("test", routes, **(table or {}))]
    return ApiSite(Router(tables, clock=clock, **router), reactor=clock, limits=limits)
