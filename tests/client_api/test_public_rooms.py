"""The list of public rooms: who is in it, who says so, and what it tells."""

from __future__ import annotations

from typing import Any

from lmatrix.directory.public_rooms import LISTED_ANEW_S, MAX_NAME, MAX_TOPIC
from tests.client_api.harness import ClientTestCase, User, enc


class PublicRoomsTestCase(ClientTestCase):
    def listed(self, user: User, **body: Any) -> list[str]:
        """Room IDs, in the list's order."""
        return [room["room_id"] for room in user.ok("POST", "/publicRooms", body)["chunk"]]

    def public_room(self, user: User, **body: Any) -> str:
        return user.create_room(visibility="public", **body)

    def visibility(self, room_id: str) -> Any:
        """As anybody sees it."""
        status, answer = self.hub.call("GET", f"/directory/list/room/{enc(room_id)}")
        self.assertEqual(status, 200, answer)
        return answer["visibility"]


class ListTests(PublicRoomsTestCase):
    def test_created(self) -> None:
        """A room that is created as public is listed at once, one that is not is not."""
        self.assertEqual(self.listed(self.alice), [])
        private = self.alice.create_room()
        public = self.public_room(self.alice)
        self.assertEqual(self.listed(self.anna), [public])
        self.assertEqual([self.visibility(public), self.visibility(private)], ["public", "private"])

    def test_what_is_told(self) -> None:
        """What a room is called and about, how large it is, and who gets in; to whoever asks."""
        bare = self.public_room(self.alice)
        full = self.public_room(
            self.alice,
            preset="private_chat",
            name="Wonderland",
            topic="Down the rabbit hole",
            room_alias_name="wonderland",
            creation_content={"type": "m.space"},
            initial_state=[
                {"type": "m.room.avatar", "content": {"url": "mxc://x/y"}},
                {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}},
            ],
        )
        for user in (self.anna, self.bob):
            self.alice.ok("POST", f"/rooms/{enc(full)}/invite", {"user_id": user.user_id})
            user.join(full, "hub.example")
        expected = [
            {
                "room_id": full,
                "name": "Wonderland",
                "topic": "Down the rabbit hole",
                "canonical_alias": "#wonderland:hub.example",
                "avatar_url": "mxc://x/y",
                "join_rule": "invite",
                "room_type": "m.space",
                "num_joined_members": 3,
                "world_readable": True,
                "guest_can_join": True,
            },
            {
                "room_id": bare,
                "join_rule": "public",
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
            },
        ]
        answer = {"chunk": expected, "total_room_count_estimate": 2}
        self.assertEqual(self.hub.call("GET", "/publicRooms"), (200, answer))
        self.assertEqual(self.anna.ok("POST", "/publicRooms", {}), answer)

    def test_strange_state(self) -> None:
        """Whatever the state says, what is told is bounded and has the right types."""
        room_id = self.public_room(self.alice)
        self.alice.set_state(room_id, "m.room.name", {"name": "n" * 3000})
        self.alice.set_state(room_id, "m.room.topic", {"topic": "t" * 30000})
        self.alice.set_state(room_id, "m.room.avatar", {"url": 5})
        self.alice.set_state(room_id, "m.room.guest_access", {"guest_access": []})
        [room] = self.hub.call("GET", "/publicRooms")[1]["chunk"]
        self.assertEqual((len(room["name"]), len(room["topic"])), (MAX_NAME, MAX_TOPIC))
        self.assertNotIn("avatar_url", room)
        self.assertIs(room["guest_can_join"], False)

    def test_pages(self) -> None:
        """Page by page, forwards and back, the largest rooms first."""
        rooms = sorted(self.public_room(self.alice) for _ in range(5))
        self.anna.join(rooms[3])
        ordered = [rooms[3], *rooms[:3], rooms[4]]
        found: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        answers = []
        while True:
            status, answer = self.hub.call("GET", "/publicRooms", query=query)
            self.assertEqual((status, answer["total_room_count_estimate"]), (200, 5))
            answers.append(answer)
            found += [room["room_id"] for room in answer["chunk"]]
            if "next_batch" not in answer:
                break
            query["since"] = answer["next_batch"]
        self.assertEqual(found, ordered)
        self.assertNotIn("prev_batch", answers[0])
        back = self.hub.call("GET", "/publicRooms", query={"limit": 2, "since": answers[1]["prev_batch"]})
        self.assertEqual(back, (200, answers[0]))

    def test_search(self) -> None:
        """By a term in name, topic or main alias, in any case; by room type."""
        named = self.public_room(self.alice, name="Straße der Lieder")
        about = self.public_room(self.alice, topic="songs")
        called = self.public_room(self.alice, room_alias_name="songbook")
        space = self.public_room(self.alice, creation_content={"type": "m.space"})

        def search(term: str) -> set[str]:
            return set(self.listed(self.anna, filter={"generic_search_term": term}))

        self.assertEqual(search("SONG"), {about, called})
        self.assertEqual(search("STRASSE"), {named})
        self.assertEqual(search("nothing"), set())
        self.assertEqual(len(search("")), 4)
        self.assertEqual(self.listed(self.anna, filter={"room_types": ["m.space"]}), [space])
        self.assertEqual(set(self.listed(self.anna, filter={"room_types": [None]})), {named, about, called})
        self.assertEqual(self.listed(self.anna, third_party_instance_id="irc"), [])

    def test_read_seldom(self) -> None:
        """Changes of a listed room show within a minute, and the database is not asked more often than that."""
        room_id = self.public_room(self.alice, name="Before")
        names = lambda: [room["name"] for room in self.hub.call("GET", "/publicRooms")[1]["chunk"]]  # noqa: E731
        self.assertEqual(names(), ["Before"])
        self.alice.set_state(room_id, "m.room.name", {"name": "After"})
        self.assertEqual(names(), ["Before"])
        self.network.clock.advance(LISTED_ANEW_S)
        self.assertEqual(names(), ["After"])

    def test_nobody_there(self) -> None:
        """A room that all users of this server have left is not listed."""
        room_id = self.public_room(self.alice)
        self.bob.join(room_id, "hub.example")
        self.assertEqual(self.listed(self.anna), [room_id])
        self.alice.leave(room_id)
        self.network.clock.advance(LISTED_ANEW_S)
        self.assertEqual(self.listed(self.anna), [])


