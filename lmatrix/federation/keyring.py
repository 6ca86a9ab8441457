"""Whose keys verify what: the keys for events and for requests, wherever they come from.

Owns: :class:`ServerKeyring`, which implements :class:`~lmatrix.rooms.interfaces.Keyring` and adds
:meth:`~ServerKeyring.current_keys` for request authentication. How a server is asked is
:mod:`lmatrix.federation.key_fetching`'s business, how notaries are, :mod:`lmatrix.federation.key_notaries`'s; here it
is decided when.

A server is asked directly

* when none of the keys wanted for an event is known, or when a key wanted for a request is unknown or past its
  validity;
* in the background, without anybody waiting, when a key that is good enough for old events is past its validity.

Notaries are asked after that, and only

* for an event, when there is still none of its keys: the server does not answer, or has forgotten an old key;
* for a request, when the server does not answer. What it says itself about who may speak for it now is final.

When nobody knows better, the keys known of a server still serve for events, never for requests.

Implements the I-D's "Retrieving Server Keys", "Validity".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import ids
from lmatrix.crypto.keys import VerifyKey
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.key_fetching import KeyFetcher
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.server_keys import ServerKeys

MAX_FETCHES_FOR_STRANGERS = 50
"""How many servers are asked at one time for the sake of requests that nobody has authenticated yet."""


MAX_LOOKED_FOR_AT_ONCE = 100
"""How many servers' keys are looked for at one time for one set of events."""


class AsksNotaries(Protocol):
    """See :class:`lmatrix.federation.key_notaries.KeyNotaries`."""

    async def asked(self, server: str) -> ServerKeys | None: ...


class ServerKeyring:
    """Keys by server name.

    Args:
        server_name: our own name.
        own_keys: our own keys, which are never asked for.
        fetcher: other servers' keys.
        notaries: who is asked when a server does not answer; ``None``: nobody.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(
        self,
        server_name: str,
        own_keys: OwnKeys,
        fetcher: KeyFetcher,
        *,
        notaries: AsksNotaries | None = None,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._own_keys = own_keys
        self._fetcher = fetcher
        self._notaries = notaries
        self._clock = clock
        self._strangers: set[str] = set()

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
                found[server] = _among(self._own_keys.known_keys(), key_ids)
                continue
            keys = self._fetcher.at_hand(server)
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

    def has_spoken(self, server: str, since: float) -> bool:
        """Whether a server itself has told its keys; see :meth:`lmatrix.rooms.interfaces.Keyring.has_spoken`."""
        return server == self._server_name or self._fetcher.answered_since(server, since)

    async def current_keys(self, server: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        """Keys with which a server may sign requests now: under ``verify_keys``, and not past their validity.

        A key that cannot be had is left out; never raises for an unreachable or lying server.

        Args:
            server: server name.
            key_ids: the keys wanted.
        """
        key_ids = list(key_ids)
        if server == self._server_name:
            own = _among(self._own_keys.known_keys(), key_ids)
            return {key_id: key.verify_key for key_id, key in own.items() if key.expired_ts is None}
        keys = await self._fetcher.known(server)
        usable = {} if keys is None else keys.usable(key_ids, self._now_ms())
        if len(usable) == len(set(key_ids)) or not any(map(ids.is_key_id, key_ids)):
            return usable
        if keys is not None:
            keys = await self._asked(server)
        elif server in self._strangers or len(self._strangers) < MAX_FETCHES_FOR_STRANGERS:
            keys = await self._asked_for_a_stranger(server)
        else:
            self._log.warn("too many servers' keys are being fetched; not asking {server}", server=server)
        return {} if keys is None else keys.usable(key_ids, self._now_ms())

    # -- The nearest place first --------------------------------------------------------------------------------------

    async def _look_for_all(self, missing: Mapping[str, list[str]]) -> dict[str, Mapping[str, KnownKey]]:
        # Who sends us events, or the state of a room, decides how many servers these are.
        slots = DeferredSemaphore(MAX_LOOKED_FOR_AT_ONCE)
        looked_for = [
            slots.run(lambda *one: Deferred.fromCoroutine(self._look_for(*one)), server, key_ids)
            for server, key_ids in missing.items()
        ]
        try:
            return dict(zip(missing, await gatherResults(looked_for, consumeErrors=True), strict=True))
        except FirstError as first:
            # Only our own database can have failed.
            first.subFailure.raiseException()

    async def _look_for(self, server: str, key_ids: list[str]) -> Mapping[str, KnownKey]:
        keys = await self._fetcher.known(server)
        known = {} if keys is None else _among(keys.known, key_ids)
        if known or not any(map(ids.is_key_id, key_ids)):
            return known
        keys = await self._fetcher.asked(server)
        known = {} if keys is None else _among(keys.known, key_ids)
        if not known and self._notaries is not None:
            keys = await self._notaries.asked(server)
            known = {} if keys is None else _among(keys.known, key_ids)
        return known

    async def _asked(self, server: str) -> ServerKeys | None:
        """From the server, or from the notaries if it does not answer; then what is known."""
        keys = await self._fetcher.asked(server)
        if self._notaries is None or self._fetcher.answers(server):
            return keys
        return await self._notaries.asked(server)

    async def _asked_for_a_stranger(self, server: str) -> ServerKeys | None:
        if server in self._strangers:
            return await self._asked(server)
        self._strangers.add(server)
        try:
            return await self._asked(server)
        finally:
            self._strangers.discard(server)

    def _refresh(self, server: str) -> None:
        """Ask about a server again without waiting for it."""

        def failed(failure: Failure) -> None:
            self._log.failure("refreshing the keys of {server} failed", failure=failure, server=server)

        Deferred.fromCoroutine(self._asked(server)).addErrback(failed)

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)


def _among(known: Mapping[str, KnownKey], key_ids: Iterable[str]) -> dict[str, KnownKey]:
    return {key_id: known[key_id] for key_id in key_ids if key_id in known}
