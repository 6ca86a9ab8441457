"""The newest events of a log: gapless, bounded, and stopping where they must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.sync import window
from lmatrix.client_api.sync.window import Window, newest
from lmatrix.rooms.interfaces import Standing, StoredEvent


class FakePage(NamedTuple):
    events: Sequence[StoredEvent]
    end: int
    more: bool


class FakeLog:
    """A log in memory: positions ``bottom`` to ``head``, those below ``live_from`` fetched later."""

    def __init__(self, head: int, bottom: int = 1, live_from: int = 1) -> None:
        self.head, self.bottom, self.live_from = head, bottom, live_from
        self.looked_at = 0

    def events_page(self, tx: Any, room_id: str, position: int, direction: str, limit: int) -> FakePage:
        assert direction == "b"
        positions = range(min(position, self.head), max(self.bottom, position - limit + 1) - 1, -1)
        self.looked_at += len(positions)
        end = positions[-1] - 1 if positions else self.bottom - 1
        return FakePage([self._event(at) for at in positions], end, end >= self.bottom)

    def _event(self, at: int) -> StoredEvent:
        kind = "loud" if at % 3 else "quiet"
        canonical = json.dumps({"type": kind, "sender": "@a:x", "content": {}}).encode()
        stream = at if at >= self.live_from else None
        return StoredEvent("!r:x", at, f"${at}", stream, canonical, Standing.ACCEPTED, None)


def look(log: FakeLog, **how: Any) -> Window:
    how = {"top": log.head, "floor": 0, "limit": 5, "visible": lambda _: True, "wanted": lambda _: True, **how}
    return newest(None, log, "!r:x", **how)  # type: ignore[arg-type]


def positions(of: Window) -> list[int]:
    return [event.position for event in of.events]


class WindowTests(SynchronousTestCase):
    """:func:`newest`."""

    def test_down_to_the_floor(self) -> None:
        """What fits is there whole, and said to be complete."""
        found = look(FakeLog(10), floor=7)
        self.assertEqual((positions(found), found.start, found.complete), ([8, 9, 10], 7, True))

    def test_limit(self) -> None:
        """More than the limit is cut at the old end; exactly the limit is complete."""
        found = look(FakeLog(10), limit=3)
        self.assertEqual((positions(found), found.start, found.complete), ([8, 9, 10], 7, False))
        found = look(FakeLog(10), limit=3, floor=7)
        self.assertEqual((positions(found), found.complete), ([8, 9, 10], True))

    def test_holes_and_fetched_history(self) -> None:
        """Neither is crossed."""
        found = look(FakeLog(10, bottom=8))
        self.assertEqual((positions(found), found.complete), ([8, 9, 10], False))
        found = look(FakeLog(10, live_from=9))
        self.assertEqual((positions(found), found.start, found.complete), ([9, 10], 8, False))

    def test_what_may_not_be_seen(self) -> None:
        """It is left out at the new end, and ends the window at the old one."""
        hidden = {5, 10}
        found = look(FakeLog(10), limit=9, visible=lambda event: event.position not in hidden)
        self.assertEqual((positions(found), found.start, found.complete), ([6, 7, 8, 9], 5, False))

    def test_what_is_not_wanted(self) -> None:
        """It is left out wherever it is."""
        found = look(FakeLog(10), floor=4, wanted=lambda event: event.type == "quiet")
        self.assertEqual((positions(found), found.start, found.complete), ([6, 9], 5, True))
        found = look(FakeLog(10), floor=4, wanted=lambda event: event.type == "no such")
        self.assertEqual((positions(found), found.start, found.complete), ([], 10, True))

    def test_bounded_work(self) -> None:
        """A filter that wants nothing does not go through the whole log."""
        log = FakeLog(10**6)
        found = look(log, wanted=lambda _: False)
        self.assertEqual((positions(found), found.start, found.complete), ([], 10**6, False))
        self.assertLess(log.looked_at, window.MAX_SCANNED * 2)

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12), st.booleans())
    def test_nothing_left_out_after_the_start(self, head: int, floor: int, limit: int, picky: bool) -> None:
        """Whatever the log: all that is wanted after the start, no more than the limit, complete when said."""

        def wanted(event: LogEvent) -> bool:
            return not picky or event.type == "quiet"

        found = look(FakeLog(head), floor=min(floor, head), limit=limit, wanted=wanted)
        bottom = floor if found.complete else found.start
        expected = [at for at in range(bottom + 1, head + 1) if not picky or at % 3 == 0]
        self.assertEqual(positions(found), expected)
        self.assertLessEqual(len(found.events), limit)
