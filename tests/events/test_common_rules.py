"""Auth rules 3, 4, 6, 7, 8 and 10: one rejection for each branch, and what they let pass."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.state import StateMap

from .builders import (
    ALICE,
    BOB,
    CAROL,
    I1,
    V2,
    create_event,
    draft,
    member,
    membership,
    power_levels,
    room,
    state_event,
)
from .rule_cases import allowed, one_test_for_each, rejected

EMPTY = StateMap()


def _create(**changes):
    arguments = {"sender": ALICE, "state_key": "", "content": {"room_version": "I.1"}} | changes
    return draft("m.room.create", **arguments)


LEVELS = power_levels(users={ALICE: 100})
RULES = state_event("m.room.join_rules", {"join_rule": "public"})
HUB_EVENT = state_event("m.room.hub", {}, sender=ALICE)


@one_test_for_each(
    [
        rejected("3.1", "create_after_another_event", _create(), EMPTY, prev_events=["$other"]),
        rejected("3.1", "create_that_cites_auth_events", _create(), EMPTY, prev_events=[], auth_events=[LEVELS]),
        rejected("3.1", "create_with_a_state_key", _create(state_key="x"), EMPTY, prev_events=[]),
        rejected("3.1", "create_without_state_key", _create(state_key=None), EMPTY, prev_events=[]),
        rejected("3.1", "second_create", _create(), room()),
        rejected("3.2", "create_in_anothers_namespace", _create(room_id="!r:other.example"), EMPTY, prev_events=[]),
        rejected("3.3", "create_with_the_wrong_version", _create(version=V2), EMPTY, prev_events=[]),
        rejected("3.3", "create_without_version", _create(content={"a": 1}), EMPTY, prev_events=[]),
        rejected("3.3", "create_with_odd_version", _create(content={"room_version": ["I.1"]}), EMPTY, prev_events=[]),
        allowed("3.4", "create", _create(), EMPTY, prev_events=[]),
        allowed("3.4", "create_citing_nothing", _create(), EMPTY, prev_events=[], auth_events=[]),
        allowed(
            "3.4",
            "create_of_v02",
            _create(version=V2, hub_server=None, content={"room_version": V2.identifier}),
            EMPTY,
            prev_events=[],
        ),
    ]
)
class CreateRuleTests(SynchronousTestCase):
    """Rule 3."""


@one_test_for_each(
    [
        rejected(
            "4.1",
            "the_same_auth_event_twice",
            draft(),
            auth_events=[create_event(), member(BOB, "join"), member(BOB, "join")],
        ),
        rejected("4.2", "join_rules_of_a_message", draft(), auth_events=[create_event(), RULES]),
        rejected("4.2", "anothers_membership", draft(), auth_events=[create_event(), member(ALICE, "join")]),
        rejected("4.2", "join_rules_of_a_leave", membership(BOB, "leave"), auth_events=[create_event(), RULES]),
        rejected(
            "4.2",
            "the_hub_of_an_event_without_hub_server",
            draft(hub_server=None),
            auth_events=[create_event(), HUB_EVENT],
        ),
        rejected(
            "4.2",
            "the_hub_in_v02",
            draft(version=V2),
            room(version=V2),
            auth_events=[create_event(V2), HUB_EVENT],
        ),
        rejected("4.3", "no_create_among_the_auth_events", draft(), auth_events=[member(BOB, "join")]),
        rejected("4.3", "no_auth_events", draft(), auth_events=[]),
        rejected("4.3", "no_room", draft(), EMPTY),
        allowed(
            "4", "auth_events_selected_by_the_algorithm", draft(), auth_events=[create_event(), member(BOB, "join")]
        ),
        allowed(
            "4",
            "power_levels_and_hub_among_the_auth_events",
            draft(),
            auth_events=[create_event(), LEVELS, member(BOB, "join"), HUB_EVENT],
        ),
        allowed(
            "4",
            "target_and_join_rules_of_an_invite",
            membership(CAROL, "invite", sender=BOB),
            auth_events=[create_event(), member(BOB, "join"), member(CAROL, "leave"), RULES],
        ),
    ]
)
class AuthEventsRuleTests(SynchronousTestCase):
    """Rule 4."""


@one_test_for_each(
    [
        rejected("6", "sender_who_never_joined", draft(sender=CAROL), says=CAROL),
        *(
            rejected("6", f"sender_who_is_{what}", draft(), room(members={BOB: what}))
            for what in ("invite", "leave", "ban", "knock")
        ),
        rejected("6", "sender_of_odd_membership", draft(), room(members={BOB: ["join"]})),
        rejected(
            "7",
            "state_without_power",
            draft("m.room.topic", state_key=""),
            room(LEVELS),
            says=f"{BOB} has power level 0; m.room.topic needs 50",
        ),
        rejected("7", "message_without_power", draft(), room(power_levels(events_default=1))),
        rejected("7", "type_without_power", draft("x"), room(power_levels(events={"x": 1}))),
        rejected("7", "state_before_power_levels_by_another", draft("m.room.topic", state_key="")),
        rejected("8", "anothers_own_state", draft("x", state_key=CAROL), room(power_levels(users={BOB: 50}))),
        allowed("8", "own_state", draft("x", state_key=BOB), room(power_levels(users={BOB: 50}))),
        allowed("10", "message", draft()),
        allowed("10", "message_of_a_dag_capable_server", draft(hub_server=None)),
        allowed("10", "state_with_power", draft("m.room.topic", state_key=""), room(power_levels(users={BOB: 50}))),
        allowed("10", "state_by_creator_before_power_levels", draft("m.room.topic", sender=ALICE, state_key="")),
        allowed("10", "redaction_like_any_event", draft("m.room.redaction", {"redacts": "$x"})),
        allowed("10", "second_of_two_servers", draft(version=V2, hub_server=None), room(version=V2)),
        allowed(
            "10", "hub_event_in_v02", draft("m.room.hub", version=V2, sender=ALICE, state_key=""), room(version=V2)
        ),
    ]
)
class CommonRuleTests(SynchronousTestCase):
    """Rules 6, 7, 8 and 10."""

    def test_order(self) -> None:
        """The rules of I.1 are those of v02 with two more, in the places that the protocol notes give them."""
        ours = [rule.__name__ for rule in I1.auth_rules]
        theirs = [rule.__name__ for rule in V2.auth_rules]
        self.assertEqual([name for name in ours if "hub" not in name], theirs)
        self.assertEqual(ours[ours.index("auth_events_rule") + 1], "other_hub_rule")
        self.assertEqual(ours[ours.index("sender_joined_rule") + 1], "hub_transfer_rule")
        self.assertEqual(ours[ours.index("hub_transfer_rule") + 1], "required_level_rule")
