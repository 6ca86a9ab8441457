"""Display names and avatars: set, shown, told in rooms and across servers."""

from __future__ import annotations

from typing import Any

from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.directory.lookups import REFUSAL_REMEMBERED_S, REMEMBERED_S
from lmatrix.directory.profiles import MAX_AVATAR_URL, MAX_DISPLAYNAME, Profile
from lmatrix.http.limits import RateLimiter
from tests.client_api.harness import ClientServer, ClientTestCase, User, enc
from tests.rooms.network import Network

AVATAR = "mxc://hub.example/alice"


def profile_of(user_id: str, field: str = "") -> str:
    """The path of a profile, or of a field of it."""
    return f"/profile/{enc(user_id)}" + (f"/{field}" if field else "")


class ProfileTestCase(ClientTestCase):
    def set_name(self, user: User, name: str | None) -> None:
        """Change a display name, and let the rooms be told."""
        user.ok("PUT", profile_of(user.user_id, "displayname"), {"displayname": name})
        self.settle()

    def settle(self) -> None:
        """What goes on beside requests comes to its end, as far as it needs no time."""
        for _ in range(20):
            self.network.settle()
            self.network.clock.advance(0)

    def member(self, viewer: User, room_id: str, user: User) -> Any:
        """A member event's content, as somebody sees it."""
        return viewer.ok("GET", f"/rooms/{enc(room_id)}/state/m.room.member/{enc(user.user_id)}")


class EndpointTests(ProfileTestCase):
    """What clients set and see."""

    def test_set_and_show(self) -> None:
        """Nothing is set at first; what is set is shown to whoever asks, whole and by field; ``null`` and "" unset."""
        alice = self.alice.user_id
        self.assertEqual(self.hub.call("GET", profile_of(alice)), (200, {}))
        self.alice.ok("PUT", profile_of(alice, "displayname"), {"displayname": "Alice ✨"})
        self.alice.ok("PUT", profile_of(alice, "avatar_url"), {"avatar_url": AVATAR})
        whole = {"displayname": "Alice ✨", "avatar_url": AVATAR}
        self.assertEqual(self.hub.call("GET", profile_of(alice)), (200, whole))
        for field, value in whole.items():
            for path in (profile_of(alice, field), "/_matrix/client/r0" + profile_of(alice, field)):
                self.assertEqual(self.hub.call("GET", path), (200, {field: value}))
        self.alice.ok("PUT", profile_of(alice, "displayname"), {"displayname": None})
        self.assertEqual(self.anna.ok("GET", profile_of(alice)), {"avatar_url": AVATAR})
        self.alice.ok("PUT", profile_of(alice, "avatar_url"), {"avatar_url": ""})
        self.assertEqual(self.anna.ok("GET", profile_of(alice)), {})

    def test_only_ones_own(self) -> None:
        """Nobody changes the profile of somebody else."""
        for whose in (self.anna.user_id, "@nobody:hub.example", self.bob.user_id):
            for field in ("displayname", "avatar_url"):
                refused = self.alice.call("PUT", profile_of(whose, field), {field: "x"})
                self.assert_refused(refused, 403, "M_FORBIDDEN")
        self.assertEqual(self.anna.ok("GET", profile_of(self.anna.user_id)), {})

    def test_bad_requests(self) -> None:
        """What is missing, of the wrong type, or too long changes nothing."""
        alice = self.alice.user_id
        for field, longest in (("displayname", MAX_DISPLAYNAME), ("avatar_url", MAX_AVATAR_URL)):
            path = profile_of(alice, field)
            self.alice.ok("PUT", path, {field: "ä" * longest})
            for body, errcode in (
                ({}, "M_MISSING_PARAM"),
                ({"name": "x"}, "M_MISSING_PARAM"),
                ({field: 5}, "M_BAD_JSON"),
                ({field: ["x"]}, "M_BAD_JSON"),
                ({field: "x" * (longest + 1)}, "M_INVALID_PARAM"),
            ):
                self.assert_refused(self.alice.call("PUT", path, body), 400, errcode)
            self.assertEqual(self.alice.ok("GET", path), {field: "ä" * longest})
        self.assert_refused(self.alice.call("GET", profile_of("alice")), 400, "M_INVALID_PARAM")

    def test_unknown_users(self) -> None:
        """Who does not exist has no profile."""
        for path in (profile_of("@nobody:hub.example"), profile_of("@nobody:hub.example", "displayname")):
            self.assert_refused(self.hub.call("GET", path), 404, "M_NOT_FOUND")


