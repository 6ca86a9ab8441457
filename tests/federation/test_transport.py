"""Exchanges over real sockets on loopback: TLS, the sharing of connections, and peers that do not behave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import error as network
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from lmatrix.errors import TooLarge
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.tls import CLOSE_TIMEOUT_S, ClientTls, PromptTlsFactory
from lmatrix.federation.transport import Answer, HttpTransport, OutgoingRequest, words_for
from tests.federation.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Conversation(Protocol):
    """One connection to a server of the tests: collects requests and hands each to the server's script."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""
        self.count = 0

    def connectionMade(self) -> None:
        self.server.connections.append(self)
        self.send(self.server.greeting)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self.received = rest[length:]
        self.count += 1
        self.server.requests.append((head, rest[:length]))
        self.server.script(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.lost(self)

    def send(self, data: bytes) -> None:
        """Write to the client."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        assert self.transport is not None
        self.transport.loseConnection()


class Server(ServerFactory):
    """A listener whose answers are scripted."""

    def __init__(self) -> None:
        self.script: Callable[[Conversation], None] = lambda conversation: conversation.send(OK)
        self.connections: list[Conversation] = []
        self.requests: list[tuple[bytes, bytes]] = []
        self.open = 0
        self._all_lost: list[Deferred[None]] = []
        self.greeting = b""

    def buildProtocol(self, addr: IAddress | None) -> Conversation:
        self.open += 1
        return Conversation(self)

    def lost(self, conversation: Conversation) -> None:
        """A connection has gone."""
        self.open -= 1
        if not self.open:
            waiting, self._all_lost = self._all_lost, []
            for done in waiting:
                done.callback(None)

    async def all_lost(self) -> None:
        """Wait until no connection is open."""
        if self.open:
            done: Deferred[None] = Deferred()
            self._all_lost.append(done)
            await done


def request(method: str = "GET", target: str = "/", body: bytes | None = None, **options: Any) -> OutgoingRequest:
    """A request."""
    return OutgoingRequest(method, target, {"X-Test": ["1", "2"]}, body, options.pop("repeatable", True))


class TransportTestCase(TestCase):
    """Common to the tests with sockets."""

    timeout = 20
    authority = Authority()

    def setUp(self) -> None:
        self.server = Server()
        self.transport = HttpTransport(reactor, tls=ClientTls(trust_root=self.authority.trust_root))

    def listen(self, options: CertificateOptions | None = None) -> int:
        """Listen on loopback, with TLS if there are options for it; returns the port."""
        factory: Factory = self.server
        if options is not None:
            factory = TLSMemoryBIOFactory(options, False, self.server)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(self.server.all_lost)
        self.addCleanup(port.stopListening)
        # Cleanups run in reverse order: our side of the connections is closed first.
        transport = self.transport
        self.addCleanup(lambda: Deferred.fromCoroutine(transport.close()))
        number: int = port.getHost().port
        return number

    def plain(self) -> Route:
        """A route without TLS to a server that listens now."""
        return Route("127.0.0.1", "plain.example", (Target("127.0.0.1", self.listen()),), plaintext=True)

    def exchange(self, route: Route, what: OutgoingRequest | None = None, limit: int = 1000) -> Deferred[Answer]:
        """One exchange."""
        return self.transport.exchange(route, what or request(), limit)


class PlainTests(TransportTestCase):
    """What goes over the wire, without TLS."""

    async def test_request(self) -> None:
        """The target byte for byte, the route's Host, the headers, the body and its length; nothing else."""
        route = self.plain()
        answer = await self.exchange(route, request("PUT", "/a%2fb/%C3%A9?x=%21&x=a+b;c", b'{"x":1}'))
        self.assertEqual((answer.status, answer.body), (200, b"{}"))
        ((head, body),) = self.server.requests
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"PUT /a%2fb/%C3%A9?x=%21&x=a+b;c HTTP/1.1")
        self.assertEqual(
            sorted(line.lower() for line in lines[1:]),
            [b"content-length: 7", b"host: plain.example", b"x-test: 1", b"x-test: 2"],
        )
        self.assertEqual(body, b'{"x":1}')

    async def test_error_answers(self) -> None:
        """Every status is an answer; redirects are not followed."""
        route = self.plain()
        self.server.script = lambda c: c.send(
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 1\r\n\r\nx"
        )
        answer = await self.exchange(route)
        self.assertEqual((answer.status, answer.body), (302, b"x"))
        self.assertEqual(answer.headers.getRawHeaders("location"), ["http://elsewhere.example/"])

    async def test_connections_are_kept(self) -> None:
        """Requests along one route share a connection, with requests along another they do not."""
        route = self.plain()
        for _ in range(3):
            await self.exchange(route)
        self.assertEqual(len(self.server.connections), 1)
        for other in (
            Route("127.0.0.1", "other.example", route.targets, plaintext=True),
            Route("other.example", "plain.example", route.targets, plaintext=True),
        ):
            await self.exchange(other)
        self.assertEqual(len(self.server.connections), 3)

    async def test_order_of_targets_does_not_matter(self) -> None:
        """SRV records come in another order each time; a kept connection is good whichever comes first."""
        here, there = Target("127.0.0.1", self.listen()), Target("127.0.0.1", 1)
        await self.exchange(Route("a.example", "a.example", (here, there), plaintext=True))
        await self.exchange(Route("a.example", "a.example", (there, here), plaintext=True))
        self.assertEqual(len(self.server.connections), 1)

    async def test_next_target(self) -> None:
        """A target that refuses is passed over; when all refuse, that is the outcome."""
        closed = reactor.listenTCP(0, self.server, interface="127.0.0.1")  # type: ignore[attr-defined]
        dead = Target("127.0.0.1", closed.getHost().port)
        await closed.stopListening()
        alive = Target("127.0.0.1", self.listen())
        answer = await self.exchange(Route("a.example", "a.example", (dead, dead, alive), plaintext=True))
        self.assertEqual(answer.status, 200)
        with self.assertRaises(network.ConnectionRefusedError) as caught:
            await self.exchange(Route("a.example", "b.example", (dead, dead), plaintext=True))
        self.assertIn("refused", words_for(caught.exception).lower())

    async def test_dead_connection(self) -> None:
        """A kept connection on which a request dies is replaced once, if the request may be repeated."""

        def script(conversation: Conversation) -> None:
            if conversation.count == 1:
                conversation.send(OK)
            else:
                conversation.close()

        route = self.plain()
        self.server.script = script
        await self.exchange(route)
        answer = await self.exchange(route, request("PUT", "/", b"{}"))
        self.assertEqual(answer.status, 200)
        self.assertEqual(len(self.server.connections), 2)
        with self.assertRaises(ResponseNeverReceived):
            await self.exchange(route, request("POST", "/", b"{}", repeatable=False))
        self.assertEqual(len(self.server.connections), 2)

    async def test_dying_server(self) -> None:
        """A server that never answers is asked twice, and not for ever."""
        route = self.plain()
        self.server.script = lambda conversation: conversation.close()
        with self.assertRaises(ResponseNeverReceived):
            await self.exchange(route)
        self.assertEqual(len(self.server.requests), 2)

    async def test_too_long(self) -> None:
        """An answer beyond the limit is refused and its connection dropped, whether it announces its length or not."""
        route = self.plain()
        for start in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001 + b"\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
        ):

            def script(conversation: Conversation, start: bytes = start) -> None:
                conversation.send(start)

            self.server.script = script
            with self.assertRaises(TooLarge):
                await self.exchange(route, limit=1000)
            await self.server.all_lost()

    async def test_limit_is_inclusive(self) -> None:
        """An answer of exactly the limit is taken."""
        route = self.plain()
        self.server.script = lambda c: c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
        self.assertEqual((await self.exchange(route, limit=10)).body, b"0123456789")

    async def test_cut_short(self) -> None:
        """An answer that ends before its announced length is no answer."""
        route = self.plain()

        def script(conversation: Conversation) -> None:
            conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
            conversation.close()

        self.server.script = script
        with self.assertRaises(ResponseFailed) as caught:
            await self.exchange(route)
        self.assertTrue(words_for(caught.exception))

    async def test_not_http(self) -> None:
        """Nonsense instead of HTTP is no answer."""
        route = self.plain()
        self.server.script = lambda conversation: conversation.send(b"220 smtp.example ESMTP\r\n\r\n")
        with self.assertRaises(ResponseFailed) as caught:
            await self.exchange(route)
        self.assertTrue(words_for(caught.exception))

    async def test_cancelled(self) -> None:
        """An exchange that is given up drops its connection, before the answer begins and in its midst."""
        route = self.plain()
        for beginning in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"):
            asked: Deferred[None] = Deferred()

            def script(conversation: Conversation, start: bytes = beginning, asked: Deferred[None] = asked) -> None:
                if start:
                    conversation.send(start)
                asked.callback(None)

            self.server.script = script
            exchange = self.exchange(route)
            await asked
            await _turns_of_the_reactor(5)
            exchange.cancel()
            with self.assertRaises(CancelledError):
                await exchange
            await self.server.all_lost()
        self.assertEqual(len(self.server.requests), 2)

    async def test_cancelled_while_connecting(self) -> None:
        """One that is given up before there is a connection makes none, to no other target either."""
        here = Target("127.0.0.1", self.listen())
        exchange = self.exchange(Route("a.example", "a.example", (here, here, here), plaintext=True))
        exchange.cancel()
        with self.assertRaises(CancelledError):
            await exchange
        await _turns_of_the_reactor(5)
        self.assertEqual(self.server.connections, [])


