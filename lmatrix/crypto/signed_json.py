"""Signing and checking JSON objects (I-D "Signing Arbitrary Objects", "Checking Signatures").

Owns: which bytes of an object are signed, where in it the signatures stand, and which of them count. Pure: the keys are
at hand. Only ``signatures`` is taken out before signing; events, which are redacted first, come here already redacted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmatrix import canonical_json
from lmatrix.crypto.keys import SigningKey, VerifyKey
from lmatrix.errors import BadRequest, BadSignature

JsonObject = dict[str, Any]


def object_signing_bytes(obj: Mapping[str, Any]) -> bytes:
    """What is signed of an object: its canonical JSON without ``signatures``.

    Raises:
        UnsafeJson: it cannot be encoded.
    """
    return canonical_json.encode({key: value for key, value in obj.items() if key != "signatures"})


def sign_object(obj: Mapping[str, Any], server_name: str, keys: Sequence[SigningKey]) -> JsonObject:
    """A copy of an object with a signature by each of ``keys`` in the name of ``server_name``.

    Signatures that it has already are kept; ``obj`` itself stays as it is.

    Raises:
        BadRequest: its ``signatures`` is there but has not the shape of signatures.
        UnsafeJson: it cannot be encoded.
    """
    message = object_signing_bytes(obj)
    signatures = obj.get("signatures", {})
    if not isinstance(signatures, dict) or not isinstance(signatures.get(server_name, {}), dict):
        raise BadRequest("signatures must be an object of objects")
    ours = signatures.get(server_name, {}) | {key.key_id: key.sign(message) for key in keys}
    return {**obj, "signatures": {**signatures, server_name: ours}}


def check_object(obj: Mapping[str, Any], server_name: str, keys: Mapping[str, VerifyKey]) -> None:
    """Check that a server has signed an object. One valid signature by any of its known keys suffices.

    Args:
        obj: the object, with its ``signatures``.
        server_name: who must have signed.
        keys: that server's keys by key ID.

    Raises:
        BadSignature: no signature, none by a known key, or none that verifies.
        UnsafeJson: the object cannot be encoded.
    """
    carried = signatures_of(obj, server_name)
    known = [(keys[key_id], signature) for key_id, signature in carried.items() if key_id in keys]
    if not known:
        raise BadSignature(server_name, "none by a known key")
    message = object_signing_bytes(obj)
    if not any(key.verify(message, signature) for key, signature in known):
        raise BadSignature(server_name, "does not verify")


def signatures_of(obj: Mapping[str, Any], server_name: str) -> dict[str, str]:
    """The signatures by one server that an object carries: signature by key ID.

    Entries that are no strings are left out: they are invalid, and another entry may be valid.

    Raises:
        BadSignature: there is none at all, or ``signatures`` has not the shape of signatures.
    """
    signatures = obj.get("signatures")
    if not isinstance(signatures, dict):
        raise BadSignature(server_name, "the object is not signed")
    carried = signatures.get(server_name)
    if not isinstance(carried, dict):
        raise BadSignature(server_name, "missing")
    strings = {key_id: signature for key_id, signature in carried.items() if isinstance(signature, str)}
    if not strings:
        raise BadSignature(server_name, "missing")
    return strings
