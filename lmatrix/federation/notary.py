"""This server as a notary: what it shows of other servers' keys to whoever asks.

Owns: :class:`Notary`. Which of a server's responses meet a query, and when that server is asked for a new one, decides
:mod:`lmatrix.federation.notary_choice`.

Every object in an answer is a response of the server itself, as it was signed, with a signature by each of our own keys
added. (It may contain anything that its server likes; the signature means nothing elsewhere, because nothing else that
this server signs has both a ``server_name`` and ``verify_keys``.) A response is shown for half of its lifetime before
its server is asked again. When that fails, the last response is shown.

Anybody may ask, as often as they like. What that can cost us is bounded:

* a query is about a bounded number of servers, and its answer has a bounded length;
* a server is not asked for its keys by several queries at once, nor again within a pause, whatever the query wants;
* only so many servers are asked at one time, and for one address only so many in a while; beyond that, what is at hand
  is all there is;
* a query waits for a bounded time. Servers that answer later are known to the next one.

Implements the I-D's "GET /_matrix/key/v2/query/:serverName", "POST /_matrix/key/v2/query" (their answering side).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import canonical_json
from lmatrix.crypto.signed_json import sign_object
from lmatrix.errors import Overloaded
from lmatrix.federation.notary_choice import KeyQuery, Shown, chosen, wants_refresh
from lmatrix.http.limits import ConcurrencyLimit
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.key_store import ServerKeyStore, StoredResponse

MAX_FETCHES = 20
MAX_FETCHES_WAITING = 200
"""Servers that are asked at one time on behalf of queries, and that wait in line for it."""

MAX_QUERIES_WAITING = 128
"""Queries that wait for servers at one time; others are answered at once."""

PATIENCE_S = 12.0
"""How long a query waits for servers."""

MAX_ANSWER = 256 * 1024
"""Bytes of responses in one answer, about; the youngest of each server go first."""

MAX_READ = 4 * MAX_ANSWER
"""Bytes of responses that are looked at for one answer, about; of servers beyond that nothing is shown."""

_ALL = ""


class Refreshes(Protocol):
    """See :class:`lmatrix.federation.key_fetching.KeyFetcher`."""

    def is_asking(self, server: str) -> bool: ...

    def may_ask(self, server: str) -> bool: ...

    async def asked(self, server: str) -> object: ...


class Published(Protocol):
    """See :class:`lmatrix.federation.own_keys.OwnKeys`."""

    def published(self) -> bytes: ...


class Limits(Protocol):
    """See :class:`lmatrix.http.limits.RateLimiter`."""

    def take(self, key: str, cost: float = 1) -> None:
        """Raises :class:`~lmatrix.errors.Overloaded`."""


class Notary:
    """Answers queries about servers' keys.

    Args:
        identity: who signs.
        own_keys: our own keys, which are shown without asking anybody.
        fetcher: asks other servers.
        database, store: where their responses are.
        limiter: how many fetches one address may cause; ``None``: as many as it likes.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        own_keys: Published,
        fetcher: Refreshes,
        *,
        database: Database,
        store: ServerKeyStore,
        limiter: Limits | None,
        clock: IReactorTime,
    ) -> None:
        self._identity = identity
        self._own_keys = own_keys
        self._fetcher = fetcher
        self._database = database
        self._store = store
        self._limiter = limiter
        self._clock = clock
        self._fetches = ConcurrencyLimit(MAX_FETCHES, max_waiting_per_key=MAX_FETCHES_WAITING)
        self._waiting = 0

    async def query(self, queries: Sequence[KeyQuery], client_address: str) -> bytes:
        """Answer a query.

        Args:
            queries: what is asked, one for each server; the caller bounds their number.
            client_address: who asks, for the limits.

        Returns:
            Canonical JSON, ``{"server_keys": […]}``.

        Raises:
            StorageFailed: the database cannot be read.
        """
        others: Sequence[KeyQuery] = [query for query in queries if query.server_name != self._identity.server_name]
        held = await self._held(others)
        now_ms = self._now_ms()
        asked = [
            query.server_name
            for query in others
            if query.server_name in held and wants_refresh(query, held[query.server_name], now_ms)
        ]
        if asked and await self._refreshed(asked, client_address):
            held = await self._held(others)
        now_ms = self._now_ms()
        if len(others) < len(queries):
            held[self._identity.server_name] = [Shown.of(StoredResponse(now_ms, self._own_keys.published()))]
        answers = [chosen(query, held.get(query.server_name, ()), now_ms) for query in queries]
        signed = [self._signed(shown) for shown in _within(MAX_ANSWER, answers)]
        return b'{"server_keys":[%b]}' % b",".join(signed)

    async def _held(self, queries: Iterable[KeyQuery]) -> dict[str, list[Shown]]:
        """The responses that are kept of each server, the youngest first; as much as may be looked at."""
        names = [query.server_name for query in queries]
        if not names:
            return {}

        def read(tx: Any) -> Mapping[str, Sequence[StoredResponse]]:
            found, left = {}, MAX_READ
            for name in names:
                found[name] = self._store.responses(tx, name)
                left -= sum(len(one.response) for one in found[name])
                if left < 0:
                    break
            return found

        found = await self._database.read(read)
        return {name: [Shown.of(response) for response in responses] for name, responses in found.items()}

    async def _refreshed(self, servers: Iterable[str], client_address: str) -> bool:
        """Ask servers for their keys, as far as the limits go, and wait for them; whether anybody was asked."""
        asking = [
            Deferred.fromCoroutine(one).addErrback(self._fetch_failed)
            for one in self._fetches_for(servers, client_address)
        ]
        if not asking:
            return False
        if self._waiting >= MAX_QUERIES_WAITING:
            return False
        self._waiting += 1
        try:
            await self._at_most(PATIENCE_S, gatherResults(asking))
        finally:
            self._waiting -= 1
        return True

    def _fetches_for(self, servers: Iterable[str], client_address: str) -> Iterable[Any]:
        for server in servers:
            if self._fetcher.is_asking(server):
                yield self._fetcher.asked(server)
            elif self._fetcher.may_ask(server) and self._is_allowed(client_address):
                yield self._fetch(server)

    def _is_allowed(self, client_address: str) -> bool:
        if self._limiter is None:
            return True
        try:
            self._limiter.take(client_address)
        except Overloaded:
            self._log.debug("{address} asks for too many servers' keys", address=client_address)
            return False
        return True

    async def _fetch(self, server: str) -> None:
        try:
            async with self._fetches.slot(_ALL):
                await self._fetcher.asked(server)
        except Overloaded:
            self._log.info("too many servers' keys are being fetched; not asking {server}", server=server)

    def _fetch_failed(self, failure: Failure) -> None:
        # That a server does not answer is no failure, so this is our own: the database's. What is at hand is shown.
        self._log.failure("keys could not be fetched for a query", failure=failure)

    async def _at_most(self, seconds: float, work: Deferred[Any]) -> None:
        """Wait for some work, for so long; it goes on all the same."""
        over: Deferred[None] = Deferred()
        timer = self._clock.callLater(seconds, over.callback, None)

        def finished(_: object) -> None:
            if timer.active():
                timer.cancel()
                over.callback(None)

        work.addBoth(finished)
        await over

    def _signed(self, shown: Shown) -> bytes:
        return canonical_json.encode(sign_object(shown.answer, self._identity.server_name, self._identity.keys))

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)


def _within(limit: int, answers: Iterable[Sequence[Shown]]) -> list[Shown]:
    """As many as fit: the first of each server, then the second, and so on."""
    answers = list(answers)
    fitting: list[Shown] = []
    for row in range(max(map(len, answers), default=0)):
        for shown in (answer[row] for answer in answers if row < len(answer)):
            limit -= shown.size
            if limit < 0 and fitting:
                return fitting
            fitting.append(shown)
    return fitting
