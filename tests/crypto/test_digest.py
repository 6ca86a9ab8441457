"""Digests and base64."""

from __future__ import annotations

import base64
import hashlib

import unpaddedbase64
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.digest import InvalidBase64, decode_base64, encode_base64, sha256_base64, sha256_urlsafe


class DigestTests(SynchronousTestCase):
    """SHA-256 in both spellings."""

    def test_known_digest(self) -> None:
        """The digest of nothing is the well-known one."""
        self.assertEqual(sha256_base64(b""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")
        self.assertEqual(sha256_urlsafe(b""), "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")

    @settings(max_examples=100, deadline=None)
    @given(st.binary())
    def test_digest(self, data: bytes) -> None:
        """Both spellings are of the same digest, 43 characters long."""
        self.assertEqual(decode_base64(sha256_base64(data)), hashlib.sha256(data).digest())
        self.assertEqual(base64.urlsafe_b64decode(sha256_urlsafe(data) + "="), hashlib.sha256(data).digest())
        self.assertEqual((len(sha256_base64(data)), len(sha256_urlsafe(data))), (43, 43))


class Base64Tests(SynchronousTestCase):
    """Reading and writing unpadded base64."""

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=100))
    def test_round_trip(self, data: bytes) -> None:
        """What is written is unpadded, reads back, reads back with its padding too, and is what others write."""
        text = encode_base64(data)
        self.assertNotIn("=", text)
        self.assertEqual(text, unpaddedbase64.encode_base64(data))
        self.assertEqual(decode_base64(text), data)
        self.assertEqual(decode_base64(base64.b64encode(data).decode()), data)

    def test_refused(self) -> None:
        """Wrong lengths, wrong padding, white space, foreign characters and the URL-safe alphabet are refused."""
        for text in (
            "A", "AAAAA", "=", "====", "AA=", "AAA==", "AAAA=", "AAAA==", "AA===", "=AAA", "A=AA", "AA==AA==", "AA AA",
            "AAAA\n", "\nAAAA", " AAAA", "AAA-", "AAA_", "AAA.", "AAAé", "AAA\x00", "AAA\ud800",
        ):  # fmt: skip
            with self.subTest(text):
                self.assertRaises(InvalidBase64, decode_base64, text)

    def test_left_over_bits(self) -> None:
        """Bits left over at the end are ignored: the specification's own test key has some."""
        self.assertEqual(decode_base64("AB"), b"\x00")
        self.assertEqual(decode_base64("AAB="), b"\x00\x00")

    def test_error_keeps_the_secret(self) -> None:
        """The error does not repeat the text."""
        error = self.assertRaises(InvalidBase64, decode_base64, "c2VjcmV0!")
        self.assertNotIn("c2Vj", str(error))
