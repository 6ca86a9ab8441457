"""Who must have signed an event, and whether they did.

Owns: which signatures are required of which form, and their check with keys that are at hand. Signatures beyond those
are not looked at.

Source: I-D "Checking Signatures", "Receiving Events/PDUs" 2; protocol notes, "Who must have signed" and "Readings of
unclear text" (several keys, expired keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import attrs

from lmatrix import ids
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import BadSignature, UnknownKey
from lmatrix.events.forms import Lpdu, Pdu


class Form(Enum):
    """Which form of the event a signature covers."""

    LPDU = "LPDU"
    PDU = "PDU"


@attrs.frozen(slots=True)
class KnownKey:
    """A server's signing key, as far as it may vouch for events.

    Attributes:
        key_id: ``ed25519:VERSION``.
        expired_ts: milliseconds since the epoch after which the server no longer signed with it; ``None`` for a key in
            use.
    """

    key_id: str
    verify_key: VerifyKey
    expired_ts: int | None = None


@attrs.frozen(slots=True)
class RequiredSignature:
    """One signature that an event must bear: a server's, over one form of it."""

    server: str
    form: Form


def required_signatures(event: Lpdu | Pdu) -> tuple[RequiredSignature, ...]:
    """The signatures without which an event is dropped."""
    if isinstance(event, Lpdu):
        return (RequiredSignature(event.sender_server, Form.LPDU),)
    if event.hub_server is None or event.hub_server == event.sender_server:
        return (RequiredSignature(event.sender_server, Form.PDU),)
    return (RequiredSignature(event.sender_server, Form.LPDU), RequiredSignature(event.hub_server, Form.PDU))


def keys_wanted(event: Lpdu | Pdu) -> dict[str, set[str]]:
    """Server name → IDs of the keys with which the event is signed, of the servers that must have signed it."""
    return {required.server: set(event.signatures.get(required.server, ())) for required in required_signatures(event)}


def check_signatures(event: Lpdu | Pdu, keys: Mapping[str, Mapping[str, KnownKey]]) -> None:
    """Return if every required signature is there and good.

    Args:
        keys: known keys by server name and key ID.

    Raises:
        BadSignature: one is not.
        UnknownKey: of one, none of the keys that it was made with is known.
    """
    for required in required_signatures(event):
        check_signature(event, required, keys.get(required.server, {}))


def check_signature(event: Lpdu | Pdu, required: RequiredSignature, known: Mapping[str, KnownKey]) -> None:
    """Return if one signature is there and good.

    Args:
        known: keys of the server that must have signed, by key ID.

    Raises:
        BadSignature: it is not.
        UnknownKey: none of the keys that it was made with is among them.
    """
    signatures = event.signatures.get(required.server)
    if not signatures:
        raise BadSignature(required.server, f"the {required.form.value} is not signed")
    message = (
        event.lpdu_signing_bytes() if required.form is Form.LPDU and isinstance(event, Pdu) else event.signing_bytes
    )
    reason = ""
    # One valid signature by any known key suffices.
    for key_id, signature in signatures.items():
        key = known.get(key_id)
        if key is None:
            continue
        if key.expired_ts is not None and event.origin_server_ts > key.expired_ts:
            reason = f"{key_id} had expired"
        elif key.verify_key.verify(message, signature):
            return
        else:
            reason = f"it does not verify over the {required.form.value} with {key_id}"
    if not reason:
        if not any(map(ids.is_key_id, signatures)):
            raise BadSignature(required.server, "no server has such keys")
        raise UnknownKey(required.server, "none of its keys is known")
    raise BadSignature(required.server, reason)
