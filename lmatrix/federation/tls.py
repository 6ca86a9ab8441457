"""TLS towards other servers: which certificate is good enough, and connections that end when we end them.

Owns: :class:`ClientTls`, one TLS context for all outgoing connections, and :class:`PromptTlsFactory`.

Invariants:

* a peer's certificate is checked against the route's TLS name (I-D "TLS Certificates"), which is the name that was
  asked for and never one that the DNS made up; unless verification is off, which is for development only;
* a connection that was closed on our side is gone a few seconds later, whatever the peer does. (A TLS close waits for
  the other side's answer, and a hostile peer never gives one.)

One context serves all connections, because making one reads the whole list of certificate authorities.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IDelayedCall, IOpenSSLClientConnectionCreator, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import CertificateOptions, TLSVersion, platformTrust
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from lmatrix import ids

CLOSE_TIMEOUT_S = 5.0

_log = Logger()


class ClientTls:
    """How outgoing connections are secured.

    Args:
        verify: whether certificates are checked at all; ``False`` in development.
        trust_root: certificate authorities (Twisted's ``IOpenSSLTrustRoot``, as ``trustRootFromCertificates`` makes
            one); the operating system's by default.
    """

    def __init__(self, *, verify: bool = True, trust_root: Any = None) -> None:
        self._verify = verify
        options = (
            CertificateOptions(trustRoot=trust_root or platformTrust(), raiseMinimumTo=TLSVersion.TLSv1_2)
            if verify
            else CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2)
        )
        self._context: SSL.Context = options.getContext()

    def creator_for(self, tls_name: str) -> IOpenSSLClientConnectionCreator:
        """What makes the TLS side of one connection.

        Args:
            tls_name: host name, or IP address without brackets, that the certificate must be for.
        """
        return _ConnectionCreator(self._context, tls_name, self._verify)


@implementer(IOpenSSLClientConnectionCreator)
class _ConnectionCreator:
    def __init__(self, context: SSL.Context, tls_name: str, verify: bool) -> None:
        self._context = context
        self._tls_name = tls_name
        self._verify = verify

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        is_address = ids.is_ip_literal(f"[{self._tls_name}]" if ":" in self._tls_name else self._tls_name)
        if not is_address:
            # RFC 6066, section 3: server name indication carries names only.
            connection.set_tlsext_host_name(self._tls_name.encode("ascii"))
        if self._verify:
            connection.set_verify(
                SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _certificate_check(self._tls_name, is_address)
            )
        return connection


def _certificate_check(tls_name: str, is_address: bool) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
    wanted = IPAddress_ID(tls_name) if is_address else DNS_ID(tls_name)

    def check(_: SSL.Connection, certificate: crypto.X509, error: int, depth: int, chain_is_good: int) -> bool:
        # Depth 0 is the server's own certificate; OpenSSL has already judged the chain above it.
        if depth != 0 or not chain_is_good:
            return bool(chain_is_good)
        try:
            verify_service_identity(extract_patterns(certificate), [wanted], [])
        except (VerificationError, CertificateError):
            _log.info("the certificate presented for {name} is for another name", name=tls_name)
            return False
        except Exception:
            # An exception must not leave a callback that OpenSSL called: it would be lost, and the handshake undecided.
            _log.failure("the certificate presented for {name} could not be checked", name=tls_name)
            return False
        return True

    return check


class _PromptTls(BufferingTLSTransport):
    """A TLS connection that does not wait for ever for the peer to agree that it is closed."""

    _cut: IDelayedCall | None = None

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.connected and self._cut is None and isinstance(self.factory, PromptTlsFactory):
            self._cut = self.factory.clock.callLater(CLOSE_TIMEOUT_S, self.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        super().connectionLost(reason)


class PromptTlsFactory(TLSMemoryBIOFactory):
    """Puts TLS under the protocols of another factory.

    Args:
        creator: makes the TLS side, see :meth:`ClientTls.creator_for`.
        wrapped: makes the protocols.
        clock: for the close.
    """

    protocol = _PromptTls

    def __init__(
        self, creator: IOpenSSLClientConnectionCreator, wrapped: IProtocolFactory, clock: IReactorTime
    ) -> None:
        super().__init__(creator, True, wrapped, clock)
        self.clock = clock
