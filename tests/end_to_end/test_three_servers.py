"""Three real servers, whose users live in one room: what every one of them sees must be the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.end_to_end.client_user import ClientUser, place
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually, reactor
from tests.end_to_end.signing_client import Refused
from tests.end_to_end.signing_server import Incoming, Reply
from tests.end_to_end.wire_events import V02, JsonObject, check_chain, check_pdu, event_id, signed_event


class ThreeServersTests(EndToEndTestCase):
    """A hub and two participants."""

    async def cast(self) -> tuple[list[RealServer], list[ClientUser]]:
        """Three servers, and one user on each."""
        servers = await self.start_servers("hub", "second", "third")
        names = zip(servers, ("alice", "bob", "carol"), strict=True)
        return servers, [await self.user(server, name) for server, name in names]

    async def test_room(self) -> None:
        """Create, invite, join, talk, leave, come back, kick, redact, set state: one order everywhere.

        All three users page back through the same events in the same order, and hold the same state; what is refused
        says why, and changes nothing; the wire has the same events, properly signed.
        """
        servers, (alice, bob, carol) = await self.cast()
        hub = servers[0].server_name
        room_id = await alice.create_room(preset="private_chat", name="Three", topic="One order")
        for guest in (bob, carol):
            await self.assert_refused(403, guest.join(room_id, hub))
            await alice.change(room_id, "invite", user_id=guest.user_id)
            await guest.join(room_id, hub)
        await gatherResults(
            [Deferred.fromCoroutine(self.talk(one, room_id, 5)) for one in (alice, bob, carol)], consumeErrors=True
        )
        refusal = await self.assert_refused(403, bob.set_state(room_id, "m.room.name", {"name": "Bob's"}))
        self.assertIn("50", refusal["error"])
        await alice.set_state(
            room_id, "m.room.power_levels", {"users": {alice.user_id: 100, bob.user_id: 50}, "state_default": 50}
        )
        renamed = await bob.set_state(room_id, "m.room.name", {"name": "Bob's"})
        secret = await carol.say(room_id, "a secret")
        await carol.redact(room_id, secret)
        await carol.change(room_id, "leave")
        missed = await bob.say(room_id, "Carol does not hear this at once")
        await self.assert_refused(403, carol.say(room_id, "not in the room"))
        await bob.change(room_id, "invite", user_id=carol.user_id)
        await carol.join(room_id, hub)
        await bob.change(room_id, "kick", user_id=carol.user_id, reason="to see whether it works")
        await self.membership_of(carol, room_id, "leave")
        await self.assert_refused(403, carol.say(room_id, "kicked out"))
        await alice.change(room_id, "invite", user_id=carol.user_id)
        await carol.join(room_id, servers[1].server_name)  # not the hub, which it names
        last = await carol.say(room_id, "back for good")

        timelines = await self.agreeing_timelines((alice, bob, carol), room_id, last)
        order = [event["event_id"] for event in timelines[0]]
        self.assertEqual(15, sum(e["content"].get("body", "").startswith("line ") for e in timelines[0]))
        for wanted in (renamed, secret, missed):
            self.assertIn(wanted, order)
        self.assertEqual({}, timelines[0][order.index(secret)]["content"])
        state = await alice.state(room_id)
        self.assertEqual({"name": "Bob's"}, state["m.room.name", ""])
        self.assertEqual("join", state["m.room.member", carol.user_id]["membership"])
        for other in (bob, carol):
            self.assertEqual(state, await other.state(room_id))
        await self.assert_sound_on_the_wire(servers, alice, room_id, order)

    async def test_v02_room(self) -> None:
        """A room of the version that the 2023 prototypes speak: the same things go, the same order comes out."""
        servers, (alice, bob, carol) = await self.cast()
        hub = servers[0].server_name
        room_id = await alice.create_room(preset="public_chat", room_version=V02)
        for guest in (bob, carol):
            await guest.join(room_id, hub)
        await gatherResults(
            [Deferred.fromCoroutine(self.talk(one, room_id, 4)) for one in (alice, bob, carol)], consumeErrors=True
        )
        await self.assert_refused(403, carol.set_state(room_id, "m.room.topic", {"topic": "no"}))
        secret = await bob.say(room_id, "a secret")
        await bob.redact(room_id, secret)
        await carol.change(room_id, "leave")
        await bob.say(room_id, "Carol is away")
        await carol.join(room_id, hub)
        last = await carol.say(room_id, "back")

        timelines = await self.agreeing_timelines((alice, bob, carol), room_id, last)
        order = [event["event_id"] for event in timelines[0]]
        self.assertEqual({}, timelines[0][order.index(secret)]["content"])
        self.assertEqual({"room_version": V02}, {k: timelines[0][0]["content"][k] for k in ("room_version",)})
        await self.assert_sound_on_the_wire(servers, alice, room_id, order, version=V02)

    async def test_key_rotation(self) -> None:
        """Hub and participant get new keys; what the old ones signed still verifies for whoever joins afterwards.

        The new keys are honoured at once for requests and events; a third server, which has never seen the old keys in
        use, joins, reads everything back to the beginning, and takes what is sent from then on.
        """
        servers, (alice, bob, carol) = await self.cast()
        hub, second, _ = servers
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        old = [await alice.say(room_id, "with the hub's old key"), await bob.say(room_id, "with Bob's old key")]
        for server in (hub, second):
            published = await self.published(server)
            await server.stop()
            server.rotate_key("rotated", published, int(reactor.seconds() * 1000))
            await server.start()
            listed = await self.published(server)
            self.assertEqual(["ed25519:rotated"], list(listed["verify_keys"]))
            self.assertEqual(published["verify_keys"].keys(), listed["old_verify_keys"].keys())
        new = [await alice.say(room_id, "with the hub's new key"), await bob.say(room_id, "with Bob's new key")]
        await carol.join(room_id, hub.server_name)
        last = await carol.say(room_id, "hello")

        timelines = await self.agreeing_timelines((alice, bob, carol), room_id, last)
        order = [event["event_id"] for event in timelines[0]]
        self.assertEqual(sorted(map(order.index, old + new)), list(map(order.index, old + new)))
        self.assertEqual(4, sum("key" in event["content"].get("body", "") for event in timelines[2]))
        await self.assert_sound_on_the_wire(servers, alice, room_id, order)

    async def test_unreachable_participants(self) -> None:
        """A participant that is down, and one that takes requests and never answers, delay nobody else.

        The others see what is said at once; a hub that owes something to both starts and goes on as ever; a user of the
        participant that was down sees all of it after its restart, in the same order, each event once.
        """
        servers, (alice, bob, carol) = await self.cast()
        hub, _, third = servers
        room_id = await alice.create_room(preset="public_chat")
        for guest in (bob, carol):
            await guest.join(room_id, hub.server_name)
        silent = self.signing_server()
        unanswered: list[Incoming] = []

        async def never(incoming: Incoming) -> Reply:
            unanswered.append(incoming)
            return await Deferred()

        silent.handlers["send"] = never
        await silent.client.join(hub.server_name, room_id, silent.identity.user("silent"))
        await third.kill()
        before = reactor.seconds()
        for number in range(5):
            said = await alice.say(room_id, f"from the hub {number}")
            await bob.wait_for(room_id, said)
            said = await bob.say(room_id, f"to the hub {number}")
            await alice.wait_for(room_id, said)
        # Far less than any time-out that waiting for either of the two would have run into.
        self.assertLess(reactor.seconds() - before, 25)
        await eventually("the silent one was asked", lambda: unanswered)
        await hub.kill()
        await hub.start()
        await bob.wait_for(room_id, await alice.say(room_id, "after the hub's restart"))
        await third.start()
        last = await bob.say(room_id, "the end")
        await self.agreeing_timelines((alice, bob, carol), room_id, last)
        self.assertEqual([], silent.complaints)

    # -- What all of them ask -----------------------------------------------------------------------------------------

    async def talk(self, client: ClientUser, room_id: str, count: int) -> None:
        """Say something a few times."""
        for number in range(count):
            await client.say(room_id, f"line {number}")

    async def assert_refused(self, status: int, attempt: Any) -> JsonObject:
        """That something is refused, with M_FORBIDDEN and a reason; the error object."""
        try:
            await attempt
        except Refused as refused:
            self.assertEqual((status, "M_FORBIDDEN"), (refused.answer.status, refused.answer.errcode))
            self.assertTrue(refused.answer.json["error"])
            error: JsonObject = refused.answer.json
            return error
        raise self.failureException("it was not refused")

    async def membership_of(self, client: ClientUser, room_id: str, membership: str) -> None:
        """Wait until a user's own server knows of a membership."""

        async def knows() -> bool:
            answer = await client.request("GET", place("rooms", room_id, "state", "m.room.member", client.user_id))
            return bool(answer.status == 200 and answer.json["membership"] == membership)

        await eventually(f"{client.user_id}: {membership}", knows)

    async def agreeing_timelines(
        self, clients: Sequence[ClientUser], room_id: str, last: str
    ) -> list[list[JsonObject]]:
        """What each user sees of the room once the last event is there: the same, but for what is the client's own."""
        timelines = []
        for client in clients:
            await client.wait_for(room_id, last)
            timelines.append(await client.timeline(room_id))
        expected = [_essence(event) for event in timelines[0]]
        self.assertEqual(last, expected[-1]["event_id"])
        for client, timeline in zip(clients, timelines, strict=True):
            self.assertEqual(expected, [_essence(event) for event in timeline], client.user_id)
        return timelines

    async def published(self, server: RealServer) -> JsonObject:
        """What a server publishes as its keys."""
        answer = await self.http.request("GET", self.urls[server.server_name], "/_matrix/key/v2/server")
        self.assertEqual(200, answer.status)
        keys: JsonObject = answer.json
        return keys

    async def assert_sound_on_the_wire(
        self, servers: Sequence[RealServer], alice: ClientUser, room_id: str, order: Sequence[str], version: str = "I.1"
    ) -> None:
        """That the hub gives a new member exactly this room, in one chain, with all hashes and signatures right."""
        raw = self.signing_server()
        hub, user_id = servers[0].server_name, raw.identity.user("checker")
        if (await alice.state(room_id))["m.room.join_rules", ""]["join_rule"] != "public":
            raw.handlers["invite"] = _accept(raw.identity, version)
            await alice.change(room_id, "invite", user_id=user_id)
        joined = await raw.client.join(hub, room_id, user_id, form="unstable" if version == V02 else "stable")
        events = await raw.client.room(hub, room_id, event_id(joined["event"], version))
        keys = await raw.client.keys_of([raw.server_name, *(server.server_name for server in servers)])
        self.assertEqual(list(order), check_chain(events, version)[: len(order)])
        redacted = 0
        for event in events:
            if event["content"]:
                check_pdu(event, keys, version)
            else:
                redacted += 1
        self.assertLessEqual(redacted, 1)
        for one in (*joined["state"], *joined["auth_chain"]):
            check_pdu(one, keys, version)
        self.assertEqual([], raw.complaints)


def _accept(identity: Any, version: str) -> Any:
    async def accept(incoming: Incoming) -> Reply:
        signed = signed_event(identity, incoming.content["event"], version)
        return 200, {"pdu": signed, "event": signed}

    return accept


def _essence(event: JsonObject) -> JsonObject:
    """An event without what a client's own server adds to it."""
    return {key: value for key, value in event.items() if key not in ("unsigned", "age")}
