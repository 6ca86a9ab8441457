"""Rooms through the client API: making them, who is in them, sending into them."""

from __future__ import annotations

from typing import Any

from tests.client_api.harness import ClientTestCase, User, bodies, enc

V02 = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"


class RoomTestCase(ClientTestCase):
    """With a few helpers."""

    def state(self, user: User, room_id: str, event_type: str, state_key: str = "") -> Any:
        return user.ok("GET", f"/rooms/{enc(room_id)}/state/{event_type}/{enc(state_key)}")

    def membership(self, user: User, room_id: str, whose: User) -> str:
        return str(self.state(user, room_id, "m.room.member", whose.user_id)["membership"])

    def act(self, user: User, room_id: str, what: str, whom: User | None = None, **body: Any) -> tuple[int, Any]:
        if whom is not None:
            body["user_id"] = whom.user_id
        return user.call("POST", f"/rooms/{enc(room_id)}/{what}", body)


class CreateRoomTests(RoomTestCase):
    """``/createRoom``."""

    def test_everything_asked_for(self) -> None:
        """Each part of the request is found in the room's state."""
        room_id = self.alice.create_room(
            preset="private_chat",
            name="The room",
            topic="What it is about",
            invite=[self.anna.user_id, self.bob.user_id],
            initial_state=[{"type": "org.example", "state_key": "k", "content": {"a": 1}}],
            creation_content={"m.federate": True, "room_version": "7", "org.example": "kept"},
            power_level_content_override={"events_default": 7},
            is_direct=True,
        )
        create = self.state(self.alice, room_id, "m.room.create")
        self.assertEqual((create["room_version"], create["org.example"]), ("I.1", "kept"))
        self.assertEqual(self.state(self.alice, room_id, "m.room.name"), {"name": "The room"})
        self.assertEqual(self.state(self.alice, room_id, "m.room.topic"), {"topic": "What it is about"})
        self.assertEqual(self.state(self.alice, room_id, "org.example", "k"), {"a": 1})
        self.assertEqual(self.state(self.alice, room_id, "m.room.power_levels")["events_default"], 7)
        self.assertEqual(self.state(self.alice, room_id, "m.room.join_rules"), {"join_rule": "invite"})
        self.assertEqual(self.membership(self.alice, room_id, self.anna), "invite")
        self.assertEqual(self.membership(self.alice, room_id, self.bob), "invite")

    def test_nothing_asked_for(self) -> None:
        """An empty body makes a private room of the default version."""
        room_id = self.alice.ok("POST", "/createRoom")["room_id"]
        self.assertEqual(self.state(self.alice, room_id, "m.room.create")["room_version"], "I.1")
        self.assertEqual(self.state(self.alice, room_id, "m.room.join_rules"), {"join_rule": "invite"})

    def test_versions(self) -> None:
        """The other version can be chosen, one that is not known cannot."""
        room_id = self.alice.create_room(room_version=V02)
        self.assertEqual(self.state(self.alice, room_id, "m.room.create")["room_version"], V02)
        refused = self.alice.call("POST", "/createRoom", {"room_version": "10"})
        self.assert_refused(refused, 400, "M_UNSUPPORTED_ROOM_VERSION")

    def test_visibility_chooses_the_preset(self) -> None:
        """A public room without a preset lets everybody join."""
        room_id = self.alice.ok("POST", "/createRoom", {"visibility": "public"})["room_id"]
        self.assertEqual(self.state(self.alice, room_id, "m.room.join_rules"), {"join_rule": "public"})

    def test_bad_requests(self) -> None:
        """What has the wrong type or cannot be done is refused, and makes no room."""
        for body, errcode in (
            ({"name": 7}, "M_BAD_JSON"),
            ({"invite": self.bob.user_id}, "M_BAD_JSON"),
            ({"invite": ["bob"]}, "M_INVALID_PARAM"),
            ({"initial_state": [{"type": "x"}]}, "M_BAD_JSON"),
            ({"initial_state": ["x"]}, "M_BAD_JSON"),
            ({"initial_state": [{"type": "m.room.create", "content": {}}]}, "M_BAD_JSON"),
            ({"power_level_content_override": []}, "M_BAD_JSON"),
            ({"power_level_content_override": {"ban": "high"}}, "M_INVALID_ROOM_STATE"),
            ({"initial_state": [{"type": "x" * 256, "content": {}}]}, "M_INVALID_ROOM_STATE"),
            ({"preset": "open_house"}, "M_INVALID_PARAM"),
            ({"visibility": "secret"}, "M_INVALID_PARAM"),
            ({"room_alias_name": "not here"}, "M_INVALID_PARAM"),
            (b"[]", "M_BAD_JSON"),
            (b"nonsense", "M_NOT_JSON"),
        ):
            with self.subTest(body=body):
                self.assert_refused(self.alice.call("POST", "/createRoom", body), 400, errcode)
        by_mail = self.alice.call("POST", "/createRoom", {"invite_3pid": [{"medium": "email"}]})
        self.assert_refused(by_mail, 403, "M_THREEPID_DENIED")
        self.assertEqual(self.alice.ok("GET", "/joined_rooms"), {"joined_rooms": []})


