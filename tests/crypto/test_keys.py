"""Signing and verify keys, with ``signedjson`` and RFC 8032's vectors as second opinions."""

from __future__ import annotations

import json
from pathlib import Path

import nacl.signing
import signedjson.key
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_core_ed25519_is_valid_point
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.digest import decode_base64, encode_base64
from lmatrix.crypto.keys import InvalidKey, SigningKey, VerifyKey

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signing.json").read_text(encoding="utf-8"))

# The order of the base point (RFC 8032 section 5.1).
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

SEEDS = st.binary(min_size=32, max_size=32)


class SigningKeyTests(SynchronousTestCase):
    """Making, writing and reading signing keys."""

    def test_rfc8032(self) -> None:
        """RFC 8032's seeds give its public keys and signatures, and these verify."""
        for case in VECTORS["rfc8032"]:
            key = SigningKey.generate("1", bytes.fromhex(case["seed"]))
            message = bytes.fromhex(case["message"])
            self.assertEqual(key.public.public.hex(), case["public"])
            self.assertEqual(decode_base64(key.sign(message)).hex(), case["signature"])
            self.assertTrue(key.public.verify(message, key.sign(message)))

    def test_specification_key(self) -> None:
        """The Matrix specification's seed gives its public key."""
        key = SigningKey.from_line(f"ed25519 1 {VECTORS['seed']}")
        self.assertEqual(key.key_id, VECTORS["key_id"])
        self.assertEqual(key.public.to_base64(), VECTORS["public"])

    def test_generate(self) -> None:
        """Keys are random unless a seed is given, and named by their version."""
        one, two = SigningKey.generate("a_1"), SigningKey.generate("a_1")
        self.assertEqual((one.key_id, one.version, one.public.key_id), ("ed25519:a_1", "a_1", "ed25519:a_1"))
        self.assertNotEqual(one.public, two.public)
        self.assertEqual(SigningKey.generate("a_1", b"s" * 32), SigningKey.generate("a_1", b"s" * 32))

    def test_bad_generate(self) -> None:
        """A version outside of the grammar or a seed of another length is refused."""
        for version in ("", "a-b", "a b", "a:b", "é", "a" * 250):
            self.assertRaises(InvalidKey, SigningKey.generate, version)
        for seed in (b"", b"s" * 31, b"s" * 33, b"s" * 64):
            self.assertRaises(InvalidKey, SigningKey.generate, "1", seed)

    def test_bad_lines(self) -> None:
        """A line with anything but three good words is refused, without repeating what may be a secret."""
        seed = encode_base64(b"s" * 32)
        for line in (
            "", "ed25519", f"ed25519 {seed}", f"ed25519 1 {seed} x", f"curve25519 1 {seed}", f"ed25519 a-b {seed}",
            f"ed25519 1 {seed}A", f"ed25519 1 {seed[:-2]}", f"ed25519 1 {seed[:-1]}!", f"{seed} 1 ed25519",
        ):  # fmt: skip
            with self.subTest(line):
                error = self.assertRaises(InvalidKey, SigningKey.from_line, line)
                self.assertNotIn(seed[:10], str(error))

    def test_secret_is_not_shown(self) -> None:
        """Neither the seed nor the expanded secret is in what is printed of a key."""
        key = SigningKey.generate("1", b"\x07" * 32)
        for shown in (repr(key), str(key)):
            self.assertNotIn(encode_base64(b"\x07" * 32), shown)
            self.assertNotIn(repr(b"\x07" * 8)[2:-1], shown)

    @settings(max_examples=50, deadline=None)
    @given(SEEDS, st.from_regex(r"[A-Za-z0-9_]{1,10}", fullmatch=True), st.binary())
    def test_signedjson(self, seed: bytes, version: str, message: bytes) -> None:
        """A line is read alike by ``signedjson``; each side's signatures are the other's."""
        ours = SigningKey.generate(version, seed)
        (theirs,) = signedjson.key.read_signing_keys([ours.to_line()])
        self.assertEqual(SigningKey.from_line(ours.to_line()), ours)
        self.assertEqual(f"{theirs.alg}:{theirs.version}", ours.key_id)
        self.assertEqual(signedjson.key.encode_verify_key_base64(theirs.verify_key), ours.public.to_base64())
        signature = ours.sign(message)
        self.assertEqual(decode_base64(signature), theirs.sign(message).signature)
        theirs.verify_key.verify(message, decode_base64(signature))
        self.assertTrue(ours.public.verify(message, encode_base64(theirs.sign(message).signature)))


