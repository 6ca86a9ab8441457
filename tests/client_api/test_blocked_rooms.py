"""A blocked room, as its users see it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.policies.builtin import BLOCKED, BlockedRooms
from lmatrix.policies.panel import Panel
from tests.client_api.harness import ClientServer, enc
from tests.rooms.network import Network


class BlockedRoomTests(SynchronousTestCase):
    """A room with a user of ours in it, which is then blocked."""

    def setUp(self) -> None:
        self.network = Network()
        self.hub = ClientServer(self.network, "hub.example")
        self.north = ClientServer(self.network, "north.example")
        self.alice, self.bob = self.hub.user("alice"), self.north.user("bob")
        self.room_id = self.alice.ok("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
        self.bob.ok("POST", f"/join/{self.room_id}", {}, via=self.hub.server.name)
        self.event_id = self.alice.ok(
            "PUT", f"/rooms/{self.room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "secret"}
        )["event_id"]
        self.network.settle()
        self.since = self.bob.ok("GET", "/sync")["next_batch"]

    def block(self) -> None:
        blocked = BlockedRooms([self.room_id])
        self.north.server.policies = Panel([blocked], clock=self.network.clock, metrics=self.north.server.metrics)
        self.north.restart()

    def test_nothing_can_be_read_or_done(self) -> None:
        """Every endpoint of the room says that it is blocked."""
        room, bob = f"/rooms/{self.room_id}", self.bob
        self.assertEqual(bob.call("GET", f"{room}/messages", dir="b")[0], 200)
        self.block()
        for method, path in (
            ("GET", f"{room}/messages?dir=b"),
            ("GET", f"{room}/state"),
            ("GET", f"{room}/members"),
            ("GET", f"{room}/joined_members"),
            ("GET", f"{room}/event/{self.event_id}"),
            ("GET", f"{room}/aliases"),
            ("PUT", f"{room}/send/m.room.message/2"),
            ("PUT", f"{room}/state/m.room.topic/"),
            ("POST", f"{room}/invite"),
            ("PUT", f"{room}/typing/{bob.user_id}"),
            ("POST", f"{room}/receipt/m.read/{self.event_id}"),
            ("POST", f"/join/{self.room_id}"),
            ("POST", f"{room}/join"),
            ("POST", f"/knock/{self.room_id}"),
        ):
            status, answer = bob.call(method, path, {} if method != "GET" else None)
            self.assertEqual((status, answer.get("errcode"), answer.get("error")), (403, "M_FORBIDDEN", BLOCKED), path)
        self.assertEqual(self.alice.call("GET", f"{room}/state")[0], 200)

    def test_it_has_no_name(self) -> None:
        """No alias of ours leads there, none can be made, and it is neither listed nor can be."""
        alias, listing = f"/directory/room/{enc('#here:north.example')}", f"/directory/list/room/{self.room_id}"
        levels = {"users": {self.alice.user_id: 100, self.bob.user_id: 50}}
        self.alice.ok("PUT", f"/rooms/{self.room_id}/state/m.room.power_levels/", levels)
        self.network.settle()
        self.bob.ok("PUT", alias, {"room_id": self.room_id})
        self.bob.ok("PUT", listing, {"visibility": "public"})
        other = self.bob.ok("POST", "/createRoom", {"visibility": "public"})["room_id"]
        self.assertEqual(len(self.bob.ok("GET", "/publicRooms")["chunk"]), 2)
        self.block()
        more = alias.replace("here", "there")
        for method, path, body in (
            ("GET", alias, None),
            ("PUT", more, {"room_id": self.room_id}),
            ("PUT", listing, {"visibility": "public"}),
            ("POST", f"/join/{enc('#here:north.example')}", {}),
        ):
            status, answer = self.bob.call(method, path, body)
            self.assertEqual((status, answer.get("errcode"), answer.get("error")), (403, "M_FORBIDDEN", BLOCKED), path)
        self.assertEqual([room["room_id"] for room in self.bob.ok("GET", "/publicRooms")["chunk"]], [other])
        self.assertEqual(self.alice.call("GET", alias)[0], 403)
        self.bob.ok("DELETE", alias)

    def test_sync_does_not_tell_of_it(self) -> None:
        """Neither what is new nor, to a new device, what is there; another room is told of."""
        other = self.alice.ok("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
        self.bob.ok("POST", f"/join/{other}", {}, via=self.hub.server.name)
        self.block()
        for since in ({}, {"since": self.since}):
            answer = self.bob.ok("GET", "/sync", **since)
            self.assertEqual(list(answer["rooms"]["join"]), [other])
            self.assertNotIn("secret", str(answer))

    def test_users_are_led_out_and_told_so(self) -> None:
        """After that, sync has that they have left, and nothing of what was said; they may forget the room."""
        self.alice.ok("PUT", f"/rooms/{self.room_id}/send/m.room.message/3", {"msgtype": "m.text", "body": "secret 2"})
        self.network.settle()
        self.block()
        self.north.server.floor.leading_out.sweep_soon()
        self.network.settle()
        answer = self.bob.ok("GET", "/sync", since=self.since)
        self.assertNotIn(self.room_id, answer["rooms"]["join"])
        [event] = answer["rooms"]["leave"][self.room_id]["timeline"]["events"]
        self.assertEqual((event["type"], event["state_key"]), ("m.room.member", self.bob.user_id))
        self.assertEqual(event["content"]["membership"], "leave")
        self.assertNotIn("secret", str(answer))
        self.bob.ok("POST", f"/rooms/{self.room_id}/forget", {})

    def test_leaving_is_allowed(self) -> None:
        """Whoever wants to leave by themselves can."""
        self.block()
        self.bob.ok("POST", f"/rooms/{self.room_id}/leave", {})