class MembershipTests(RoomTestCase):
    """Joining, leaving, inviting, kicking, banning."""

    def test_join_here_and_elsewhere(self) -> None:
        """A public room is joined by a local user, and by one of another server that is told through whom."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        status, answer = self.bob.call("POST", f"/rooms/{enc(room_id)}/join", {}, server_name="hub.example")
        self.assertEqual((status, answer), (200, {"room_id": room_id}))
        for user in (self.anna, self.bob):
            self.assertEqual(user.ok("GET", "/joined_rooms"), {"joined_rooms": [room_id]})
            self.assertEqual(self.membership(self.alice, room_id, user), "join")

    def test_join_twice(self) -> None:
        """Joining a room that one is in changes nothing."""
        room_id = self.alice.create_room()
        before = self.alice.sync()["next_batch"]
        self.alice.join(room_id)
        self.assertEqual(self.alice.sync(before)["rooms"]["join"], {})

    def test_join_refused(self) -> None:
        """A private room, a room that does not exist, and nonsense."""
        room_id = self.alice.create_room(preset="private_chat")
        self.assert_refused(self.anna.call("POST", f"/join/{enc(room_id)}", {}), 403, "M_FORBIDDEN")
        self.assert_refused(self.bob.call("POST", f"/join/{enc(room_id)}", {}, via="hub.example"), 403, "M_FORBIDDEN")
        self.assert_refused(self.bob.call("POST", f"/join/{enc('!x:nowhere.example')}", {}), 502, "M_UNKNOWN")
        self.assert_refused(self.bob.call("POST", "/join/nonsense", {}), 400, "M_INVALID_PARAM")
        bad_via = self.bob.call("POST", f"/join/{enc(room_id)}", {}, via="not a server")
        self.assert_refused(bad_via, 400, "M_INVALID_PARAM")

    def test_invite_and_leave(self) -> None:
        """Invited users of this and of another server join a private room, and leave it again."""
        room_id = self.alice.create_room(preset="private_chat")
        for user in (self.anna, self.bob):
            self.assertEqual(self.act(self.alice, room_id, "invite", user, reason="come")[0], 200)
            user.join(room_id)
            self.assertEqual(self.membership(self.alice, room_id, user), "join")
            user.leave(room_id)
            self.assertEqual(self.membership(self.alice, room_id, user), "leave")
            self.assertEqual(user.ok("GET", "/joined_rooms"), {"joined_rooms": []})

    def test_invite_refused(self) -> None:
        """By somebody who is not there, of somebody who is there, of nobody, of a nonsensical user."""
        room_id = self.alice.create_room()
        self.assert_refused(self.act(self.anna, room_id, "invite", self.bob), 403, "M_FORBIDDEN")
        self.assert_refused(self.act(self.alice, room_id, "invite", self.alice), 403, "M_FORBIDDEN")
        self.assert_refused(self.act(self.alice, room_id, "invite"), 400, "M_MISSING_PARAM")
        self.assert_refused(self.act(self.alice, room_id, "invite", user_id="bob"), 400, "M_INVALID_PARAM")
        by_mail = self.act(self.alice, room_id, "invite", medium="email", address="x@y", id_server="z")
        self.assert_refused(by_mail, 403, "M_THREEPID_DENIED")

    def test_kick(self) -> None:
        """Whoever may, kicks whoever is there; nobody else, and nobody who is not there."""
        room_id = self.alice.create_room()
        self.assert_refused(self.act(self.alice, room_id, "kick", self.anna), 403, "M_FORBIDDEN")
        self.anna.join(room_id)
        refused = self.assert_refused(self.act(self.anna, room_id, "kick", self.alice), 403, "M_FORBIDDEN")
        self.assertIn("power level", refused)
        self.assertEqual(self.act(self.alice, room_id, "kick", self.anna, reason="go"), (200, {}))
        kicked = self.state(self.alice, room_id, "m.room.member", self.anna.user_id)
        self.assertEqual(kicked, {"membership": "leave", "reason": "go"})

    def test_ban_and_unban(self) -> None:
        """A banned user stays out until unbanned; only who is banned can be unbanned."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        self.assertEqual(self.act(self.alice, room_id, "ban", self.bob)[0], 200)
        self.network.settle()
        self.assert_refused(self.bob.call("POST", f"/join/{enc(room_id)}", {}, via="hub.example"), 403, "M_FORBIDDEN")
        self.assertEqual(self.act(self.alice, room_id, "unban", self.bob)[0], 200)
        self.assert_refused(self.act(self.alice, room_id, "unban", self.bob), 403, "M_FORBIDDEN")
        self.bob.join(room_id, "hub.example")
        self.assertEqual(self.membership(self.alice, room_id, self.bob), "join")

    def test_forget(self) -> None:
        """A room that was left can be forgotten and then shows nothing; one that was not left cannot."""
        room_id = self.alice.create_room()
        self.anna.join(room_id)
        self.assert_refused(self.act(self.anna, room_id, "forget"), 400, "M_UNKNOWN")
        self.anna.leave(room_id)
        self.anna.messages(room_id)
        self.assertEqual(self.act(self.anna, room_id, "forget"), (200, {}))
        refused = self.anna.call("GET", f"/rooms/{enc(room_id)}/messages", dir="b")
        self.assert_refused(refused, 403, "M_FORBIDDEN")

    def test_members(self) -> None:
        """All members, those of one membership or of any but one, and who is joined, with their profiles."""
        room_id = self.alice.create_room()
        before = self.alice.sync()["next_batch"]
        self.anna.join(room_id)
        self.bob.join(room_id, "hub.example")
        self.anna.leave(room_id)
        profile = {"membership": "join", "displayname": "Bob", "avatar_url": "mxc://x/y"}
        self.bob.set_state(room_id, "m.room.member", profile, self.bob.user_id)
        self.network.settle()

        def members(**query: str) -> set[str]:
            chunk = self.alice.ok("GET", f"/rooms/{enc(room_id)}/members", **query)["chunk"]
            return {event["state_key"] for event in chunk}

        everybody = {user.user_id for user in (self.alice, self.anna, self.bob)}
        self.assertEqual(members(), everybody)
        self.assertEqual(members(membership="leave"), {self.anna.user_id})
        self.assertEqual(members(not_membership="leave"), everybody - {self.anna.user_id})
        self.assertEqual(members(at=before), {self.alice.user_id})
        joined = self.alice.ok("GET", f"/rooms/{enc(room_id)}/joined_members")["joined"]
        bob = {"display_name": "Bob", "avatar_url": "mxc://x/y"}
        self.assertEqual(joined, {self.alice.user_id: {}, self.bob.user_id: bob})
        self.assert_refused(self.anna.call("GET", f"/rooms/{enc(room_id)}/joined_members"), 403, "M_FORBIDDEN")


