"""A connection that speaks TLS 1.3 and HTTP/2, and nothing older.

Owns: :func:`connect`. The connection itself is the one of the end-to-end tests.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, platformTrust
from zope.interface import implementer

from tests.end_to_end.http2_client import Http2Connection


async def connect(reactor: Any, url: str, *, insecure: bool, seconds: float = 20.0) -> Http2Connection:
    """Connect to the host and port of a URL.

    Raises:
        what Twisted raises when there is no connection, or no agreement on the protocol.
    """
    parts = urlsplit(url)
    tls = _Creator(parts.hostname or "", insecure=insecure)
    endpoint = wrapClientTLS(tls, HostnameEndpoint(reactor, parts.hostname or "", parts.port or 443))
    connection: Http2Connection = await connectProtocol(endpoint, Http2Connection(tls))  # type: ignore[arg-type]
    await connection.settled().addTimeout(seconds, reactor)
    return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, host: str, *, insecure: bool) -> None:
        options = CertificateOptions() if insecure else CertificateOptions(trustRoot=platformTrust())
        self._context: SSL.Context = options.getContext()
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._host = host
        self._connection: SSL.Connection | None = None

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        self._connection = SSL.Connection(self._context, None)
        self._connection.set_alpn_protos([b"h2"])
        self._connection.set_tlsext_host_name(self._host.encode("ascii"))
        return self._connection

    def version(self) -> str:
        """What TLS version was agreed on."""
        return "" if self._connection is None else self._connection.get_protocol_version_name()