class VisibilityTests(PublicRoomsTestCase):
    def put(self, user: User, room_id: str, visibility: Any) -> Any:
        return user.call("PUT", f"/directory/list/room/{enc(room_id)}", {"visibility": visibility})

    def test_changed(self) -> None:
        """Whoever may name the room lists it, or does not; it shows at once."""
        room_id = self.alice.create_room()
        self.assertEqual(self.put(self.alice, room_id, "public"), (200, {}))
        self.assertEqual((self.listed(self.anna), self.visibility(room_id)), ([room_id], "public"))
        self.assertEqual(self.put(self.alice, room_id, "private"), (200, {}))
        self.assertEqual((self.listed(self.anna), self.visibility(room_id)), ([], "private"))
        self.alice.ok("PUT", f"/directory/list/room/{enc(room_id)}", {})
        self.assertEqual(self.listed(self.anna), [room_id])

    def test_at_another_hub(self) -> None:
        """Each server has a list of its own."""
        levels = {"users": {self.bob.user_id: 100, self.alice.user_id: 50}}
        room_id = self.bob.create_room(power_level_content_override=levels)
        self.alice.join(room_id, "north.example")
        self.assertEqual(self.put(self.alice, room_id, "public"), (200, {}))
        self.assertEqual((self.listed(self.anna), self.listed(self.bob)), ([room_id], []))

    def test_refused(self) -> None:
        """Others may not; what is no visibility is refused; a room that there is not is 404."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        self.assert_refused(self.put(self.anna, room_id, "public"), 403, "M_FORBIDDEN")
        self.assert_refused(self.put(self.alice, room_id, "secret"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.put(self.alice, room_id, 5), 400, "M_BAD_JSON")
        self.assert_refused(self.put(self.alice, "!unknown:hub.example", "public"), 404, "M_NOT_FOUND")
        unknown = self.hub.call("GET", f"/directory/list/room/{enc('!unknown:hub.example')}")
        self.assert_refused(unknown, 404, "M_NOT_FOUND")
        self.assertEqual(self.listed(self.alice), [])

    def test_bad_queries(self) -> None:
        """Nonsense, and lists of other servers."""
        for query in ({"limit": "x"}, {"limit": -1}, {"since": "next"}, {"server": "north.example"}):
            self.assert_refused(self.hub.call("GET", "/publicRooms", query=query), 400, "M_INVALID_PARAM")
        elsewhere = self.alice.call("POST", "/publicRooms", {}, server="north.example")
        self.assert_refused(elsewhere, 400, "M_INVALID_PARAM")
        self.assertEqual(self.hub.call("GET", "/publicRooms", query={"server": "hub.example"})[0], 200)
        self.assert_refused(self.alice.call("POST", "/publicRooms", {"filter": 5}), 400, "M_BAD_JSON")
