"""State maps and overlays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.building import build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.state import StateEvent, StateMap, StateOverlay

from .builders import ALICE, BOB, HUB, I1, hub_arguments, lpdu_arguments, member, place, room, state_event
from .strategies import THOROUGH

pairs = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"))
events = st.builds(
    lambda pair, event_id: state_event(pair[0], {}, state_key=pair[1], event_id=event_id), pairs, st.sampled_from("123")
)
steps = st.lists(st.one_of(events, pairs), max_size=12)


class StateEventTests(SynchronousTestCase):
    """One state event."""

    def test_from_pdu(self) -> None:
        """It is what the PDU sets, at its position."""
        pdu = build_hub_event(I1, **hub_arguments())
        event = StateEvent.from_pdu(pdu, 7)
        self.assertEqual(event, StateEvent(pdu.event_id, "m.room.topic", "", ALICE, {"topic": "Ordering"}, 7))
        self.assertEqual(event.sender_server, HUB)

    def test_not_state(self) -> None:
        """A message sets no state."""
        pdu = complete_lpdu(build_lpdu(I1, **lpdu_arguments()), **place())
        self.assertRaises(ValueError, StateEvent.from_pdu, pdu)


class StateMapTests(SynchronousTestCase):
    """The last event for each pair."""

    @THOROUGH
    @given(steps)
    def test_like_a_dict(self, steps) -> None:
        """It behaves as a dict by (type, state key) does."""
        state, model = StateMap(), {}
        for step in steps:
            if isinstance(step, StateEvent):
                state.set(step)
                model[step.type, step.state_key] = step
            else:
                state.remove(*step)
                model.pop(step, None)
            self.assertEqual(dict(state.items()), model)
            self.assertEqual(len(state), len(model))
            for event_type in "ab":
                for state_key in "xy":
                    self.assertEqual(state.get(event_type, state_key), model.get((event_type, state_key)))
        self.assertEqual(dict(state.copy().items()), model)

    def test_members(self) -> None:
        """All memberships, whatever they are."""
        state = room(members={BOB: "ban"})
        self.assertEqual({event.state_key for event in state.members()}, {ALICE, BOB})
        self.assertEqual(list(StateMap().members()), [])

    def test_copy(self) -> None:
        """A copy goes its own way."""
        state = room()
        copy = state.copy()
        copy.set(member(BOB, "leave"))
        self.assertEqual(state.get("m.room.member", BOB), member(BOB, "join"))


class StateOverlayTests(SynchronousTestCase):
    """State that is tried out."""

    @THOROUGH
    @given(st.lists(events, max_size=6), st.lists(events, max_size=6), st.lists(events, max_size=6))
    def test_shows_through(self, below, on_it, on_top) -> None:
        """An overlay, and one on it, answer as a copy with the changes would, leave what is below alone, and then
        bring it there."""
        base = StateMap(below)
        untouched = base.copy()
        first = StateOverlay(base)
        for event in on_it:
            first.set(event)
        second = StateOverlay(first)
        for event in on_top:
            second.set(event)
        expected = StateMap([*below, *on_it, *on_top])
        for event_type in "ab":
            for state_key in "xy":
                self.assertEqual(second.get(event_type, state_key), expected.get(event_type, state_key))
        self.assertEqual(dict(base.items()), dict(untouched.items()))
        self.assertEqual(second.changes, dict(StateMap(on_top).items()))
        second.apply_to(first)
        first.apply_to(base)
        self.assertEqual(dict(base.items()), dict(expected.items()))
