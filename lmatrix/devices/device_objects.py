"""Device objects (I-D "Device Credentials").

Owns: :class:`DeviceObject`, what a device says of itself, and its checking. Pure. Invariants: a device object that
exists as a value names its user and device, is signed by every one of its keys, and is bounded in size; it is kept and
handed on as it was signed.

A key whose algorithm is not known here cannot be checked: it must have a signature, which others who know the algorithm
can check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from lmatrix import ids
from lmatrix.canonical_json import encode, parse_object
from lmatrix.crypto.digest import InvalidBase64, decode_base64
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.crypto.signed_json import object_signing_bytes
from lmatrix.errors import BadRequest, InvalidIdentifier
from lmatrix.mls.credentials import DeviceCredential
from lmatrix.mls.wire import InvalidMls

MLS_ALGORITHM: Final = "m.mls.v1.dhkemx25519-aes128gcm-sha256-ed25519"
CREDENTIAL: Final = "m.mls.v1.credential.ed25519"
"""Algorithm of the key that a device supporting :data:`MLS_ALGORITHM` must have."""

ED25519: Final = "ed25519"

MAX_BYTES = 32 * 1024
"""Of a device object's canonical JSON."""

MAX_KEYS = 20
MAX_ALGORITHMS = 50
_REQUIRED = ("device_id", "user_id", "algorithms", "keys", "signatures")


class InvalidDevice(BadRequest):
    """A device object that the I-D calls invalid."""


@attrs.frozen(slots=True)
class DeviceObject:
    """A checked device object.

    Attributes:
        user_id, device_id: whose it is.
        canonical: the object's canonical JSON, signatures included.
        credential: its MLS credential, if it has one.
    """

    user_id: str
    device_id: str
    canonical: bytes
    credential: DeviceCredential | None

    @classmethod
    def parse(cls, raw: object, user_id: str, device_id: str | None = None) -> DeviceObject:
        """Check a device object.

        Args:
            raw: parsed JSON. ``unsigned``, which Matrix servers add, is left out.
            user_id: whose it must be.
            device_id: which device's it must be; ``None``: any of the user's.

        Raises:
            InvalidDevice: it is not a valid device object of that user and device.
        """
        if not isinstance(raw, dict):
            raise InvalidDevice("a device object must be an object")
        fields = {key: value for key, value in raw.items() if key != "unsigned"}
        missing = [name for name in _REQUIRED if name not in fields]
        if missing:
            raise InvalidDevice(f"the device object lacks {missing[0]}")
        if fields["user_id"] != user_id:
            raise InvalidDevice("the device object names another user")
        found = _device_id(fields["device_id"])
        if device_id is not None and found != device_id:
            raise InvalidDevice("the device object names another device")
        algorithms = _algorithms(fields["algorithms"])
        keys = _keys(fields["keys"], found)
        if MLS_ALGORITHM in algorithms and f"{CREDENTIAL}:{found}" not in keys:
            raise InvalidDevice(f"a device that supports {MLS_ALGORITHM} must have a key {CREDENTIAL}:{found}")
        canonical = encode(fields)
        if len(canonical) > MAX_BYTES:
            raise InvalidDevice(f"a device object has at most {MAX_BYTES} bytes of canonical JSON")
        credential = _check_signatures(fields, user_id, found, keys)
        return cls(user_id, found, canonical, credential)

    @classmethod
    def from_canonical(cls, canonical: bytes) -> DeviceObject:
        """A device object out of our own store, where nothing comes unchecked: it is not checked again."""
        fields = parse_object(canonical)
        key = fields["keys"].get(f"{CREDENTIAL}:{fields['device_id']}")
        credential = None if key is None else DeviceCredential.parse(decode_base64(key))
        return cls(fields["user_id"], fields["device_id"], canonical, credential)


def _device_id(value: object) -> str:
    try:
        return ids.device_id(value)
    except InvalidIdentifier as error:
        raise InvalidDevice(str(error)) from None


def _algorithms(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_ALGORITHMS or not all(isinstance(name, str) for name in value):
        raise InvalidDevice(f"algorithms must be a list of at most {MAX_ALGORITHMS} strings")
    return value


def _keys(value: object, device_id: str) -> dict[str, str]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_KEYS:
        raise InvalidDevice(f"keys must be an object with 1 to {MAX_KEYS} keys")
    for key_id, key in value.items():
        algorithm, _, version = key_id.rpartition(":")
        if not algorithm or version != device_id:
            raise InvalidDevice(f"a key ID must be an algorithm and the device ID: {key_id[:100]!r} is not")
        if not isinstance(key, str):
            raise InvalidDevice(f"the key {key_id[:100]} must be a string")
    return value


def _check_signatures(
    fields: Mapping[str, Any], user_id: str, device_id: str, keys: Mapping[str, str]
) -> DeviceCredential | None:
    """Every key must have signed (I-D: "If there is a missing signature from any of the keys, or from the
    ``user_id``, the device information is considered invalid").
    """
    signatures = fields["signatures"]
    made = signatures.get(user_id) if isinstance(signatures, dict) else None
    if not isinstance(made, dict):
        raise InvalidDevice("the device object is not signed by its user")
    message = object_signing_bytes(fields)
    credential = None
    for key_id, key in keys.items():
        signature = made.get(key_id)
        if not isinstance(signature, str):
            raise InvalidDevice(f"the device object is not signed by {key_id[:100]}")
        algorithm = key_id.rpartition(":")[0]
        verify_key = None
        if algorithm == CREDENTIAL:
            credential = _credential(key, user_id, device_id)
            verify_key = credential.key
        elif algorithm == ED25519:
            verify_key = _plain_key(key_id, key)
        if verify_key is not None and not verify_key.verify(message, signature):
            raise InvalidDevice(f"the signature of {key_id} does not verify")
    return credential


def _credential(key: str, user_id: str, device_id: str) -> DeviceCredential:
    try:
        credential = DeviceCredential.parse(decode_base64(key))
    except (InvalidBase64, InvalidMls) as error:
        raise InvalidDevice(f"{CREDENTIAL}: {error}") from None
    if (credential.user_id, credential.device_id) != (user_id, device_id):
        raise InvalidDevice(f"{CREDENTIAL}: the credential is another device's")
    return credential


def _plain_key(key_id: str, key: str) -> VerifyKey:
    try:
        return VerifyKey.from_base64(key_id, key)
    except InvalidKey as error:
        raise InvalidDevice(f"{key_id}: {error}") from None
