"""The first events of a room."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import BadRequest
from lmatrix.events.auth_events import select_auth_events
from lmatrix.events.auth_rules import authorise
from lmatrix.events.building import build_hub_event
from lmatrix.events.creation import InitialEvent, Preset, RoomPlan, initial_events
from lmatrix.events.state import StateEvent, StateMap

from .builders import ALICE, BOB, CAROL, HUB, I1, KEYS, NOW, ROOM, V2, draft


def _plan(**plan: Any) -> dict[tuple[str, str], dict[str, Any]]:
    events = initial_events(RoomPlan(**plan), I1, ALICE)
    return {(event.type, event.state_key): event.content for event in events}


def _types(**plan: Any) -> list[str]:
    return [event.type for event in initial_events(RoomPlan(**plan), I1, ALICE)]


class InitialEventsTests(SynchronousTestCase):
    """What a plan comes to."""

    def test_order(self) -> None:
        """Matrix's order: create, join, power levels, main alias, preset, initial state, name, topic."""
        self.assertEqual(
            _types(name="n", topic="t", alias="#n:x", initial_state=(InitialEvent("m.room.avatar", "", {"url": "x"}),)),
            [
                "m.room.create",
                "m.room.member",
                "m.room.power_levels",
                "m.room.canonical_alias",
                "m.room.join_rules",
                "m.room.history_visibility",
                "m.room.guest_access",
                "m.room.avatar",
                "m.room.name",
                "m.room.topic",
            ],
        )

    def test_create(self) -> None:
        """The room version is always there and cannot be overridden."""
        content = _plan(creation_content={"room_version": "9", "m.federate": True})["m.room.create", ""]
        self.assertEqual(content, {"room_version": "I.1", "m.federate": True})
        create = initial_events(RoomPlan(), V2, ALICE)[0]
        self.assertEqual(create.content, {"room_version": V2.identifier})

    def test_creator(self) -> None:
        """Joins, and has 100."""
        events = _plan()
        self.assertEqual(events["m.room.member", ALICE], {"membership": "join"})
        self.assertEqual(events["m.room.power_levels", ""]["users"], {ALICE: 100})

    def test_names(self) -> None:
        """The creator is called in the member event as in the profile; the main alias is the one that was asked for."""
        empty = (InitialEvent("m.room.canonical_alias", "", {}),)
        plan = RoomPlan(alias="#n:x", initial_state=empty)
        events = {event.type: event.content for event in initial_events(plan, I1, ALICE, {"displayname": "A"})}
        self.assertEqual(events["m.room.member"], {"membership": "join", "displayname": "A"})
        self.assertEqual(events["m.room.canonical_alias"], {"alias": "#n:x"})

    def test_presets(self) -> None:
        """Join rules, history visibility and guest access."""
        for plan, rule, guests in (
            ({"preset": Preset.PRIVATE_CHAT}, "invite", "can_join"),
            ({"preset": Preset.TRUSTED_PRIVATE_CHAT}, "invite", "can_join"),
            ({"preset": Preset.PUBLIC_CHAT}, "public", "forbidden"),
            ({}, "invite", "can_join"),
            ({"public": True}, "public", "forbidden"),
            ({"public": True, "preset": Preset.PRIVATE_CHAT}, "invite", "can_join"),
        ):
            events = _plan(**plan)
            self.assertEqual(events["m.room.join_rules", ""], {"join_rule": rule})
            self.assertEqual(events["m.room.history_visibility", ""], {"history_visibility": "shared"})
            self.assertEqual(events["m.room.guest_access", ""], {"guest_access": guests})

    def test_trusted(self) -> None:
        """In a trusted private chat the invitees are on a level with the creator; elsewhere not."""
        invite = (BOB, CAROL)
        levels = _plan(preset=Preset.TRUSTED_PRIVATE_CHAT, invite=invite)["m.room.power_levels", ""]
        self.assertEqual(levels["users"], {ALICE: 100, BOB: 100, CAROL: 100})
        self.assertEqual(_plan(invite=invite)["m.room.power_levels", ""]["users"], {ALICE: 100})

    def test_no_invites(self) -> None:
        """Invitees' memberships are not among the events."""
        self.assertEqual(_types(invite=(BOB,)).count("m.room.member"), 1)

    def test_default_power_levels(self) -> None:
        """50 names the room and keeps order, the creator alone changes who may do what, anybody writes and invites."""
        levels = _plan()["m.room.power_levels", ""]
        self.assertEqual({levels[field] for field in ("users_default", "events_default", "invite")}, {0})
        self.assertEqual({levels[field] for field in ("state_default", "ban", "kick", "redact")}, {50})
        by_level: dict[int, set[str]] = {50: set(), 100: set()}
        for event_type, level in levels["events"].items():
            by_level[level].add(event_type.removeprefix("m.room."))
        self.assertEqual(
            by_level,
            {
                50: {"avatar", "canonical_alias", "name"},
                100: {"encryption", "history_visibility", "power_levels", "server_acl", "tombstone"},
            },
        )

    def test_power_level_override(self) -> None:
        """Top-level fields are replaced, the others stay."""
        levels = _plan(power_level_content_override={"users": {BOB: 100}, "invite": 50})["m.room.power_levels", ""]
        self.assertEqual((levels["users"], levels["invite"], levels["ban"]), ({BOB: 100}, 50, 50))

    def test_initial_state_before_preset(self) -> None:
        """initial_state takes the place of what the preset would set, power levels in their usual place."""
        rules = InitialEvent("m.room.join_rules", "", {"join_rule": "knock"})
        levels = InitialEvent("m.room.power_levels", "", {"users": {ALICE: 60}})
        events = initial_events(RoomPlan(initial_state=(rules, levels)), I1, ALICE)
        self.assertEqual([event for event in events if event.type == "m.room.join_rules"], [rules])
        self.assertEqual([event for event in events if event.type == "m.room.power_levels"], [levels])
        self.assertIs(events[2], levels)

    def test_name_and_topic_before_initial_state(self) -> None:
        """name and topic win over initial_state."""
        events = initial_events(
            RoomPlan(name="n", topic="", initial_state=(InitialEvent("m.room.name", "", {"name": "other"}),)), I1, ALICE
        )
        names = [event.content for event in events if event.type == "m.room.name"]
        self.assertEqual(names, [{"name": "n"}])
        self.assertEqual(events[-1], InitialEvent("m.room.topic", "", {"topic": ""}))

    def test_state_of_the_servers_own(self) -> None:
        """create and memberships are not the creator's to set."""
        for event_type in ("m.room.create", "m.room.member"):
            plan = RoomPlan(initial_state=(InitialEvent(event_type, "", {}),))
            self.assertRaises(BadRequest, initial_events, plan, I1, ALICE)


