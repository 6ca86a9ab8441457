"""What all destinations' queues share, handed to each as one value."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.events.room_versions import PathForm
from lmatrix.fairness import FairShare
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.outgoing import Stores
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Database, JsonObject, PendingOutcomes

MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of transactions that were sent and not answered, of all destinations, kept to be sent again as they are."""


class TransactionSender(Protocol):
    """Who makes the request."""

    async def send_transaction(
        self, destination: str, transaction_id: str, body: bytes, path_form: PathForm
    ) -> JsonObject:
        """``PUT /send/:txnId`` with ``body``.

        Returns:
            The answer: ``failed_pdus`` (event ID → object with a string ``error``) and ``org.lmatrix.accepted`` (LPDU
            event ID → event ID), both there, both maybe empty.

        Raises:
            PeerUnreachable, PeerRefused, PeerMisbehaved: it failed.
        """


@attrs.frozen(slots=True, eq=False, kw_only=True)
class DeliveryTools:
    """What all queues share.

    Attributes:
        forms: the path form of rooms where it is known; changed in the reactor thread only.
        next_transaction_id: a transaction ID that was never used before.
        one_event: whether a destination takes one event in a transaction only.
        kept_bytes: what failing destinations' transactions may take up in memory, all together.
    """

    database: Database
    stores: Stores
    sender: TransactionSender
    outcomes: PendingOutcomes
    clock: IReactorTime
    rng: random.Random
    metrics: Metrics
    policy: BackoffPolicy
    forms: dict[str, PathForm | None]
    next_transaction_id: Callable[[], str]
    one_event: Callable[[str], bool]
    kept_bytes: FairShare[str] = attrs.field(factory=lambda: FairShare(MAX_KEPT_BYTES))

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.clock.seconds() * 1000)
