"""What another server publishes of its keys: reading it, checking it, and what it changes in what we knew. Pure.

Owns: :func:`read_published`, :func:`merged` and :class:`ServerKeys`, the form in which the keyring works with keys.

The rules:

* the object must be the asked server's own, and signed by at least one key under ``verify_keys``;
* a key under ``verify_keys`` counts only if it signed the object itself: nobody can publish a key that is not theirs;
* keys under ``old_verify_keys`` count once the object has a valid signature, for events up to their ``expired_ts``;
* ``valid_until_ts`` is cut down to seven days from now ("Validity");
* a key that disappears from ``verify_keys`` without a word is kept, but for events that are older than its end: the
  moment when it was found missing, or the end of its validity, whichever came first;
* what is neither an ``ed25519`` key nor well formed is passed over, as keys of other algorithms must be.

Implements the I-D's "Retrieving Server Keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from lmatrix import canonical_json, ids
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.crypto.signed_json import object_signing_bytes, signatures_of
from lmatrix.errors import BadSignature, InvalidIdentifier, PeerMisbehaved
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.key_store import StoredKey, StoredServerKeys

JsonObject = dict[str, Any]

MAX_VALIDITY_MS = 7 * 24 * 60 * 60 * 1000

MAX_PUBLISHED_KEYS = 64
"""Keys in one answer."""

MAX_KNOWN_KEYS = 1000
"""Keys of one server, ever. No honest server comes near it; a hostile one could fill the database."""


@attrs.frozen(slots=True)
class ServerKeys:
    """A server's keys, ready to be used.

    Attributes:
        known: every key by ID, for checking events.
        valid_until: for each key that the server signs with now, by ID: milliseconds since the epoch until which it may
            authenticate requests.
        response: the server's last answer, canonical JSON with signatures.
    """

    known: Mapping[str, KnownKey]
    valid_until: Mapping[str, int]
    response: bytes

    @classmethod
    def of(cls, stored: StoredServerKeys) -> ServerKeys:
        """From the form in which they are stored. A stored key that cannot be read any more is left out."""
        known: dict[str, KnownKey] = {}
        valid_until: dict[str, int] = {}
        for key in stored.keys:
            try:
                verify_key = VerifyKey.from_base64(key.key_id, key.public)
            except InvalidKey:
                continue
            known[key.key_id] = KnownKey(key.key_id, verify_key, key.expired_ts)
            if key.expired_ts is None:
                valid_until[key.key_id] = key.valid_until_ts
        return cls(known, valid_until, stored.response)

    def usable(self, key_ids: Iterable[str], now_ms: int) -> dict[str, VerifyKey]:
        """Those keys, among the wanted ones, that may authenticate a request now."""
        return {key_id: self.known[key_id].verify_key for key_id in key_ids if self.valid_until.get(key_id, 0) > now_ms}

    def is_stale(self, key_ids: Iterable[str], now_ms: int) -> bool:
        """Whether one of the keys is one that the server should be asked about again."""
        return any(self.valid_until.get(key_id, now_ms + 1) <= now_ms for key_id in key_ids)


def read_published(server_name: str, answer: JsonObject, now_ms: int) -> StoredServerKeys:
    """Check an answer to ``GET /_matrix/key/v2/server``.

    Args:
        server_name: who was asked.
        answer: the JSON object that came.
        now_ms: milliseconds since the epoch.

    Raises:
        PeerMisbehaved: it is malformed, another server's, not signed by any key that it publishes, or too long.
    """
    if answer.get("server_name") != server_name:
        raise _misbehaved(server_name, "server_name is another server's")
    valid_until_ts = answer.get("valid_until_ts")
    if type(valid_until_ts) is not int:
        raise _misbehaved(server_name, "valid_until_ts is not an integer")
    current, old = answer.get("verify_keys"), answer.get("old_verify_keys", {})
    if not isinstance(current, dict) or not isinstance(old, dict):
        raise _misbehaved(server_name, "verify_keys and old_verify_keys must be objects")
    if len(current) + len(old) > MAX_PUBLISHED_KEYS:
        raise _misbehaved(server_name, f"more than {MAX_PUBLISHED_KEYS} keys")
    valid_until_ts = min(valid_until_ts, now_ms + MAX_VALIDITY_MS)
    keys = {
        verify_key.key_id: StoredKey(verify_key.key_id, verify_key.to_base64(), valid_until_ts, None)
        for verify_key in _signers(server_name, answer, current)
    }
    if not keys:
        raise _misbehaved(server_name, "it is not signed by any key in verify_keys")
    for key_id, published in old.items():
        retired = _retired_key(key_id, published)
        # A key that is in both is still in use.
        if retired is not None and key_id not in current:
            keys[key_id] = retired
    return StoredServerKeys(server_name, tuple(keys.values()), now_ms, canonical_json.encode(answer))


def merged(before: StoredServerKeys | None, fresh: StoredServerKeys) -> StoredServerKeys:
    """What to store after a fetch: the fresh keys, and those known before that are not among them.

    Raises:
        PeerMisbehaved: the server has shown more than :data:`MAX_KNOWN_KEYS` keys by now.
    """
    published = {key.key_id for key in fresh.keys}
    kept = () if before is None else before.keys
    earlier = [_withdrawn(key, fresh.fetched_ts) for key in kept if key.key_id not in published]
    if len(published) + len(earlier) > MAX_KNOWN_KEYS:
        raise _misbehaved(fresh.server_name, f"it has had more than {MAX_KNOWN_KEYS} keys")
    return attrs.evolve(fresh, keys=(*fresh.keys, *earlier))


def _signers(server_name: str, answer: JsonObject, published: Mapping[str, Any]) -> list[VerifyKey]:
    """The keys under ``verify_keys`` with which the answer itself is properly signed."""
    try:
        signatures = signatures_of(answer, server_name)
    except BadSignature as error:
        raise _misbehaved(server_name, str(error)) from None
    message = object_signing_bytes(answer)
    candidates = [(_verify_key(key_id, key), signatures.get(key_id)) for key_id, key in published.items()]
    return [
        verify_key
        for verify_key, signature in candidates
        if verify_key is not None and signature is not None and verify_key.verify(message, signature)
    ]


def _verify_key(key_id: str, published: Any) -> VerifyKey | None:
    text = published.get("key") if isinstance(published, dict) else None
    if not isinstance(text, str):
        return None
    try:
        ids.key_id(key_id)
        return VerifyKey.from_base64(key_id, text)
    except (InvalidIdentifier, InvalidKey):
        return None


def _retired_key(key_id: str, published: Any) -> StoredKey | None:
    verify_key = _verify_key(key_id, published)
    if verify_key is None or type(published.get("expired_ts")) is not int:
        return None
    return StoredKey(key_id, verify_key.to_base64(), 0, published["expired_ts"])


def _withdrawn(key: StoredKey, found_missing_ts: int) -> StoredKey:
    if key.expired_ts is not None:
        return key
    return attrs.evolve(key, valid_until_ts=0, expired_ts=min(key.valid_until_ts, found_missing_ts))


def _misbehaved(server_name: str, reason: str) -> PeerMisbehaved:
    return PeerMisbehaved(server_name, f"{server_name} published keys that cannot be used: {reason}")
