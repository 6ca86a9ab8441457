"""Requests that carry a transaction ID are carried out once (I-D "Transaction Identifiers", "PUT /send").

Owns: which transactions of which peer are being carried out, and handing their answers to repetitions. The same ID
while in flight shares the one answer; a finished ID gets its stored answer; "the same" means the same origin,
endpoint, ID and body. On an *exclusive* endpoint a peer may have one transaction in flight; another is refused, or, for
peers that are configured so, waits until the one before it has its place in the room's order, so that many may share a
commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import sha256_base64
from lmatrix.errors import BadRequest, Overloaded, TransactionInFlight
from lmatrix.rooms.answered import AnsweredTransactions
from lmatrix.rooms.interfaces import Database, JsonObject, StoredAnswer, TransactionStore

MAX_TRANSACTION_ID = 255
MAX_WAITING = 16
"""Transactions that may wait for their turn, for each peer that may send several at a time."""


class Recorder:
    """Lets the answer be written in the same database transaction as what it answers for.

    Attributes:
        placed: to be called when it is settled that whatever comes later comes after this transaction's events. A
            peer's next transaction may then be begun, if the peer may have several in flight.
    """

    def __init__(self, put: Callable[[Any, bytes], None], placed: Callable[[], None]) -> None:
        self._put = put
        self.recorded = False
        self.placed = placed

    def record(self, tx: Any, answer: bytes) -> None:
        """Write the answer (canonical JSON); to be called from within the database transaction."""
        self._put(tx, answer)
        self.recorded = True


@attrs.define(eq=False, slots=True)
class _InFlight:
    transaction_id: str
    body_hash: str
    sharers: list[Deferred[bytes]]
    placed: bool = False


class Transactions:
    """Carries each transaction out once.

    Args:
        database, store: where answers are kept.
        clock: for the time of an answer.
        may_overlap: whether an origin may have several transactions in flight on an exclusive endpoint.
    """

    def __init__(
        self,
        database: Database,
        store: TransactionStore,
        clock: IReactorTime,
        may_overlap: Callable[[str], bool],
    ) -> None:
        self._database = database
        self._store = store
        self._answered = AnsweredTransactions(database, store)
        self._clock = clock
        self._may_overlap = may_overlap
        self._in_flight: dict[tuple[str, str], list[_InFlight]] = {}
        self._waiting: dict[tuple[str, str], deque[Deferred[None]]] = {}

    async def once(
        self,
        origin: str,
        endpoint: str,
        transaction_id: str,
        body: JsonObject,
        work: Callable[[Recorder], Awaitable[bytes]],
        *,
        exclusive: bool = False,
        raw: bytes | None = None,
    ) -> bytes:
        """The answer to a transaction, from ``work`` or from before.

        Args:
            work: carries it out and returns the answer's canonical JSON. It may record the answer itself; otherwise
                it is stored before it is given. When it raises, nothing is stored, and a repetition is carried out
                anew.
            raw: the body as it came, when it is at hand: hashing that saves encoding ``body``.
            exclusive: one at a time for each origin.

        Raises:
            BadRequest: a transaction ID that is empty or too long.
            TransactionInFlight: another one is in flight on an exclusive endpoint.
            whatever ``work`` raises; sharers get the same.
        """
        if not 0 < len(transaction_id.encode("utf-8", "replace")) <= MAX_TRANSACTION_ID:
            raise BadRequest(f"a transaction ID has 1 to {MAX_TRANSACTION_ID} bytes")
        key = (origin, endpoint)
        body_hash = sha256_base64(encode(body) if raw is None else raw)
        for current in self._in_flight.get(key, ()):
            if current.transaction_id == transaction_id and current.body_hash == body_hash:
                shared: Deferred[bytes] = Deferred()
                current.sharers.append(shared)
                return await shared
        while exclusive and self._must_wait(key):
            await self._turn(key)
        mine = _InFlight(transaction_id, body_hash, [])
        self._in_flight.setdefault(key, []).append(mine)
        try:
            answer = await self._carry_out(origin, endpoint, mine, work)
        except BaseException as error:
            self._finish(key, mine)
            for sharer in mine.sharers:
                sharer.errback(error)
            raise
        self._finish(key, mine)
        for sharer in mine.sharers:
            sharer.callback(answer)
        return answer

    def _must_wait(self, key: tuple[str, str]) -> bool:
        running = self._in_flight.get(key)
        if not running:
            return False
        return not all(one.placed for one in running) or not self._may_overlap(key[0])

    async def _turn(self, key: tuple[str, str]) -> None:
        if not self._may_overlap(key[0]):
            raise TransactionInFlight("another transaction of your server is still being carried out")
        queue = self._waiting.setdefault(key, deque())
        if len(queue) >= MAX_WAITING:
            raise Overloaded(1000, "too many transactions of your server are waiting")
        turn: Deferred[None] = Deferred()
        queue.append(turn)
        await turn

    def _finish(self, key: tuple[str, str], mine: _InFlight) -> None:
        running = self._in_flight[key]
        running.remove(mine)
        if not running:
            del self._in_flight[key]
        self._placed(key, mine)

    def _placed(self, key: tuple[str, str], mine: _InFlight) -> None:
        """The next transaction may be begun; whoever is told so twice has had his turn."""
        if mine.placed:
            return
        mine.placed = True
        queue = self._waiting.get(key)
        if queue:
            turn = queue.popleft()
            if not queue:
                del self._waiting[key]
            turn.callback(None)

    async def _carry_out(
        self, origin: str, endpoint: str, mine: _InFlight, work: Callable[[Recorder], Awaitable[bytes]]
    ) -> bytes:
        in_flight = [one.transaction_id for one in self._in_flight[origin, endpoint]]
        stored = await self._answered.answer(origin, endpoint, mine.transaction_id, in_flight)
        if stored is not None and stored.body_hash == mine.body_hash:
            return stored.answer
        now_ms = int(self._clock.seconds() * 1000)

        def put(tx: Any, answer: bytes) -> None:
            self._store.put_answer(
                tx, origin, endpoint, mine.transaction_id, StoredAnswer(mine.body_hash, 200, answer), now_ms
            )

        recorder = Recorder(put, lambda: self._placed((origin, endpoint), mine))
        answer = await work(recorder)
        if not recorder.recorded:
            await self._database.write(lambda tx: put(tx, answer))
        return answer
