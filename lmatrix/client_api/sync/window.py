"""The newest events of a room that belong in a timeline.

Owns: :func:`newest`. Invariants: what it returns is a gapless piece of the log, but for events that the client does not
want; it never crosses a hole in the log, nor what the user may not see (there may be state in it), and never goes from
live events into history that was fetched later (below which the room's state is not known); its work is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.interfaces import TimelineStore

MAX_SCANNED = 2000
"""Events looked at for one timeline; a filter that wants hardly any of them gets a limited timeline."""


@attrs.frozen(slots=True)
class Window:
    """A piece of a room's log.

    Attributes:
        events: ascending.
        start: token position before the first of them; the top of the piece when there is none.
        complete: whether everything wanted down to the floor is in it.
    """

    events: Sequence[LogEvent]
    start: int
    complete: bool

    @classmethod
    def of(cls, descending: Sequence[LogEvent], top: int, *, complete: bool) -> Window:
        """From events in the order in which they were found."""
        return cls(descending[::-1], descending[-1].position - 1 if descending else top, complete)


def newest(
    tx: Any,
    timeline: TimelineStore,
    room_id: str,
    *,
    top: int,
    floor: int,
    limit: int,
    visible: Callable[[LogEvent], bool],
    wanted: Callable[[LogEvent], bool],
) -> Window:
    """The newest wanted events at positions ``floor < p <= top``.

    Args:
        top, floor: token positions.
        limit: how many at most.
        visible: whether the user may see an event.
        wanted: whether the client wants to.
    """
    found: list[LogEvent] = []
    cursor, scanned = top, 0
    while cursor > floor:
        page = timeline.events_page(tx, room_id, cursor, "b", limit + 1)
        for stored in page.events:
            if stored.position <= floor:
                return Window.of(found, top, complete=True)
            event = LogEvent.of(stored)
            is_visible = visible(event)
            is_shown = is_visible and wanted(event)
            if (
                stored.stream is None
                or scanned == MAX_SCANNED
                or (found and not is_visible)
                or (is_shown and len(found) == limit)
            ):
                return Window.of(found, top, complete=False)
            scanned += 1
            if is_shown:
                found.append(event)
        cursor = page.end
        if not page.more:
            # The bottom of what is held without a hole.
            return Window.of(found, top, complete=cursor <= floor)
    return Window.of(found, top, complete=True)
