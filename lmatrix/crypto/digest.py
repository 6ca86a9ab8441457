"""SHA-256 digests and base64 (I-D "Hashes", "Unpadded Base64").

Owns: the two spellings of base64 that the protocol has, and the one function that reads it. Everything written here is
unpadded; what is read may be padded.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from hashlib import sha256

from lmatrix.errors import LMatrixError


class InvalidBase64(LMatrixError):
    """A text that is not (standard) base64, with or without padding."""


def sha256_base64(data: bytes) -> str:
    """SHA-256 of ``data`` in unpadded base64: 43 characters (I-D "Content Hash Calculation")."""
    return encode_base64(sha256(data).digest())


def sha256_urlsafe(data: bytes) -> str:
    """SHA-256 of ``data`` in URL-safe unpadded base64: 43 characters (I-D "Reference Hash Calculation")."""
    return urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode("ascii")


def encode_base64(data: bytes) -> str:
    """Write unpadded base64 (RFC 4648 section 4)."""
    return b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Read base64 (RFC 4648 section 4), with all of its padding or with none.

    White space and characters outside of the alphabet are refused. Bits left over at the end are ignored, as other
    implementations ignore them: two texts may stand for the same bytes, so compare bytes.

    Raises:
        InvalidBase64: anything else. The message does not repeat the text, which may be a secret.
    """
    unpadded = text.rstrip("=")
    padding = -len(unpadded) % 4
    if len(text) != len(unpadded) and len(text) - len(unpadded) != padding:
        raise InvalidBase64("invalid base64: wrong padding")
    try:
        return a2b_base64(unpadded + "=" * padding, strict_mode=True)
    except (Base64Error, ValueError):
        raise InvalidBase64("invalid base64: wrong length or wrong characters") from None
