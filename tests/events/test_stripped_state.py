"""Stripped state."""

from __future__ import annotations

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import encode
from lmatrix.errors import SchemaViolation
from lmatrix.events.state import StateMap
from lmatrix.events.stripped_state import check_stripped, stripped

from .builders import ALICE, BOB, member, power_levels, room, state_event
from .strategies import THOROUGH, json_values

GOOD = {"type": "m.room.name", "state_key": "", "sender": ALICE, "content": {"name": "x"}}


class StrippedTests(SynchronousTestCase):
    """What we show."""

    def test_selection(self) -> None:
        """The I-D's six types and no other, in its order, with four fields each."""
        state = room(
            state_event("m.room.topic", {"topic": "t"}),
            state_event("m.room.name", {"name": "n"}),
            state_event("m.room.name", {"name": "other"}, state_key="x"),
            power_levels(),
        )
        shown = stripped(state)
        self.assertEqual([event["type"] for event in shown], ["m.room.create", "m.room.name", "m.room.topic"])
        self.assertEqual(shown[1], {"type": "m.room.name", "state_key": "", "sender": ALICE, "content": {"name": "n"}})
        self.assertEqual(check_stripped(shown), shown)

    def test_also(self) -> None:
        """More can be asked for; what there is not is left out."""
        shown = stripped(StateMap([member(BOB, "join")]), also=[("m.room.member", BOB), ("m.room.member", ALICE)])
        self.assertEqual([event["state_key"] for event in shown], [BOB])


class CheckStrippedTests(SynchronousTestCase):
    """What others show us."""

    def test_reduced(self) -> None:
        """Only the four fields stay."""
        self.assertEqual(check_stripped([GOOD | {"event_id": "$x", "room_id": "!x:y"}]), [GOOD])
        self.assertEqual(check_stripped([]), [])

    def test_refused(self) -> None:
        """Wrong shapes, and too much of it."""
        for raw in (
            None,
            {},
            [1],
            [GOOD | {"type": 1}],
            [GOOD | {"state_key": None}],
            [GOOD | {"sender": "alice"}],
            [GOOD | {"content": []}],
            [GOOD | {"content": {"x": float("nan")}}],
            [GOOD | {"content": {"x": "y" * 70_000}}],
            [{key: GOOD[key] for key in ("type", "state_key", "content")}],
        ):
            self.assertRaises(SchemaViolation, check_stripped, raw)

    def test_bounds(self) -> None:
        """A hundred events, each as large as an event may be."""
        self.assertEqual(len(check_stripped([GOOD] * 100)), 100)
        self.assertRaises(SchemaViolation, check_stripped, [GOOD] * 101)
        slack = 65_536 - len(encode(GOOD | {"content": {"x": ""}}))
        check_stripped([GOOD | {"content": {"x": "y" * slack}}])
        self.assertRaises(SchemaViolation, check_stripped, [GOOD | {"content": {"x": "y" * (slack + 1)}}])

    @THOROUGH
    @given(json_values)
    def test_total(self, raw) -> None:
        """Any JSON is a list of stripped events, or a violation."""
        try:
            check_stripped(raw)
            check_stripped([raw])
        except SchemaViolation:
            pass
