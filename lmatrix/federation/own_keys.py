"""This server's keys as others see them: the signed object at ``/_matrix/key/v2/server``.

Owns: :class:`OwnKeys`, which builds, signs and caches that object, hands the same keys to our own keyring without any
request, and takes other keys when the administrator changes them.

Invariants: the object is signed with every active key; it is valid for about 12 hours and never handed out with less
than 11 left, so that nobody has to ask again soon.

Implements the I-D's "GET /_matrix/key/v2/server" (its publishing side) and "Validity".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from lmatrix import canonical_json
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.events.signatures import KnownKey

VALID_FOR_MS = 12 * 60 * 60 * 1000
"""How far ahead ``valid_until_ts`` lies when the object is made."""

REMADE_AFTER_MS = 60 * 60 * 1000
"""How long one object is handed out before another is made."""

MAX_OLD_KEYS = 400
"""Old keys that are shown, the youngest ones: the object has to stay so small that every server takes it."""


class OwnKeys:
    """The keys of this server.

    Args:
        server_name: our name.
        active: the keys that we sign with now, at least one.
        retired: the keys that we do not sign with any more.
        clock: tells the time.

    Raises:
        ValueError: no active key, or two keys with the same ID.
    """

    def __init__(
        self, server_name: str, active: Sequence[SigningKey], retired: Sequence[RetiredKey], *, clock: IReactorTime
    ) -> None:
        self._server_name = server_name
        self._clock = clock
        self.replace(active, retired)

    def replace(self, active: Sequence[SigningKey], retired: Sequence[RetiredKey]) -> None:
        """Publish other keys from now on.

        Raises:
            ValueError: no active key, or two keys with the same ID.
        """
        if not active:
            raise ValueError("a server needs at least one active signing key")
        key_ids = [key.key_id for key in active] + [key.verify_key.key_id for key in retired]
        if len(set(key_ids)) != len(key_ids):
            raise ValueError("two of this server's keys have the same ID")
        self._active = tuple(active)
        self._retired = tuple(retired)
        self._known = {key.key_id: KnownKey(key.key_id, key.public, None) for key in self._active}
        for one in self._retired:
            key_id = one.verify_key.key_id
            self._known[key_id] = KnownKey(key_id, one.verify_key, one.expired_ts)
        self._published: bytes | None = None
        self._made_ms = 0

    def published(self) -> bytes:
        """The signed object as canonical JSON: the answer to ``GET /_matrix/key/v2/server``."""
        now = int(self._clock.seconds() * 1000)
        if self._published is None or not 0 <= now - self._made_ms < REMADE_AFTER_MS:
            self._published = canonical_json.encode(self._signed(now))
            self._made_ms = now
        return self._published

    def known_keys(self) -> Mapping[str, KnownKey]:
        """The same keys by key ID, for checking events that we signed ourselves."""
        return self._known

    def _signed(self, now_ms: int) -> dict[str, Any]:
        unsigned = {
            "server_name": self._server_name,
            "valid_until_ts": now_ms + VALID_FOR_MS,
            "m.linearized": True,
            "verify_keys": {key.key_id: {"key": key.public.to_base64()} for key in self._active},
            "old_verify_keys": {
                key.verify_key.key_id: {"key": key.verify_key.to_base64(), "expired_ts": key.expired_ts}
                for key in sorted(self._retired, key=lambda one: one.expired_ts, reverse=True)[:MAX_OLD_KEYS]
            },
        }
        return sign_object(unsigned, self._server_name, self._active)