class AuthorisedTests(SynchronousTestCase):
    """A plan's events make a room."""

    def test_every_preset(self) -> None:
        """In both room versions each event is allowed after those before it, and cites what the rules ask for."""
        for version in (I1, V2):
            for preset in Preset:
                plan = RoomPlan(preset=preset, name="n", topic="t", invite=(BOB,))
                state, head = StateMap(), []
                for event in initial_events(plan, version, ALICE):
                    proposed = draft(
                        event.type, event.content, sender=ALICE, state_key=event.state_key, version=version
                    )
                    authorise(proposed, state, prev_events=head)
                    pdu = build_hub_event(
                        version,
                        room_id=ROOM,
                        type=event.type,
                        sender=ALICE,
                        content=event.content,
                        origin_server_ts=NOW,
                        hub_server=HUB,
                        auth_events=select_auth_events(proposed, state),
                        prev_events=head,
                        keys=[KEYS[HUB]],
                        state_key=event.state_key,
                    )
                    by_id = {found.event_id: found for found in state}
                    cited = [by_id[event_id] for event_id in pdu.auth_events]
                    authorise(pdu, state, prev_events=pdu.prev_events, auth_events=cited)
                    state.set(StateEvent.from_pdu(pdu))
                    head = [pdu.event_id]
                self.assertEqual(version.hub_server(state), HUB)
