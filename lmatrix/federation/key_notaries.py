"""Asking notaries about the keys of a server that does not answer.

Owns: :class:`KeyNotaries`. All of the configured notaries are asked at once, so that those that are slow or gone cost
the time of one; what each of them shows is checked (:func:`~lmatrix.federation.server_keys.read_notarised`) and kept as
far as it may be believed (:mod:`lmatrix.federation.key_merging`).

A notary's signature is checked with keys that the notary itself has shown to us, never with keys on another's word.
Nobody is asked again about the same server, and no notary that failed is asked again at all, within a pause.

Only notaries that the administrator names are asked. A room's hub is none of them unless named: a hub that was believed
about the keys of a participant that is down could write events in that participant's name.

Implements the I-D's "Retrieving Server Keys" and "GET /_matrix/key/v2/query/:serverName" (their asking side).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import PeerError, PeerMisbehaved
from lmatrix.federation.bounded import SingleFlight
from lmatrix.federation.client import path_of
from lmatrix.federation.key_fetching import KeyFetcher, Pauses, PublicClient
from lmatrix.federation.resources.paths import KEY_QUERY
from lmatrix.federation.server_keys import PublishedKeys, ServerKeys, read_notarised

JsonObject = dict[str, Any]

NOTARY_TIMEOUT_S = 20.0
"""Longer than a notary waits for the server that it is asked about."""

MAX_NOTARY_ANSWER = 256 * 1024
MAX_OBJECTS = 100
"""Objects in one answer that are looked at."""

MIN_PAUSE_S = 60.0

_ANY_VALIDITY = "?minimum_valid_until_ts=1"
"""Everything that the notary has: an old event wants old keys. (Not 0, which is easily taken for nothing.)"""


class KeyNotaries:
    """The notaries of the configuration.

    Args:
        notaries: their server names.
        fetcher: knows their keys, and keeps what they show.
        client: makes the requests.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(
        self, notaries: Sequence[str], fetcher: KeyFetcher, *, client: PublicClient, clock: IReactorTime
    ) -> None:
        self._notaries = tuple(notaries)
        self._fetcher = fetcher
        self._client = client
        self._clock = clock
        self._about = Pauses(clock, MIN_PAUSE_S)
        self._failing = Pauses(clock, 0.0)
        self._queries: SingleFlight[str, ServerKeys | None] = SingleFlight()

    async def asked(self, server: str) -> ServerKeys | None:
        """What is known of a server after the notaries have been asked, unless they were just now."""
        if server not in self._queries and not self._about.over(server):
            return await self._fetcher.known(server)
        return await self._queries.do(server, lambda: self._query(server))

    async def _query(self, server: str) -> ServerKeys | None:
        began = self._clock.seconds()
        asked = [notary for notary in self._notaries if notary != server and self._failing.over(notary)]
        queries = [Deferred.fromCoroutine(self._ask(notary, server)) for notary in asked]
        try:
            answers = await gatherResults(queries, consumeErrors=True)
        except FirstError as first:
            # Only our own database can have failed.
            first.subFailure.raiseException()
        for notary, shown in zip(asked, answers, strict=True):
            try:
                await self._fetcher.take(server, shown, notary)
            except PeerMisbehaved as error:
                self._log.warn("{notary}: {error}", notary=notary, error=error)
        self._about.begin(server, began, failed=not any(answers))
        return await self._fetcher.known(server)

    async def _ask(self, notary: str, server: str) -> Sequence[PublishedKeys]:
        """What one notary shows of a server, checked; nothing when it does not answer."""
        began = self._clock.seconds()
        try:
            answer = await self._client.get_public(
                notary,
                path_of(KEY_QUERY, server) + _ANY_VALIDITY,
                timeout_s=NOTARY_TIMEOUT_S,
                max_answer=MAX_NOTARY_ANSWER,
            )
            objects = _objects(notary, answer)
        except PeerError as error:
            self._log.info("the notary {notary} did not answer: {error}", notary=notary, error=error)
            self._failing.begin(notary, began, failed=True)
            return ()
        self._failing.begin(notary, self._clock.seconds(), failed=False)
        keys = await self._keys_of(notary, {key_id for shown in objects for key_id in _signers(shown, notary)})
        now_ms = int(self._clock.seconds() * 1000)
        good = []
        for shown in objects:
            if shown.get("server_name") != server:
                # More than was asked for, which a notary may give.
                continue
            try:
                good.append(read_notarised(server, shown, notary, keys, now_ms))
            except PeerMisbehaved as error:
                self._log.warn("{error}", error=error)
        return good

    async def _keys_of(self, notary: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        """Those of the keys that the notary itself has shown, and signs with now."""
        keys = await self._fetcher.known(notary)
        usable = self._shown_by_itself(keys, key_ids)
        if not usable and key_ids:
            usable = self._shown_by_itself(await self._fetcher.asked(notary), key_ids)
        return usable

    def _shown_by_itself(self, keys: ServerKeys | None, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        if keys is None:
            return {}
        now_ms = int(self._clock.seconds() * 1000)
        return keys.usable((key_id for key_id in key_ids if key_id not in keys.hearsay), now_ms)


def _objects(notary: str, answer: JsonObject) -> list[JsonObject]:
    shown = answer.get("server_keys")
    if not isinstance(shown, list) or not all(isinstance(one, dict) for one in shown):
        raise PeerMisbehaved(notary, f"{notary} answered a query for keys without a list of objects")
    return shown[:MAX_OBJECTS]


def _signers(shown: JsonObject, notary: str) -> Iterable[str]:
    signatures = shown.get("signatures")
    signed = signatures.get(notary) if isinstance(signatures, dict) else None
    return signed if isinstance(signed, dict) else ()
