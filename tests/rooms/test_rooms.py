"""Rooms over three servers: a hub and two participants."""

from __future__ import annotations

from lmatrix.errors import Forbidden
from tests.rooms.network import NetworkTestCase, done


class RoomTests(NetworkTestCase):
    """What users of several servers can do in one room."""

    def test_everybody_sees_the_same_room(self) -> None:
        """Messages of users of all servers arrive everywhere, in the hub's order, byte for byte."""
        for version in ("I.1", "org.matrix.i-d.ralston-mimi-linearized-matrix.02"):
            room_id = self.shared_room(version)
            self.say(self.hub, room_id, self.alice, "from the hub")
            self.say(self.north, room_id, self.bob, "from the north")
            self.say(self.south, room_id, self.carol, "from the south")
            for server in self.network.servers.values():
                self.assertEqual(["from the hub", "from the north", "from the south"], server.bodies(room_id))
            self.assert_same_order(room_id)

    def test_a_participant_learns_the_event_id(self) -> None:
        """The ID that a sender is given is the event's ID in everybody's log."""
        room_id = self.shared_room()
        event_id = self.say(self.north, room_id, self.bob, "hello")
        for server in self.network.servers.values():
            self.assertIn(event_id, [event.event_id for event in server.log(room_id)])

    def test_users_who_are_not_there_cannot_send(self) -> None:
        """A server that is not in a room refuses its users' events."""
        room_id = self.hub.create_room(self.alice)
        self.failureResultOf(self.north.send(room_id, self.bob, "hello"), Forbidden)
        self.assertIsNone(done(self.north.floor.rooms.load(room_id)))
