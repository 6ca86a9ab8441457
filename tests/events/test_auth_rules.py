"""The auth rules as a whole: whatever the content, the answer is yes or no."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import EventRejected
from lmatrix.events.auth_events import select_auth_events
from lmatrix.events.auth_rules import authorise
from lmatrix.events.building import build_lpdu, complete_lpdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.state import StateEvent, StateMap

from .builders import CREATE_ID, HEAD, HUB, I1, ROOM, V2, draft, lpdu_arguments, place, room
from .strategies import THOROUGH, contents, event_types, integers, servers, state_keys, user_ids

versions = st.sampled_from([I1, V2])
state_events = st.builds(
    StateEvent,
    event_id=st.sampled_from([CREATE_ID, HEAD, "$x", "$y"]),
    type=event_types,
    state_key=state_keys.map(lambda key: key or ""),
    sender=user_ids,
    content=contents,
)
states = st.lists(state_events, max_size=6).map(StateMap)
rooms_and_more = st.lists(state_events, max_size=4).map(lambda events: room(*events))
candidates = st.builds(
    draft,
    event_types,
    contents,
    sender=user_ids,
    state_key=state_keys,
    hub_server=st.one_of(st.none(), servers),
    version=versions,
    origin_server_ts=integers,
)
prev_events = st.lists(st.sampled_from([CREATE_ID, HEAD]), max_size=2)


class TotalityTests(SynchronousTestCase):
    """Content may hold anything."""

    @THOROUGH
    @given(candidates, st.one_of(states, rooms_and_more), prev_events, st.none() | st.lists(state_events, max_size=4))
    def test_allows_or_rejects(self, event, state, prev_events, auth_events) -> None:
        """Whatever the event and whatever stands in the state: allowed, or rejected with a rule and a reason."""
        try:
            authorise(event, state, prev_events=prev_events, auth_events=auth_events)
        except EventRejected as error:
            self.assertTrue(error.rule)
            self.assertTrue(error.reason)

    @THOROUGH
    @given(candidates, rooms_and_more, prev_events)
    def test_selected_auth_events_satisfy_rule_4(self, event, state, prev_events) -> None:
        """What the selection algorithm picks from the state never makes a difference to the verdict."""
        selected = set(select_auth_events(event, state))
        cited = [found for found in state if found.event_id in selected and _is_cited(event, found, state)]
        self.assertEqual(_verdict(event, state, prev_events, None), _verdict(event, state, prev_events, cited))

    @THOROUGH
    @given(candidates, rooms_and_more, prev_events)
    def test_state_is_left_alone(self, event, state, prev_events) -> None:
        """Judging an event does not change the state, so the same question has the same answer."""
        before = list(state)
        first = _verdict(event, state, prev_events, None)
        self.assertEqual(_verdict(event, state, prev_events, None), first)
        self.assertEqual(list(state), before)


class FormTests(SynchronousTestCase):
    """The rules say the same of a draft, of the LPDU and of the PDU."""

    @THOROUGH
    @given(
        contents,
        st.sampled_from(["m.room.member", "m.room.topic", "m.room.message", "m.room.hub"]),
        state_keys,
        versions,
    )
    def test_forms_agree(self, content, event_type, state_key, version) -> None:
        """An event is judged by what it says, not by how far it is built."""
        if state_key is not None:
            state_key = state_key[:50]
        lpdu = build_lpdu(version, **lpdu_arguments(type=event_type, content=content, state_key=state_key))
        pdu = complete_lpdu(lpdu, **place())
        of_draft = draft(event_type, content, state_key=state_key, version=version)
        state = room(version=version)
        verdicts = {_verdict(event, state, [HEAD], None) for event in (lpdu, pdu, of_draft)}
        self.assertEqual(len(verdicts), 1)


class VersionTests(SynchronousTestCase):
    """A room version's rules are its own data."""

    def test_a_later_version_brings_its_rules(self) -> None:
        """A version with another table of rules is judged by that table, without a change anywhere else."""

        def nothing_goes(context):
            raise EventRejected("mine", f"{context.event.room_id} is closed")

        closed: RoomVersion = attrs.evolve(I1, identifier="org.example.closed", auth_rules=(nothing_goes,))
        error = self.assertRaises(EventRejected, authorise, draft(version=closed), room(), prev_events=[HEAD])
        self.assertEqual((error.rule, error.reason), ("mine", f"{ROOM} is closed"))
        authorise(draft(hub_server=HUB), room(), prev_events=[HEAD])

    def test_rules_must_end_in_a_verdict(self) -> None:
        """A table of rules that forgets its last row is our mistake, and is not read as permission."""
        unfinished = attrs.evolve(I1, auth_rules=I1.auth_rules[:-1])
        self.assertRaises(AssertionError, authorise, draft(version=unfinished), room(), prev_events=[HEAD])


def _verdict(event, state, prev_events, auth_events) -> tuple[str, str] | None:
    try:
        authorise(event, state, prev_events=prev_events, auth_events=auth_events)
    except EventRejected as error:
        return error.rule, error.reason
    return None


def _is_cited(event, found: StateEvent, state: StateMap) -> bool:
    """Made-up state may use one event ID twice; only the event that the selection meant counts."""
    only = StateMap([found])
    return bool(select_auth_events(event, only))
