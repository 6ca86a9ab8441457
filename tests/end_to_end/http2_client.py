"""Requests over HTTP/2, on one TLS connection.

Owns: :class:`Http2Connection`, ``hyper-h2`` on a Twisted transport, and :func:`connect`. It offers ``h2`` by ALPN and
nothing else.
"""

# Twisted and h2 have no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h2.connection
import h2.events
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from tests.end_to_end.raw_http import Answer

MAX_FRAME = 16_384


class Http2Connection(Protocol):
    """One connection.

    Attributes:
        protocol_name: what ALPN agreed on.
        tls_version: as OpenSSL names it: ``"TLSv1.3"``.
    """

    transport: Any

    def __init__(self, tls: _Creator) -> None:
        self._tls = tls
        self._h2 = h2.connection.H2Connection()
        self._answers: dict[int, Deferred[Answer]] = {}
        self._heads: dict[int, tuple[int, Headers]] = {}
        self._bodies: dict[int, bytes] = {}
        self._gone: list[Deferred[None]] = []
        self._settings: Deferred[None] = Deferred()
        self.protocol_name: bytes | None = None
        self.tls_version = ""

    def request(
        self, method: str, authority: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Deferred[Answer]:
        """Begin a request; several may be under way at one time. The body must fit into the peer's window."""
        stream = self._h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", target), (":scheme", "https"), (":authority", authority)]
        fields += [(name.lower(), value) for name, value in headers.items()]
        self._h2.send_headers(stream, fields, end_stream=not body)
        for start in range(0, len(body), MAX_FRAME):
            part = body[start : start + MAX_FRAME]
            self._h2.send_data(stream, part, end_stream=start + MAX_FRAME >= len(body))
        self._flush()
        answer: Deferred[Answer] = Deferred()
        self._answers[stream] = answer
        return answer

    def settled(self) -> Deferred[None]:
        """Fires when the server's settings have come: only then is it known to speak HTTP/2."""
        return self._settings

    def close(self) -> Deferred[None]:
        """End the connection; fires when it is gone."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        self.transport.abortConnection()
        return gone

    def connectionMade(self) -> None:
        self._h2.initiate_connection()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        self.protocol_name = self.transport.negotiatedProtocol
        self.tls_version = self._tls.version()
        for event in self._h2.receive_data(data):
            self._take(event)
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for answer in self._answers.values():
            answer.errback(reason)
        self._answers.clear()
        for gone in self._gone:
            gone.callback(None)

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged) and not self._settings.called:
            self._settings.callback(None)
        elif isinstance(event, h2.events.ResponseReceived):
            fields = [(name.decode(), value.decode()) for name, value in event.headers]
            headers = Headers()
            for name, value in fields:
                if not name.startswith(":"):
                    headers.addRawHeader(name, value)
            self._heads[event.stream_id] = int(dict(fields)[":status"]), headers
        elif isinstance(event, h2.events.DataReceived):
            self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            status, headers = self._heads.pop(event.stream_id)
            body = self._bodies.pop(event.stream_id, b"")
            self._answers.pop(event.stream_id).callback(Answer(status, headers, body))
        elif isinstance(event, h2.events.StreamReset):
            self._answers.pop(event.stream_id).errback(ConnectionResetError(f"error code {event.error_code}"))

    def _flush(self) -> None:
        self.transport.write(self._h2.data_to_send())


async def connect(reactor: Any, port: int) -> Http2Connection:
    """A connection to a port of loopback that speaks HTTP/2."""
    tls = _Creator()
    endpoint = wrapClientTLS(tls, TCP4ClientEndpoint(reactor, "127.0.0.1", port))
    connection: Http2Connection = await connectProtocol(endpoint, Http2Connection(tls))
    await connection.settled().addTimeout(30, reactor)
    return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self) -> None:
        self._context: SSL.Context = CertificateOptions().getContext()
        self._connection: SSL.Connection | None = None

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        self._connection = SSL.Connection(self._context, None)
        self._connection.set_alpn_protos([b"h2"])
        return self._connection

    def version(self) -> str:
        return "" if self._connection is None else self._connection.get_protocol_version_name()
