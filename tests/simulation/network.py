"""The network in memory, and everything that can go wrong in it.

Owns: :class:`Network`, which knows who can reach whom and how well, and :class:`MemoryTransport`, the transport that a
server's real client writes its requests to. What is carried is what would be on the wire: method, target, header
fields, the bytes of the body; the other side's router reads them, and its answer's bytes travel back.

What happens to an exchange is drawn from a random stream of its own pair of servers, so that one exchange more or less
elsewhere changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from random import Random
from typing import Any, Protocol

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as ConnectionRefused
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from lmatrix.errors import TooLarge
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.transport import Answer, OutgoingRequest
from tests.simulation.clocks import WorldClock


@attrs.define(slots=True)
class Weather:
    """How bad the network is: probabilities for each exchange, and seconds.

    Attributes:
        lose_request, lose_answer: it is lost on its way.
        silence: of those that are lost, how many nobody hears of (the others break the connection).
        duplicate: a request that may be repeated arrives twice.
        delay: the mean of the time that a message takes; it is drawn anew for each, so that messages overtake each
            other.
        stall, stall_seconds: a message takes up to so much longer.
    """

    lose_request: float = 0.0
    lose_answer: float = 0.0
    silence: float = 0.5
    duplicate: float = 0.0
    delay: float = 0.02
    stall: float = 0.0
    stall_seconds: float = 40.0

    def without(self, names: Iterable[str]) -> Weather:
        """The same, but these are as in good weather."""
        calm = Weather()
        return attrs.evolve(self, **{name: getattr(calm, name) for name in names})


CALM = ("lose_request", "lose_answer", "duplicate", "stall")
"""What can be left out of the weather."""


class Process(Protocol):
    """A run of a server, as the network sees it."""

    name: str
    alive: bool
    distort: Distort | None

    def render(self, request: ArrivedRequest) -> None:
        """Answer a request."""

    def dies_at(self, point: str) -> bool:
        """The process has come to a point at which it may die; whether it did."""


Distort = Callable[[str, Answer], Answer]
Tamper = Callable[[str, str, OutgoingRequest], OutgoingRequest | None]
Witness = Callable[[str, str, OutgoingRequest, Answer], None]


class Network:
    """Who can reach whom.

    Args:
        clock: the true time.
        seed: where the random streams come from.
    """

    def __init__(self, clock: WorldClock, seed: int) -> None:
        self.clock = clock
        self.weather = Weather()
        self.processes: dict[str, Process] = {}
        self.cut: set[frozenset[str]] = set()
        self.witnesses: list[Witness] = []
        self.requests = 0
        self.exchanges: set[_Exchange] = set()
        self.forgotten: list[_Exchange] = []
        self._seed = seed
        self._lose: dict[tuple[str, str], int] = {}
        self._streams: dict[tuple[str, str], Random] = {}

    def stream(self, origin: str, destination: str) -> Random:
        """The randomness of a pair of servers."""
        stream = self._streams.get((origin, destination))
        if stream is None:
            stream = self._streams[origin, destination] = Random(f"{self._seed} {origin} {destination}")
        return stream

    def reachable(self, origin: str, destination: str) -> bool:
        """Whether a message gets from here to there at this moment."""
        return frozenset((origin, destination)) not in self.cut

    def lose_next_answer(self, origin: str, destination: str, which: int) -> None:
        """Lose one answer of a server to another.

        Args:
            which: the how-manieth from now.
        """
        self._lose[origin, destination] = which

    def loses_this_answer(self, origin: str, destination: str) -> bool:
        """Whether it is that one."""
        left = self._lose.get((origin, destination), 0)
        if left > 0:
            self._lose[origin, destination] = left - 1
        return left == 1

    def died(self, process: Process) -> None:
        """A process is gone: whoever waits for its answer loses the connection, or goes on waiting."""
        for exchange in sorted(self.exchanges, key=lambda one: one.number):
            exchange.process_died(process)

    def delay(self, origin: str, destination: str) -> float:
        """How long a message takes."""
        stream, weather = self.stream(origin, destination), self.weather
        seconds = stream.expovariate(1 / weather.delay) + 0.001
        if stream.random() < weather.stall:
            seconds += stream.uniform(0, weather.stall_seconds)
        return seconds


class MemoryTransport:
    """A :class:`~lmatrix.federation.transport.PeerTransport` of one process.

    Args:
        network: the network.
        process: whose it is.
        tamper: may change what goes out, or swallow it; for servers that misbehave.
    """

    def __init__(self, network: Network, process: Process, tamper: Tamper | None = None) -> None:
        self._network = network
        self._process = process
        self._tamper = tamper
        self.open: set[_Exchange] = set()

    def exchange(self, route: Route, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        """Send a request and read its answer."""
        destination = route.host_header
        sent: OutgoingRequest | None = request
        if self._tamper is not None:
            sent = self._tamper(self._process.name, destination, request)
        exchange = _Exchange(self._network, self, self._process, destination, sent or request, max_body)
        self.open.add(exchange)
        exchange.begin(swallowed=sent is None)
        return exchange.answer


class StaticRoutes:
    """Every server is found under its own name."""

    async def resolve(self, server_name: str) -> Route:
        return Route(server_name, server_name, (Target(server_name, 8448),))


class _Exchange:
    """One request and its answer, on their way."""

    def __init__(
        self,
        network: Network,
        transport: MemoryTransport,
        origin: Process,
        destination: str,
        request: OutgoingRequest,
        max_body: int,
    ) -> None:
        network.requests += 1
        self.number = network.requests
        self.answer: Deferred[Answer] = Deferred(lambda _: self._given_up())
        self._network = network
        self._transport = transport
        self._origin = origin
        self._destination = destination
        self._request = request
        self._max_body = max_body
        self._over = False
        self._arrivals: list[ArrivedRequest] = []
        network.exchanges.add(self)

    def begin(self, *, swallowed: bool) -> None:
        network, origin, destination = self._network, self._origin.name, self._destination
        stream, weather = network.stream(origin, destination), network.weather
        lost = stream.random() < weather.lose_request
        twice = stream.random() < weather.duplicate
        delays = [network.delay(origin, destination) for _ in range(2)]
        if swallowed or lost or not network.reachable(origin, destination):
            self._lose(delays[0])
            return
        network.clock.callLater(delays[0], self._arrive, True)
        if twice and self._request.repeatable:
            network.clock.callLater(sum(delays), self._arrive, False)

    def process_died(self, process: Process) -> None:
        if process is self._origin:
            # Its end of the connection is gone with it.
            self._end()
            self._hang_up()
        elif any(arrived.process is process for arrived in self._arrivals):
            self._lose(self._network.delay(process.name, self._origin.name))

    def _arrive(self, first: bool) -> None:
        network, origin, destination = self._network, self._origin.name, self._destination
        process = network.processes.get(destination)
        if not network.reachable(origin, destination):
            if first:
                self._lose(0.0)
        elif process is None or not process.alive:
            if first:
                self._fail_later(network.delay(destination, origin), ConnectionRefused())
        else:
            # Also when nobody waits for the answer any more: it was on its way.
            arrived = ArrivedRequest(process, self._request, self._answered if first else self._unwanted)
            self._arrivals.append(arrived)
            if not process.dies_at("before it reads a request"):
                process.render(arrived)
                process.dies_at("after it has read a request")

    def _answered(self, answer: Answer) -> None:
        network, origin, destination = self._network, self._origin.name, self._destination
        for witness in network.witnesses:
            witness(origin, destination, self._request, answer)
        if self._over:
            return
        stream = network.stream(destination, origin)
        lost = stream.random() < network.weather.lose_answer or network.loses_this_answer(origin, destination)
        delay = network.delay(destination, origin)
        if lost or not network.reachable(origin, destination):
            self._lose(delay)
        else:
            network.clock.callLater(delay, self._come_back, answer)

    def _unwanted(self, answer: Answer) -> None:
        for witness in self._network.witnesses:
            witness(self._origin.name, self._destination, self._request, answer)

    def _come_back(self, answer: Answer) -> None:
        if self._over:
            return
        if not self._network.reachable(self._origin.name, self._destination):
            self._lose(0.0)
        elif len(answer.body) > self._max_body:
            self._fail(TooLarge(f"the answer is longer than {self._max_body} bytes"))
        elif not self._origin.dies_at("before it reads an answer"):
            self._end()
            self.answer.callback(answer)
            self._origin.dies_at("after it has read an answer")

    def _lose(self, delay: float) -> None:
        """It is lost: the connection breaks, or nothing is ever heard of it."""
        stream = self._network.stream(self._origin.name, self._destination)
        if stream.random() >= self._network.weather.silence:
            self._fail_later(delay, ConnectionLost())

    def _fail_later(self, delay: float, error: Exception) -> None:
        self._network.clock.callLater(delay, self._fail, error)

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self._end()
            self.answer.errback(Failure(error))

    def _given_up(self) -> None:
        """The client waits no longer, and closes its connection."""
        if not self._over:
            self._end()
            self._network.clock.callLater(self._network.delay(self._origin.name, self._destination), self._hang_up)

    def _hang_up(self) -> None:
        for arrived in self._arrivals:
            arrived.client_gone()

    def _end(self) -> None:
        self._over = True
        self._network.exchanges.discard(self)
        self._transport.open.discard(self)
        if not self._origin.alive:
            self._network.forgotten.append(self)


class ArrivedRequest:
    """A request at its destination, as the router wants it: Twisted's request, without the socket.

    Args:
        process: who got it.
        request: what was sent.
        answered: called with the answer, once.
    """

    def __init__(self, process: Process, request: OutgoingRequest, answered: Callable[[Answer], None]) -> None:
        self.process = process
        self.method = request.method.encode("ascii")
        self.uri = request.target.encode("ascii")
        self.content = BytesIO(request.body or b"")
        self.requestHeaders = Headers({name: list(values) for name, values in request.headers.items()})
        self.responseHeaders = Headers()
        self._answered = answered
        self._status = 200
        self._parts: list[bytes] = []
        self._finishing: list[Deferred[None]] = []
        self._over = False

    def getClientAddress(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 1)

    def notifyFinish(self) -> Deferred[None]:
        finishing: Deferred[None] = Deferred()
        self._finishing.append(finishing)
        return finishing

    def setResponseCode(self, code: int) -> None:
        self._status = code

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> None:
        if self._over or not self.process.alive:
            return
        self._over = True
        for finishing in self._take():
            finishing.callback(None)
        answer = Answer(self._status, self.responseHeaders, b"".join(self._parts))
        if self.process.distort is not None:
            answer = self.process.distort(self.uri.decode("ascii"), answer)
        self._answered(answer)

    def client_gone(self) -> None:
        """The connection is closed from the other end."""
        if self._over or not self.process.alive:
            return
        self._over = True
        for finishing in self._take():
            finishing.errback(Failure(ConnectionDone()))

    def _take(self) -> Iterator[Any]:
        finishing, self._finishing = self._finishing, []
        return iter(finishing)
