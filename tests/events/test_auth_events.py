"""The auth events selection algorithm."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.auth_events import are_selected, auth_event_keys, select_auth_events

from .builders import ALICE, BOB, CAROL, CREATE_ID, HUB, V2, draft, membership, power_levels, room, state_event

CREATE = ("m.room.create", "")
LEVELS = ("m.room.power_levels", "")
RULES = ("m.room.join_rules", "")
HUB_KEY = ("m.room.hub", "")


def _member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


def _keys(event):
    return auth_event_keys(
        event.room_version, event.type, event.sender, event.state_key, event.content, event.hub_server
    )


class AuthEventKeysTests(SynchronousTestCase):
    """Which state an event must cite."""

    def test_create(self) -> None:
        """The create event has none."""
        self.assertEqual(_keys(draft("m.room.create", state_key="")), ())

    def test_message(self) -> None:
        """1, 2, 3, and the hub for what has gone through one."""
        self.assertEqual(_keys(draft()), (CREATE, LEVELS, _member(BOB), HUB_KEY))

    def test_without_hub_server(self) -> None:
        """An event of a DAG-capable server does not cite the hub."""
        self.assertEqual(_keys(draft(hub_server=None)), (CREATE, LEVELS, _member(BOB)))

    def test_v02(self) -> None:
        """v02 knows no hub event."""
        self.assertEqual(_keys(draft(version=V2)), (CREATE, LEVELS, _member(BOB)))

    def test_join(self) -> None:
        """A user's own join: the user once, and the join rules."""
        self.assertEqual(_keys(membership(BOB, "join", version=V2)), (CREATE, LEVELS, _member(BOB), RULES))

    def test_invite(self) -> None:
        """4.1 the target, 4.2 the join rules."""
        self.assertEqual(
            _keys(membership(CAROL, "invite", sender=BOB, version=V2)),
            (CREATE, LEVELS, _member(BOB), _member(CAROL), RULES),
        )

    def test_other_memberships(self) -> None:
        """Leaving, banning and knocking do not look at the join rules for their auth events."""
        for what in ("leave", "ban", "knock", "odd", ["join"]):
            self.assertEqual(
                _keys(membership(CAROL, what, sender=BOB)), (CREATE, LEVELS, _member(BOB), _member(CAROL), HUB_KEY)
            )

    def test_member_without_state_key(self) -> None:
        """It is going to be rejected, but not for a lack of robustness here."""
        self.assertEqual(_keys(draft("m.room.member", version=V2)), (CREATE, LEVELS, _member(BOB)))


class SelectAuthEventsTests(SynchronousTestCase):
    """What is picked from a state."""

    def test_what_there_is(self) -> None:
        """State that there is not is left out, the rest comes in the fixed order."""
        self.assertEqual(select_auth_events(draft(), room()), (CREATE_ID, f"$m.room.member|{BOB}"))
        full = room(
            state_event("m.room.hub", {}, sender=ALICE),
            state_event("m.room.join_rules", {"join_rule": "public"}),
            power_levels(),
            state_event("m.room.topic", {"topic": "not cited"}),
        )
        self.assertEqual(
            select_auth_events(membership(CAROL, "invite", sender=BOB), full),
            (CREATE_ID, "$m.room.power_levels|", f"$m.room.member|{BOB}", "$m.room.join_rules|", "$m.room.hub|"),
        )

    def test_empty_state(self) -> None:
        """The first event cites nothing."""
        self.assertEqual(
            select_auth_events(draft("m.room.create", state_key="", sender=ALICE, hub_server=HUB), room()), ()
        )

    def test_what_is_cited(self) -> None:
        """The same in any order is as good; one less, one more, another one, or one twice is not."""
        selected = select_auth_events(draft(), room(power_levels()))
        create, levels, member = selected
        for cited, are_right in (
            (selected, True),
            ((member, create, levels), True),
            ((create, levels), False),
            ((*selected, "$m.room.topic|"), False),
            ((create, levels, "$another"), False),
            ((*selected, create), False),
            ((), False),
        ):
            self.assertIs(are_right, are_selected(cited, draft(), room(power_levels())), cited)
