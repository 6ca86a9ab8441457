"""Blocked rooms, rules for invites, and the patterns in both."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import BadRequest
from lmatrix.policies import ALLOW, Allow, Invite
from lmatrix.policies.builtin import MAX_REMEMBERED, REMEMBERED_SECONDS, BlockedRooms, InviteRules
from lmatrix.policies.globs import Globs, check_glob


class GlobTests(SynchronousTestCase):
    """Patterns match whole names."""

    def test_matches(self) -> None:
        """Stars, question marks, case, and characters that mean something elsewhere."""
        for pattern, name, expected in (
            ("example.org", "example.org", True),
            ("example.org", "Example.ORG", True),
            ("example.org", "exampleXorg", False),
            ("example.org", "an.example.org", False),
            ("*.example.org", "an.example.org", True),
            ("*.example.org", "example.org", False),
            ("*example.org*", "example.org:8448", True),
            ("@spam?:*", "@spam7:any.example", True),
            ("@spam?:*", "@spam77:any.example", False),
            ("[::1]:*", "[::1]:8448", True),
            ("**", "anything", True),
        ):
            self.assertEqual(Globs([pattern]).match(name), expected, (pattern, name))
        self.assertTrue(Globs(["a", "b"]).match("b"))
        self.assertFalse(Globs([]).match(""))

    def test_what_is_no_pattern(self) -> None:
        """Nothing, too much, and spaces."""
        for wrong in ("", "a b", "x" * 256):
            with self.assertRaises(BadRequest):
                check_glob(wrong)


class BlockedRoomsTests(SynchronousTestCase):
    """Rooms by ID and by server."""

    def test_which(self) -> None:
        """Exactly the rooms that are named."""
        blocked = BlockedRooms(["!one:ok.example"], ["*.bad.example"])
        for room_id, free in (
            ("!one:ok.example", False),
            ("!two:ok.example", True),
            ("!one:very.bad.example", False),
            ("!one:bad.example", True),
        ):
            self.assertEqual(isinstance(blocked.check_room(room_id), Allow), free, room_id)
        self.assertEqual(BlockedRooms().check_room("!one:ok.example"), ALLOW)


class InviteRulesTests(SynchronousTestCase):
    """Who may invite."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.shared = {"friend.example"}
        self.asked: list[str] = []

    async def shares(self, server: str) -> bool:
        self.asked.append(server)
        return server in self.shared

    def may(self, rules: InviteRules, inviter: str, hub: str = "hub.example") -> bool:
        answer: Any = rules.check_invite(
            Invite(inviter=inviter, invitee="@me:us.example", room_id="!r:hub.example", hub_server=hub, content={})
        )
        if not hasattr(answer, "__await__"):
            return isinstance(answer, Allow)
        try:
            answer.send(None)
        except StopIteration as finished:
            return isinstance(finished.value, Allow)
        raise AssertionError("it did not finish")

    def rules(self, **rules: Any) -> InviteRules:
        return InviteRules("us.example", clock=self.clock, **rules)

    def test_each_rule(self) -> None:
        """Servers (the inviter's and the hub's), users, and a list of those who may."""
        for rules, inviter, hub, expected in (
            ({}, "@x:any.example", "hub.example", True),
            ({"blocked_servers": ["bad.*"]}, "@x:bad.example", "hub.example", False),
            ({"blocked_servers": ["bad.*"]}, "@x:good.example", "bad.example", False),
            ({"blocked_servers": ["bad.*"]}, "@x:good.example", "hub.example", True),
            ({"blocked_users": ["@x:*"]}, "@x:good.example", "hub.example", False),
            ({"blocked_users": ["@x:*"]}, "@x:us.example", "us.example", False),
            ({"blocked_users": ["@x:*"]}, "@y:good.example", "hub.example", True),
            ({"allowed_servers": ["good.example"]}, "@x:good.example", "hub.example", True),
            ({"allowed_servers": ["good.example"]}, "@x:other.example", "hub.example", False),
            ({"allowed_servers": ["good.example"]}, "@x:us.example", "us.example", True),
            ({"shares_a_room": self.shares}, "@x:friend.example", "hub.example", True),
            ({"shares_a_room": self.shares}, "@x:stranger.example", "hub.example", False),
            ({"shares_a_room": self.shares}, "@x:us.example", "us.example", True),
        ):
            self.assertEqual(self.may(self.rules(**rules), inviter, hub), expected, (rules, inviter, hub))

    def test_sharing_is_remembered_for_a_while(self) -> None:
        """A flood of invites does not search the database each time; what has changed is noticed later."""
        rules = self.rules(shares_a_room=self.shares)
        for _ in range(5):
            self.assertFalse(self.may(rules, "@x:new.example"))
        self.assertEqual(self.asked, ["new.example"])
        self.shared.add("new.example")
        self.clock.advance(REMEMBERED_SECONDS)
        self.assertTrue(self.may(rules, "@x:new.example"))

    def test_what_is_remembered_is_bounded(self) -> None:
        """The oldest give way."""
        rules = self.rules(shares_a_room=self.shares)
        for number in range(MAX_REMEMBERED + 1):
            self.may(rules, f"@x:s{number}.example")
        self.assertEqual(len(rules._remembered), MAX_REMEMBERED)
        self.asked.clear()
        self.may(rules, "@x:s0.example")
        self.may(rules, f"@x:s{MAX_REMEMBERED}.example")
        self.assertEqual(self.asked, ["s0.example"])
