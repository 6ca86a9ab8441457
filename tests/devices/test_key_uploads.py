"""One-time keys as they are uploaded."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import MAX_SAFE_INTEGER
from lmatrix.crypto.digest import encode_base64
from lmatrix.devices.key_uploads import InvalidKeyUpload, UploadedKey, parse_keys
from tests.devices.builders import DAY_S, KEY_PACKAGE, NOW_S, Device

BOB = Device("@bob:north.example", "BOBS")
NOW_MS = NOW_S * 1000


def read(raw: dict[str, object], *, last_resort: bool = False) -> list[UploadedKey]:
    return parse_keys(raw, BOB.user_id, BOB.device_id, NOW_MS, last_resort=last_resort)


class UploadTests(SynchronousTestCase):
    def test_key_packages(self) -> None:
        """A key package brings its own lifetime, and says whether it is one of last resort."""
        [key] = read({f"{KEY_PACKAGE}:abc": encode_base64(BOB.key_package(not_after=NOW_S + 5))})
        self.assertEqual((key.algorithm, key.version, key.is_last_resort), (KEY_PACKAGE, "abc", False))
        self.assertEqual(key.expires_ts, (NOW_S + 6) * 1000)
        self.assertEqual(json.loads(key.value), encode_base64(BOB.key_package(not_after=NOW_S + 5)))
        self.assertTrue(read(BOB.keys(BOB.last_resort()))[0].is_last_resort)
        self.assertTrue(read(BOB.keys(BOB.key_package()), last_resort=True)[0].is_last_resort)

    def test_two_texts_of_one_key_package(self) -> None:
        """Padding does not make another key of it."""
        packed = encode_base64(BOB.key_package(1))
        padded = packed + "=" * (-len(packed) % 4)
        [first], [second] = (read({f"{KEY_PACKAGE}:a": text}) for text in (packed, padded))
        self.assertEqual(first, second)

    def test_a_very_long_life(self) -> None:
        """A lifetime that no clock can count is as long as one can be written."""
        [key] = read(BOB.keys(BOB.key_package(not_after=2**64 - 1)))
        self.assertEqual(key.expires_ts, MAX_SAFE_INTEGER)

    def test_other_algorithms(self) -> None:
        """Keys of other algorithms are strings or objects, and do not expire."""
        text, signed = read({"org.example.x:1": "abc", "signed_curve25519:AAAAHg": {"key": "k", "signatures": {}}})
        self.assertEqual((text.algorithm, text.version, text.value), ("org.example.x", "1", b'"abc"'))
        self.assertEqual((signed.algorithm, signed.expires_ts), ("signed_curve25519", None))

    def test_bad(self) -> None:
        """Each thing that can be wrong with a key is found."""
        package = BOB.key_package()
        stranger = Device("@bob:north.example", "OTHER")
        for raw in (
            {"noversion": "x"},
            {"x:": "x"},
            {":1": "x"},
            {"x:a-b": "x"},
            {"x y:1": "x"},
            {"x" * 260 + ":1": "x"},
            {"x:1": 5},
            {"x:1": None},
            {"x:1": ["x"]},
            {"x:1": "x" * 17_000},
            {f"x:{n}": "x" for n in range(201)},
            {f"{KEY_PACKAGE}:1": {}},
            {f"{KEY_PACKAGE}:1": "not base64"},
            {f"{KEY_PACKAGE}:1": encode_base64(b"\0\1\0\5" + package)},
            {f"{KEY_PACKAGE}:1": encode_base64(package[:-1])},
            stranger.keys(stranger.key_package()),
            BOB.keys(BOB.key_package(not_after=NOW_S - 1)),
            BOB.keys(BOB.key_package(not_before=NOW_S + DAY_S)),
        ):
            with self.assertRaises(InvalidKeyUpload):
                read(raw)

    def test_the_last_second(self) -> None:
        """The last second of a lifetime belongs to it."""
        self.assertTrue(read(BOB.keys(BOB.key_package(not_after=NOW_S))))
