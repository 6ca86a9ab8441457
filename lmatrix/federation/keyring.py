"""Other servers' signing keys: at hand, stored, or fetched.

Owns: :class:`ServerKeyring`, which implements :class:`~lmatrix.rooms.interfaces.Keyring` and adds
:meth:`~ServerKeyring.current_keys` for request authentication. What an answer means is decided in
:mod:`lmatrix.federation.server_keys`; here it is decided when to ask.

A server is asked directly, and only

* when none of the keys wanted for an event is known, or when a key wanted for a request is unknown or past its
  validity;
* not while it is being asked already (the answer is shared), and not again within a pause: a few seconds after an
  answer, longer after each failure in a row, and ten times as long as it took to answer, so that a slow server cannot
  hold us up for more than a small part of the time;
* in the background, without anybody waiting, when a key that is good enough for old events is past its validity.

When a server cannot be asked, the keys known of it still serve for events, never for requests.

Implements the I-D's "Retrieving Server Keys", "Validity".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import ids
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import InvalidIdentifier, PeerError
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.bounded import BoundedCache, SingleFlight
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.resources.paths import SERVER_KEYS
from lmatrix.federation.server_keys import ServerKeys, merged, read_published
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.key_store import ServerKeyStore, StoredServerKeys

JsonObject = dict[str, Any]

FETCH_TIMEOUT_S = 10.0
MAX_ANSWER = 64 * 1024

MIN_PAUSE_S = 5.0
FIRST_FAILURE_PAUSE_S = 1.0
MAX_FAILURE_PAUSE_S = 10 * 60.0
SLOWNESS_FACTOR = 10

MAX_FETCHES_FOR_STRANGERS = 50
"""How many servers are asked at one time for the sake of requests that nobody has authenticated yet."""

CACHE_SIZE = 10_000


class PublicClient(Protocol):
    """See :meth:`lmatrix.federation.client.SignedClient.get_public`."""

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = ..., max_answer: int = ...
    ) -> JsonObject: ...


@attrs.frozen(slots=True)
class _Pause:
    """When a server may be asked again.

    Attributes:
        until: that second.
        failures: in a row.
    """

    until: float
    failures: int


class ServerKeyring:
    """Keys by server name.

    Args:
        server_name: our own name.
        own_keys: our own keys, which are never asked for.
        database: where transactions come from.
        store: where fetched keys are kept.
        client: makes the requests.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(
        self,
        server_name: str,
        own_keys: OwnKeys,
        *,
        database: Database,
        store: ServerKeyStore,
        client: PublicClient,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._own_keys = own_keys
        self._own = own_keys.known_keys()
        self._database = database
        self._store = store
        self._client = client
        self._clock = clock
        self._at_hand: BoundedCache[str, ServerKeys] = BoundedCache(CACHE_SIZE)
        self._pauses: BoundedCache[str, _Pause] = BoundedCache(CACHE_SIZE)
        self._loads: SingleFlight[str, ServerKeys | None] = SingleFlight()
        self._fetches: SingleFlight[str, ServerKeys | None] = SingleFlight()

    async def keys_for(self, wanted: Mapping[str, Iterable[str]]) -> Mapping[str, Mapping[str, KnownKey]]:
        """Keys for checking events; see :meth:`lmatrix.rooms.interfaces.Keyring.keys_for`.

        One known key among those wanted of a server is enough for an event, so no other is then waited for.
        """
        found: dict[str, Mapping[str, KnownKey]] = {}
        missing: dict[str, list[str]] = {}
        now_ms = self._now_ms()
        for server, key_ids in wanted.items():
            key_ids = list(key_ids)
            if server == self._server_name:
                found[server] = _among(self._own, key_ids)
                continue
            keys = self._at_hand.get(server)
            known = {} if keys is None else _among(keys.known, key_ids)
            if keys is None or not known:
                missing[server] = key_ids
                continue
            found[server] = known
            if keys.is_stale(known, now_ms):
                self._refresh(server)
        if missing:
            found.update(await self._look_for_all(missing))
        return found

    async def current_keys(self, server: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        """Keys with which a server may sign requests now: under ``verify_keys``, and not past their validity.

        A key that cannot be had is left out; never raises for an unreachable or lying server.

        Args:
            server: server name.
            key_ids: the keys wanted.
        """
        key_ids = list(key_ids)
        if server == self._server_name:
            return {key_id: key.verify_key for key_id, key in self._own_in_use(key_ids).items()}
        keys = await self._known(server)
        usable = {} if keys is None else keys.usable(key_ids, self._now_ms())
        if len(usable) == len(set(key_ids)) or not any(map(_is_key_id, key_ids)):
            return usable
        if keys is None and server not in self._fetches and len(self._fetches) >= MAX_FETCHES_FOR_STRANGERS:
            self._log.warn("too many servers' keys are being fetched; not asking {server}", server=server)
            return usable
        keys = await self._asked(server)
        return {} if keys is None else keys.usable(key_ids, self._now_ms())

    async def published(self, server: str) -> bytes | None:
        """A server's last answer to :data:`SERVER_KEYS`, canonical JSON, signed; ``None`` when there is none."""
        if server == self._server_name:
            return self._own_keys.published()
        keys = await self._known(server)
        return None if keys is None else keys.response

    # -- Three places, nearest first ----------------------------------------------------------------------------------

    async def _look_for_all(self, missing: Mapping[str, list[str]]) -> dict[str, Mapping[str, KnownKey]]:
        looked_for = [Deferred.fromCoroutine(self._look_for(server, key_ids)) for server, key_ids in missing.items()]
        try:
            return dict(zip(missing, await gatherResults(looked_for, consumeErrors=True), strict=True))
        except FirstError as first:
            # Only our own database can have failed.
            first.subFailure.raiseException()

    async def _look_for(self, server: str, key_ids: list[str]) -> Mapping[str, KnownKey]:
        keys = await self._known(server)
        known = {} if keys is None else _among(keys.known, key_ids)
        if not known and any(map(_is_key_id, key_ids)):
            keys = await self._asked(server)
            known = {} if keys is None else _among(keys.known, key_ids)
        return known

    async def _known(self, server: str) -> ServerKeys | None:
        """From memory or the store."""
        keys = self._at_hand.get(server)
        if keys is not None:
            return keys
        return await self._loads.do(server, lambda: self._load(server))

    async def _load(self, server: str) -> ServerKeys | None:
        stored = await self._database.read(lambda tx: self._store.get(tx, server))
        if stored is None:
            return None
        keys = ServerKeys.of(stored)
        self._at_hand.put(server, keys)
        return keys

    async def _asked(self, server: str) -> ServerKeys | None:
        """From the server, unless it was asked just now; then what is known."""
        pause = self._pauses.get(server)
        if server not in self._fetches and pause is not None and self._clock.seconds() < pause.until:
            return self._at_hand.get(server)
        return await self._fetches.do(server, lambda: self._fetch(server))

    async def _fetch(self, server: str) -> ServerKeys | None:
        began = self._clock.seconds()
        try:
            answer = await self._client.get_public(
                server, SERVER_KEYS, timeout_s=FETCH_TIMEOUT_S, max_answer=MAX_ANSWER
            )
            fresh = read_published(server, answer, self._now_ms())
            keys = await self._keep(fresh)
        except PeerError as error:
            self._log.info("the keys of {server} could not be fetched: {error}", server=server, error=error)
            self._pause(server, began, failed=True)
            return await self._known(server)
        self._pause(server, began, failed=False)
        return keys

    async def _keep(self, fresh: StoredServerKeys) -> ServerKeys:
        def keep(tx: Any) -> StoredServerKeys:
            together = merged(self._store.get(tx, fresh.server_name), fresh)
            self._store.put(tx, together)
            return together

        keys = ServerKeys.of(await self._database.write(keep))
        self._at_hand.put(fresh.server_name, keys)
        return keys

    def _pause(self, server: str, began: float, *, failed: bool) -> None:
        now = self._clock.seconds()
        wait, failures = MIN_PAUSE_S, 0
        if failed:
            before = self._pauses.get(server)
            failures = 1 if before is None else before.failures + 1
            wait = min(FIRST_FAILURE_PAUSE_S * 2 ** min(failures - 1, 20), MAX_FAILURE_PAUSE_S)
        self._pauses.put(server, _Pause(now + max(wait, SLOWNESS_FACTOR * (now - began)), failures))

    def _refresh(self, server: str) -> None:
        """Ask a server again without waiting for it."""

        def failed(failure: Failure) -> None:
            self._log.failure("refreshing the keys of {server} failed", failure=failure, server=server)

        Deferred.fromCoroutine(self._asked(server)).addErrback(failed)

    def _own_in_use(self, key_ids: Iterable[str]) -> dict[str, KnownKey]:
        return {key_id: key for key_id, key in _among(self._own, key_ids).items() if key.expired_ts is None}

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)


def _among(known: Mapping[str, KnownKey], key_ids: Iterable[str]) -> dict[str, KnownKey]:
    return {key_id: known[key_id] for key_id in key_ids if key_id in known}


def _is_key_id(text: str) -> bool:
    try:
        ids.key_id(text)
    except InvalidIdentifier:
        return False
    return True
