"""Device objects and key packages, as clients make them.

Owns: :class:`Device`, a device with its MLS signature key; its credential, its device object, and its key packages,
byte by byte. The HPKE keys in the packages are random: nothing here is ever encrypted to them.

Source: I-D "Device Credentials", "Key Packages"; RFC 9420, sections 5.3, 7.2 and 10.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random

from nacl.signing import SigningKey
from unpaddedbase64 import encode_base64

from tests.end_to_end.wire_events import JsonObject, canonical

ALGORITHM = "m.mls.v1.dhkemx25519-aes128gcm-sha256-ed25519"
CREDENTIAL = "m.mls.v1.credential.ed25519"
KEY_PACKAGE = "m.mls.v1.key_package.dhkemx25519-aes128gcm-sha256-ed25519"

_MLS10 = b"\x00\x01"
_CIPHER_SUITE = b"\x00\x01"
_BASIC = b"\x00\x01"
_FROM_KEY_PACKAGE = b"\x01"
_LAST_RESORT = b"\x00\x0a"


class Device:
    """A device.

    Args:
        user_id, device_id: whose it is, and its ID.
        rng: where its keys come from.
    """

    def __init__(self, user_id: str, device_id: str, rng: Random) -> None:
        self.user_id, self.device_id = user_id, device_id
        self._rng = rng
        self._key = SigningKey(rng.randbytes(32))

    @property
    def key_id(self) -> str:
        """The ID of its credential key."""
        return f"{CREDENTIAL}:{self.device_id}"

    @property
    def credential(self) -> bytes:
        """Its basic credential, the three fields."""
        return _vector(self.user_id.encode()) + _vector(self.device_id.encode()) + _vector(bytes(self._key.verify_key))

    def object(self, **fields: object) -> JsonObject:
        """Its device object, signed.

        Args:
            fields: more fields, or others.
        """
        unsigned: JsonObject = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": [ALGORITHM],
            "keys": {self.key_id: encode_base64(self.credential)},
            **fields,
        }
        signature = encode_base64(self._key.sign(canonical(unsigned)).signature)
        return {**unsigned, "signatures": {self.user_id: {self.key_id: signature}}}

    def key_package(self, *, not_before: int, not_after: int, last_resort: bool = False) -> str:
        """A key package, base64.

        Args:
            not_before, not_after: its life time, in seconds since the epoch.
            last_resort: whether it says that it may be used more than once.
        """
        extension_types = _LAST_RESORT if last_resort else b""
        leaf = b"".join(
            (
                _vector(self._rng.randbytes(32)),
                _vector(bytes(self._key.verify_key)),
                _BASIC + _vector(self.credential),
                _vector(_MLS10) + _vector(_CIPHER_SUITE) + _vector(extension_types) + _vector(b"") + _vector(_BASIC),
                _FROM_KEY_PACKAGE + not_before.to_bytes(8, "big") + not_after.to_bytes(8, "big"),
                _vector(b""),
            )
        )
        leaf += _vector(self._signed("LeafNodeTBS", leaf))
        extensions = _LAST_RESORT + _vector(b"") if last_resort else b""
        package = _MLS10 + _CIPHER_SUITE + _vector(self._rng.randbytes(32)) + leaf + _vector(extensions)
        return encode_base64(package + _vector(self._signed("KeyPackageTBS", package)))

    def _signed(self, label: str, content: bytes) -> bytes:
        return bytes(self._key.sign(_vector(f"MLS 1.0 {label}".encode()) + _vector(content)).signature)


def key_id(package: str) -> str:
    """The ID of a key package, its version made from the package."""
    return f"{KEY_PACKAGE}:{sha256(package.encode()).hexdigest()[:32]}"


def _vector(content: bytes) -> bytes:
    length = len(content)
    if length < 0x40:
        return bytes([length]) + content
    if length < 0x4000:
        return (0x4000 | length).to_bytes(2, "big") + content
    return (0x8000_0000 | length).to_bytes(4, "big") + content
