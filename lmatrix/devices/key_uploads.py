"""One-time keys as devices upload them (I-D "Key Packages", "One Time Key Claiming").

Owns: :class:`UploadedKey` and the reading of a batch of them. Pure. A key is named ``algorithm:version``; its value is
whatever the algorithm says, and for the one that the I-D defines a bare key package, which is read and checked. Its
lifetime is then that of the key package; a key of any other algorithm does not expire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from lmatrix.canonical_json import MAX_SAFE_INTEGER, encode
from lmatrix.crypto.digest import InvalidBase64, decode_base64, encode_base64, sha256_base64
from lmatrix.errors import BadRequest
from lmatrix.mls.credentials import DeviceCredential
from lmatrix.mls.key_packages import KeyPackage
from lmatrix.mls.wire import InvalidMls

KEY_PACKAGE: Final = "m.mls.v1.key_package.dhkemx25519-aes128gcm-sha256-ed25519"

MAX_KEYS = 200
"""In one upload, of either kind."""

MAX_VALUE_BYTES = 16 * 1024
"""Of one key's canonical JSON."""

_MAX_NAME_BYTES = 255
_EARLY_MS = 60 * 60 * 1000
"""How far a key package's time may still be ahead: clocks differ."""

_name = re.compile(r"([^\s:](?:\S*[^\s:])?):([0-9A-Za-z_]+)").fullmatch


class InvalidKeyUpload(BadRequest):
    """A one-time key that cannot be taken."""


@attrs.frozen(slots=True)
class UploadedKey:
    """One key.

    Attributes:
        algorithm, version: its name; together they make up its key ID.
        value: canonical JSON of it.
        digest: unpadded base64 SHA-256 of what it stands for, by which it is recognised.
        expires_ts: milliseconds since the epoch from which on it must not be used; ``None``: it does not expire.
        is_last_resort: whether it may be used more than once.
        credential: of the device that made it, where the algorithm says.
    """

    algorithm: str
    version: str
    value: bytes
    digest: str
    expires_ts: int | None
    is_last_resort: bool
    credential: DeviceCredential | None


def parse_keys(
    raw: Mapping[str, Any], user_id: str, device_id: str, now_ms: int, *, last_resort: bool
) -> list[UploadedKey]:
    """Read an upload.

    Args:
        raw: ``algorithm:version`` → value.
        user_id, device_id: who uploads.
        now_ms: milliseconds since the epoch.
        last_resort: whether they are meant to be used more than once, whatever they say themselves.

    Raises:
        InvalidKeyUpload: one of them is malformed, another device's, expired or not valid yet; or they are too many.
    """
    if len(raw) > MAX_KEYS:
        raise InvalidKeyUpload(f"at most {MAX_KEYS} keys can be uploaded at a time")
    return [_parse(name, value, user_id, device_id, now_ms, last_resort) for name, value in raw.items()]


def _parse(name: str, value: Any, user_id: str, device_id: str, now_ms: int, last_resort: bool) -> UploadedKey:
    named = _name(name) if len(name.encode()) <= _MAX_NAME_BYTES else None
    if named is None:
        raise InvalidKeyUpload(f"a key is named by an algorithm and a version: {name[:100]!r} is not")
    algorithm, version = named.groups()
    canonical = encode(value)
    if len(canonical) > MAX_VALUE_BYTES:
        raise InvalidKeyUpload(f"{name}: a key has at most {MAX_VALUE_BYTES} bytes")
    if algorithm == KEY_PACKAGE:
        return _parse_key_package(name, version, value, user_id, device_id, now_ms, last_resort)
    if not isinstance(value, str | dict):
        raise InvalidKeyUpload(f"{name}: a key is a string or an object")
    return UploadedKey(algorithm, version, canonical, sha256_base64(canonical), None, last_resort, None)


def _parse_key_package(
    name: str, version: str, value: Any, user_id: str, device_id: str, now_ms: int, last_resort: bool
) -> UploadedKey:
    if not isinstance(value, str):
        raise InvalidKeyUpload(f"{name}: a key package is a string of base64")
    try:
        data = decode_base64(value)
        package = KeyPackage.parse(data)
    except (InvalidBase64, InvalidMls) as error:
        raise InvalidKeyUpload(f"{name}: {error}") from None
    if (package.credential.user_id, package.credential.device_id) != (user_id, device_id):
        raise InvalidKeyUpload(f"{name}: the key package is another device's")
    # The lifetime counts in seconds, its last one included.
    expires_ts = min((package.not_after + 1) * 1000, MAX_SAFE_INTEGER)
    if expires_ts <= now_ms:
        raise InvalidKeyUpload(f"{name}: the key package has expired")
    if package.not_before * 1000 > now_ms + _EARLY_MS:
        raise InvalidKeyUpload(f"{name}: the time of the key package has not come yet")
    return UploadedKey(
        algorithm=KEY_PACKAGE,
        version=version,
        # Written anew: two texts of base64 may stand for the same bytes, and peers expect the unpadded one.
        value=encode(encode_base64(data)),
        digest=sha256_base64(data),
        expires_ts=expires_ts,
        is_last_resort=last_resort or package.is_last_resort,
        credential=package.credential,
    )
