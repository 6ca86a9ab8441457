"""Real servers whose users and rooms have names."""

from __future__ import annotations

from tests.end_to_end.client_user import ClientUser, place
from tests.end_to_end.processes import EndToEndTestCase, eventually
from tests.end_to_end.wire_events import JsonObject


class NamesTests(EndToEndTestCase):
    """Two servers."""

    async def member(self, viewer: ClientUser, room_id: str, user: ClientUser) -> JsonObject:
        """A member event's content, as somebody sees it; empty when it is not there."""
        answer = await viewer.request("GET", place("rooms", room_id, "state", "m.room.member", user.user_id))
        content: JsonObject = answer.json if answer.status == 200 else {}
        return content

    async def called(self, viewer: ClientUser, room_id: str, user: ClientUser, name: str) -> None:
        """Wait until somebody sees a user under a name."""

        async def is_so() -> bool:
            return (await self.member(viewer, room_id, user)).get("displayname") == name

        await eventually(f"{viewer.user_id} sees {user.user_id} as {name}", is_so)

    async def name(self, user: ClientUser, name: str) -> None:
        """Set a display name."""
        await user.call("PUT", place("profile", user.user_id, "displayname"), {"displayname": name})

    async def test_names(self) -> None:
        """A user joins a room of another server by its alias, sees who is there by name, and hears of a new name.

        The profile is told over federation, too; the change is told, across the kill of the server whose user made it,
        to rooms of either hub; and an alias that was removed leads nowhere.
        """
        one, two = await self.start_servers("one", "two")
        alice, bob = await self.user(one, "alice"), await self.user(two, "bob")
        await self.name(alice, "Alice Liddell")
        await self.name(bob, "Bob the Builder")
        await alice.call("PUT", place("profile", alice.user_id, "avatar_url"), {"avatar_url": "mxc://a/alice"})
        alias = f"#wonderland:{one.server_name}"
        room_id = await alice.create_room(preset="public_chat", room_alias_name="wonderland")

        found = await bob.call("GET", place("directory", "room", alias))
        self.assertEqual({"room_id": room_id, "servers": [one.server_name]}, found)
        self.assertEqual({"room_id": room_id}, await bob.call("POST", place("join", alias), {}))
        called = {"membership": "join", "displayname": "Alice Liddell", "avatar_url": "mxc://a/alice"}
        self.assertEqual(called, await self.member(bob, room_id, alice))
        await self.called(alice, room_id, bob, "Bob the Builder")
        self.assertEqual(alias, (await bob.state(room_id))["m.room.canonical_alias", ""]["alias"])
        profile = await bob.call("GET", place("profile", alice.user_id))
        self.assertEqual({"displayname": "Alice Liddell", "avatar_url": "mxc://a/alice"}, profile)

        theirs = await bob.create_room(preset="public_chat")
        await alice.join(theirs, two.server_name)
        await self.name(alice, "Queen Alice")
        await self.called(bob, room_id, alice, "Queen Alice")
        await self.called(bob, theirs, alice, "Queen Alice")

        # The hub of one of the rooms is away while the name changes, and the server of the user dies before it is back.
        await two.stop()
        await self.name(alice, "Alice")
        await one.kill()
        await one.start()
        await two.start()
        for viewer in (alice, bob):
            await self.called(viewer, room_id, alice, "Alice")
            await self.called(viewer, theirs, alice, "Alice")

        await alice.call("DELETE", place("directory", "room", alias))
        self.assertNotIn("alias", (await alice.state(room_id))["m.room.canonical_alias", ""])
        gone = await alice.request("POST", place("join", alias), {})
        self.assertEqual((404, "M_NOT_FOUND"), (gone.status, gone.errcode))
