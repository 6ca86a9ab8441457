"""What another server publishes of its keys: reading it and checking it. Pure.

Owns: :class:`PublishedKeys`, one such object that has been checked, from the server itself or by way of a notary, and
:class:`ServerKeys`, the form in which the keyring works with keys. What an object changes in what was known is decided
in :mod:`lmatrix.federation.key_merging`.

The rules:

* the object must be the asked server's own, and signed by at least one key under ``verify_keys``;
* a key under ``verify_keys`` counts only if it signed the object itself: nobody can publish a key that is not theirs;
* keys under ``old_verify_keys`` count once the object has a valid signature, for events up to their ``expired_ts``;
* ``valid_until_ts`` is cut down to seven days from now ("Validity");
* what is neither an ``ed25519`` key nor well formed is passed over, as keys of other algorithms must be;
* an object from a notary must be signed by the notary besides, and every signature on it that can be checked must be
  good ("MUST validate all signatures").

Implements the I-D's "Retrieving Server Keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from lmatrix import canonical_json, ids
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.crypto.signed_json import object_signing_bytes, signatures_of
from lmatrix.errors import BadSignature, InvalidIdentifier, PeerMisbehaved
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.key_store import StoredKey, StoredServerKeys

JsonObject = dict[str, Any]

MAX_VALIDITY_MS = 7 * 24 * 60 * 60 * 1000

MAX_PUBLISHED_KEYS = 500
"""Keys in one answer, old ones included."""

MAX_CURRENT_KEYS = 64
"""Keys under ``verify_keys`` in one answer."""


@attrs.frozen(slots=True)
class ServerKeys:
    """A server's keys, ready to be used.

    Attributes:
        known: every key by ID, for checking events.
        valid_until: for each key that the server signs with now, by ID: milliseconds since the epoch until which it may
            authenticate requests.
        hearsay: IDs of the keys that are known on a notary's word alone.
    """

    known: Mapping[str, KnownKey]
    valid_until: Mapping[str, int]
    hearsay: frozenset[str]

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
        return cls(known, valid_until, frozenset(key.key_id for key in stored.keys if key.notary is not None))

    def usable(self, key_ids: Iterable[str], now_ms: int) -> dict[str, VerifyKey]:
        """Those keys, among the wanted ones, that may authenticate a request now."""
        return {key_id: self.known[key_id].verify_key for key_id in key_ids if self.valid_until.get(key_id, 0) > now_ms}

    def is_stale(self, key_ids: Iterable[str], now_ms: int) -> bool:
        """Whether one of the keys is one that the server should be asked about again."""
        return any(self._ends(key_id, now_ms) <= now_ms for key_id in key_ids)

    def _ends(self, key_id: str, now_ms: int) -> int:
        if key_id in self.valid_until:
            return self.valid_until[key_id]
        # Of a key that has ended there is nothing more to learn, unless it was a notary that said so.
        expired_ts = self.known[key_id].expired_ts if key_id in self.hearsay else None
        return now_ms + 1 if expired_ts is None else expired_ts


@attrs.frozen(slots=True)
class PublishedKeys:
    """An object as a server publishes it, checked.

    Attributes:
        server_name: whose keys they are.
        valid_until_ts: milliseconds since the epoch, capped.
        current: the keys under ``verify_keys`` that signed the object, by ID.
        retired: the keys under ``old_verify_keys``, by ID, but for those under ``verify_keys``.
        response: canonical JSON, with the server's own signatures and no one else's.
    """

    server_name: str
    valid_until_ts: int
    current: Mapping[str, VerifyKey]
    retired: Mapping[str, RetiredKey]
    response: bytes
    _message: bytes = attrs.field(repr=False)
    _signatures: Mapping[str, str] = attrs.field(repr=False)

    @classmethod
    def read(cls, server_name: str, answer: JsonObject, now_ms: int) -> PublishedKeys:
        """Check an answer to ``GET /_matrix/key/v2/server``.

        Args:
            server_name: who was asked.
            answer: the JSON object that came.
            now_ms: milliseconds since the epoch when it came.

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
        if len(current) > MAX_CURRENT_KEYS or len(current) + len(old) > MAX_PUBLISHED_KEYS:
            raise _misbehaved(server_name, f"{len(current)} current and {len(old)} old keys are too many")
        try:
            signatures = signatures_of(answer, server_name)
        except BadSignature as error:
            raise _misbehaved(server_name, str(error)) from None
        message = object_signing_bytes(answer)
        signers = _signers(current, signatures, message)
        if not signers:
            raise _misbehaved(server_name, "it is not signed by any key in verify_keys")
        # A key that is in both is still in use.
        retired = {key_id: _retired_key(key_id, key) for key_id, key in old.items() if key_id not in current}
        return cls(
            server_name,
            min(valid_until_ts, now_ms + MAX_VALIDITY_MS),
            signers,
            {key_id: key for key_id, key in retired.items() if key is not None},
            canonical_json.encode({**answer, "signatures": {server_name: answer["signatures"][server_name]}}),
            message,
            signatures,
        )

    def signed_by(self, key: VerifyKey) -> bool:
        """Whether this very key signed the object, in its server's name."""
        signature = self._signatures.get(key.key_id)
        return signature is not None and key.verify(self._message, signature)

    def stored(self, now_ms: int, *, notary: str | None = None) -> StoredServerKeys:
        """The form in which it is stored when nothing was known before.

        Args:
            now_ms: milliseconds since the epoch when it came.
            notary: on whose word it is believed; then it is not one of the responses that we got ourselves.
        """
        keys = [
            StoredKey(key_id, key.to_base64(), self.valid_until_ts, None, notary)
            for key_id, key in self.current.items()
        ]
        keys += [
            StoredKey(key_id, old.verify_key.to_base64(), 0, old.expired_ts, notary)
            for key_id, old in self.retired.items()
        ]
        if notary is not None:
            return StoredServerKeys(self.server_name, tuple(keys), 0, None)
        return StoredServerKeys(self.server_name, tuple(keys), now_ms, self.response)


