"""Places in a server's log, for people."""

from __future__ import annotations

import attrs

from lmatrix.rooms.interfaces import SEGMENT_STRIDE


@attrs.frozen(slots=True)
class Position:
    """A place in a server's log of a room.

    A hub counts from 1. A participant's log begins where it joined (and begins anew where it came back), so that its
    positions are counted from there; history that it fetched later comes before, with negative numbers.

    Attributes:
        run: 0 on a hub; 1 for a participant's first stay, 2 for its second, …
        index: place in that run.
    """

    run: int
    index: int

    @classmethod
    def of(cls, position: int) -> Position:
        """From a position as the log has it."""
        run = (position + SEGMENT_STRIDE // 2) // SEGMENT_STRIDE
        return cls(run, position - run * SEGMENT_STRIDE)

    def __str__(self) -> str:
        return str(self.index) if self.run == 0 else f"{self.run}{self.index:+d}"
