"""Filters leave out what they say, and are refused when they make no sense."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.errors import ClientApiError
from lmatrix.client_api.filters import DEFAULT_TIMELINE_LIMIT, MAX_TIMELINE_LIMIT, parse_event_filter, parse_sync_filter


def event(event_type: str = "m.room.message", sender: str = "@a:x", **content: Any) -> dict[str, Any]:
    return {"type": event_type, "sender": sender, "content": content}


class EventFilterTests(SynchronousTestCase):
    """``RoomEventFilter``."""

    def test_empty_wants_everything(self) -> None:
        """An empty filter leaves nothing out and has the default limit."""
        empty = parse_event_filter({})
        self.assertTrue(empty.wants(event()))
        self.assertTrue(empty.wants_all)
        self.assertEqual(empty.limit, DEFAULT_TIMELINE_LIMIT)

    def test_types_and_senders(self) -> None:
        """What is excluded stays out even where it is included too."""
        some = parse_event_filter({"types": ["m.room.*"], "not_types": ["m.room.topic"], "not_senders": ["@b:x"]})
        self.assertTrue(some.wants(event()))
        self.assertFalse(some.wants(event("org.example")))
        self.assertFalse(some.wants(event("m.room.topic")))
        self.assertFalse(some.wants(event(sender="@b:x")))
        self.assertFalse(some.wants_all)

    def test_urls(self) -> None:
        """``contains_url`` goes by a string under ``url``."""
        self.assertTrue(parse_event_filter({"contains_url": True}).wants(event(url="mxc://x/y")))
        self.assertFalse(parse_event_filter({"contains_url": True}).wants(event(url=7)))
        self.assertFalse(parse_event_filter({"contains_url": False}).wants(event(url="mxc://x/y")))

    def test_limits_are_bounded(self) -> None:
        """A limit is brought into bounds, a nonsensical one refused."""
        self.assertEqual(parse_event_filter({"limit": 10**6}).limit, MAX_TIMELINE_LIMIT)
        self.assertEqual(parse_event_filter({"limit": 0}).limit, 1)
        for limit in (-1, 2.5, "10", True):
            with self.subTest(limit=limit), self.assertRaises(ClientApiError) as caught:
                parse_event_filter({"limit": limit})
            self.assertEqual(caught.exception.errcode, "M_BAD_JSON")

    def test_wrong_types_are_refused(self) -> None:
        """Lists must be lists of strings, wherever they are."""
        for raw in ({"room": []}, {"room": {"timeline": {"types": "m.room.message"}}}, {"room": {"rooms": [1]}}):
            with self.subTest(raw=raw), self.assertRaises(ClientApiError):
                parse_sync_filter(raw)

    def test_rooms(self) -> None:
        """Rooms are included and excluded by ID."""
        some = parse_sync_filter({"room": {"rooms": ["!a:x", "!b:x"], "not_rooms": ["!b:x"]}})
        self.assertEqual([some.wants_room(room) for room in ("!a:x", "!b:x", "!c:x")], [True, False, False])

    @given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
    def test_patterns(self, pattern: str, text: str) -> None:
        """A ``*`` stands for any characters, wherever and however often it comes."""
        expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
        self.assertEqual(parse_event_filter({"types": [pattern]}).wants(event(text)), expected)
