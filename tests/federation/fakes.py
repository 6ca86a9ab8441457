"""Stand-ins that the tests of this package share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.rooms.key_store import StoredServerKeys

T = TypeVar("T")

NOW_MS = 1_700_000_000_000
HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS


def signing_key(version: str, number: int = 1) -> SigningKey:
    """A signing key that is the same in every run; ``number`` chooses among many."""
    return SigningKey.generate(version, bytes([number]) * 32)


def published_keys(
    server_name: str,
    keys: Iterable[SigningKey],
    /,
    *,
    valid_until_ts: object = NOW_MS + 12 * HOUR_MS,
    old: dict[str, Any] | None = None,
    signed_by: Iterable[SigningKey] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """An answer to ``/_matrix/key/v2/server``, signed by its own keys or by ``signed_by``."""
    keys = list(keys)
    answer: dict[str, Any] = {
        "server_name": server_name,
        "valid_until_ts": valid_until_ts,
        "m.linearized": True,
        "verify_keys": {key.key_id: {"key": key.public.to_base64()} for key in keys},
        "old_verify_keys": old or {},
        **changes,
    }
    return sign_object(answer, server_name, keys if signed_by is None else list(signed_by))


class MemoryDatabase:
    """Transactions that are nothing, and run at once."""

    failure: Exception | None = None

    def write(self, work: Callable[[Any], T]) -> Deferred[T]:
        return self._run(work)

    def read(self, work: Callable[[Any], T]) -> Deferred[T]:
        return self._run(work)

    def _run(self, work: Callable[[Any], T]) -> Deferred[T]:
        if self.failure is not None:
            return fail(self.failure)
        try:
            return succeed(work(None))
        except Exception as error:
            return fail(error)


class MemoryKeyStore:
    """A :class:`~lmatrix.rooms.key_store.ServerKeyStore`."""

    def __init__(self) -> None:
        self.servers: dict[str, StoredServerKeys] = {}

    def get(self, tx: Any, server_name: str) -> StoredServerKeys | None:
        return self.servers.get(server_name)

    def put(self, tx: Any, keys: StoredServerKeys) -> None:
        before = self.servers.get(keys.server_name)
        kept = {} if before is None else {key.key_id: key for key in before.keys}
        kept.update({key.key_id: key for key in keys.keys})
        self.servers[keys.server_name] = attrs.evolve(keys, keys=tuple(kept.values()))
