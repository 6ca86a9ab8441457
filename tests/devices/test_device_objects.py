"""Device objects: what is one, and what is none."""

from __future__ import annotations

from typing import Any

from nacl.signing import SigningKey as NaclKey
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import encode, parse_object
from lmatrix.crypto.digest import encode_base64
from lmatrix.devices.device_objects import DeviceObject, InvalidDevice
from tests.devices.builders import CREDENTIAL, MLS, Device

BOB = Device("@bob:north.example", "BOBS")
OTHER = Device("@bob:north.example", "OTHER")


class DeviceObjectTests(SynchronousTestCase):
    def refused(self, raw: object, user_id: str = BOB.user_id, device_id: str | None = None) -> str:
        """It is refused; why."""
        with self.assertRaises(InvalidDevice) as caught:
            DeviceObject.parse(raw, user_id, device_id)
        return str(caught.exception)

    def test_good(self) -> None:
        """A device object is kept as it was signed, with fields that are not known here."""
        raw = BOB.object(colour="green")
        device = DeviceObject.parse(raw, BOB.user_id, "BOBS")
        self.assertEqual(parse_object(device.canonical), raw)
        self.assertEqual((device.user_id, device.device_id), (BOB.user_id, "BOBS"))
        self.assertIsNotNone(device.credential)
        self.assertEqual(DeviceObject.from_canonical(device.canonical), device)

    def test_unsigned_is_left_out(self) -> None:
        """What Matrix servers add beside the signed object is no part of it."""
        with_name = {**BOB.object(), "unsigned": {"device_display_name": "phone"}}
        self.assertEqual(DeviceObject.parse(with_name, BOB.user_id), DeviceObject.parse(BOB.object(), BOB.user_id))

    def test_other_algorithms(self) -> None:
        """A device without MLS needs no credential; plain Ed25519 keys are checked, unknown ones only asked for."""
        key = NaclKey(b"k" * 32)
        fields = BOB.fields(
            algorithms=["org.example.x"],
            keys={"ed25519:BOBS": encode_base64(bytes(key.verify_key)), "org.example.x:BOBS": "abc"},
        )
        signature = encode_base64(key.sign(encode(fields)).signature)
        signatures = {"ed25519:BOBS": signature, "org.example.x:BOBS": "whatever"}
        device = DeviceObject.parse({**fields, "signatures": {BOB.user_id: signatures}}, BOB.user_id)
        self.assertIsNone(device.credential)
        for wrong in (
            {"ed25519:BOBS": signature},
            {"org.example.x:BOBS": "whatever"},
            {**signatures, "ed25519:BOBS": encode_base64(key.sign(b"else").signature)},
            {**signatures, "ed25519:BOBS": "not base64"},
            {**signatures, "org.example.x:BOBS": 5},
        ):
            self.refused({**fields, "signatures": {BOB.user_id: wrong}})
        self.refused({**fields, "signatures": {"@eve:north.example": signatures}})

    def test_bad(self) -> None:
        """Each thing that can be wrong with a device object is found, however well it is signed."""
        credential = encode_base64(BOB.credential)
        changes: list[dict[str, Any]] = [
            {"user_id": None},
            {"device_id": None},
            {"algorithms": None},
            {"keys": None},
            {"user_id": "@eve:north.example"},
            {"user_id": 5},
            {"device_id": "OTHER"},
            {"device_id": "A-B"},
            {"device_id": 5},
            {"algorithms": MLS},
            {"algorithms": [5]},
            {"algorithms": ["x"] * 51},
            {"keys": []},
            {"keys": {}},
            {"keys": {BOB.key_id: 5}},
            {"keys": {CREDENTIAL: credential}},
            {"keys": {f"{CREDENTIAL}:OTHER": credential}},
            {"keys": {":BOBS": credential, BOB.key_id: credential}},
            {"keys": {BOB.key_id: "not base64"}},
            {"keys": {BOB.key_id: encode_base64(b"\5short")}},
            {"keys": {BOB.key_id: encode_base64(OTHER.credential)}},
            {"keys": {BOB.key_id: credential, **{f"x{n}:BOBS": "" for n in range(20)}}},
            {"padding": "x" * 33_000},
        ]
        for change in changes:
            self.refused(BOB.object(**change), device_id="BOBS")
        for raw in (None, 5, "x", [], {}):
            self.refused(raw)
        self.refused(BOB.object(algorithms=[MLS], keys={"ed25519:BOBS": encode_base64(BOB.public)}))

    def test_signatures(self) -> None:
        """A device object that is not signed by its key, or was signed otherwise than it is, is invalid."""
        good = BOB.object()
        self.refused({**good, "algorithms": [MLS, "more"]})
        self.refused({**BOB.fields(), "signatures": OTHER.object()["signatures"]})
        for signatures in ({}, [], {BOB.user_id: {}}, {BOB.user_id: "x"}, {BOB.user_id: {BOB.key_id: "x"}}):
            self.refused({**BOB.fields(), "signatures": signatures})
        impostor = Device(BOB.user_id, BOB.device_id, "another key")
        self.refused(impostor.signed(BOB.fields()))

    def test_whose(self) -> None:
        """It must be of the user and device that are expected."""
        self.refused(BOB.object(), user_id="@eve:north.example")
        self.refused(BOB.object(), device_id="OTHER")
