"""Key packages (RFC 9420 sections 7.2, 7.3, 10 and 10.1; I-D "Key Packages").

Owns: :class:`KeyPackage` and its reading: a bare ``KeyPackage``, not wrapped into an ``MLSMessage``, of the one cipher
suite that the I-D names. What is read has been checked as far as a server can: well-formed, of one piece, signed by
the key of the device that its credential names. Whether its time has come or passed is for whoever knows the time.
"""

from __future__ import annotations

from typing import Final

import attrs

from lmatrix.crypto.keys import VerifyKey
from lmatrix.mls.credentials import DeviceCredential, signature_key_of
from lmatrix.mls.signatures import verify_with_label
from lmatrix.mls.wire import InvalidMls, Reader

VERSION_MLS_1_0: Final = 1
CIPHER_SUITE: Final = 1
"""``MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519``."""

_BASIC_CREDENTIAL = 1
_SOURCE_KEY_PACKAGE = 1
_X25519_KEY_BYTES = 32
_LAST_RESORT = 0x000A
"""The extension that marks a key package for use more than once ("The Messaging Layer Security (MLS) Extensions")."""


@attrs.frozen(slots=True)
class KeyPackage:
    """A key package.

    Attributes:
        credential: the device that made it.
        not_before, not_after: the time in which it may be used, in seconds since the epoch, both ends inclusive.
        is_last_resort: whether it is marked for use more than once.
    """

    credential: DeviceCredential
    not_before: int
    not_after: int
    is_last_resort: bool

    @classmethod
    def parse(cls, data: bytes) -> KeyPackage:
        """Read and check a key package.

        Raises:
            InvalidMls: it is not well-formed, of another version or cipher suite, not a device's, or not properly
                signed.
        """
        reader = Reader(data)
        if reader.uint(2) != VERSION_MLS_1_0:
            raise InvalidMls("not a key package of MLS 1.0")
        if reader.uint(2) != CIPHER_SUITE:
            raise InvalidMls("a key package of another cipher suite")
        init_key = _hpke_key(reader)
        leaf = _Leaf.read(reader)
        extensions = _extensions(reader.vector())
        signed = reader.since(0)
        signature = reader.vector()
        reader.end()
        # RFC 9420 section 10.1: the two keys have different uses, and must differ.
        if init_key == leaf.encryption_key:
            raise InvalidMls("init_key and encryption_key are the same")
        _check_signature(leaf.credential.key, "KeyPackageTBS", signed, signature)
        return cls(leaf.credential, leaf.not_before, leaf.not_after, _LAST_RESORT in extensions)


@attrs.frozen(slots=True)
class _Leaf:
    """What matters of a ``LeafNode`` whose source is a key package."""

    encryption_key: bytes
    credential: DeviceCredential
    not_before: int
    not_after: int

    @classmethod
    def read(cls, reader: Reader) -> _Leaf:
        start = reader.at
        encryption_key = _hpke_key(reader)
        signature_key = reader.vector()
        if reader.uint(2) != _BASIC_CREDENTIAL:
            raise InvalidMls("the credential is not a basic one")
        credential = DeviceCredential.parse(reader.vector())
        if credential.key != signature_key_of(signature_key):
            raise InvalidMls("the credential names another signature key than the leaf")
        for _ in range(5):  # versions, cipher suites, extensions, proposals, credentials: each a list of numbers
            if len(reader.vector()) % 2:
                raise InvalidMls("the capabilities are malformed")
        if reader.uint(1) != _SOURCE_KEY_PACKAGE:
            raise InvalidMls("the leaf does not belong to a key package")
        not_before, not_after = reader.uint(8), reader.uint(8)
        if not_before > not_after:
            raise InvalidMls("the lifetime ends before it begins")
        _extensions(reader.vector())
        _check_signature(credential.key, "LeafNodeTBS", reader.since(start), reader.vector())
        return cls(encryption_key, credential, not_before, not_after)


def _hpke_key(reader: Reader) -> bytes:
    key = reader.vector()
    if len(key) != _X25519_KEY_BYTES:
        raise InvalidMls(f"an HPKE key of this cipher suite has {_X25519_KEY_BYTES} bytes, not {len(key)}")
    return key


def _extensions(data: bytes) -> frozenset[int]:
    """The types in a list of extensions."""
    reader = Reader(data)
    types: set[int] = set()
    while not reader.ended:
        extension_type = reader.uint(2)
        reader.vector()
        if extension_type in types:
            raise InvalidMls(f"the extension {extension_type} comes twice")
        types.add(extension_type)
    return frozenset(types)


def _check_signature(key: VerifyKey, label: str, content: bytes, signature: bytes) -> None:
    if not verify_with_label(key, label, content, signature):
        raise InvalidMls(f"the signature over {label} does not verify")
