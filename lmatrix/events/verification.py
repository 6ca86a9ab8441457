"""Checking an event that came in: signatures, then hashes.

Owns: the second and third step of receiving an event (the first, the schema, is its parsing). A bad signature drops the
event, a bad hash redacts it; the auth rules come after this and are another matter.

Source: I-D "Receiving Events/PDUs"; protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import attrs

from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.hashing import content_hash_of, lpdu_hash_of, lpdu_hashes_member
from lmatrix.events.redaction import redact
from lmatrix.events.signatures import KnownKey, RequiredSignature, check_signatures, required_signatures

E = TypeVar("E", Lpdu, Pdu)


@attrs.frozen(slots=True)
class Verified(Generic[E]):
    """An event whose signatures and hashes have been checked.

    Attributes:
        event: the event, or its redacted copy.
        redacted: whether a hash did not match, so that ``event`` is the redacted copy.
        signed_by: the signatures that were required, and hold.
    """

    event: E
    redacted: bool
    signed_by: tuple[RequiredSignature, ...]


def verify(event: E, keys: Mapping[str, Mapping[str, KnownKey]]) -> Verified[E]:
    """Check an event's signatures and hashes.

    Args:
        keys: known keys by server name and key ID; see :func:`~lmatrix.events.signatures.keys_wanted`.

    Raises:
        BadSignature: a required signature is missing or wrong.
    """
    check_signatures(event, keys)
    checked = check_hashes(event)
    return Verified(checked, checked is not event, required_signatures(event))


def check_hashes(event: E) -> E:
    """The event itself when the hashes that it declares are right, else its redacted copy."""
    return event if hashes_match(event) else redact(event)


def hashes_match(event: Lpdu | Pdu) -> bool:
    """Whether the LPDU hash and, of a PDU, the content hash are what the event declares."""
    if event.lpdu_hash is not None and not _same(event.lpdu_hash, lpdu_hash_of(event.members)):
        return False
    if isinstance(event, Lpdu):
        return True
    lpdu = event.fields["hashes"].get("lpdu")
    lpdu_hashes = None if lpdu is None else lpdu_hashes_member(lpdu)
    return _same(event.content_hash, content_hash_of(event.members, lpdu_hashes))


def _same(declared: str, computed: str) -> bool:
    # Base64 is accepted with padding too.
    return declared == computed or declared.rstrip("=") == computed
