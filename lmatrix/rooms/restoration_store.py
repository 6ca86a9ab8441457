"""What a server remembers of having been restored: the values and the store's interface.

Owns: :class:`HeldRoom` and the protocol :class:`RestorationStore`. That a room is held is on disk, so that a server
that is stopped, or crashes, before it has caught up goes on catching up when it is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import attrs


@attrs.frozen(slots=True)
class HeldRoom:
    """A room of which others may hold more than this server does.

    Attributes:
        since_ts: milliseconds since the epoch.
        reason: in words.
    """

    room_id: str
    since_ts: int
    reason: str


class RestorationStore(Protocol):
    """Where it is kept. A method takes the transaction first and never commits."""

    def copied_ts(self, tx: Any) -> int | None:
        """When the copy was made that this database is; ``None`` when it is none, or a server has started from it."""

    def begin(self, tx: Any, reason: str, now_ms: int) -> None:
        """The database is an older copy, and a server starts from it: hold all rooms, make void what must not be given
        out a second time (one-time keys, places in the stream), and remove the mark.
        """

    def hold(self, tx: Any, room: HeldRoom) -> None:
        """Hold a room; nothing changes when it is held already."""

    def release(self, tx: Any, room_id: str) -> None: ...

    def held(self, tx: Any) -> Sequence[HeldRoom]:
        """By room ID."""
