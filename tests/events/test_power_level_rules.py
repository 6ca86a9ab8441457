"""Auth rule 9, changes of power levels: one rejection for each branch, and what it lets pass."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.auth_rules import authorise

from .builders import ALICE, BOB, CAROL, DAVE, HEAD, draft, power_levels, room
from .rule_cases import allowed, one_test_for_each, rejected

FIELDS = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")

# Bob has 50, which is what a power levels event needs.
BASE: dict[str, Any] = {
    "users": {ALICE: 100, BOB: 50, CAROL: 50, DAVE: 60},
    "events": {"high": 60, "equal": 50, "low": 10, "m.room.power_levels": 50},
    "state_default": 50,
}


def _current(**changes: Any):
    return room(power_levels(**(BASE | changes)))


def _change(**changes: Any):
    return draft("m.room.power_levels", BASE | changes, state_key="")


def _without(field: str, key: str):
    return {other: level for other, level in BASE[field].items() if other != key}


@one_test_for_each(
    [
        *(rejected("9.1", f"{field}_as_text", _change(**{field: "50"}), _current()) for field in FIELDS),
        rejected("9.1", "a_level_that_is_true", _change(ban=True), _current()),
        rejected("9.1", "a_level_that_is_null", _change(ban=None), _current()),
        rejected("9.1", "a_level_that_is_a_float", _change(ban=1.5), _current()),
        rejected("9.2", "events_as_a_list", _change(events=[]), _current()),
        rejected("9.2", "events_with_text", _change(events={"x": "1"}), _current()),
        rejected("9.2", "events_with_true", _change(events={"x": True}), _current()),
        rejected("9.3", "users_as_text", _change(users="all"), _current()),
        rejected("9.3", "users_with_text", _change(users={BOB: "50"}), _current()),
        rejected("9.3", "users_with_a_key_that_is_no_user", _change(users={"bob": 50}), _current()),
        allowed(
            "9.4",
            "first_power_levels",
            draft("m.room.power_levels", {"users": {ALICE: 2**53 - 1}}, sender=ALICE, state_key=""),
        ),
        rejected(
            "9.1",
            "first_power_levels_in_the_wrong_shape",
            draft("m.room.power_levels", {"ban": "x"}, sender=ALICE, state_key=""),
        ),
    ]
)
class ShapeTests(SynchronousTestCase):
    """Rules 9.1 to 9.4."""


@one_test_for_each(
    [
        *(
            rejected("9.5.1", f"lowering_{field}", _change(**{field: 40}), _current(**{field: 60}), says=field)
            for field in FIELDS
            # A higher default for state or users would change whether Bob may send it at all, or who he is.
            if field != "state_default"
        ),
        rejected("9.5.1", "removing_a_level_above_ones_own", _change(), _current(kick=60)),
        *(rejected("9.5.2", f"raising_{field}", _change(**{field: 51}), _current(**{field: 10})) for field in FIELDS),
        rejected("9.5.2", "adding_a_level_above_ones_own", _change(redact=51), _current()),
        rejected("9.6.1", "lowering_a_type", _change(events=BASE["events"] | {"high": 40}), _current(), says="high"),
        rejected("9.6.1", "removing_a_type", _change(events=_without("events", "high")), _current()),
        rejected("9.6.1", "removing_all_types", _change(events={}), _current()),
        rejected("9.7.1", "raising_a_type", _change(events=BASE["events"] | {"low": 51}), _current()),
        rejected("9.7.1", "adding_a_type", _change(events=BASE["events"] | {"new": 51}), _current()),
        rejected("9.8.1", "lowering_a_user", _change(users=BASE["users"] | {DAVE: 40}), _current(), says=DAVE),
        rejected("9.8.1", "removing_a_user", _change(users=_without("users", DAVE)), _current()),
        rejected("9.9.1", "raising_a_user", _change(users=BASE["users"] | {CAROL: 51}), _current()),
        rejected("9.9.1", "adding_a_user", _change(users=BASE["users"] | {"@new:x.example": 51}), _current()),
        rejected("9.9.1", "raising_oneself", _change(users=BASE["users"] | {BOB: 51}), _current()),
    ]
)
class RejectedChangeTests(SynchronousTestCase):
    """Rules 9.5 to 9.9."""


@one_test_for_each(
    [
        *(
            allowed("9.5", f"raising_{field}_to_ones_own", _change(**{field: 50}), _current(**{field: 10}))
            for field in FIELDS
        ),
        *(
            allowed("9.5", f"lowering_{field}_from_ones_own", _change(**{field: 10}), _current(**{field: 50}))
            for field in FIELDS
        ),
        allowed("9.5", "keeping_a_level_above_ones_own", _change(kick=60), _current(kick=60)),
        allowed("9.6", "removing_a_type_at_ones_own", _change(events=_without("events", "equal")), _current()),
        allowed("9.7", "adding_a_type_at_ones_own", _change(events=BASE["events"] | {"new": 50}), _current()),
        allowed("9.8", "removing_an_equal", _change(users=_without("users", CAROL)), _current()),
        allowed("9.8", "lowering_an_equal", _change(users=BASE["users"] | {CAROL: 0}), _current()),
        allowed("9.8", "lowering_oneself", _change(users=BASE["users"] | {BOB: 0}), _current()),
        allowed("9.8", "removing_oneself", _change(users=_without("users", BOB)), _current()),
        allowed("9.9", "adding_a_user_at_ones_own", _change(users=BASE["users"] | {"@new:x.example": 50}), _current()),
        allowed("9.10", "no_change", _change(), _current()),
        allowed("9.10", "unknown_fields", _change(notifications={"room": 100}), _current()),
    ]
)
class AllowedChangeTests(SynchronousTestCase):
    """ "Higher than" is taken as it stands: what equals one's own level may be changed."""

    def test_levels_of_the_wrong_type_in_state(self) -> None:
        """Old levels that are no integers count as absent: nobody is stopped by them, and nothing fails."""
        state = room(power_levels(**(BASE | {"ban": "60", "kick": [1], "events": ["x"], "users_default": None})))
        authorise(_change(ban=50, events={"low": 10}), state, prev_events=[HEAD])