class TlsTests(TransportTestCase):
    """Which certificates are good enough."""

    def route(self, tls_name: str, *certified: str) -> Route:
        """A route to a server that has a certificate for ``certified`` and should have one for ``tls_name``."""
        target = Target("127.0.0.1", self.listen(self.authority.server(*certified)))
        return Route(tls_name, "host.example", (target,))

    async def assert_refused(self, route: Route) -> None:
        """The exchange fails for the certificate's sake, and the server never sees the request."""
        with self.assertRaises(ResponseNeverReceived) as caught:
            await self.exchange(route)
        self.assertIsInstance(caught.exception.reasons[0].value, SSL.Error)
        self.assertIn("TLS", words_for(caught.exception))
        self.assertEqual(self.server.requests, [])

    async def test_right_name(self) -> None:
        """The certificate is for the route's TLS name, not for the Host header or the target."""
        answer = await self.exchange(self.route("tls.example", "tls.example"))
        self.assertEqual(answer.status, 200)

    async def test_wildcard(self) -> None:
        """A wildcard certificate is good for the names that it covers."""
        self.assertEqual((await self.exchange(self.route("a.tls.example", "*.tls.example"))).status, 200)

    async def test_wrong_name(self) -> None:
        """A certificate for the Host header, or the target's address, is for somebody else."""
        await self.assert_refused(self.route("tls.example", "host.example", "127.0.0.1", "a.tls.example"))

    async def test_ip_address(self) -> None:
        """A server that is named by its address has a certificate for that."""
        self.assertEqual((await self.exchange(self.route("127.0.0.1", "127.0.0.1"))).status, 200)

    async def test_wrong_ip_address(self) -> None:
        """Another address does not do."""
        await self.assert_refused(self.route("127.0.0.1", "127.0.0.2", "host.example"))

    async def test_unknown_authority(self) -> None:
        """A certificate by an authority that is not trusted is worth nothing."""
        self.transport = HttpTransport(reactor, tls=ClientTls(trust_root=Authority().trust_root))
        await self.assert_refused(self.route("tls.example", "tls.example"))

    async def test_without_verification(self) -> None:
        """In development every certificate will do."""
        self.transport = HttpTransport(reactor, tls=ClientTls(verify=False))
        self.assertEqual((await self.exchange(self.route("tls.example", "other.example"))).status, 200)

    async def test_server_name_indication(self) -> None:
        """The server is told which name is wanted, as it may have several certificates; an address is not told."""
        await self.assert_server_name_is_told()

    async def test_server_name_indication_without_verification(self) -> None:
        """It is told in development too."""
        self.transport = HttpTransport(reactor, tls=ClientTls(verify=False))
        await self.assert_server_name_is_told()

    async def assert_server_name_is_told(self) -> None:
        """A name is told to the server, an address is not."""
        options = self.authority.server("tls.example", "127.0.0.1")
        told: list[bytes | None] = []
        options.getContext().set_tlsext_servername_callback(lambda c: told.append(c.get_servername()))
        target = Target("127.0.0.1", self.listen(options))
        await self.exchange(Route("tls.example", "host.example", (target,)))
        await self.exchange(Route("127.0.0.1", "host.example", (target,)))
        self.assertEqual([name for name in told if name is not None], [b"tls.example"])

    async def test_connections_are_not_shared_between_names(self) -> None:
        """What was authenticated as one server is not used for another at the same address."""
        route = self.route("a.example", "a.example")
        await self.exchange(route)
        before = list(self.server.requests)
        with self.assertRaises(ResponseNeverReceived):
            await self.exchange(Route("b.example", route.host_header, route.targets))
        self.assertEqual(self.server.requests, before)

    async def test_not_tls(self) -> None:
        """A server that speaks no TLS is not spoken to without."""
        self.server.greeting = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        target = Target("127.0.0.1", self.listen())
        await self.assert_refused(Route("tls.example", "tls.example", (target,)))


