"""A certificate authority for tests, and the servers that it vouches for."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import crypto
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates

_BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
_END = datetime.now(UTC) + timedelta(days=2)


class Authority:
    """Issues certificates that :attr:`trust_root` trusts."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority for tests")])
        certificate = self._build(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.trust_root = trustRootFromCertificates([Certificate(crypto.X509.from_cryptography(certificate))])

    def server(self, *names: str) -> CertificateOptions:
        """A server's side of TLS, with a certificate for these host names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_general_name(name) for name in names]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
        certificate = self._build(subject, key, x509.SubjectAlternativeName(alternatives))
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return CertificateOptions(
            privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, encoded),
            certificate=crypto.X509.from_cryptography(certificate),
        )

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGIN)
            .not_valid_after(_END)
            .add_extension(extension, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
