"""LPDUs that were sent, and of which their hub did not say what became.

Owns: which pending LPDUs of one hub must not be sent again for the time being, and when they must. A hub of ours
answers for each LPDU at once; a foreign one answers 200, and the event comes back with its next transaction, or never
does.

Invariant: an LPDU is sent again after :data:`FIRST_WAIT_MS`, then after twice that, and so on up to a bound: the hub
knows it by its hash, so that it is never appended twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from lmatrix.rooms.interfaces import PendingLpdu

FIRST_WAIT_MS = 60_000
"""How long an LPDU waits for its echo, at first."""


@attrs.frozen(slots=True)
class _Wait:
    due_ms: int
    length_ms: int


class AwaitedEchoes:
    """The LPDUs of one hub that wait for their echo, by pending ID.

    Args:
        longest_wait_ms: bounds the wait.
    """

    def __init__(self, longest_wait_ms: int) -> None:
        self._longest_wait_ms = longest_wait_ms
        self._waits: dict[int, _Wait] = {}

    def __bool__(self) -> bool:
        return bool(self._waits)

    @property
    def due(self) -> Mapping[int, int]:
        """For each, when it is to be sent again: milliseconds since the epoch. A snapshot."""
        return {number: wait.due_ms for number, wait in self._waits.items()}

    def earliest_ms(self) -> int | None:
        """When the first of them is due."""
        return min((wait.due_ms for wait in self._waits.values()), default=None)

    def sent(self, lpdus: Iterable[PendingLpdu], now_ms: int) -> None:
        """They were sent (again)."""
        for lpdu in lpdus:
            before = self._waits.get(lpdu.pending_id)
            length = FIRST_WAIT_MS if before is None else min(before.length_ms * 2, self._longest_wait_ms)
            self._waits[lpdu.pending_id] = _Wait(now_ms + length, length)

    def settled(self, pending_ids: Iterable[int]) -> None:
        """What became of these is known."""
        for number in pending_ids:
            self._waits.pop(number, None)

    def keep(self, pending_ids: frozenset[int]) -> None:
        """Only these are still pending."""
        self._waits = {number: wait for number, wait in self._waits.items() if number in pending_ids}
