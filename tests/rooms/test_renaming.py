"""Users are called otherwise, and nobody gets into a room by that."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from lmatrix.directory.profiles import Profile
from lmatrix.errors import SendFailed
from lmatrix.rooms.renaming import MAX_DEPARTURES, Departures
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class RenamingTests(NetworkTestCase):
    """A public room of the hub's with all three users."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()

    def call(self, server: Server, user_id: str, name: str | None) -> None:
        """Change a profile, without telling anybody."""
        result_of(server.database.write(lambda tx: server.profiles.put_profile(tx, user_id, Profile(name))))

    def rename(self, server: Server, user_id: str) -> Deferred[None]:
        return Deferred.fromCoroutine(server.floor.renamer.rename(self.room_id, user_id))

    def leave(self, server: Server, user_id: str) -> Deferred[None]:
        return Deferred.fromCoroutine(server.floor.local_users.leave(user_id, self.room_id, None))

    def members(self, user_id: str) -> list[tuple[str, str | None]]:
        """Membership and name in each of a user's member events, as the hub has them."""
        events = [pdu for pdu in self.hub.pdus(self.room_id) if pdu.state_key == user_id]
        return [(pdu.content["membership"], pdu.content.get("displayname")) for pdu in events]

    def test_renamed(self) -> None:
        """A new name is an event, at the hub and at a participant; the same name is none."""
        for server, user_id in ((self.hub, self.alice), (self.north, self.bob)):
            for name in ("One", "One", "Two", None):
                self.call(server, user_id, name)
                renaming = self.rename(server, user_id)
                self.network.settle()
                self.successResultOf(renaming)
            names = [("join", None), ("join", "One"), ("join", "Two"), ("join", None)]
            self.assertEqual(names, self.members(user_id))

    def test_not_there(self) -> None:
        """Who is not joined is not named: somebody who left, somebody invited, a room that there is not."""
        dave = self.hub.user("dave")
        done(self.hub.floor.local_users.invite(self.room_id, self.alice, dave, None))
        leaving = self.leave(self.north, self.bob)
        self.network.settle()
        self.successResultOf(leaving)
        for server, user_id in ((self.hub, dave), (self.north, self.bob)):
            self.call(server, user_id, "Name")
            self.successResultOf(self.rename(server, user_id))
            self.network.settle()
        self.assertEqual([("invite", None)], self.members(dave))
        self.assertEqual([("join", None), ("leave", None)], self.members(self.bob))
        self.successResultOf(Deferred.fromCoroutine(self.hub.floor.renamer.rename("!no:hub.example", self.alice)))

    def test_leaving_at_the_hub(self) -> None:
        """A leave that is queued before is decided before: the user is gone, and is not brought back."""
        dave = self.hub.user("dave")
        self.hub.join(dave, self.room_id)
        loaded = done(self.hub.floor.rooms.loaded(self.room_id))
        assert loaded is not None
        self.call(self.hub, dave, "Dave")
        done(loaded.sequencer.hold())
        leaving, renaming = self.leave(self.hub, dave), self.rename(self.hub, dave)
        loaded.sequencer.release()
        self.successResultOf(leaving)
        self.successResultOf(renaming)
        self.assertEqual([("join", None), ("leave", None)], self.members(dave))

    def test_leave_that_waits_for_the_hub(self) -> None:
        """While a leave waits for a hub that cannot be reached, also across a restart, nobody is named."""
        self.network.unreachable.add("hub.example")
        leaving = self.leave(self.north, self.bob)
        self.network.clock.advance(30)
        self.failureResultOf(leaving, SendFailed)
        self.call(self.north, self.bob, "Bob")
        self.successResultOf(self.rename(self.north, self.bob))
        self.north.restart()
        self.successResultOf(self.rename(self.north, self.bob))
        self.network.unreachable.clear()
        self.network.settle()
        self.assertEqual([("join", None), ("leave", None)], self.members(self.bob))

    def test_leave_whose_echo_has_not_come(self) -> None:
        """So it is between the hub's answer and the event itself, which comes by another way."""
        leaving = self.leave(self.north, self.bob)
        self.assertTrue(self.north.deliver_once())
        self.successResultOf(leaving)
        room = done(self.north.floor.rooms.load(self.room_id))
        assert room is not None
        self.assertEqual("join", room.membership(self.bob))
        self.call(self.north, self.bob, "Bob")
        self.successResultOf(self.rename(self.north, self.bob))
        self.network.settle()
        self.assertEqual([("join", None), ("leave", None)], self.members(self.bob))

    def test_coming_back(self) -> None:
        """Who has left and joined again is named again."""
        for _ in range(2):
            leaving = self.leave(self.north, self.bob)
            self.network.settle()
            self.successResultOf(leaving)
            self.north.join(self.bob, self.room_id, self.hub.name)
        self.call(self.north, self.bob, "Bob")
        renaming = self.rename(self.north, self.bob)
        self.network.settle()
        self.successResultOf(renaming)
        self.assertEqual(("join", "Bob"), self.members(self.bob)[-1])

    def test_removal_that_is_refused(self) -> None:
        """A kick that the hub refuses does not keep the user from being named."""
        dave = self.north.user("dave")
        self.north.join(dave, self.room_id, self.hub.name)
        users = self.north.floor.local_users
        kicking = Deferred.fromCoroutine(users.membership(self.room_id, dave, self.bob, "leave", None))
        self.network.settle()
        self.failureResultOf(kicking, SendFailed)
        self.call(self.north, self.bob, "Bob")
        renaming = self.rename(self.north, self.bob)
        self.network.settle()
        self.successResultOf(renaming)
        self.assertEqual(("join", "Bob"), self.members(self.bob)[-1])


class DeparturesTests(NetworkTestCase):
    def test_bounded(self) -> None:
        """The oldest are forgotten when there are very many."""
        departures = Departures()
        for number in range(MAX_DEPARTURES + 1):
            departures.note("!r:x", f"@u{number}:x", "leave")
        self.assertFalse(departures.under_way("!r:x", "@u0:x"))
        self.assertTrue(departures.under_way("!r:x", "@u1:x"))
        departures.note("!r:x", "@new:x", "invite")
        self.assertFalse(departures.under_way("!r:x", "@new:x"))
