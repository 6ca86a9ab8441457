"""Real sockets on loopback, real TLS, both versions of HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import h2.connection
import h2.events
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import IConsumer, IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, optionsForClientTLS
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.router import Route, Router, RouteTable
from lmatrix.http.site import ApiSite, ListenerLimits, tls_factory
from lmatrix.http.tls import ServerTls, write_self_signed

reactor: Any = global_reactor

_MAX_BODY = 300_000
_LARGE = b'{"a":"' + b"x" * 3_000_000 + b'"}'


@implementer(IPolicyForHTTPS)
@attrs.frozen
class _Trusting:
    """Trusts one certificate."""

    root: Certificate

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return optionsForClientTLS(hostname.decode(), trustRoot=self.root)


@implementer(IBodyProducer)
class _Body:
    """A request body that is sent without looking at what comes back."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything has been written."""

    def resumeProducing(self) -> None:
        """Everything has been written."""

    def stopProducing(self) -> None:
        """Everything has been written."""


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Knows how its TLS handshake ended.

    Attributes:
        version: fires with the TLS version, or ``None`` when there was no agreement.
    """

    def __init__(self) -> None:
        self.version: Deferred[str | None] = Deferred()

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        self.version.callback(transport.getHandle().get_protocol_version_name())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.version.called:
            self.version.callback(None)


class _Http2Client(Protocol):
    """Makes requests, one stream each."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection()
        self.waiting: dict[int, Deferred[tuple[int, bytes]]] = {}
        self.status: dict[int, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.unsent: dict[int, bytes] = {}
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.h2.initiate_connection()
        self._flush()

    def request(self, method: str, path: str, body: bytes = b"") -> Deferred[tuple[int, bytes]]:
        stream: int = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        self.h2.send_headers(stream, fields, end_stream=not body)
        self.bodies[stream] = b""
        self.unsent[stream] = body
        self.waiting[stream] = Deferred()
        self._flush()
        return self.waiting[stream]

    def dataReceived(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            stream: Any = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.ResponseReceived):
                headers: Any = event.headers
                self.status[stream] = int(dict(headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[stream] += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            elif isinstance(event, h2.events.StreamEnded):
                self.unsent.pop(stream, None)
                self.waiting.pop(stream).callback((self.status[stream], self.bodies[stream]))
            elif isinstance(event, h2.events.StreamReset):
                self.unsent.pop(stream, None)
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def _flush(self) -> None:
        for stream, body in list(self.unsent.items()):
            while body:
                size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
                if size <= 0:
                    break
                self.h2.send_data(stream, body[:size], end_stream=size == len(body))
                body = body[size:]
            self.unsent[stream] = body
        transport: Any = self.transport
        transport.write(self.h2.data_to_send())


class TlsListenerTests(TestCase):
    """What a peer on the Internet would see."""

    timeout = 30

    def setUp(self) -> Deferred[None]:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        write_self_signed(self.certificate, self.key, ["localhost"], datetime.now(UTC))

        async def put(request: JsonRequest) -> JsonObject:
            return {"size": len(request.body)}

        async def large(_request: JsonRequest) -> JsonAnswer:
            return JsonAnswer(200, _LARGE)

        routes = [Route("PUT", "/send/{id}", put, "send", max_body=_MAX_BODY), Route("GET", "/large", large, "large")]
        self.tls = ServerTls(self.certificate, self.key)
        self.site = ApiSite(
            Router([RouteTable("test", routes)], clock=reactor),
            reactor=reactor,
            limits=ListenerLimits(max_connections=3, drain=100_000),
        )
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.root = Certificate.loadPEM(self.certificate.read_text())
        self.pool = HTTPConnectionPool(reactor)

        async def listen() -> None:
            self.port = await endpoint.listen(tls_factory(self.site, self.tls))

        return Deferred.fromCoroutine(listen())

    async def tearDown(self) -> None:
        """A server that stops leaves no connection behind."""
        await self.port.stopListening()
        await self.site.close_connections(grace=1.0)
        await self.pool.closeCachedConnections()
        self.assertEqual((self.site.connections, self.site.body_bytes.taken), (0, 0))

    async def _http1(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        agent = Agent(reactor, _Trusting(self.root), pool=self.pool)
        url = f"https://localhost:{self.port.getHost().port}{path}".encode()
        response = await agent.request(method.encode(), url, Headers(), _Body(body) if body else None)
        self.assertEqual(response.headers.getRawHeaders(b"content-type"), [b"application/json"])
        return response.code, await readBody(response)

    async def _connect(self, options: Any, protocol: Protocol) -> Any:
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port))
        return await endpoint.connect(Factory.forProtocol(lambda: protocol))

    async def _http2(self) -> _Http2Client:
        options = optionsForClientTLS("localhost", trustRoot=self.root, acceptableProtocols=[b"h2"])
        client: _Http2Client = await self._connect(options, _Http2Client())
        return client

    async def test_http1(self) -> None:
        """Requests, large answers and bodies that are too large, over one connection as long as it lasts."""
        self.assertEqual(await self._http1("PUT", "/send/1", b"x" * _MAX_BODY), (200, b'{"size":%d}' % _MAX_BODY))
        self.assertEqual(await self._http1("GET", "/large"), (200, _LARGE))
        status, body = await self._http1("PUT", "/send/1", b"x" * (_MAX_BODY + 1))
        self.assertEqual((status, json.loads(body)["errcode"]), (413, "M_TOO_LARGE"))
        self.assertEqual(self.site.connections, 1)

    async def test_http1_far_too_much(self) -> None:
        """A client that sends on and on still gets to read its answer."""
        status, body = await self._http1("PUT", "/send/1", b"x" * 5_000_000)
        self.assertEqual((status, json.loads(body)["errcode"]), (413, "M_TOO_LARGE"))

    async def test_http2(self) -> None:
        """HTTP/2 is chosen by ALPN over TLS 1.3; many requests share one connection, a refused one harms none."""
        client = await self._http2()
        answers = [client.request("PUT", f"/send/{size}", b"x" * size) for size in (1, 100_000, _MAX_BODY)]
        too_large = [client.request("PUT", "/send/1", b"x" * size) for size in (_MAX_BODY + 1, 5_000_000)]
        for answer, size in zip(answers, (1, 100_000, _MAX_BODY), strict=True):
            self.assertEqual(await answer, (200, b'{"size":%d}' % size))
        for answer in too_large:
            status, body = await answer
            self.assertEqual((status, json.loads(body)["errcode"]), (413, "M_TOO_LARGE"))
        self.assertEqual(await client.request("GET", "/large"), (200, _LARGE))
        self.assertEqual((await client.request("GET", "/send/1"))[0], 405)
        transport: Any = client.transport
        self.assertEqual(transport.negotiatedProtocol, b"h2")
        self.assertEqual(transport.getHandle().get_protocol_version_name(), "TLSv1.3")
        self.assertEqual(self.site.connections, 1)

    async def test_tls_versions(self) -> None:
        """TLS 1.2 is accepted for those who have no better; nothing below it is."""
        for newest, expected in (
            (TLSVersion.TLSv1_3, "TLSv1.3"),
            (TLSVersion.TLSv1_2, "TLSv1.2"),
            (TLSVersion.TLSv1_1, None),
        ):
            options = CertificateOptions(
                trustRoot=self.root, insecurelyLowerMinimumTo=TLSVersion.TLSv1_0, lowerMaximumSecurityTo=newest
            )
            handshake: _Handshake = await self._connect(options, _Handshake())
            self.assertEqual(await handshake.version, expected)

    async def test_connections_are_bounded(self) -> None:
        """One connection too many is closed before its handshake; the others are not disturbed."""
        clients = [await self._http2() for _ in range(3)]
        for client in clients:
            self.assertEqual((await client.request("PUT", "/send/1", b"{}"))[0], 200)
        surplus = await self._http2()
        await surplus.lost
        self.assertEqual((await clients[0].request("PUT", "/send/1", b"{}"))[0], 200)

    async def test_a_renewed_certificate_is_used(self) -> None:
        """After reload new connections see the new certificate, and connections that are open go on."""
        old = await self._http2()
        await old.request("PUT", "/send/1", b"{}")
        self.certificate.unlink()
        self.key.unlink()
        write_self_signed(self.certificate, self.key, ["localhost"], datetime.now(UTC))
        self.tls.reload()
        self.root = Certificate.loadPEM(self.certificate.read_text())
        new = await self._http2()
        self.assertEqual((await new.request("PUT", "/send/1", b"{}"))[0], 200)
        self.assertEqual((await old.request("PUT", "/send/1", b"{}"))[0], 200)
