"""Hypothesis strategies for JSON and for the events of a room."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from lmatrix.canonical_json import MAX_SAFE_INTEGER

from .builders import ALICE, BOB, CAROL, DAVE, HUB, PARTICIPANT

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["\U0001f600", "\ufb33", "é", '"', "\\", "\n", "\x7f", "", "$x", "@a:b", "join", "m.room.member"]),
)
integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
scalars = st.one_of(
    st.none(), st.booleans(), integers, texts, st.sampled_from([0.5, -1e-7, 1.5e300, 123.25]), st.integers(-3, 101)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
"""Anything that the parser of canonical JSON may return."""

json_objects = st.dictionaries(texts, json_values, max_size=5)

user_ids = st.sampled_from([ALICE, BOB, CAROL, DAVE])
servers = st.sampled_from([HUB, PARTICIPANT])

_memberships = st.one_of(st.sampled_from(["join", "invite", "leave", "ban", "knock"]), json_values)
_levels = st.one_of(st.integers(-1, 101), json_values)
_level_maps = st.one_of(
    st.dictionaries(st.one_of(user_ids, st.just("m.room.message"), texts), _levels, max_size=4), json_values
)

contents = st.one_of(
    json_objects,
    st.fixed_dictionaries(
        {},
        optional={
            "membership": _memberships,
            "join_rule": st.one_of(st.sampled_from(["public", "invite", "knock"]), json_values),
            "room_version": st.one_of(st.just("I.1"), json_values),
            "previous_hub": st.one_of(servers, json_values),
            "head": st.one_of(st.just("$head"), json_values),
            "valid_until_ts": st.one_of(integers, json_values),
            "users": _level_maps,
            "events": _level_maps,
            "users_default": _levels,
            "events_default": _levels,
            "state_default": _levels,
            "ban": _levels,
            "kick": _levels,
            "invite": _levels,
            "redact": _levels,
            "redacts": json_values,
            "third_party_invite": json_values,
        },
    ),
)
"""Content that often, but not always, means something to the auth rules."""

event_types = st.one_of(
    st.sampled_from(
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.hub",
            "m.room.redaction",
            "m.room.message",
        ]
    ),
    texts,
)
state_keys = st.one_of(st.none(), st.just(""), user_ids, texts)

THOROUGH = settings(max_examples=100, deadline=None)
"""No deadline: how long one example takes says nothing on a busy machine."""