class OtherServersTests(ProfileTestCase):
    """Profiles of other servers' users."""

    def test_asked_for(self) -> None:
        """A user of another server has the profile that its server tells; it is asked once for some time."""
        self.set_name(self.alice, "Alice")
        path = profile_of(self.alice.user_id)
        self.assertEqual(self.bob.ok("GET", path), {"displayname": "Alice"})
        self.set_name(self.alice, "Alicia")
        self.assertEqual(self.bob.ok("GET", path + "/displayname"), {"displayname": "Alice"})
        self.assertEqual(self.network.requests.count(("north.example", "hub.example", "profile")), 1)
        self.network.clock.advance(REMEMBERED_S)
        self.assertEqual(self.bob.ok("GET", path), {"displayname": "Alicia"})

    def test_only_for_users(self) -> None:
        """Whoever is not logged in cannot have another server asked."""
        path = profile_of(self.alice.user_id)
        self.assert_refused(self.north.call("GET", path), 403, "M_FORBIDDEN")
        self.assert_refused(self.north.call("GET", path, token="lmt_bad"), 401, "M_UNKNOWN_TOKEN")
        self.assertEqual(self.network.requests, [])

    def test_limited(self) -> None:
        """Asking another server counts like a change; asking this one does not count."""

        def limits(network: Network) -> ClientLimits:
            return ClientLimits(changes=RateLimiter(1, 2, network.clock))

        carol = ClientServer(self.network, "south.example", limits=limits).user("carol")
        for _ in range(5):
            carol.ok("GET", profile_of(carol.user_id))
        statuses = [carol.call("GET", profile_of(f"@nobody{n}:hub.example"))[0] for n in range(3)]
        self.assertEqual(statuses, [404, 404, 429])
        self.assert_refused(carol.call("GET", f"/directory/room/{enc('#x:hub.example')}"), 429, "M_LIMIT_EXCEEDED")

    def test_failures(self) -> None:
        """Who is unknown there is unknown; a server that cannot be reached is 502; both are forgotten soon."""
        ghost = profile_of("@ghost:hub.example")
        self.assert_refused(self.bob.call("GET", ghost), 404, "M_NOT_FOUND")
        self.assert_refused(self.bob.call("GET", profile_of("@x:nowhere.example")), 502, "M_UNKNOWN")
        asked = len(self.network.requests)
        self.hub.user("ghost")
        self.assert_refused(self.bob.call("GET", ghost), 404, "M_NOT_FOUND")
        self.assertEqual(len(self.network.requests), asked)
        self.network.clock.advance(REFUSAL_REMEMBERED_S)
        self.assertEqual(self.bob.ok("GET", ghost), {})


