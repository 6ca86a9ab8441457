"""A real server as the participant of a hub that makes mistakes, or lies (I-D "Receiving Events/PDUs"; protocol notes,
"Order")."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing

from twisted.internet.defer import Deferred

from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.raw_hub import RawHub
from tests.end_to_end.signing_client import Refused
from tests.end_to_end.signing_server import Handler, Incoming, Reply
from tests.end_to_end.wire_events import JsonObject, event_id


class BadHubTests(EndToEndTestCase):
    """What a hub sends, and what becomes of it.

    Attributes:
        us: the server under test.
        alice: its user.
        hub: the hub.
    """

    us: RealServer
    alice: ClientUser
    hub: RawHub

    async def stage(self) -> None:
        """Set the scene."""
        (self.us,) = await self.start_servers("us")
        self.alice = await self.user(self.us, "alice")
        self.hub = RawHub(self.signing_server())

    def evidence(self) -> list[str]:
        """What the server has kept against its hub: the kinds."""
        with closing(sqlite3.connect(f"file:{self.us.place.database}?mode=ro", uri=True)) as database:
            return [kind for (kind,) in database.execute("SELECT kind FROM evidence ORDER BY evidence_nid")]

    async def shown(self) -> str:
        """The last event that Alice sees."""
        return str((await self.alice.latest(self.hub.room_id))["event_id"])

    async def deliver(self, *pdus: JsonObject) -> Answer:
        """Send events; the answer, which is never an error."""
        answer = await self.hub.deliver(self.us.server_name, *pdus)
        self.assertEqual(200, answer.status, answer)
        return answer

    async def test_events(self) -> None:
        """Only what follows, verifies and is allowed is shown; what contradicts the order is kept as evidence.

        Gaps are filled from the hub. What does not match its hashes is shown as its redacted copy. What is not allowed
        holds its place, so that the room goes on. A hub that never says what it accepted is waited for by its echo.
        """
        await self.stage()
        hub, alice = self.hub, self.alice
        await alice.join(hub.room_id, hub.server.server_name)
        joined = hub.head
        seen = [joined]

        said = Deferred.fromCoroutine(alice.say(hub.room_id, "to a hub that says little"))
        await eventually("the LPDU comes", lambda: hub.head != joined)
        await self.deliver(hub.events[-1])
        seen.append(await said)
        self.assertEqual(hub.head, seen[-1])

        lost, after = (hub.append(hub.message(text)) for text in ("lost on the way", "after it"))
        await self.deliver(after)
        seen += [event_id(lost), event_id(after)]
        self.assertEqual(seen[-1], await self.shown())
        self.assertEqual([], self.evidence())

        fork = hub.message("another history", prev_events=[event_id(lost)])
        failed = (await self.deliver(fork)).json["failed_pdus"]
        self.assertEqual([event_id(fork)], list(failed))
        self.assertEqual(["fork"], self.evidence())
        self.assertEqual(seen[-1], await self.shown())

        good = hub.message("well signed")
        signatures = hub.message("another")["signatures"]
        await self.deliver({**good, "signatures": signatures}, {**good, "signatures": {}})
        unplaced = hub.message("follows nobody", prev_events=["$" + "x" * 43])
        await self.deliver(unplaced)
        self.assertEqual(seen[-1], await self.shown())

        tampered = hub.append(hub.message("what was signed"))
        await self.deliver({**tampered, "content": {"msgtype": "m.text", "body": "what was not"}})
        seen.append(event_id(tampered))
        latest = await alice.latest(hub.room_id)
        self.assertEqual((seen[-1], {}), (latest["event_id"], latest["content"]))

        stranger = hub.server.identity.user("stranger")
        lpdu = hub.server.client.message(hub.room_id, stranger, "not in the room", hub_server=hub.server.server_name)
        for make in (lambda: hub.complete(lpdu), lambda: hub.message("by wrong auth events", auth_events=[joined])):
            not_allowed = hub.append(make())
            follower = hub.append(hub.message("the room goes on"))
            await self.deliver(not_allowed, follower)
            seen.append(event_id(follower))
            self.assertEqual(seen[-1], await self.shown())
        kinds = self.evidence()
        self.assertEqual(2, kinds.count("rejected"))
        self.assertEqual(1, kinds.count("fork"))

        timeline = [event["event_id"] for event in await alice.timeline(hub.room_id)]
        self.assertEqual(seen, timeline[timeline.index(joined) :])
        self.assertEqual([], hub.server.complaints)

    async def test_joins(self) -> None:
        """A hub that answers a join with something else, or never: the user is told, is not in the room, and may retry.

        Meanwhile everything else goes on.
        """
        await self.stage()
        hub, alice = self.hub, self.alice
        name = hub.server.server_name
        honest = hub.server.handlers["send_join"]

        def lying(bend: Callable[[JsonObject], JsonObject]) -> Handler:
            async def lie(incoming: Incoming) -> Reply:
                held = len(hub.events)
                status, answer = await honest(incoming)
                del hub.events[held:]
                return status, bend(answer)

            return lie

        other = hub.message("not a join")
        lies: Mapping[str, Callable[[JsonObject], JsonObject]] = {
            "nothing": lambda answer: {},
            "another event": lambda answer: {**answer, "event": other},
            "no event": lambda answer: {**answer, "event": None},
            "no state": lambda answer: {**answer, "state": []},
            "no creation": lambda answer: {**answer, "state": answer["state"][1:], "auth_chain": answer["state"][1:]},
            "rubbish": lambda answer: {**answer, "state": [1, "x", {}], "auth_chain": [[]]},
            "an unsigned join": lambda answer: {**answer, "event": {**answer["event"], "signatures": {}}},
        }
        for what, bend in lies.items():
            hub.server.handlers["send_join"] = lying(bend)
            try:
                await alice.join(hub.room_id, name)
            except Refused as refused:
                self.assertEqual((502, "M_UNKNOWN"), (refused.answer.status, refused.answer.errcode), what)
            else:
                self.fail(f"joined with {what}")
        self.assertEqual([], (await alice.call("GET", "/joined_rooms"))["joined_rooms"])

        held: list[Deferred[Reply]] = []

        async def hold(incoming: Incoming) -> Reply:
            gate: Deferred[Reply] = Deferred()
            held.append(gate)
            await gate
            return await honest(incoming)

        hub.server.handlers["send_join"] = hold
        joining = Deferred.fromCoroutine(alice.join(hub.room_id, name))
        await eventually("the hub is asked", lambda: held)
        room_id = await alice.create_room()
        await alice.say(room_id, "while a join takes its time")
        for gate in held:
            gate.callback((200, {}))
        await joining
        said = hub.append(hub.message("welcome"))
        await self.deliver(said)
        self.assertEqual(event_id(said), await self.shown())
        self.assertEqual([], hub.server.complaints)
