"""Ed25519 keys: one that signs, one that verifies (I-D "Signing", RFC 8032).

Owns: the values :class:`SigningKey` and :class:`VerifyKey`. Signing and verifying are libsodium's (through PyNaCl), and
so is the decision which keys and signatures are acceptable: keys that are not canonically encoded, not on the curve or
of small order, and signatures with a scalar that is not reduced, never verify anything.

A secret never appears in a ``repr`` or in an error.
"""

from __future__ import annotations

import secrets

import attrs
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_BYTES,
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_seed_keypair,
    crypto_sign_SEEDBYTES,
)
from nacl.exceptions import BadSignatureError, CryptoError

from lmatrix import ids
from lmatrix.crypto.digest import InvalidBase64, decode_base64, encode_base64
from lmatrix.errors import InvalidIdentifier, LMatrixError

ALGORITHM = "ed25519"

_FIELD_PRIME = 2**255 - 19
_IDENTITY = (1).to_bytes(crypto_core_ed25519_BYTES, "little")


class InvalidKey(LMatrixError):
    """A signing or verify key that is malformed."""


@attrs.frozen(slots=True)
class VerifyKey:
    """The public half of a signing key.

    Attributes:
        key_id: ``"ed25519:VERSION"``.
        public: 32 bytes.
    """

    key_id: str
    public: bytes

    @classmethod
    def from_base64(cls, key_id: str, text: str) -> VerifyKey:
        """A key as a server publishes it.

        Args:
            key_id: ``"ed25519:VERSION"``.
            text: the 32 bytes in base64, with or without padding.

        Raises:
            InvalidKey: the ID or the text is malformed, or libsodium would never verify with such a key: it is not
                canonically encoded, not on the curve, or of small order.
        """
        try:
            ids.key_id(key_id)
            public = decode_base64(text)
        except (InvalidIdentifier, InvalidBase64) as error:
            raise InvalidKey(f"invalid verify key: {error}") from None
        _check_public(public)
        return cls(key_id, public)

    def to_base64(self) -> str:
        """The 32 bytes in unpadded base64."""
        return encode_base64(self.public)

    def verify(self, message: bytes, signature: str) -> bool:
        """Whether ``signature`` (64 bytes in base64, with or without padding) is this key's over ``message``.

        Never raises for a bad signature, whatever is wrong with it. The interpreter is free to run other threads
        meanwhile.
        """
        try:
            raw = decode_base64(signature)
        except InvalidBase64:
            return False
        if len(raw) != crypto_sign_BYTES:
            return False
        try:
            crypto_sign_open(raw + message, self.public)
        except BadSignatureError:
            return False
        return True


@attrs.frozen(slots=True)
class SigningKey:
    """A key that signs. Made by :meth:`generate` or :meth:`from_line`.

    Attributes:
        key_id: ``"ed25519:VERSION"``.
        public: its verify key.
    """

    key_id: str
    public: VerifyKey
    _seed: bytes = attrs.field(repr=False)
    _secret: bytes = attrs.field(repr=False)

    @classmethod
    def generate(cls, version: str, seed: bytes | None = None) -> SigningKey:
        """A new key.

        Args:
            version: letters, digits and ``_``; the key ID is ``"ed25519:" + version``.
            seed: 32 bytes that determine the key; out of the operating system's randomness by default.

        Raises:
            InvalidKey: a malformed version or seed.
        """
        try:
            key_id = ids.key_id(f"{ALGORITHM}:{version}")
        except InvalidIdentifier as error:
            raise InvalidKey(str(error)) from None
        if seed is None:
            seed = secrets.token_bytes(crypto_sign_SEEDBYTES)
        if len(seed) != crypto_sign_SEEDBYTES:
            raise InvalidKey(f"the seed of a signing key has {crypto_sign_SEEDBYTES} bytes, not {len(seed)}")
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(key_id, VerifyKey(key_id, public), seed, secret)

    @classmethod
    def from_line(cls, line: str) -> SigningKey:
        """A key as a key file holds it: ``ed25519 VERSION SEED``, the seed in base64.

        Raises:
            InvalidKey: the line is anything else.
        """
        words = line.split()
        if len(words) != 3:
            raise InvalidKey(f"expected the three words: {ALGORITHM} VERSION SEED")
        algorithm, version, text = words
        if algorithm != ALGORITHM:
            raise InvalidKey(f"unsupported algorithm of a signing key: only {ALGORITHM} is known")
        try:
            seed = decode_base64(text)
        except InvalidBase64 as error:
            raise InvalidKey(f"the seed of a signing key: {error}") from None
        return cls.generate(version, seed)

    def to_line(self) -> str:
        """The inverse of :meth:`from_line`, without an end of line. A secret."""
        return f"{ALGORITHM} {self.version} {encode_base64(self._seed)}"

    @property
    def version(self) -> str:
        """The part of the key ID after the algorithm."""
        return self.key_id.partition(":")[2]

    def sign(self, message: bytes) -> str:
        """The signature over ``message``: 64 bytes in unpadded base64. Deterministic."""
        return encode_base64(crypto_sign(message, self._secret)[:crypto_sign_BYTES])


def _check_public(public: bytes) -> None:
    """Refuse the keys with which libsodium never verifies anything.

    A point with a component of small order *besides* is accepted, as libsodium accepts it: to be stricter than other
    servers are would be to disagree with them on which events exist.
    """
    if len(public) != crypto_core_ed25519_BYTES:
        raise InvalidKey(f"a verify key has {crypto_core_ed25519_BYTES} bytes, not {len(public)}")
    # The top bit is the sign of x, the others are y, which has to be reduced.
    if int.from_bytes(public, "little") & (2**255 - 1) >= _FIELD_PRIME:
        raise InvalidKey("invalid verify key: not canonically encoded")
    point = public
    try:
        # Eight times a point of small order is the identity (the cofactor is 8).
        for _ in range(3):
            point = crypto_core_ed25519_add(point, point)
    except CryptoError:
        raise InvalidKey("invalid verify key: not a point on the curve") from None
    if point == _IDENTITY:
        raise InvalidKey("invalid verify key: a point of small order")
