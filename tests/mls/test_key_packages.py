"""Key packages and the credentials in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import VerifyKey
from lmatrix.mls.credentials import DeviceCredential
from lmatrix.mls.key_packages import KeyPackage
from lmatrix.mls.signatures import verify_with_label
from lmatrix.mls.wire import InvalidMls
from tests.devices.builders import DAY_S, NOW_S, Device, number, opaque

BOB = Device("@bob:north.example", "BOBS")
EVE = Device("@eve:north.example", "EVES")
SAME_NAME = Device("@bob:north.example", "BOBS", "another key")


class KeyPackageTests(SynchronousTestCase):
    def refused(self, data: bytes) -> str:
        """It is refused; why."""
        with self.assertRaises(InvalidMls) as caught:
            KeyPackage.parse(data)
        return str(caught.exception)

    def test_good(self) -> None:
        """A key package names its device and its lifetime, and whether it is one of last resort."""
        package = KeyPackage.parse(BOB.key_package(not_before=5, not_after=NOW_S))
        self.assertEqual((package.credential.user_id, package.credential.device_id), (BOB.user_id, "BOBS"))
        self.assertEqual(package.credential.key.public, BOB.public)
        self.assertEqual((package.not_before, package.not_after), (5, NOW_S))
        self.assertFalse(package.is_last_resort)
        self.assertTrue(KeyPackage.parse(BOB.last_resort()).is_last_resort)

    def test_unknown_extensions(self) -> None:
        """An extension that is not known does no harm."""
        KeyPackage.parse(BOB.key_package(extensions=number(0xFF01, 2) + opaque(b"anything")))

    def test_bad(self) -> None:
        """Each thing that can be wrong with a key package is found."""
        double = (number(7, 2) + opaque(b"")) * 2
        lists = opaque(b"\0\1")
        for what, data in {
            "MLS 1.0": BOB.key_package(version=2),
            "cipher suite": BOB.key_package(suite=2),
            "32 bytes": BOB.key_package(init_key=b"short"),
            "basic": BOB.key_package(credential_type=2),
            "names no device": BOB.key_package(identity=opaque(b"bob") + opaque(b"B") + opaque(BOB.public)),
            "another signature key": BOB.key_package(identity=EVE.credential),
            "signature key": BOB.key_package(signature_key=b"short"),
            "capabilities": BOB.key_package(capabilities=opaque(b"\0") + lists * 4),
            "does not belong": BOB.key_package(source=2),
            "ends before": BOB.key_package(not_before=NOW_S, not_after=NOW_S - DAY_S),
            "comes twice": BOB.key_package(extensions=double),
            "LeafNodeTBS": BOB.key_package(break_leaf=True),
            "KeyPackageTBS": BOB.key_package(break_package=True),
            "too many": BOB.key_package() + b"\0",
            "too early": BOB.key_package()[:-1],
        }.items():
            self.assertIn(what, self.refused(data))

    def test_the_same_key_twice(self) -> None:
        """``init_key`` and ``encryption_key`` must differ."""
        good = BOB.key_package()
        encryption_key = good[4 + 33 + 1 : 4 + 33 + 33]
        self.assertIn("the same", self.refused(BOB.key_package(init_key=encryption_key)))

    def test_wrapped(self) -> None:
        """A key package in an ``MLSMessage`` is not a bare one."""
        self.refused(number(1, 2) + number(5, 2) + BOB.key_package())

    @given(st.integers(0, 400), st.integers(1, 255))
    def test_every_byte_counts(self, at: int, change: int) -> None:
        """Whichever byte is changed, the key package is refused: all of it is signed, or is a signature."""
        data = bytearray(BOB.key_package())
        data[at % len(data)] ^= change
        self.refused(bytes(data))

    @given(st.binary(max_size=300))
    def test_anything(self, data: bytes) -> None:
        """Whatever comes is refused with the one error."""
        self.refused(data)


class CredentialTests(SynchronousTestCase):
    def test_good(self) -> None:
        """The three fields are read."""
        self.assertEqual(DeviceCredential.parse(BOB.credential).device_id, "BOBS")
        self.assertNotEqual(DeviceCredential.parse(BOB.credential), DeviceCredential.parse(SAME_NAME.credential))

    def test_bad(self) -> None:
        """Identifiers outside of the grammar, keys that are none, and leftovers are refused."""
        user, device, key = opaque(b"@bob:north.example"), opaque(b"BOBS"), opaque(BOB.public)
        for data in (
            b"",
            user + device,
            user + device + opaque(b""),
            user + device + opaque(bytes(32)),
            user + opaque(b"") + key,
            user + opaque(b"A-B") + key,
            opaque(b"bob") + device + key,
            opaque("@bób:north.example".encode()) + device + key,
            opaque(b"\xff\xfe") + device + key,
            user + device + key + b"\0",
        ):
            with self.assertRaises(InvalidMls):
                DeviceCredential.parse(data)


class SignatureTests(SynchronousTestCase):
    def test_vector(self) -> None:
        """The MLS working group's test vector for ``SignWithLabel`` in the cipher suite 1 ("crypto-basics")."""
        key = VerifyKey("ed25519:x", bytes.fromhex("85600e54e5c2919ccbd0742126e5d837cf7a2ba50d75a69b3f35dcfe4a50ffe2"))
        content = bytes.fromhex("cd289cc7ba2869f64f3c32ffd133f500d17abace919a5ffe7faa974200d81932")
        signature = bytes.fromhex(
            "996bd223ddb4d55a2b57d85cb2944f21facc95696053ddf66d590060fdc719f4"
            "a26c6212ce605414e0d5e66a55921dd99d11122218c35bc23408b0076e8bc40b"
        )
        self.assertTrue(verify_with_label(key, "SignWithLabel", content, signature))
        self.assertFalse(verify_with_label(key, "AnotherLabel", content, signature))
        self.assertFalse(verify_with_label(key, "SignWithLabel", content + b"\0", signature))
