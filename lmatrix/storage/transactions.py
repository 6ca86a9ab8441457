"""Answers to peers' finished transactions (I-D "Transaction Identifiers").

Owns: :class:`SqlTransactionStore`, which implements :class:`~lmatrix.rooms.interfaces.TransactionStore`. Invariant:
what is kept is bounded, by age over all and by number for each origin; every answer that is stored pays for removing a
few that are too old, so that there is no big clean-up.
"""

from __future__ import annotations

from lmatrix.rooms.interfaces import StoredAnswer
from lmatrix.storage.engine import Transaction

KEPT_MS = 24 * 3600 * 1000
"""How long an answer is kept at least, unless its origin has too many."""

KEPT_PER_ORIGIN = 500
_SURPLUS = 50
_REMOVED_AT_ONCE = 8


class SqlTransactionStore:
    """See :class:`~lmatrix.rooms.interfaces.TransactionStore`.

    Args:
        kept_ms: age in milliseconds beyond which an answer is removed.
        kept_per_origin: how many answers to one origin are kept; up to 50 more until they are removed together.
    """

    def __init__(self, kept_ms: int = KEPT_MS, kept_per_origin: int = KEPT_PER_ORIGIN) -> None:
        self._kept_ms = kept_ms
        self._kept_per_origin = kept_per_origin

    def answer(self, tx: Transaction, origin: str, endpoint: str, transaction_id: str) -> StoredAnswer | None:
        """The answer that was given, if it is still kept."""
        row = tx.row(
            "SELECT body_hash, status, answer FROM received_transactions"
            " WHERE origin = ? AND endpoint = ? AND transaction_id = ?",
            (origin, endpoint, transaction_id),
        )
        return None if row is None else StoredAnswer(*row)

    def transaction_ids(self, tx: Transaction, origin: str, endpoint: str) -> list[str]:
        """IDs of an origin's transactions that were answered, as far as the answers are still kept."""
        rows = tx.rows(
            "SELECT transaction_id FROM received_transactions WHERE origin = ? AND endpoint = ?", (origin, endpoint)
        )
        return [transaction_id for (transaction_id,) in rows]

    def put_answer(
        self, tx: Transaction, origin: str, endpoint: str, transaction_id: str, answer: StoredAnswer, now_ms: int
    ) -> None:
        """Keep an answer, in place of one to another body with the same ID."""
        tx.execute(
            "INSERT INTO received_transactions"
            " (origin, endpoint, transaction_id, body_hash, status, received_ts, answer)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (origin, endpoint, transaction_id) DO UPDATE SET"
            " body_hash = excluded.body_hash, status = excluded.status, received_ts = excluded.received_ts,"
            " answer = excluded.answer",
            (origin, endpoint, transaction_id, answer.body_hash, answer.status, now_ms, answer.answer),
        )
        self._remove_old(tx, now_ms)
        self._remove_surplus(tx, origin)

    def _remove_old(self, tx: Transaction, now_ms: int) -> None:
        # Numbers grow with time: the oldest are at the front. An answer that was replaced meanwhile shields those
        # behind it for as long as it is kept, no longer.
        tx.execute(
            "DELETE FROM received_transactions WHERE transaction_nid IN"
            " (SELECT transaction_nid FROM received_transactions ORDER BY transaction_nid LIMIT ?) AND received_ts < ?",
            (_REMOVED_AT_ONCE, now_ms - self._kept_ms),
        )

    def _remove_surplus(self, tx: Transaction, origin: str) -> None:
        [(count,)] = tx.rows("SELECT COUNT(*) FROM received_transactions WHERE origin = ?", (origin,))
        if count > self._kept_per_origin + _SURPLUS:
            tx.execute(
                "DELETE FROM received_transactions WHERE transaction_nid IN"
                " (SELECT transaction_nid FROM received_transactions WHERE origin = ?"
                " ORDER BY transaction_nid LIMIT ?)",
                (origin, count - self._kept_per_origin),
            )
