"""Certificates of a listener.

Owns: reading a certificate chain and its key into a TLS context, reading them again when they have been renewed, and
writing a self-signed pair for development.

Invariants: TLS 1.3 is offered and nothing below TLS 1.2 is accepted (I-D "Transport"; 1.2 for HTTP/1.1 clients that
have no better); a key file is written for its owner alone and nothing is ever overwritten; files that do not fit
together never replace a pair that does.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

_PEM_END = b"-----END CERTIFICATE-----"
_VALID_FOR = timedelta(days=365)
_BACKDATED = timedelta(days=1)
_MAX_COMMON_NAME = 64


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """A listener's certificate and key.

    Args:
        certificate_path: PEM file: the server's certificate, then the intermediate ones.
        key_path: PEM file: its private key, without a passphrase.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file holds no such thing, or the key is not the certificate's.
    """

    _log = Logger()

    def __init__(self, certificate_path: Path, key_path: Path) -> None:
        self._certificate_path = certificate_path
        self._key_path = key_path
        self._options = _read(certificate_path, key_path)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """The TLS state of a new connection, with the certificate that is current."""
        return self._options.serverConnectionForTLS(protocol)

    def reload(self) -> bool:
        """Read the files again. New connections use what they hold; connections that are open keep what they have.

        Returns:
            Whether it worked. When not, the reason is logged and the old certificate stays in use.
        """
        try:
            self._options = _read(self._certificate_path, self._key_path)
        except (OSError, ValueError) as error:
            self._log.error(
                "{path} was not read again, the certificate in use stays: {error}",
                path=str(self._certificate_path),
                error=error,
            )
            return False
        self._log.info("{path} was read again", path=str(self._certificate_path))
        return True


def _read(certificate_path: Path, key_path: Path) -> CertificateOptions:
    chain = _chain(certificate_path)
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, key_path.read_bytes(), passphrase=b"")
    except (crypto.Error, ValueError, TypeError) as error:
        raise ValueError(f"{key_path} holds no private key without a passphrase") from error
    options = CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    try:
        options.getContext()
    except SSL.Error as error:
        raise ValueError(f"{key_path} is not the key of {certificate_path}") from error
    return options


def _chain(path: Path) -> list[crypto.X509]:
    """Every certificate of a PEM file, in order."""
    blocks = path.read_bytes().split(_PEM_END)
    try:
        chain = [crypto.load_certificate(crypto.FILETYPE_PEM, block + _PEM_END) for block in blocks if block.strip()]
    except (crypto.Error, ValueError) as error:
        raise ValueError(f"{path} holds something that is no certificate") from error
    if not chain:
        raise ValueError(f"{path} holds no certificate")
    return chain


def write_self_signed(certificate_path: Path, key_path: Path, names: Sequence[str], now: datetime) -> None:
    """Make a key and a certificate for it, signed with itself: for development, no peer will trust it.

    Args:
        certificate_path: where the certificate goes (PEM).
        key_path: where the key goes (PEM), readable by its owner alone.
        names: DNS names and IP addresses that the certificate is for, at least one.
        now: the present time, with a time zone. The certificate is valid for a year from it.

    Raises:
        FileExistsError: one of the files is there already; neither is changed.
        OSError: a file cannot be written.
        ValueError: there are no names, or one of them cannot be in a certificate.
    """
    if not names:
        raise ValueError("a certificate needs at least one name")
    for path in (certificate_path, key_path):
        if path.exists():
            raise FileExistsError(f"{path} exists already")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:_MAX_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(key_path, key_pem, 0o600)
    _write_new(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
