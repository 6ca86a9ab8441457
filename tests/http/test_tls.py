"""Certificates on disk."""

from __future__ import annotations

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.tls import ServerTls, write_self_signed

_NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


class SelfSignedTests(SynchronousTestCase):
    """A pair for development."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.certificate, self.key = directory / "x.crt", directory / "x.key"

    def _write(self, *names: str) -> x509.Certificate:
        write_self_signed(self.certificate, self.key, names, _NOW)
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def test_names_and_addresses(self) -> None:
        """Every name is in the certificate, IP addresses as such."""
        certificate = self._write("a.example", "127.0.0.1", "::1")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["a.example"])
        addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        self.assertEqual(names.get_values_for_type(x509.IPAddress), addresses)

    def test_validity(self) -> None:
        """Valid now, and for a year, by the clock that was given."""
        certificate = self._write("a.example")
        self.assertLess(certificate.not_valid_before_utc, _NOW)
        self.assertEqual(certificate.not_valid_after_utc, _NOW + timedelta(days=365))

    def test_the_key_is_its_owners(self) -> None:
        """Nobody else may read the key."""
        self._write("a.example")
        self.assertEqual(stat.S_IMODE(self.key.stat().st_mode), 0o600)

    def test_nothing_is_overwritten(self) -> None:
        """A file that is there, whichever, stops it before anything is written."""
        for existing, other in ((self.certificate, self.key), (self.key, self.certificate)):
            existing.write_text("precious")
            with self.assertRaises(FileExistsError):
                self._write("a.example")
            self.assertEqual((existing.read_text(), other.exists()), ("precious", False))
            existing.unlink()

    def test_there_must_be_a_name(self) -> None:
        """A certificate for nobody is a mistake."""
        with self.assertRaises(ValueError):
            self._write()


class ServerTlsTests(SynchronousTestCase):
    """Reading a pair, and reading it again."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.certificate, self.key = self._pair("a")

    def _pair(self, name: str) -> tuple[Path, Path]:
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        write_self_signed(certificate, key, [f"{name}.example"], datetime.now(UTC))
        return certificate, key

    def test_a_pair_that_does_not_fit_is_refused(self) -> None:
        """Another certificate's key, a file that holds none, and a missing file are told at start."""
        _, other_key = self._pair("b")
        empty = self.directory / "empty"
        empty.write_text("nothing here\n")
        for certificate, key in ((self.certificate, other_key), (empty, self.key), (self.certificate, empty)):
            with self.assertRaises(ValueError, msg=f"{certificate} {key}"):
                ServerTls(certificate, key)
        with self.assertRaises(OSError):
            ServerTls(self.directory / "missing", self.key)

    def test_a_chain_is_read_whole(self) -> None:
        """Intermediate certificates follow the server's own; trailing blank lines do not matter."""
        other, _ = self._pair("b")
        self.certificate.write_bytes(self.certificate.read_bytes() + b"\n" + other.read_bytes() + b"\n\n")
        ServerTls(self.certificate, self.key)

    def test_a_bad_renewal_changes_nothing(self) -> None:
        """Files that cannot be used leave the old pair in use; good ones replace it."""
        tls = ServerTls(self.certificate, self.key)
        good = self.certificate.read_bytes()
        self.certificate.write_text("broken")
        self.assertFalse(tls.reload())
        self.certificate.write_bytes(good)
        self.assertTrue(tls.reload())
