"""What newly learnt keys of a server change in what was known of it. Pure.

Owns: :func:`merged`, for what the server itself says; :func:`merged_from_notary`, for what a notary shows; and
:func:`kept_responses`, which of a server's earlier responses stay worth showing to others.

What the server itself says:

* a key that disappears from ``verify_keys`` without a word is kept, but for events that are older than its end: the
  moment when it was found missing, or the end of its validity, whichever came first.

A notary is believed less:

* it never changes a key that the server itself has shown, and never brings back one that has ended;
* an object that a key signed which the server itself has shown, and still uses as far as we know, is the server's own
  word, whoever brings it: its keys count as if we had asked the server, if it is younger than what we have. (That a
  key is missing in it says nothing, though: it may be an old object with a long validity.)
* of a server that has never answered us, the notary's word is all there is, and is taken;
* of any other, what the notary shows is good for events only, and only for those up to the object's own validity. It
  authenticates no request: who has reached a server once cannot be told by a notary that it is now somebody else;
* a key that is only in an older object than the youngest known serves for events up to that object's validity.

Implements the I-D's "Retrieving Server Keys", "Validity".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from lmatrix import canonical_json
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.errors import PeerMisbehaved
from lmatrix.federation.server_keys import PublishedKeys
from lmatrix.rooms.key_store import StoredKey, StoredResponse, StoredServerKeys

MAX_KNOWN_KEYS = 1000
"""Keys of one server, ever. No honest server comes near it; a hostile one could fill the database."""

MAX_PAST_RESPONSES = 64
MAX_PAST_BYTES = 256 * 1024
"""Responses of one server that are kept beside its last one, and their bytes in all."""


def merged(before: StoredServerKeys | None, fresh: StoredServerKeys) -> StoredServerKeys:
    """What to store after a fetch: the fresh keys, and those known before that are not among them.

    Raises:
        PeerMisbehaved: the server has shown more than :data:`MAX_KNOWN_KEYS` keys by now.
    """
    return _merged(before, fresh, fresh.fetched_ts)


def merged_from_notary(
    before: StoredServerKeys | None, shown: Iterable[PublishedKeys], notary: str, now_ms: int
) -> StoredServerKeys | None:
    """What to store after a notary has answered; ``None`` for nothing.

    Args:
        before: what is known.
        shown: what the notary showed of this one server, each object checked.
        notary: its name.
        now_ms: milliseconds since the epoch.

    Raises:
        PeerMisbehaved: the server would have more than :data:`MAX_KNOWN_KEYS` keys.
    """
    known = before
    for published in sorted(shown, key=lambda one: one.valid_until_ts):
        known = _with_shown(known, published, notary, now_ms)
    return known


def kept_responses(
    current: Iterable[str], last: StoredResponse | None, past: Sequence[StoredResponse]
) -> list[StoredResponse]:
    """Which earlier responses to keep beside a new one, newest first: those with a key that no later one has. When they
    are too many, the oldest give way.

    Args:
        current: the key IDs under ``verify_keys`` of the new response.
        last: the response before it.
        past: the ones before that, newest first.
    """
    seen = set(current)
    kept = []
    for response in (*(() if last is None else (last,)), *past):
        listed = set(canonical_json.parse_object(response.response)["verify_keys"])
        if not listed <= seen:
            kept.append(response)
            seen |= listed
    while len(kept) > MAX_PAST_RESPONSES or sum(len(one.response) for one in kept) > MAX_PAST_BYTES:
        kept.pop()
    return kept


def _merged(before: StoredServerKeys | None, fresh: StoredServerKeys, now_ms: int) -> StoredServerKeys:
    published = {key.key_id for key in fresh.keys}
    kept = () if before is None else before.keys
    earlier = [_withdrawn(key, now_ms) for key in kept if key.key_id not in published]
    return _bounded(attrs.evolve(fresh, keys=(*fresh.keys, *earlier)))


def _with_shown(
    before: StoredServerKeys | None, published: PublishedKeys, notary: str, now_ms: int
) -> StoredServerKeys:
    keys = () if before is None else before.keys
    in_use = [key for key in keys if key.expired_ts is None]
    own_word = [key for key in keys if key.notary is None]
    authentic = any(_signed(published, key) for key in in_use if key.notary is None)
    younger = published.valid_until_ts > max((key.valid_until_ts for key in in_use), default=-1)
    voucher = None if authentic else notary
    if younger and authentic:
        return _kept_response(before, _with_own_word(keys, published, now_ms))
    if younger and not own_word:
        return _kept_response(before, _merged(before, published.stored(now_ms, notary=notary), now_ms))
    return _kept_response(before, _with_ended(keys, published, voucher))


def _with_own_word(keys: Sequence[StoredKey], published: PublishedKeys, now_ms: int) -> StoredServerKeys:
    """What was known, and what the server says. An ended key does not come back, and its end stays where it is."""
    known = {key.key_id: key for key in keys}
    for key in published.stored(now_ms).keys:
        before = known.get(key.key_id)
        if before is None or before.notary is not None or before.expired_ts is None:
            known[key.key_id] = key
    return _bounded(StoredServerKeys(published.server_name, tuple(known.values()), 0, None))


def _with_ended(keys: Sequence[StoredKey], published: PublishedKeys, voucher: str | None) -> StoredServerKeys:
    """What was known, and what was not: for events up to the end of the object's validity."""
    known = {key.key_id: key for key in keys}
    end = published.valid_until_ts
    for key_id, verify_key in published.current.items():
        before = known.get(key_id)
        if before is None:
            known[key_id] = StoredKey(key_id, verify_key.to_base64(), 0, end, voucher)
        elif before.notary is not None and before.expired_ts is not None and before.public == verify_key.to_base64():
            known[key_id] = attrs.evolve(before, expired_ts=max(before.expired_ts, end))
    for key_id, old in published.retired.items():
        known.setdefault(key_id, StoredKey(key_id, old.verify_key.to_base64(), 0, old.expired_ts, voucher))
    return _bounded(StoredServerKeys(published.server_name, tuple(known.values()), 0, None))


def _kept_response(before: StoredServerKeys | None, after: StoredServerKeys) -> StoredServerKeys:
    """Only what a server answered to ourselves is its response."""
    if before is None:
        return after
    return attrs.evolve(after, fetched_ts=before.fetched_ts, response=before.response)


def _signed(published: PublishedKeys, key: StoredKey) -> bool:
    try:
        return published.signed_by(VerifyKey.from_base64(key.key_id, key.public))
    except InvalidKey:
        return False


def _withdrawn(key: StoredKey, found_missing_ts: int) -> StoredKey:
    if key.expired_ts is not None:
        return key
    return attrs.evolve(key, valid_until_ts=0, expired_ts=min(key.valid_until_ts, found_missing_ts))


def _bounded(keys: StoredServerKeys) -> StoredServerKeys:
    if len(keys.keys) > MAX_KNOWN_KEYS:
        raise PeerMisbehaved(keys.server_name, f"{keys.server_name} has had more than {MAX_KNOWN_KEYS} keys")
    return keys
