"""Signatures with a label (RFC 9420 section 5.1.2).

Owns: :func:`verify_with_label`. Only the Ed25519 of the I-D's cipher suite is known.
"""

from __future__ import annotations

from lmatrix.crypto.digest import encode_base64
from lmatrix.crypto.keys import VerifyKey
from lmatrix.mls.wire import vector


def verify_with_label(key: VerifyKey, label: str, content: bytes, signature: bytes) -> bool:
    """``VerifyWithLabel``: whether a signature is the key's over some content, made for the use that the label names.

    Args:
        label: without the ``"MLS 1.0 "`` that is put before it: ``"KeyPackageTBS"``.
    """
    message = vector(f"MLS 1.0 {label}".encode("ascii")) + vector(content)
    return key.verify(message, encode_base64(signature))