class RoomsTests(ProfileTestCase):
    """Names in rooms."""

    def setUp(self) -> None:
        super().setUp()
        for user, name in ((self.alice, "Alice"), (self.anna, "Anna"), (self.bob, "Bob")):
            self.set_name(user, name)
            user.ok("PUT", profile_of(user.user_id, "avatar_url"), {"avatar_url": f"mxc://x/{name}"})

    def called(self, name: str, membership: str = "join") -> Any:
        return {"membership": membership, "displayname": name, "avatar_url": f"mxc://x/{name}"}

    def test_in_member_events(self) -> None:
        """Creators, those who join here or elsewhere, local users who are invited, and those who knock."""
        room_id = self.alice.create_room(invite=[self.anna.user_id])
        self.assertEqual(self.member(self.alice, room_id, self.alice), self.called("Alice"))
        self.assertEqual(self.member(self.alice, room_id, self.anna), self.called("Anna", "invite"))
        self.anna.join(room_id)
        self.bob.join(room_id, "hub.example")
        self.assertEqual(self.member(self.alice, room_id, self.anna), self.called("Anna"))
        self.assertEqual(self.member(self.alice, room_id, self.bob), self.called("Bob"))
        rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        knockable = self.alice.create_room(initial_state=[rules])
        for user, name in ((self.anna, "Anna"), (self.bob, "Bob")):
            user.ok("POST", f"/knock/{enc(knockable)}", {"reason": "please"}, via="hub.example")
            expected = {**self.called(name, "knock"), "reason": "please"}
            self.assertEqual(self.member(self.alice, knockable, user), expected)

    def test_other_servers_users_are_not_named(self) -> None:
        """What somebody of another server is called that server says, when the invite is accepted."""
        room_id = self.alice.create_room()
        self.alice.ok("POST", f"/rooms/{enc(room_id)}/invite", {"user_id": self.bob.user_id})
        self.assertEqual(self.member(self.alice, room_id, self.bob), {"membership": "invite"})

    def test_leaving(self) -> None:
        """Who leaves or is banned is not named again."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        self.anna.leave(room_id)
        self.assertEqual(self.member(self.alice, room_id, self.anna), {"membership": "leave"})

    def test_changes_are_told(self) -> None:
        """A change becomes a member event in each room that one is joined to, here and at other hubs; nowhere else."""
        ours, theirs, left = self.alice.create_room(), self.bob.create_room(), self.alice.create_room()
        invited = self.bob.create_room(invite=[self.anna.user_id])
        for room_id in (ours, theirs, left):
            self.anna.join(room_id, "hub.example", "north.example")
        self.bob.join(ours, "hub.example")
        self.anna.leave(left)
        since = self.bob.sync()["next_batch"]
        self.set_name(self.anna, "Anne")
        for room_id in (ours, theirs):
            member = self.member(self.bob, room_id, self.anna)
            self.assertEqual(member, {**self.called("Anna"), "displayname": "Anne"})
        news = self.bob.sync(since)["rooms"]["join"]
        self.assertEqual(
            {room_id: [event["type"] for event in room["timeline"]["events"]] for room_id, room in news.items()},
            {ours: ["m.room.member"], theirs: ["m.room.member"]},
        )
        before = news[ours]["timeline"]["events"][0]["unsigned"]["prev_content"]
        self.assertEqual(before["displayname"], "Anna")
        self.assertEqual(self.member(self.alice, left, self.anna), {"membership": "leave"})
        self.assertEqual(self.member(self.bob, invited, self.anna)["membership"], "invite")

    def test_what_changes_nothing_is_not_told(self) -> None:
        """The name that one has already makes no event."""
        room_id = self.alice.create_room()
        since = self.alice.sync()["next_batch"]
        self.set_name(self.alice, "Alice")
        self.assertEqual(self.alice.sync(since)["rooms"]["join"], {})
        self.assertEqual(self.member(self.alice, room_id, self.alice), self.called("Alice"))

    def test_unset(self) -> None:
        """Who has no name any more is not named."""
        room_id = self.alice.create_room()
        self.set_name(self.alice, None)
        self.assertNotIn("displayname", self.member(self.alice, room_id, self.alice))

    def test_a_room_that_fails(self) -> None:
        """A room whose hub does not answer keeps no other room from being told, and is told when the hub is back."""
        ours, theirs = self.alice.create_room(), self.bob.create_room()
        self.alice.join(theirs, "north.example")
        self.network.unreachable.add("north.example")
        self.set_name(self.alice, "Alicia")
        self.assertEqual(self.member(self.alice, ours, self.alice)["displayname"], "Alicia")
        self.assertEqual(self.member(self.bob, theirs, self.alice)["displayname"], "Alice")
        self.network.clock.advance(60)
        self.network.unreachable.clear()
        self.settle()
        self.assertEqual(self.member(self.bob, theirs, self.alice)["displayname"], "Alicia")

    def test_the_last_change_counts(self) -> None:
        """Of changes that come while the rooms are being told, the last is what they know in the end."""
        theirs = self.bob.create_room()
        self.alice.join(theirs, "north.example")
        self.network.unreachable.add("north.example")
        for number in range(10):
            self.set_name(self.alice, f"Alice {number}")
        self.network.unreachable.clear()
        self.network.clock.advance(60)
        self.settle()
        self.assertEqual(self.member(self.bob, theirs, self.alice)["displayname"], "Alice 9")
        events = self.bob.messages(theirs, limit=50)["chunk"]
        told = [event["content"].get("displayname") for event in events if event.get("state_key") == self.alice.user_id]
        self.assertEqual(told, ["Alice 9", "Alice 0", "Alice"])

    def test_restart(self) -> None:
        """A change whose telling was cut off by the end of the server is told after its next start."""
        room_id = self.alice.create_room()
        server = self.hub.server
        self.successResultOf(
            server.database.write(
                lambda tx: self.hub.names.stores.profiles.put_profile(tx, self.alice.user_id, Profile("Alicia"))
            )
        )
        self.hub.restart()
        self.network.finished(self.hub.names.floor.changes.resume())
        self.settle()
        self.assertEqual(self.member(self.alice, room_id, self.alice)["displayname"], "Alicia")
        since = self.alice.sync()["next_batch"]
        self.hub.restart()
        self.network.finished(self.hub.names.floor.changes.resume())
        self.settle()
        self.assertEqual(self.alice.sync(since)["rooms"]["join"], {})


class NamesByHandTests(ProfileTestCase):
    """A name for one room."""

    def test_by_hand(self) -> None:
        """A member event that a client sends itself says what the client wants, until the profile changes."""
        room_id = self.alice.create_room()
        content = {"membership": "join", "displayname": "The Chair"}
        self.alice.set_state(room_id, "m.room.member", content, self.alice.user_id)
        self.assertEqual(self.member(self.alice, room_id, self.alice), content)
        self.set_name(self.alice, "Alice")
        self.assertEqual(self.member(self.alice, room_id, self.alice)["displayname"], "Alice")


class ServersTests(ProfileTestCase):
    """More servers than two."""

    def test_three_servers(self) -> None:
        """Participants see each other's names through the hub."""
        south = ClientServer(self.network, "south.example")
        carol = south.user("carol")
        room_id = self.alice.create_room()
        self.set_name(self.bob, "Bob")
        self.bob.join(room_id, "hub.example")
        carol.join(room_id, "hub.example")
        self.assertEqual(self.member(carol, room_id, self.bob)["displayname"], "Bob")
        self.set_name(self.bob, "Robert")
        self.assertEqual(self.member(carol, room_id, self.bob)["displayname"], "Robert")
