"""What a peer does not take, kept out of the way of what it does.

Owns: the lanes (a room's log, a room's LPDUs, the EDUs) whose next event alone made a peer refuse a transaction, each
with a back-off of its own.

Invariants: a lane that is held back travels with no other; nothing of it is skipped, since a room is read in order;
it is tried again, alone, whenever its back-off ends.
"""

from __future__ import annotations

import random

from lmatrix.federation.backoff import BackoffPolicy, Trouble, after_failure
from lmatrix.federation.outgoing import Lane


class HeldBack:
    """The lanes of one destination that are held back.

    Args:
        policy: the bounds of their back-off.
        rng: its jitter.
    """

    def __init__(self, policy: BackoffPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._lanes: dict[Lane, Trouble] = {}

    @property
    def lanes(self) -> frozenset[Lane]:
        """All of them."""
        return frozenset(self._lanes)

    def earliest_ms(self) -> int | None:
        """When the first of them is to be tried: milliseconds since the epoch."""
        return min((trouble.retry_at_ms for trouble in self._lanes.values()), default=None)

    def due(self, now_ms: int) -> Lane | None:
        """The one to be tried now, if there is one."""
        if not self._lanes:
            return None
        lane = min(self._lanes, key=lambda lane: self._lanes[lane].retry_at_ms)
        return lane if self._lanes[lane].retry_at_ms <= now_ms else None

    def refused(self, lane: Lane, now_ms: int, policy: BackoffPolicy | None = None) -> None:
        """The peer does not take it (yet). ``policy``: other bounds of its back-off than usual."""
        self._lanes[lane] = after_failure(policy or self._policy, self._lanes.get(lane), now_ms, self._rng)

    def released(self, lane: Lane) -> None:
        """The peer took it, or there is nothing left in it."""
        self._lanes.pop(lane, None)