class VerifyKeyTests(SynchronousTestCase):
    """What verifies, and which keys are taken at all."""

    def setUp(self) -> None:
        self.key = SigningKey.generate("1", b"s" * 32)

    def test_base64(self) -> None:
        """A key is read with or without padding, and written without."""
        text = self.key.public.to_base64()
        self.assertEqual(VerifyKey.from_base64("ed25519:1", text), self.key.public)
        self.assertEqual(VerifyKey.from_base64("ed25519:1", text + "="), self.key.public)
        self.assertEqual(len(text), 43)

    def test_refused_keys(self) -> None:
        """Keys of small order, not canonical, not on the curve or of another length are refused."""
        for name, public in VECTORS["refused_public_keys"].items():
            with self.subTest(name):
                text = encode_base64(bytes.fromhex(public))
                self.assertRaises(InvalidKey, VerifyKey.from_base64, "ed25519:1", text)

    def test_refused_keys_never_verify(self) -> None:
        """The refused ones are those with which libsodium verifies nothing, the all-zero signature neither."""
        for name, public in VECTORS["refused_public_keys"].items():
            raw = bytes.fromhex(public)
            if len(raw) != 32:
                continue
            with self.subTest(name):
                for signature in (bytes(64), b"\x01" + bytes(63), raw + bytes(32)):
                    self.assertFalse(VerifyKey("ed25519:1", raw).verify(b"", encode_base64(signature)))

    def test_bad_text(self) -> None:
        """A malformed key ID or malformed base64 is refused."""
        text = self.key.public.to_base64()
        for key_id, bad in (("ed25519:1", text + "!"), ("ed25519:1", text[1:]), ("ed25519:", text), ("rsa:1", text)):
            self.assertRaises(InvalidKey, VerifyKey.from_base64, key_id, bad)

    def test_mixed_order_key(self) -> None:
        """A point with a component of small order is taken, as libsodium takes it."""
        torsion = bytes.fromhex(VECTORS["refused_public_keys"]["order 8 (1)"])
        mixed = crypto_core_ed25519_add(self.key.public.public, torsion)
        self.assertFalse(crypto_core_ed25519_is_valid_point(mixed))
        self.assertEqual(VerifyKey.from_base64("ed25519:1", encode_base64(mixed)).public, mixed)

    @settings(max_examples=100, deadline=None)
    @given(SEEDS)
    def test_random_points(self, public: bytes) -> None:
        """Of any 32 bytes, those at least are taken that libsodium calls a valid point; others raise our error."""
        try:
            VerifyKey.from_base64("ed25519:1", encode_base64(public))
        except InvalidKey:
            self.assertFalse(crypto_core_ed25519_is_valid_point(public))

    def test_malformed_signatures(self) -> None:
        """A signature that is no base64, or of another length, does not verify and raises nothing."""
        good = self.key.sign(b"message")
        self.assertTrue(self.key.public.verify(b"message", good))
        self.assertTrue(self.key.public.verify(b"message", good + "=="))
        for bad in (
            "",
            "=",
            "!",
            good[:-1],
            good + "A",
            good + "AAAA",
            good[:-4],
            " " + good,
            good + "=",
            "\ud800",
            good * 2,
        ):
            with self.subTest(bad):
                self.assertFalse(self.key.public.verify(b"message", bad))

    def test_scalar_is_reduced(self) -> None:
        """The other spelling of a signature, its scalar plus the group order, does not verify."""
        raw = decode_base64(self.key.sign(b"message"))
        scalar = int.from_bytes(raw[32:], "little")
        other = raw[:32] + (scalar + GROUP_ORDER).to_bytes(32, "little")
        self.assertFalse(self.key.public.verify(b"message", encode_base64(other)))

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=1, max_size=50), st.integers(0, 8 * 64 - 1), st.integers(0, 8 * 50 - 1))
    def test_any_changed_bit(self, message: bytes, signature_bit: int, message_bit: int) -> None:
        """Changing any bit of the signature or of the message, or asking another key, makes it invalid."""
        raw = bytearray(decode_base64(self.key.sign(message)))
        raw[signature_bit // 8] ^= 1 << signature_bit % 8
        self.assertFalse(self.key.public.verify(message, encode_base64(bytes(raw))))
        changed = bytearray(message)
        changed[message_bit // 8 % len(message)] ^= 1 << message_bit % 8
        self.assertFalse(self.key.public.verify(bytes(changed), self.key.sign(message)))
        other = SigningKey.generate("1", b"t" * 32)
        self.assertFalse(other.public.verify(message, self.key.sign(message)))

    def test_agrees_with_pynacl(self) -> None:
        """PyNaCl's own key object verifies what we sign."""
        nacl.signing.VerifyKey(self.key.public.public).verify(b"message", decode_base64(self.key.sign(b"message")))