def read_notarised(
    server_name: str, shown: JsonObject, notary: str, notary_keys: Mapping[str, VerifyKey], now_ms: int
) -> PublishedKeys:
    """Check one of the objects in a notary's answer.

    Args:
        server_name: whose keys were asked for.
        shown: the object.
        notary: who answered.
        notary_keys: the keys with which the notary signs now, by ID.
        now_ms: milliseconds since the epoch when it came.

    Raises:
        PeerMisbehaved: as :meth:`PublishedKeys.read`; or it is not signed by the notary, or one of the signatures by
            either of the two is bad.
    """
    published = PublishedKeys.read(server_name, shown, now_ms)
    message = object_signing_bytes(shown)
    try:
        signatures = signatures_of(shown, notary)
    except BadSignature as error:
        raise _misbehaved(server_name, str(error), notary) from None
    known = [(notary_keys[key_id], signature) for key_id, signature in signatures.items() if key_id in notary_keys]
    if not known:
        raise _misbehaved(server_name, f"no signature by a key of {notary} that is known and valid", notary)
    if not all(key.verify(message, signature) for key, signature in known):
        raise _misbehaved(server_name, f"a signature of {notary} does not verify", notary)
    listed = {**shown.get("old_verify_keys", {}), **shown["verify_keys"]}
    for key_id, signature in signatures_of(shown, server_name).items():
        own = _verify_key(key_id, listed.get(key_id))
        if own is not None and not own.verify(message, signature):
            raise _misbehaved(server_name, f"the signature with {key_id} does not verify", notary)
    return published


def _signers(listed: Mapping[str, Any], signatures: Mapping[str, str], message: bytes) -> dict[str, VerifyKey]:
    """The keys under ``verify_keys`` with which the object itself is properly signed."""
    candidates = [(_verify_key(key_id, key), signatures.get(key_id)) for key_id, key in listed.items()]
    return {
        verify_key.key_id: verify_key
        for verify_key, signature in candidates
        if verify_key is not None and signature is not None and verify_key.verify(message, signature)
    }


def _verify_key(key_id: str, listed: Any) -> VerifyKey | None:
    text = listed.get("key") if isinstance(listed, dict) else None
    if not isinstance(text, str):
        return None
    try:
        ids.key_id(key_id)
        return VerifyKey.from_base64(key_id, text)
    except (InvalidIdentifier, InvalidKey):
        return None


def _retired_key(key_id: str, listed: Any) -> RetiredKey | None:
    verify_key = _verify_key(key_id, listed)
    if verify_key is None or type(listed.get("expired_ts")) is not int:
        return None
    return RetiredKey(verify_key, listed["expired_ts"])


def _misbehaved(server_name: str, reason: str, notary: str | None = None) -> PeerMisbehaved:
    if notary is None:
        return PeerMisbehaved(server_name, f"{server_name} published keys that cannot be used: {reason}")
    return PeerMisbehaved(notary, f"{notary} showed keys of {server_name} that cannot be used: {reason}")
