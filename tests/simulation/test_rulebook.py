"""The simulation's own auth rules and lmatrix's, held against one another."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import EventRejected
from lmatrix.events.auth_events import select_auth_events
from lmatrix.events.auth_rules import authorise
from lmatrix.events.candidate import Draft
from lmatrix.events.room_versions import known_room_versions, room_version
from lmatrix.events.state import StateEvent, StateMap
from tests.simulation.rulebook import Rulebook

ROOM = "!room:north.example"
USERS = ("@ann:north.example", "@ben:south.example", "@cleo:east.example")
SERVERS = ("north.example", "south.example", "east.example")
EVENTS = 6000


class RulebookTests(SynchronousTestCase):
    """Two implementations of one text, by two hands."""

    def test_they_agree(self) -> None:
        """Of some thousand random events, most of them forbidden, both say the same, in each room version."""
        for identifier in known_room_versions():
            rng, verdicts = Random(f"rules {identifier}"), {True: 0, False: 0}
            for _ in range(EVENTS // 100):
                room = _Room(identifier, rng)
                for number in range(100):
                    ours, theirs = room.next(number)
                    self.assertEqual(ours is None, theirs is None, (room.last, ours, theirs))
                    verdicts[ours is None] += 1
            self.assertGreater(min(verdicts.values()), EVENTS // 10)

    def test_it_refuses(self) -> None:
        """What is not allowed is refused by the rule that forbids it; and who moved the room is its hub."""
        book = Rulebook(ROOM, "I.1")
        create = {"room_version": "I.1"}
        self.assertIn("3.3", str(book.take("$0", _event("m.room.create", USERS[0], {}, ""))))
        self.assertIsNone(book.take("$0", _event("m.room.create", USERS[0], create, "")))
        joined = {"membership": "join"}
        first = _event("m.room.member", USERS[0], joined, USERS[0], prev="$0", auth=["$0"])
        self.assertIsNone(book.take("$1", first))
        early = _event("m.room.message", USERS[1], {}, prev="$1", auth=["$0"])
        self.assertIn("6:", str(book.take("$2", early)))
        self.assertEqual("north.example", book.hub)
        content = {"previous_hub": "north.example", "head": "$2", "valid_until_ts": 60_000}
        move = _event("m.room.hub", USERS[0], content, "", prev="$2", auth=["$0", "$1"])
        self.assertIn("early or too late", str(book.take("$3", {**move, "origin_server_ts": 60_001})))
        self.assertIn("others", str(book.take("$3", {**move, "auth_events": ["$0"]})))


class _Room:
    """A room in which anything may be tried."""

    def __init__(self, identifier: str, rng: Random) -> None:
        self.version = room_version(identifier)
        self.rng = rng
        self.book = Rulebook(ROOM, identifier)
        self.state = StateMap()
        self.head: str | None = None
        self.last: dict[str, Any] = {}
        self._add("$create", _event("m.room.create", USERS[0], {"room_version": identifier}, ""))
        self._add("$join", _event("m.room.member", USERS[0], {"membership": "join"}, USERS[0], prev="$create"))

    def next(self, number: int) -> tuple[str | None, str | None]:
        """Both verdicts on another event, which happens if both allow it."""
        rng = self.rng
        event_type, content, state_key = self._something()
        event = _event(event_type, rng.choice(USERS), content, state_key, prev=self.head, hub=rng.choice(SERVERS))
        if rng.random() < 0.8:
            event["hub_server"] = self.book.hub
        event["origin_server_ts"] = rng.choice((0, 1, 60_000))
        draft = self._draft(event)
        event["auth_events"] = list(select_auth_events(draft, self.state))
        self.last = event
        theirs: str | None = None
        try:
            authorise(draft, self.state, prev_events=event["prev_events"])
        except EventRejected as error:
            theirs = f"{error.rule}: {error}"
        before = dict(self.book.state)
        ours = self.book.take(f"${number}", event)
        if ours is None and theirs is None:
            self.book.state = before
            self._add(f"${number}", event)
        else:
            self.book.state = before
        return ours, theirs

    def _add(self, event_id: str, event: dict[str, Any]) -> None:
        self.book.take(event_id, event)
        if "state_key" in event:
            self.state.set(
                StateEvent(
                    event_id=event_id,
                    type=event["type"],
                    state_key=event["state_key"],
                    sender=event["sender"],
                    content=event["content"],
                    position=0,
                )
            )
        self.head = event_id

    def _draft(self, event: dict[str, Any]) -> Draft:
        return Draft(
            self.version,
            ROOM,
            event["type"],
            event["sender"],
            event["content"],
            event["origin_server_ts"],
            event.get("state_key"),
            event["hub_server"],
        )

    def _something(self) -> tuple[str, dict[str, Any], str | None]:
        rng = self.rng
        kind = rng.choice(("member", "member", "member", "levels", "rules", "message", "hub", "owned"))
        if kind == "member":
            membership = rng.choice(("join", "join", "join", "invite", "leave", "ban", "knock", "dance"))
            return "m.room.member", {"membership": membership}, rng.choice(USERS)
        if kind == "levels":
            return "m.room.power_levels", self._levels(), ""
        if kind == "rules":
            return "m.room.join_rules", {"join_rule": rng.choice(("public", "public", "invite", "knock", "odd"))}, ""
        if kind == "hub":
            content = {
                "previous_hub": rng.choice((self.book.hub, self.book.hub, *SERVERS)),
                "head": rng.choice((self.head, self.head, "$other")),
                "valid_until_ts": rng.choice((0, 60_000, 60_001, "soon", True)),
            }
            return "m.room.hub", content, rng.choice(("", "", "", "x"))
        if kind == "owned":
            return "org.example.owned", {}, rng.choice(USERS)
        return "m.room.message", {"body": "x"}, None

    def _levels(self) -> dict[str, Any]:
        rng = self.rng
        before = self.book.state.get(("m.room.power_levels", ""))
        content: dict[str, Any] = dict(before[1]["content"]) if before is not None else {"users": {USERS[0]: 100}}
        for _ in range(rng.randint(0, 2)):
            level = rng.choice((0, 1, 50, 99, 100, 101, "high", True))
            if rng.random() < 0.8:
                level = rng.choice((0, 50, 100))
            name = rng.choice(("ban", "kick", "invite", "redact", "users_default", "events_default", "state_default"))
            table = rng.choice(("users", "events", None))
            if table is None:
                content[name] = level
                continue
            entries = dict(content.get(table, {}))
            key = rng.choice(USERS) if table == "users" else rng.choice(("m.room.message", "m.room.hub"))
            if rng.random() < 0.2:
                entries.pop(key, None)
            else:
                entries[key] = level
            content[table] = entries
        if rng.random() < 0.1 and content:
            content.pop(rng.choice(sorted(content)))
        return content


def _event(
    event_type: str,
    sender: str,
    content: dict[str, Any],
    state_key: str | None = None,
    *,
    prev: str | None = None,
    auth: list[str] | None = None,
    hub: str = "north.example",
) -> dict[str, Any]:
    event: dict[str, Any] = {
        "room_id": ROOM,
        "type": event_type,
        "sender": sender,
        "content": content,
        "origin_server_ts": 0,
        "hub_server": hub,
        "prev_events": [] if prev is None else [prev],
        "auth_events": auth or [],
    }
    if state_key is not None:
        event["state_key"] = state_key
    return event