class PromptCloseTests(SynchronousTestCase):
    """Connections end when we end them."""

    def test_peer_that_does_not_close(self) -> None:
        """A peer that ignores the end of a TLS connection is cut off after a few seconds."""
        clock = Clock()
        authority = Authority()
        client = PromptTlsFactory(
            ClientTls(trust_root=authority.trust_root).creator_for("a.example"), Factory.forProtocol(Protocol), clock
        ).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        server = TLSMemoryBIOFactory(
            authority.server("a.example"), False, Factory.forProtocol(Protocol), clock
        ).buildProtocol(IPv4Address("TCP", "127.0.0.1", 2))
        assert client is not None
        client_side, server_side = FakeTransport(client, False), FakeTransport(server, True)
        pump = connect(server, server_side, client, client_side)
        pump.flush()
        client.write(b"x")
        clock.advance(0)
        pump.flush()
        client.loseConnection()
        clock.advance(CLOSE_TIMEOUT_S - 0.1)
        self.assertFalse(client_side.disconnected or client_side.disconnecting)
        clock.advance(0.1)
        self.assertTrue(client_side.disconnected or client_side.disconnecting)
        pump.flush()
        self.assertEqual(clock.getDelayedCalls(), [])


async def _turns_of_the_reactor(count: int) -> None:
    """Let the reactor deliver what is under way on loopback."""
    for _ in range(count):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.001, turn.callback, None)  # type: ignore[attr-defined]
        await turn
