"""Redaction: what stays, by room version, and when a redaction takes effect."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.redaction import RedactionRules, redact_fields, redaction_takes_effect

from .builders import ALICE, BOB, CAROL, DAVE, I1, V2, power_levels, room

ALL_TOP_LEVEL = {
    key: key
    for key in (
        "type",
        "room_id",
        "sender",
        "state_key",
        "origin_server_ts",
        "hashes",
        "signatures",
        "prev_events",
        "auth_events",
        "hub_server",
    )
}


def _content(rules: RedactionRules, event_type: str, content: Any) -> Any:
    return redact_fields({"type": event_type, "content": content}, rules)["content"]


class ContentTests(SynchronousTestCase):
    """What stays of content."""

    def _keeps(self, event_type: str, content: dict[str, Any], i1: dict[str, Any], v02: dict[str, Any]) -> None:
        self.assertEqual(_content(I1.redaction, event_type, content), i1)
        self.assertEqual(_content(V2.redaction, event_type, content), v02)

    def test_message(self) -> None:
        """Nothing."""
        self._keeps("m.room.message", {"body": "x", "membership": "join"}, {}, {})

    def test_create(self) -> None:
        """All."""
        content = {"room_version": "x", "anything": [1]}
        self._keeps("m.room.create", content, content, content)

    def test_member(self) -> None:
        """The membership; in v02 also what room version 11 keeps of restricted joins and third party invites."""
        content = {
            "membership": "join",
            "displayname": "x",
            "join_authorised_via_users_server": "@a:b",
            "third_party_invite": {"signed": {"token": 1}, "display_name": "x"},
        }
        wider = {
            "membership": "join",
            "join_authorised_via_users_server": "@a:b",
            "third_party_invite": {"signed": {"token": 1}},
        }
        self._keeps("m.room.member", content, {"membership": "join"}, wider)

    def test_odd_third_party_invite(self) -> None:
        """Of what is no object, no part can be kept."""
        self._keeps("m.room.member", {"third_party_invite": "x"}, {}, {})

    def test_join_rules(self) -> None:
        """The rule; in v02 also allow."""
        content = {"join_rule": "invite", "allow": [1], "x": 2}
        self._keeps("m.room.join_rules", content, {"join_rule": "invite"}, {"join_rule": "invite", "allow": [1]})

    def test_power_levels(self) -> None:
        """All levels but the notifications'."""
        kept = {
            "ban": 1, "events": {}, "events_default": 2, "invite": 3, "kick": 4, "redact": 5, "state_default": 6,
            "users": {}, "users_default": 7,
        }  # fmt: skip
        self._keeps("m.room.power_levels", kept | {"notifications": {"room": 50}}, kept, kept)

    def test_history_visibility(self) -> None:
        """The visibility."""
        kept = {"history_visibility": "joined"}
        self._keeps("m.room.history_visibility", kept | {"x": 1}, kept, kept)

    def test_redaction(self) -> None:
        """Its target."""
        self._keeps("m.room.redaction", {"redacts": "$x", "reason": "y"}, {"redacts": "$x"}, {"redacts": "$x"})

    def test_hub(self) -> None:
        """I.1 keeps all of a hub transfer, v02 does not know it."""
        content = {"previous_hub": "x", "more": 1}
        self._keeps("m.room.hub", content, content, {})


class TopLevelTests(SynchronousTestCase):
    """What stays beside content."""

    def test_kept(self) -> None:
        """The eleven fields, and no other: not origin, depth or membership either."""
        event = ALL_TOP_LEVEL | {"content": {}, "origin": 1, "depth": 2, "membership": 3, "redacts": 4, "x": 5}
        for version in (I1, V2):
            self.assertEqual(redact_fields(event, version.redaction), ALL_TOP_LEVEL | {"content": {}})

    def test_original_is_left_alone(self) -> None:
        """A copy is redacted, not the event."""
        event = {"type": "m.room.message", "content": {"body": "x"}, "x": 1}
        redact_fields(event, I1.redaction)
        self.assertEqual(event, {"type": "m.room.message", "content": {"body": "x"}, "x": 1})


class TakesEffectTests(SynchronousTestCase):
    """Who may redact whose event."""

    def test_own_server(self) -> None:
        """A user's server may redact its users' events, whatever the power level."""
        state = room(power_levels(redact=50))
        self.assertTrue(redaction_takes_effect(BOB, BOB, state))
        self.assertTrue(redaction_takes_effect(CAROL, BOB, state))

    def test_power(self) -> None:
        """Others need the level."""
        state = room(power_levels(users={ALICE: 50, DAVE: 49}, redact=50))
        self.assertTrue(redaction_takes_effect(ALICE, BOB, state))
        self.assertFalse(redaction_takes_effect(DAVE, BOB, state))

    def test_defaults(self) -> None:
        """50 is needed when nothing is said, and the creator has 100."""
        self.assertTrue(redaction_takes_effect(ALICE, BOB, room()))
        self.assertFalse(redaction_takes_effect(DAVE, BOB, room()))
