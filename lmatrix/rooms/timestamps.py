"""The time of our own users' events.

Owns: giving each event of a sender a later millisecond than the one before. Two events that are alike in everything
    have one
LPDU hash, and count as one event: a user who says the same thing twice within a millisecond means it twice.
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

REMEMBERED_SENDERS = 10_000


class Timestamps:
    """Milliseconds since the epoch, strictly increasing for each sender."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._last: OrderedDict[str, int] = OrderedDict()

    def next(self, sender: str) -> int:
        """The time for the sender's next event."""
        now_ms = max(int(self._clock.seconds() * 1000), self._last.get(sender, 0) + 1)
        self._last[sender] = now_ms
        self._last.move_to_end(sender)
        if len(self._last) > REMEMBERED_SENDERS:
            self._last.popitem(last=False)
        return now_ms
