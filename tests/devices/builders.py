"""Devices as their clients make them: credentials, signed device objects, key packages.

Owns: :class:`Device`, the client's side of what the server only reads. The bytes of MLS are put together here by hand,
from RFC 9420, so that reader and writer have nothing in common but the RFC.
"""

from __future__ import annotations

import hashlib
from typing import Any

from nacl.signing import SigningKey as NaclKey

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import encode_base64
from lmatrix.rooms.interfaces import JsonObject

MLS = "m.mls.v1.dhkemx25519-aes128gcm-sha256-ed25519"
CREDENTIAL = "m.mls.v1.credential.ed25519"
KEY_PACKAGE = "m.mls.v1.key_package.dhkemx25519-aes128gcm-sha256-ed25519"
NOW_S = 1_700_000_000
DAY_S = 24 * 3600


def opaque(data: bytes) -> bytes:
    """``opaque x<V>``."""
    if len(data) < 64:
        return bytes([len(data)]) + data
    if len(data) < 16384:
        return (0x4000 | len(data)).to_bytes(2, "big") + data
    return (0x80000000 | len(data)).to_bytes(4, "big") + data


def number(value: int, size: int) -> bytes:
    """``uintN``."""
    return value.to_bytes(size, "big")


class Device:
    """A device with its keys.

    Args:
        user_id, device_id: whose it is.
        secret: tells apart two devices that say they are the same.
    """

    def __init__(self, user_id: str, device_id: str, secret: str = "") -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.key = NaclKey(hashlib.sha256(f"{user_id} {device_id} {secret}".encode()).digest())

    # -- Device objects --

    @property
    def public(self) -> bytes:
        """The signature key."""
        return bytes(self.key.verify_key)

    @property
    def credential(self) -> bytes:
        """The I-D's credential of three fields."""
        return opaque(self.user_id.encode()) + opaque(self.device_id.encode()) + opaque(self.public)

    @property
    def key_id(self) -> str:
        """The name of the key in the device object."""
        return f"{CREDENTIAL}:{self.device_id}"

    def fields(self, **changes: Any) -> JsonObject:
        """The device object without signatures."""
        fields: JsonObject = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": [MLS],
            "keys": {self.key_id: encode_base64(self.credential)},
        }
        fields.update(changes)
        return {name: value for name, value in fields.items() if value is not None}

    def signed(self, fields: JsonObject) -> JsonObject:
        """Device fields with their signature."""
        signature = encode_base64(self.key.sign(encode(fields)).signature)
        return {**fields, "signatures": {self.user_id: {self.key_id: signature}}}

    def object(self, **changes: Any) -> JsonObject:
        """The signed device object; a change to ``None`` leaves a field out."""
        return self.signed(self.fields(**changes))

    # -- Key packages --

    def sign(self, label: str, content: bytes) -> bytes:
        """``SignWithLabel``."""
        return bytes(self.key.sign(opaque(b"MLS 1.0 " + label.encode()) + opaque(content)).signature)

    def key_package(
        self,
        serial: int = 0,
        *,
        not_before: int = NOW_S - DAY_S,
        not_after: int = NOW_S + 90 * DAY_S,
        extensions: bytes = b"",
        version: int = 1,
        suite: int = 1,
        init_key: bytes | None = None,
        credential_type: int = 1,
        identity: bytes | None = None,
        signature_key: bytes | None = None,
        capabilities: bytes = opaque(b"\0\1") + opaque(b"\0\1") + opaque(b"") + opaque(b"") + opaque(b"\0\1"),
        source: int = 1,
        break_leaf: bool = False,
        break_package: bool = False,
    ) -> bytes:
        """A bare ``KeyPackage``; each serial gives another one."""
        encryption_key = hashlib.sha256(b"encryption" + number(serial, 4)).digest()
        leaf = (
            opaque(encryption_key)
            + opaque(self.public if signature_key is None else signature_key)
            + number(credential_type, 2)
            + opaque(self.credential if identity is None else identity)
            + capabilities
            + number(source, 1)
            + number(not_before, 8)
            + number(not_after, 8)
            + opaque(b"")
        )
        leaf += opaque(self.sign("Broken" if break_leaf else "LeafNodeTBS", leaf))
        init = hashlib.sha256(b"init" + number(serial, 4)).digest() if init_key is None else init_key
        package = number(version, 2) + number(suite, 2) + opaque(init) + leaf + opaque(extensions)
        return package + opaque(self.sign("Broken" if break_package else "KeyPackageTBS", package))

    def last_resort(self, serial: int = 0, **more: Any) -> bytes:
        """A key package that is marked for use more than once."""
        return self.key_package(serial, extensions=number(0x000A, 2) + opaque(b""), **more)

    def keys(self, *packages: bytes) -> JsonObject:
        """Key packages as they are uploaded, named after themselves."""
        return {f"{KEY_PACKAGE}:{hashlib.sha256(one).hexdigest()[:16]}": encode_base64(one) for one in packages}
