"""Stand-ins that the tests of this package share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.errors import PeerUnreachable
from lmatrix.federation.resources.paths import KEY_QUERY, SERVER_KEYS
from lmatrix.rooms.key_store import StoredResponse, StoredServerKeys

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


def old(key: SigningKey, expired_ts: object = NOW_MS - DAY_MS) -> dict[str, Any]:
    """``old_verify_keys`` with one key."""
    return {key.key_id: {"key": key.public.to_base64(), "expired_ts": expired_ts}}


class MemoryDatabase:
    """Transactions that are nothing, and run at once."""

    failure: Exception | None = None

    def write(self, work: Callable[[Any], T], *, patient: bool = False) -> Deferred[T]:
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
        self.past: dict[str, list[StoredResponse]] = {}

    def get(self, tx: Any, server_name: str) -> StoredServerKeys | None:
        return self.servers.get(server_name)

    def put(self, tx: Any, keys: StoredServerKeys) -> None:
        before = self.servers.get(keys.server_name)
        kept = {} if before is None else {key.key_id: key for key in before.keys}
        kept.update({key.key_id: key for key in keys.keys})
        if keys.response is None and before is not None:
            keys = attrs.evolve(keys, fetched_ts=before.fetched_ts, response=before.response)
        self.servers[keys.server_name] = attrs.evolve(keys, keys=tuple(kept.values()))

    def responses(self, tx: Any, server_name: str) -> list[StoredResponse]:
        last = self.servers.get(server_name)
        if last is None or last.response is None:
            return []
        return [StoredResponse(last.fetched_ts, last.response), *self.past.get(server_name, [])]

    def put_past(self, tx: Any, server_name: str, responses: Sequence[StoredResponse]) -> None:
        self.past[server_name] = list(responses)


class FakeKeyClient:
    """Servers that answer out of dictionaries: with an answer, an error, or a Deferred of one.

    Attributes:
        answers: by server, to questions for its own keys.
        shown: by notary and server, the objects in an answer to a query.
        asked: the servers that were asked for their own keys, in order.
        queried: the queries, each (notary, server).
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.shown: dict[tuple[str, str], Any] = {}
        self.asked: list[str] = []
        self.queried: list[tuple[str, str]] = []

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = 0, max_answer: int = 0
    ) -> dict[str, Any]:
        """The answer of one server."""
        assert timeout_s > 0
        assert max_answer > 0
        if path == SERVER_KEYS:
            self.asked.append(destination)
            answer = self.answers.get(destination)
        else:
            place, _, query = path.partition("?")
            assert place.startswith(KEY_QUERY + "/")
            assert query == "minimum_valid_until_ts=1"
            server = unquote(place.removeprefix(KEY_QUERY + "/"))
            self.queried.append((destination, server))
            answer = self.shown.get((destination, server))
        if isinstance(answer, Deferred):
            answer = await answer
        if answer is None:
            raise PeerUnreachable(destination, "refused")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            answer = {"server_keys": answer}
        assert isinstance(answer, dict)
        return answer
