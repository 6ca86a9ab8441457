"""The end of the log as one destination is owed it, in memory.

Owns: :class:`LiveTail`: the events that were committed since all that is owed was last read from disk. As long as
nothing but such events comes to be owed, they are all that is to be sent, and nothing has to be read again.

The disk decides. A tail is followed from before a read until something happens that it cannot tell the meaning of (a
server comes or goes, a redaction, an LPDU or an EDU, a transaction that was not taken as it was): then it is lost, and
what is owed is read from the disk again, where the cursors say what that is. A tail that grows too long is lost too: a
destination that is slow or down costs no memory.

Invariants: what is taken from a tail that is level is what reading would give, in each room's order and without gaps;
each event is taken once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from lmatrix.events.room_versions import PathForm
from lmatrix.federation.outgoing import Kind, Outgoing, Reached, transaction_body
from lmatrix.rooms.interfaces import LogEntry, LogGrowth

MAX_TAIL_EVENTS = 500
MAX_TAIL_BYTES = 1024 * 1024
MAX_TAIL_ROOMS = 1_000

_Place = tuple[str, PathForm, LogEntry]


class LiveTail:
    """What one destination is owed, while that is known in memory."""

    def __init__(self) -> None:
        self._entries: deque[_Place] = deque()
        self._bytes = 0
        self._ends: dict[str, int] = {}  # the position of each room's last event
        self._followed = self._level = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def level(self) -> bool:
        """Whether the tail, even if it is empty, is all that the destination is owed."""
        return self._level

    def follow(self) -> None:
        """Begin anew: what is committed from now on is kept. What is owed is to be read from disk after this call."""
        self.lose()
        self._followed = True

    def lose(self) -> None:
        """What the destination is owed is not known in memory (any more)."""
        self._followed = self._level = False
        self._entries.clear()
        self._ends.clear()
        self._bytes = 0

    def grow(self, growth: LogGrowth) -> None:
        """Events were committed that the destination is owed."""
        if not self._followed:
            return
        end = self._ends.get(growth.room_id)
        if end is not None and growth.events[0].position != end + 1:
            self.lose()
            return
        self._entries.extend((growth.room_id, growth.path_form, entry) for entry in growth.events)
        self._bytes += sum(len(entry.canonical) for entry in growth.events)
        self._ends[growth.room_id] = growth.events[-1].position
        if len(self._entries) > MAX_TAIL_EVENTS or self._bytes > MAX_TAIL_BYTES or len(self._ends) > MAX_TAIL_ROOMS:
            self.lose()

    def has_been_read(self, outgoing: Outgoing | None) -> None:
        """All that the destination is owed was read since :meth:`follow`, and is in ``outgoing``: what was committed
        while it was being read may be in both.
        """
        if not self._followed:
            return
        self._level = True
        if outgoing is None or not outgoing.reached:
            return
        for room_id, reached in outgoing.reached.items():
            self._ends[room_id] = max(reached.position, self._ends.get(room_id, 0))
        read = {room_id: reached.position for room_id, reached in outgoing.reached.items()}
        self._entries = deque(place for place in self._entries if place[2].position > read.get(place[0], 0))
        self._bytes = sum(len(entry.canonical) for _, _, entry in self._entries)

    def take(self, capacity: int) -> Outgoing:
        """The next transaction's content: the oldest events that may travel together. Only of a tail that is not empty.

        Args:
            capacity: how many events it may have.
        """
        path_form = self._entries[0][1]
        events: list[bytes] = []
        sent: dict[str, list[tuple[str, int]]] = {}
        while self._entries and len(events) < capacity and self._entries[0][1] is path_form:
            room_id, _, entry = self._entries.popleft()
            events.append(entry.canonical)
            sent.setdefault(room_id, []).append((entry.event_id, entry.position))
            self._bytes -= len(entry.canonical)
        reached: Mapping[str, Reached] = {
            room_id: Reached(entries[-1][1], len(entries)) for room_id, entries in sent.items()
        }
        return Outgoing(Kind((path_form, False)), transaction_body(events, []), reached, sent, (), ())