class SendingTests(RoomTestCase):
    """Messages, state, redactions."""

    def test_a_message_reaches_everybody(self) -> None:
        """What one says, on the hub or elsewhere, all read in one order, under one event ID."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        first, second = self.alice.say(room_id, "one"), self.bob.say(room_id, "two")
        self.network.settle()
        for user in (self.alice, self.bob):
            events = [event for event in user.messages(room_id)["chunk"] if event["type"] == "m.room.message"]
            self.assertEqual([event["event_id"] for event in events], [second, first])

    def test_a_transaction_is_carried_out_once(self) -> None:
        """The same transaction ID again gives the same event; on another device it is another transaction."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        for user in (self.alice, self.bob):
            first = user.say(room_id, "hello", "one")
            self.assertEqual(user.say(room_id, "hello", "one"), first)
            self.assertNotEqual(user.log_in_again("OTHER").say(room_id, "hello", "one"), first)

    def test_only_the_clients_view(self) -> None:
        """An event has what the API names, and nothing of how servers trust one another."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        event_id = self.bob.say(room_id, "hello")
        self.network.settle()
        event = self.alice.ok("GET", f"/rooms/{enc(room_id)}/event/{enc(event_id)}")
        names = {"type", "event_id", "sender", "origin_server_ts", "content", "room_id", "unsigned"}
        self.assertEqual(set(event), names)

    def test_transaction_ids_for_the_sending_device_only(self) -> None:
        """``unsigned.transaction_id`` is for the device that sent."""
        room_id = self.alice.create_room()
        other = self.alice.log_in_again("OTHER")
        self.bob.join(room_id, "hub.example")
        event_id = self.alice.say(room_id, "hello", "mine")
        theirs = self.bob.say(room_id, "hello", "theirs")
        self.network.settle()

        def shown_to(user: User, event_id: str) -> Any:
            event = user.ok("GET", f"/rooms/{enc(room_id)}/event/{enc(event_id)}")
            return event["unsigned"].get("transaction_id")

        self.assertEqual(shown_to(self.alice, event_id), "mine")
        self.assertEqual([shown_to(user, event_id) for user in (other, self.bob)], [None, None])
        self.assertEqual([shown_to(user, theirs) for user in (self.bob, self.alice)], ["theirs", None])

    def test_the_hubs_reason(self) -> None:
        """What the hub refuses is 403 with the hub's own reason, and the room is unchanged."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        path = f"/rooms/{enc(room_id)}/state/m.room.topic"
        for user in (self.bob, self.anna):
            refused = self.assert_refused(user.call("PUT", path, {"topic": "mine"}), 403, "M_FORBIDDEN")
        self.assertIn("not in", refused)
        refused = self.assert_refused(self.bob.call("PUT", path, {"topic": "mine"}), 403, "M_FORBIDDEN")
        self.assertIn("m.room.topic needs 50", refused)

    def test_a_silent_hub(self) -> None:
        """When the hub does not answer in time the client is told that it will be sent later; and it is."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        self.network.unreachable.add("hub.example")
        path = f"/rooms/{enc(room_id)}/send/m.room.message/one"
        sending = self.bob.start("PUT", path, {"msgtype": "m.text", "body": "late"})
        self.network.settle()
        self.assertNoResult(sending)
        self.network.clock.advance(60)
        self.assert_refused(self.successResultOf(sending), 504, "M_UNKNOWN")
        self.network.unreachable.clear()
        self.north.server.delivery.hubs.add("hub.example")
        self.network.settle()
        self.assertEqual(bodies(self.alice.messages(room_id)["chunk"]), ["late"])

    def test_state(self) -> None:
        """State is set and read with and without a state key, with and without the trailing slash."""
        room_id = self.alice.create_room()
        path = f"/rooms/{enc(room_id)}/state"
        self.alice.ok("PUT", f"{path}/m.room.name", {"name": "one"})
        self.assertEqual(self.alice.ok("GET", f"{path}/m.room.name/"), {"name": "one"})
        self.alice.ok("PUT", f"{path}/m.room.name/", {"name": "two"})
        self.assertEqual(self.alice.ok("GET", f"{path}/m.room.name"), {"name": "two"})
        event_id = self.alice.ok("PUT", f"{path}/org.example/{enc('a/b ☃')}", {"x": 1})["event_id"]
        event = self.alice.ok("GET", f"{path}/org.example/{enc('a/b ☃')}", format="event")
        self.assertEqual((event["event_id"], event["state_key"]), (event_id, "a/b ☃"))
        self.assert_refused(self.alice.call("GET", f"{path}/m.room.avatar"), 404, "M_NOT_FOUND")
        kinds = [event["type"] for event in self.alice.ok("GET", path)]
        self.assertEqual(kinds.count("m.room.name"), 1)
        self.assertIn("m.room.create", kinds)

    def test_bad_requests(self) -> None:
        """Nonsense is refused before it gets anywhere near a room."""
        room_id = self.alice.create_room()
        send = f"/rooms/{enc(room_id)}/send/m.room.message/1"
        for method, path, body, errcode in (
            ("PUT", send, b"nonsense", "M_NOT_JSON"),
            ("PUT", send, b"7", "M_BAD_JSON"),
            ("PUT", send, b'{"a": 1, "a": 2}', "M_BAD_JSON"),
            ("PUT", send, {"n": 2**60}, "M_BAD_JSON"),
            ("PUT", "/rooms/nonsense/send/m.room.message/1", {}, "M_INVALID_PARAM"),
            ("PUT", f"/rooms/{enc(room_id)}/send/{'t' * 256}/1", {}, "M_INVALID_PARAM"),
            ("PUT", f"/rooms/{enc(room_id)}/redact/nonsense/1", {}, "M_INVALID_PARAM"),
            ("PUT", f"/rooms/{enc(room_id)}/state/m.room.member/nonsense", {"membership": "join"}, "M_INVALID_PARAM"),
            ("PUT", f"/rooms/{enc(room_id)}/state/m.room.member/{enc(self.alice.user_id)}", {}, "M_BAD_JSON"),
        ):
            with self.subTest(path=path, body=body):
                self.assert_refused(self.alice.call(method, path, body), 400, errcode)
        large = self.alice.call("PUT", send, {"body": "x" * 70_000})
        self.assert_refused(large, 413, "M_TOO_LARGE")

    def test_memberships_as_state(self) -> None:
        """``PUT …/state/m.room.member`` does what the membership's own endpoint does."""
        room_id = self.alice.create_room(preset="private_chat")
        path = f"/rooms/{enc(room_id)}/state/m.room.member"
        for user in (self.anna, self.bob):
            self.alice.ok("PUT", f"{path}/{enc(user.user_id)}", {"membership": "invite"})
            self.assertEqual(self.membership(self.alice, room_id, user), "invite")
        self.anna.ok("PUT", f"{path}/{enc(self.anna.user_id)}", {"membership": "join"})
        self.anna.ok("PUT", f"{path}/{enc(self.anna.user_id)}", {"membership": "join", "displayname": "A"})
        shown = self.state(self.alice, room_id, "m.room.member", self.anna.user_id)
        self.assertEqual(shown, {"membership": "join", "displayname": "A"})
        self.anna.ok("PUT", f"{path}/{enc(self.anna.user_id)}", {"membership": "leave"})
        self.assertEqual(self.membership(self.alice, room_id, self.anna), "leave")
        self.alice.ok("PUT", f"{path}/{enc(self.anna.user_id)}", {"membership": "ban"})
        self.assertEqual(self.membership(self.alice, room_id, self.anna), "ban")

    def test_redaction(self) -> None:
        """A redacted message loses its content everywhere, and says what redacted it."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        event_id = self.bob.say(room_id, "secret")
        path = f"/rooms/{enc(room_id)}/redact/{enc(event_id)}/r1"
        redaction = self.alice.ok("PUT", path, {"reason": "because"})["event_id"]
        self.assertEqual(self.alice.ok("PUT", path, {"reason": "because"})["event_id"], redaction)
        self.network.settle()
        for user in (self.alice, self.bob):
            event = user.ok("GET", f"/rooms/{enc(room_id)}/event/{enc(event_id)}")
            self.assertEqual(event["content"], {})
            because = event["unsigned"]["redacted_because"]
            self.assertEqual((because["event_id"], because["content"]["reason"]), (redaction, "because"))
            self.assertEqual((because["redacts"], because["content"]["redacts"]), (event_id, event_id))
