"""Auth rule 5, memberships: one rejection for each branch, and what it lets pass."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.state import StateMap

from .builders import (
    ALICE,
    BOB,
    CAROL,
    CREATE_ID,
    DAVE,
    create_event,
    draft,
    membership,
    power_levels,
    room,
    state_event,
)
from .rule_cases import allowed, one_test_for_each, rejected


def _rule(join_rule: object):
    return state_event("m.room.join_rules", {"join_rule": join_rule})


NEW = StateMap([create_event()])
MODERATED = power_levels(users={ALICE: 100, BOB: 50, CAROL: 50}, users_default=0)


@one_test_for_each(
    [
        rejected("5.1", "without_state_key", draft("m.room.member", {"membership": "join"})),
        rejected("5.1", "without_membership", draft("m.room.member", {"reason": "x"}, state_key=BOB)),
        rejected("5.1", "for_something_that_is_no_user", membership("bob", "invite", sender=ALICE)),
        rejected("5.1", "for_nobody", draft("m.room.member", {"membership": "join"}, state_key="")),
        rejected("5.7", "of_an_unknown_kind", membership(BOB, "visit")),
        rejected("5.7", "of_an_odd_type", membership(BOB, ["join"])),
        rejected("5.7", "of_an_unhashable_type", membership(BOB, {"join": 1})),
    ]
)
class ShapeTests(SynchronousTestCase):
    """Rules 5.1 and 5.7."""


@one_test_for_each(
    [
        rejected("5.2.2", "for_another", membership(CAROL, "join", sender=BOB)),
        rejected(
            "5.2.2", "for_another_after_create", membership(CAROL, "join", sender=BOB), NEW, prev_events=[CREATE_ID]
        ),
        rejected("5.2.3", "of_a_banned_user", membership(BOB, "join"), room(_rule("public"), members={BOB: "ban"})),
        rejected("5.2.6", "without_invite", membership(CAROL, "join"), room(_rule("invite")), says=CAROL),
        rejected("5.2.6", "without_invite_by_default", membership(CAROL, "join")),
        rejected("5.2.6", "without_invite_where_one_knocks", membership(CAROL, "join"), room(_rule("knock"))),
        rejected(
            "5.2.6", "after_a_mere_knock", membership(CAROL, "join"), room(_rule("knock"), members={CAROL: "knock"})
        ),
        rejected(
            "5.2.6", "under_an_unknown_rule", membership(CAROL, "join"), room(_rule("x"), members={CAROL: "invite"})
        ),
        rejected("5.2.6", "under_a_restricted_rule", membership(CAROL, "join"), room(_rule("restricted"))),
        rejected("5.2.6", "under_an_odd_rule", membership(CAROL, "join"), room(_rule(["public"]))),
        rejected("5.2.6", "of_the_creator_too_late", membership(ALICE, "join"), NEW, prev_events=["$other"]),
        rejected(
            "5.2.6",
            "of_the_creator_after_two_events",
            membership(ALICE, "join"),
            NEW,
            prev_events=[CREATE_ID, "$other"],
        ),
        rejected("5.2.6", "of_another_after_create", membership(BOB, "join"), NEW, prev_events=[CREATE_ID]),
        allowed("5.2.1", "creator_first", membership(ALICE, "join"), NEW, prev_events=[CREATE_ID]),
        allowed("5.2.4", "invited", membership(CAROL, "join"), room(_rule("invite"), members={CAROL: "invite"})),
        allowed("5.2.4", "invited_by_default_rule", membership(CAROL, "join"), room(members={CAROL: "invite"})),
        allowed(
            "5.2.4",
            "invited_where_one_knocks",
            membership(CAROL, "join"),
            room(_rule("knock"), members={CAROL: "invite"}),
        ),
        allowed("5.2.4", "joined_again", membership(BOB, "join"), room(_rule("invite"))),
        allowed("5.2.5", "public", membership(CAROL, "join"), room(_rule("public"))),
        allowed(
            "5.2.5", "public_after_a_leave", membership(CAROL, "join"), room(_rule("public"), members={CAROL: "leave"})
        ),
    ]
)
class JoinTests(SynchronousTestCase):
    """Rule 5.2."""


@one_test_for_each(
    [
        rejected("5.3.1", "by_an_outsider", membership(DAVE, "invite", sender=CAROL)),
        rejected("5.3.1", "by_an_invited_user", membership(DAVE, "invite", sender=BOB), room(members={BOB: "invite"})),
        rejected("5.3.2", "of_a_member", membership(BOB, "invite", sender=ALICE), says="already"),
        rejected(
            "5.3.2",
            "of_a_banned_user",
            membership(BOB, "invite", sender=ALICE),
            room(members={BOB: "ban"}),
            says="banned",
        ),
        rejected(
            "5.3.4",
            "without_power",
            membership(CAROL, "invite", sender=BOB),
            room(power_levels(invite=10)),
            says=f"{BOB} has power level 0; inviting needs 10",
        ),
        allowed("5.3.3", "by_a_member", membership(CAROL, "invite", sender=BOB)),
        allowed(
            "5.3.3",
            "with_just_enough_power",
            membership(CAROL, "invite", sender=BOB),
            room(power_levels(invite=5, users_default=5)),
        ),
        allowed(
            "5.3.3",
            "invited_again",
            membership(CAROL, "invite", sender=BOB),
            room(members={BOB: "join", CAROL: "invite"}),
        ),
        allowed(
            "5.3.3", "who_knocked", membership(CAROL, "invite", sender=BOB), room(members={BOB: "join", CAROL: "knock"})
        ),
    ]
)
class InviteTests(SynchronousTestCase):
    """Rule 5.3."""


@one_test_for_each(
    [
        rejected("5.4.1", "of_an_outsider", membership(CAROL, "leave")),
        rejected("5.4.1", "of_who_left", membership(CAROL, "leave"), room(members={CAROL: "leave"})),
        rejected("5.4.1", "of_a_banned_user", membership(CAROL, "leave"), room(members={CAROL: "ban"}), says="banned"),
        rejected("5.4.2", "kick_by_an_outsider", membership(BOB, "leave", sender=CAROL)),
        rejected(
            "5.4.3",
            "unban_without_power",
            membership(DAVE, "leave", sender=BOB),
            room(power_levels(users={BOB: 50}, ban=60), members={BOB: "join", DAVE: "ban"}),
            says=f"{BOB} has power level 50; lifting a ban needs 60",
        ),
        rejected(
            "5.4.5",
            "kick_without_power",
            membership(DAVE, "leave", sender=BOB),
            room(power_levels(users={ALICE: 100}), members={BOB: "join", DAVE: "join"}),
            says=f"{BOB} has power level 0; kicking needs 50",
        ),
        rejected(
            "5.4.5",
            "kick_of_an_equal",
            membership(CAROL, "leave", sender=BOB),
            room(MODERATED, members={BOB: "join", CAROL: "join"}),
            says="needs more than 50",
        ),
        rejected(
            "5.4.5",
            "unban_with_power_to_ban_but_not_to_kick",
            membership(DAVE, "leave", sender=BOB),
            room(power_levels(users={BOB: 50}, kick=60), members={BOB: "join", DAVE: "ban"}),
        ),
        *(
            allowed("5.4.1", f"own_after_{what}", membership(CAROL, "leave"), room(members={CAROL: what}))
            for what in ("knock", "join", "invite")
        ),
        allowed(
            "5.4.4", "kick", membership(DAVE, "leave", sender=BOB), room(MODERATED, members={BOB: "join", DAVE: "join"})
        ),
        allowed(
            "5.4.4", "unban", membership(DAVE, "leave", sender=BOB), room(MODERATED, members={BOB: "join", DAVE: "ban"})
        ),
        allowed(
            "5.4.4",
            "invite_withdrawn",
            membership(DAVE, "leave", sender=BOB),
            room(MODERATED, members={BOB: "join", DAVE: "invite"}),
        ),
    ]
)
class LeaveTests(SynchronousTestCase):
    """Rule 5.4."""


@one_test_for_each(
    [
        rejected("5.5.1", "by_an_outsider", membership(BOB, "ban", sender=CAROL)),
        rejected(
            "5.5.3",
            "without_power",
            membership(CAROL, "ban", sender=BOB),
            room(power_levels(users={ALICE: 100})),
            says=f"{BOB} has power level 0; banning needs 50",
        ),
        rejected(
            "5.5.3",
            "of_an_equal",
            membership(CAROL, "ban", sender=BOB),
            room(MODERATED, members={BOB: "join", CAROL: "join"}),
        ),
        rejected("5.5.3", "of_oneself", membership(ALICE, "ban"), room(power_levels(users={ALICE: 100}))),
        allowed(
            "5.5.2", "member", membership(DAVE, "ban", sender=BOB), room(MODERATED, members={BOB: "join", DAVE: "join"})
        ),
        allowed("5.5.2", "outsider", membership(DAVE, "ban", sender=BOB), room(MODERATED)),
    ]
)
class BanTests(SynchronousTestCase):
    """Rule 5.5."""


@one_test_for_each(
    [
        *(
            rejected("5.6.1", f"where_the_rule_is_{rule}", membership(CAROL, "knock"), room(_rule(rule)))
            for rule in ("public", "invite", "x")
        ),
        rejected("5.6.1", "where_there_is_no_rule", membership(CAROL, "knock")),
        rejected("5.6.2", "for_another", membership(CAROL, "knock", sender=BOB), room(_rule("knock"))),
        rejected(
            "5.6.4",
            "of_a_banned_user",
            membership(CAROL, "knock"),
            room(_rule("knock"), members={CAROL: "ban"}),
            says="banned",
        ),
        rejected("5.6.4", "of_a_member", membership(BOB, "knock"), room(_rule("knock"))),
        allowed("5.6.3", "outsider", membership(CAROL, "knock"), room(_rule("knock"))),
        *(
            allowed("5.6.3", f"after_{what}", membership(CAROL, "knock"), room(_rule("knock"), members={CAROL: what}))
            for what in ("leave", "knock", "invite")
        ),
    ]
)
class KnockTests(SynchronousTestCase):
    """Rule 5.6. A knock by an invited user is allowed, as the text says."""
