"""Other servers' signing keys: at hand, stored, or fetched from their own server.

Owns: :class:`KeyFetcher`, the one that asks servers for their keys, on behalf of the keyring and of the notary, and
keeps what they say; and :class:`Pauses`, after which somebody may be asked again.

A server is asked

* not while it is being asked already (the answer is shared);
* not again within a pause: a few seconds after an answer, longer after each failure in a row, and ten times as long as
  it took to answer, so that a slow server cannot hold us up for more than a small part of the time.

Implements the I-D's "Retrieving Server Keys" ("Requesting servers SHOULD limit how frequently they query").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.errors import PeerError
from lmatrix.federation.bounded import BoundedCache, SingleFlight
from lmatrix.federation.key_merging import kept_responses, merged, merged_from_notary
from lmatrix.federation.resources.paths import SERVER_KEYS
from lmatrix.federation.server_keys import PublishedKeys, ServerKeys
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.key_store import ServerKeyStore, StoredResponse, StoredServerKeys

JsonObject = dict[str, Any]

FETCH_TIMEOUT_S = 10.0
MAX_ANSWER = 64 * 1024

MIN_PAUSE_S = 5.0
FIRST_FAILURE_PAUSE_S = 1.0
MAX_FAILURE_PAUSE_S = 10 * 60.0
SLOWNESS_FACTOR = 10

CACHE_SIZE = 10_000


class PublicClient(Protocol):
    """See :meth:`lmatrix.federation.client.SignedClient.get_public`."""

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = ..., max_answer: int = ...
    ) -> JsonObject: ...


@attrs.frozen(slots=True)
class _Pause:
    """When somebody may be asked again.

    Attributes:
        since, until: its first second, and the first one after it.
        failures: in a row.
        began: the second in which they were asked the last time.
    """

    since: float
    until: float
    failures: int
    began: float

    def holds_at(self, now: float) -> bool:
        """Whether it is not over. Before its beginning it does not hold either: then the clock was set back."""
        return self.since <= now < self.until


class Pauses:
    """Who may be asked when.

    Args:
        clock: tells the time.
        after_answer_s: seconds for which whoever answered is left alone.
    """

    def __init__(self, clock: IReactorTime, after_answer_s: float = MIN_PAUSE_S) -> None:
        self._clock = clock
        self._after_answer_s = after_answer_s
        self._pauses: BoundedCache[str, _Pause] = BoundedCache(CACHE_SIZE)

    def over(self, server: str) -> bool:
        """Whether a server may be asked now."""
        pause = self._pauses.get(server)
        return pause is None or not pause.holds_at(self._clock.seconds())

    def answered(self, server: str) -> bool:
        """Whether the server was asked, and gave a good answer the last time."""
        pause = self._pauses.get(server)
        return pause is not None and pause.failures == 0

    def answered_since(self, server: str, since: float) -> bool:
        """Whether the server gave a good answer the last time, and was asked for it at or after a second."""
        pause = self._pauses.get(server)
        if pause is None or pause.failures > 0:
            return False
        # A time that has not come yet is one that a clock showed before it was set back: it proves nothing.
        return since <= pause.began <= self._clock.seconds()

    def begin(self, server: str, began: float, *, failed: bool) -> None:
        """A server has been asked.

        Args:
            began: the second in which it was.
            failed: whether it gave no good answer.
        """
        now = self._clock.seconds()
        wait, failures = self._after_answer_s, 0
        if failed:
            before = self._pauses.get(server)
            failures = 1 if before is None else before.failures + 1
            wait = min(FIRST_FAILURE_PAUSE_S * 2 ** min(failures - 1, 20), MAX_FAILURE_PAUSE_S)
        # A clock that was set meanwhile does not make anybody slow: nobody is waited for longer than that.
        took = min(now - began, FETCH_TIMEOUT_S)
        self._pauses.put(server, _Pause(now, now + max(wait, SLOWNESS_FACTOR * took), failures, began))


class KeyFetcher:
    """Keys of other servers.

    Args:
        database: where transactions come from.
        store: where keys are kept.
        client: makes the requests.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(self, *, database: Database, store: ServerKeyStore, client: PublicClient, clock: IReactorTime) -> None:
        self._database = database
        self._store = store
        self._client = client
        self._clock = clock
        self._at_hand: BoundedCache[str, ServerKeys] = BoundedCache(CACHE_SIZE)
        self._pauses = Pauses(clock)
        self._loads: SingleFlight[str, ServerKeys | None] = SingleFlight()
        self._fetches: SingleFlight[str, ServerKeys | None] = SingleFlight()

    def at_hand(self, server: str) -> ServerKeys | None:
        """What is in memory."""
        return self._at_hand.get(server)

    async def known(self, server: str) -> ServerKeys | None:
        """From memory or the store."""
        keys = self._at_hand.get(server)
        if keys is not None:
            return keys
        return await self._loads.do(server, lambda: self._load(server))

    def is_asking(self, server: str) -> bool:
        """Whether the server is being asked at this moment."""
        return server in self._fetches

    def may_ask(self, server: str) -> bool:
        """Whether :meth:`asked` would ask the server anew."""
        return server not in self._fetches and self._pauses.over(server)

    def answers(self, server: str) -> bool:
        """Whether the server answered when it was last asked; false when it has not been asked since the start."""
        return self._pauses.answered(server)

    def answered_since(self, server: str, since: float) -> bool:
        """Whether the server answered when it was last asked, and that was at or after a second."""
        return self._pauses.answered_since(server, since)

    async def asked(self, server: str) -> ServerKeys | None:
        """From the server, unless it was asked just now or does not answer; then what is known."""
        if server not in self._fetches and not self._pauses.over(server):
            return await self.known(server)
        return await self._fetches.do(server, lambda: self._fetch(server))

    async def take(self, server: str, shown: Sequence[PublishedKeys], notary: str) -> ServerKeys | None:
        """Keep what a notary has shown of a server, as far as it may be believed; returns what is known then.

        Raises:
            PeerMisbehaved: it is too much.
        """
        now_ms = int(self._clock.seconds() * 1000)

        def keep(tx: Any) -> StoredServerKeys | None:
            before = self._store.get(tx, server)
            together = merged_from_notary(before, shown, notary, now_ms)
            if together is not None and together != before:
                self._store.put(tx, together)
            return together

        return await self._kept(server, keep)

    async def _load(self, server: str) -> ServerKeys | None:
        stored = await self._database.read(lambda tx: self._store.get(tx, server))
        if stored is None:
            return None
        keys = ServerKeys.of(stored)
        self._at_hand.put(server, keys)
        return keys

    async def _fetch(self, server: str) -> ServerKeys | None:
        began = self._clock.seconds()
        try:
            answer = await self._client.get_public(
                server, SERVER_KEYS, timeout_s=FETCH_TIMEOUT_S, max_answer=MAX_ANSWER
            )
            now_ms = int(self._clock.seconds() * 1000)
            published = PublishedKeys.read(server, answer, now_ms)
            keys = await self._kept(server, lambda tx: self._keep(tx, published, now_ms))
        except PeerError as error:
            self._log.info("the keys of {server} could not be fetched: {error}", server=server, error=error)
            self._pauses.begin(server, began, failed=True)
            return await self.known(server)
        self._pauses.begin(server, began, failed=False)
        return keys

    def _keep(self, tx: Any, published: PublishedKeys, now_ms: int) -> StoredServerKeys:
        before = self._store.get(tx, published.server_name)
        together = merged(before, published.stored(now_ms))
        if before is not None and before.response is not None:
            in_use = {key.key_id for key in before.keys if key.expired_ts is None}
            if not in_use <= set(published.current):
                last = StoredResponse(before.fetched_ts, before.response)
                past = self._store.responses(tx, published.server_name)[1:]
                self._store.put_past(tx, published.server_name, kept_responses(published.current, last, past))
        self._store.put(tx, together)
        return together

    async def _kept(self, server: str, keep: Callable[[Any], StoredServerKeys | None]) -> ServerKeys | None:
        stored = await self._database.write(keep)
        if stored is None:
            return None
        keys = ServerKeys.of(stored)
        self._at_hand.put(server, keys)
        return keys
