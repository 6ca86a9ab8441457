"""Which transactions of peers may have an answer on disk already (I-D "Transaction Identifiers").

Owns: :class:`AnsweredTransactions`, which looks an answer up, and knows without looking that there is none for a
transaction ID that was never seen. That is nearly all of them, and a look costs a journey to another thread before
anything else can be done.

Invariants: whatever has an answer on disk is looked up; the memory may remember more IDs than that, never fewer. What
is remembered is bounded, for each peer and over all. Only this process gives answers out of its database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from twisted.internet.defer import Deferred

from lmatrix.rooms.interfaces import Database, StoredAnswer, TransactionStore

MAX_REMEMBERED_PEERS = 256
"""Peers (for one endpoint each) whose transaction IDs are remembered."""

MAX_REMEMBERED_IDS = 2_000
"""IDs remembered of one of them; then they are read anew, without those whose answers are not kept any more."""

_Key = tuple[str, str]


class AnsweredTransactions:
    """Looks for answers to transactions.

    Args:
        database, store: where answers are kept.
    """

    def __init__(self, database: Database, store: TransactionStore) -> None:
        self._database = database
        self._store = store
        # Hashes of IDs: two that are alike cost a look, nothing else.
        self._seen: OrderedDict[_Key, set[int]] = OrderedDict()
        self._reading: dict[_Key, list[Deferred[None]]] = {}

    async def answer(
        self, origin: str, endpoint: str, transaction_id: str, in_flight: Iterable[str]
    ) -> StoredAnswer | None:
        """The answer that was stored for a transaction which is about to be carried out, if there is one.

        Args:
            in_flight: IDs of all transactions of this origin and endpoint that may get an answer meanwhile, at the time
                of the call.

        Raises:
            StorageFailed, Overloaded: it cannot be known.
        """
        key = (origin, endpoint)
        while (seen := self._seen.get(key)) is None:
            if key not in self._reading:
                return await self._read(key, transaction_id, in_flight)
            turn: Deferred[None] = Deferred()
            self._reading[key].append(turn)
            await turn
        self._seen.move_to_end(key)
        fingerprint = hash(transaction_id)
        if fingerprint not in seen:
            seen.add(fingerprint)
            if len(seen) > MAX_REMEMBERED_IDS:
                del self._seen[key]
            return None
        return await self._database.read(lambda tx: self._store.answer(tx, origin, endpoint, transaction_id))

    async def _read(self, key: _Key, transaction_id: str, in_flight: Iterable[str]) -> StoredAnswer | None:
        """The same, when nothing is remembered of the peer; after it, its transactions are."""
        origin, endpoint = key
        seen = {hash(one) for one in (transaction_id, *in_flight)}
        self._reading[key] = []
        try:
            ids, stored = await self._database.read(
                lambda tx: (
                    self._store.transaction_ids(tx, origin, endpoint),
                    self._store.answer(tx, origin, endpoint, transaction_id),
                )
            )
            seen.update(map(hash, ids))
            self._seen[key] = seen
            if len(self._seen) > MAX_REMEMBERED_PEERS:
                self._seen.popitem(last=False)
            return stored
        finally:
            for turn in self._reading.pop(key):
                turn.callback(None)
