"""I.1's own rules: one hub at a time, and the hub transfer."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.state import StateMap

from .builders import (
    ALICE,
    BOB,
    DAVE,
    HEAD,
    HUB,
    I1,
    NOW,
    PARTICIPANT,
    THIRD,
    V2,
    draft,
    member,
    power_levels,
    room,
    state_event,
)
from .rule_cases import allowed, one_test_for_each, rejected


def _moved(version=I1):
    """A room that Bob's server has taken over."""
    return room(state_event("m.room.hub", {"previous_hub": HUB}, sender=BOB), member(DAVE, "join"), version=version)


def _transfer(content: dict[str, Any] | None = None, **changes: Any):
    right = {"previous_hub": HUB, "head": HEAD, "valid_until_ts": NOW + 60_000}
    arguments: dict[str, Any] = {"state_key": "", "sender": BOB} | changes
    return draft("m.room.hub", right | (content or {}), **arguments)


@one_test_for_each(
    [
        rejected("other-hub", "event_for_a_stranger", draft(hub_server=THIRD), says=HUB),
        rejected("other-hub", "event_for_the_old_hub", draft(), _moved(), says=PARTICIPANT),
        rejected(
            "other-hub",
            "membership_for_another_hub",
            draft("m.room.member", {"membership": "leave"}, state_key=BOB, hub_server=THIRD),
        ),
        rejected("4.3", "event_for_another_hub_with_bad_auth_events", draft(hub_server=THIRD), auth_events=[]),
        allowed("other-hub", "event_for_the_new_hub", draft(hub_server=PARTICIPANT), _moved()),
        allowed("other-hub", "event_without_hub", draft(hub_server=None), _moved()),
        allowed("other-hub", "v02_does_not_know_it", draft(hub_server=THIRD, version=V2), room(version=V2)),
        allowed("other-hub", "v02_does_not_move", draft(version=V2), _moved(V2)),
    ]
)
class OtherHubTests(SynchronousTestCase):
    """An event names the current hub, or none."""


@one_test_for_each(
    [
        rejected("6", "by_an_outsider", _transfer(sender=DAVE)),
        rejected("hub-transfer", "from_another_hub", _transfer({"previous_hub": PARTICIPANT}), says=HUB),
        rejected("hub-transfer", "from_an_odd_hub", _transfer({"previous_hub": [HUB]})),
        rejected("hub-transfer", "not_sent_to_a_hub", _transfer(hub_server=None)),
        rejected("hub-transfer", "naming_another_head", _transfer({"head": "$older"}), says="head"),
        rejected("hub-transfer", "naming_no_head", _transfer({"head": None})),
        rejected("hub-transfer", "after_two_events", _transfer(), prev_events=[HEAD, "$other"]),
        rejected("hub-transfer", "after_nothing", _transfer(), prev_events=[]),
        rejected("hub-transfer", "valid_until_text", _transfer({"valid_until_ts": str(NOW)}), says="integer"),
        rejected("hub-transfer", "valid_until_a_float", _transfer({"valid_until_ts": NOW + 0.5})),
        rejected("hub-transfer", "no_longer_valid", _transfer({"valid_until_ts": NOW - 1})),
        rejected("hub-transfer", "valid_for_too_long", _transfer({"valid_until_ts": NOW + 60_001})),
        rejected("hub-transfer", "from_who_was_the_hub", _transfer(hub_server=PARTICIPANT, sender=DAVE), _moved()),
        allowed("hub-transfer", "to_a_members_server", _transfer()),
        allowed("hub-transfer", "in_the_last_millisecond", _transfer({"valid_until_ts": NOW})),
        allowed(
            "hub-transfer", "without_power", _transfer(), room(power_levels(users={ALICE: 100}, state_default=100))
        ),
        allowed(
            "hub-transfer",
            "onwards",
            _transfer({"previous_hub": PARTICIPANT}, hub_server=PARTICIPANT, sender=DAVE),
            _moved(),
        ),
        rejected("7", "other_state_key_is_ordinary_state", _transfer({"head": "$x"}, state_key="other")),
        rejected("7", "v02_asks_for_power", _transfer(version=V2), room(version=V2)),
    ]
)
class HubTransferTests(SynchronousTestCase):
    """A transfer is worth something only here and now, and only to whom the current hub lets have the room."""


class HubSelectionTests(SynchronousTestCase):
    """Who is the hub."""

    def test_creator_first(self) -> None:
        """Before any transfer both versions say: the creator's server."""
        self.assertEqual(I1.hub_server(room()), HUB)
        self.assertEqual(V2.hub_server(room(version=V2)), HUB)

    def test_after_transfer(self) -> None:
        """Only I.1 has transfers."""
        self.assertEqual(I1.hub_server(_moved()), PARTICIPANT)
        self.assertEqual(V2.hub_server(_moved(V2)), HUB)

    def test_no_room(self) -> None:
        """State without a creator has no hub."""
        self.assertRaises(ValueError, I1.hub_server, StateMap())
        self.assertRaises(ValueError, V2.hub_server, StateMap())
