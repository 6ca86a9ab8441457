"""Who may see history: the whole table."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.visibility import Visibility, server_may_see, user_may_see, visibility_at, visibility_of

from .strategies import THOROUGH, json_objects

MESSAGE = "m.room.message"
MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")


class VisibilityTests(SynchronousTestCase):
    """Reading the setting."""

    def test_values(self) -> None:
        """The four values; shared when unset."""
        for visibility in Visibility:
            self.assertIs(visibility_of({"history_visibility": visibility.value}), visibility)
        self.assertIs(visibility_of(None), Visibility.SHARED)

    @THOROUGH
    @given(json_objects)
    def test_anything_else(self, content) -> None:
        """Unknown values are read as shared."""
        self.assertIs(visibility_of(content | {"history_visibility": content}), Visibility.SHARED)
        self.assertIs(visibility_of({"history_visibility": "odd"}), Visibility.SHARED)

    def test_change(self) -> None:
        """A change of visibility is seen by whoever may see either side of it; other events by what held before."""
        for before, after in product(Visibility, Visibility):
            content = {"history_visibility": after.value}
            seen = visibility_at("m.room.history_visibility", "", content, before)
            order = list(Visibility)
            self.assertIs(seen, order[min(order.index(before), order.index(after))])
            self.assertIs(visibility_at("m.room.history_visibility", "x", content, before), before)
            self.assertIs(visibility_at(MESSAGE, None, content, before), before)


class MaySeeTests(SynchronousTestCase):
    """Users and servers."""

    def test_world_readable(self) -> None:
        """Everybody."""
        for membership, later in product(MEMBERSHIPS, (False, True)):
            self.assertTrue(user_may_see(MESSAGE, Visibility.WORLD_READABLE, [membership], later))
        self.assertTrue(server_may_see(MESSAGE, Visibility.WORLD_READABLE, [], False))

    def test_joined_at_the_event(self) -> None:
        """Members see what happens while they are members, whatever the setting."""
        for visibility in Visibility:
            self.assertTrue(user_may_see(MESSAGE, visibility, ["join"], False))
            self.assertTrue(server_may_see(MESSAGE, visibility, ["leave", "join"], False))

    def test_shared(self) -> None:
        """Who joins later sees it; who does not, does not."""
        for membership in ("invite", "leave", "ban", "knock"):
            self.assertTrue(user_may_see(MESSAGE, Visibility.SHARED, [membership], True))
            self.assertFalse(user_may_see(MESSAGE, Visibility.SHARED, [membership], False))

    def test_invited(self) -> None:
        """From the invite on."""
        for later in (False, True):
            self.assertTrue(user_may_see(MESSAGE, Visibility.INVITED, ["invite"], later))
            for membership in ("leave", "ban", "knock"):
                self.assertFalse(user_may_see(MESSAGE, Visibility.INVITED, [membership], later))
        self.assertTrue(server_may_see(MESSAGE, Visibility.INVITED, ["leave", "invite"], False))

    def test_joined(self) -> None:
        """Only members at the time."""
        for membership, later in product(("invite", "leave", "ban", "knock"), (False, True)):
            self.assertFalse(user_may_see(MESSAGE, Visibility.JOINED, [membership], later))
        self.assertFalse(server_may_see(MESSAGE, Visibility.JOINED, [], True))

    def test_own_membership(self) -> None:
        """A change of one's own membership is seen from either side: a member sees the kick."""
        self.assertTrue(user_may_see("m.room.member", Visibility.JOINED, ["join", "leave"], False))

    def test_commits(self) -> None:
        """MLS commits are visible to every member, of that time or later; not to those who never joined."""
        for visibility in (Visibility.SHARED, Visibility.INVITED, Visibility.JOINED):
            self.assertTrue(user_may_see("m.mls.commit", visibility, ["leave"], True))
            self.assertTrue(server_may_see("m.mls.commit", visibility, [], True))
            self.assertFalse(user_may_see("m.mls.commit", visibility, ["leave"], False))
