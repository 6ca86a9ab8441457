"""The credential of a device (I-D "Device Credentials").

Owns: :class:`DeviceCredential`, the I-D's ``BasicCredential`` of three fields. A device publishes it in its device
object, and its key packages carry it as the identity of an MLS basic credential.
"""

from __future__ import annotations

import attrs

from lmatrix import ids
from lmatrix.crypto.digest import encode_base64
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.errors import InvalidIdentifier
from lmatrix.mls.wire import InvalidMls, Reader

_KEY_ID = "ed25519:device"
"""The key's name in our own values; on the wire it has none."""


@attrs.frozen(slots=True)
class DeviceCredential:
    """Who a device is, and the key that it signs with.

    Attributes:
        user_id, device_id: the device.
        key: its Ed25519 key.
    """

    user_id: str
    device_id: str
    key: VerifyKey

    @classmethod
    def parse(cls, data: bytes) -> DeviceCredential:
        """Read ``struct { opaque user_id<V>; opaque device_id<V>; opaque signature_key<V>; }``.

        Raises:
            InvalidMls: it is not that, or one of the three is not what it should be.
        """
        reader = Reader(data)
        user_id, device_id, signature_key = reader.vector(), reader.vector(), reader.vector()
        reader.end()
        try:
            return cls(
                ids.user_id(user_id.decode("ascii")),
                ids.device_id(device_id.decode("ascii")),
                signature_key_of(signature_key),
            )
        except (InvalidIdentifier, UnicodeDecodeError) as error:
            raise InvalidMls(f"the credential names no device: {error}") from None


def signature_key_of(raw: bytes) -> VerifyKey:
    """An MLS ``SignaturePublicKey`` of an Ed25519 cipher suite. Raises :class:`InvalidMls`."""
    try:
        return VerifyKey.from_base64(_KEY_ID, encode_base64(raw))
    except InvalidKey as error:
        raise InvalidMls(f"the signature key: {error}") from None
