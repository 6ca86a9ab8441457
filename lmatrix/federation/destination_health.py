"""Whether a destination fails, since when, and when it is tried again.

Owns: :class:`DestinationHealth`. Only failures and the recovery from them are stored, beside all else: a destination
that never fails costs no write, and nobody but a restart wants to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger

from lmatrix.federation.backoff import Trouble, after_failure, stored_trouble
from lmatrix.federation.delivery_tools import DeliveryTools
from lmatrix.rooms.delivery_store import DestinationState


class DestinationHealth:
    """The health of one destination.

    Args:
        destination: its server name.
        tools: what all queues share.

    Attributes:
        trouble: the run of failures, ``None`` when the last request succeeded.
    """

    log = Logger()

    def __init__(self, destination: str, tools: DeliveryTools) -> None:
        self.trouble: Trouble | None = None
        self._destination = destination
        self._tools = tools

    def restore(self, state: DestinationState | None) -> None:
        """Take up what an earlier life of this server stored."""
        self.trouble = stored_trouble(self._tools.policy, state, self._tools.now_ms())

    def count(self) -> None:
        """An attempt failed, whatever that means for the destination's health."""
        self._tools.metrics.delivery_failures.labels(destination=self._destination).inc()

    def failed(self, error: Exception, *, at_least_ms: int = 0) -> int:
        """The destination failed.

        Args:
            at_least_ms: the wait that it asked for.

        Returns:
            How many milliseconds to leave it alone.
        """
        tools, now = self._tools, self._tools.now_ms()
        self.count()
        if self.trouble is None:
            self.log.warn("{destination}: delivery fails: {error}", destination=self._destination, error=error)
        else:
            self.log.info("{destination}: delivery still fails: {error}", destination=self._destination, error=error)
        trouble = after_failure(tools.policy, self.trouble, now, tools.rng, at_least_ms=at_least_ms)
        self.trouble = trouble
        self._store(
            lambda before: attrs.evolve(
                before,
                retry_at_ms=trouble.retry_at_ms,
                failing_since_ms=trouble.failing_since_ms,
                interval_ms=trouble.interval_ms,
            )
        )
        return trouble.retry_at_ms - now

    def succeeded(self) -> None:
        """The destination answered 200."""
        if self.trouble is None:
            return
        self.log.info("{destination}: delivery works again", destination=self._destination)
        self.trouble = None
        now = self._tools.now_ms()
        self._store(
            lambda before: attrs.evolve(
                before, retry_at_ms=None, failing_since_ms=None, interval_ms=0, last_success_ms=now
            )
        )

    def _store(self, change: Callable[[DestinationState], DestinationState]) -> None:
        store = self._tools.stores.delivery

        def work(tx: Any) -> None:
            # What else is known of the destination is others' business, and stays.
            before = store.destination(tx, self._destination) or DestinationState()
            store.put_destination(tx, self._destination, change(before))

        self._tools.database.write(work).addErrback(
            lambda failure: self.log.failure(
                "{destination}: its back-off could not be stored", failure=failure, destination=self._destination
            )
        )
