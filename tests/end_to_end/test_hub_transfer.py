"""A busy room moves from hub to hub, while servers are killed in the middle of it."""

from __future__ import annotations

from collections import Counter
from functools import partial

from twisted.internet.defer import Deferred, gatherResults

from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.load import Listener, Talker
from tests.end_to_end.operator import Operator, Ran
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually

HISTORY = 400
"""Events that a server which joins now has to fetch before it can become the hub: some pages, and some time."""

AT_ONCE = 40


class HubTransferTests(EndToEndTestCase):
    """Nothing is lost, nothing is doubled, and everybody agrees, whatever happens in the middle of a handshake."""

    def setUp(self) -> None:
        super().setUp()
        self.over = False
        self.last: str | None = None

    async def test_around_twice(self) -> None:
        """Three servers, whose users all talk, pass a room around twice, and a SIGKILL hits either side of a handshake.

        A candidate that is killed while it fetches the room leaves it with its hub; so does a hub that is killed while
        a candidate does. What users sent meanwhile is delivered. At the end every message that was answered is there
        once, all three servers hold the same events in the same order, each from the first one on, clients saw them in
        that order, and ``lmatrix verify`` finds nothing to complain about.
        """
        servers = await self.start_servers("first", "second", "third")
        first, second, third = servers
        alice, bob, carol = [
            await self.user(server, name) for server, name in zip(servers, ("alice", "bob", "carol"), strict=True)
        ]
        self.operators = {server.server_name: Operator(server, self.http) for server in servers}
        room_id = self.room_id = await alice.create_room(preset="public_chat")
        await self.fill(alice)
        for guest in (bob, carol):
            await guest.join(room_id, first.server_name)
        talkers = [Talker(client, room_id) for client in (alice, bob, carol)]
        listener = Listener(carol, room_id)
        loads = [Deferred.fromCoroutine(one.talk(lambda: self.over)) for one in talkers]
        following = Deferred.fromCoroutine(listener.follow(lambda: self.last))
        await self.some_more(talkers, 3)

        await self.killed_meanwhile(first, second, victim=second)
        await self.some_more(talkers, 3)
        await self.moves(first, second)
        await self.some_more(talkers, 6)
        await self.killed_meanwhile(second, third, victim=second)
        await self.some_more(talkers, 3)
        for giver, taker in ((second, third), (third, first), (first, second), (second, third)):
            await self.moves(giver, taker)
            await self.some_more(talkers, 6)
        ran = await self.operators[third.server_name].command("transfer-hub", room_id, first.server_name)
        self.assertEqual((0, ""), (ran.status, ran.errors))
        self.assertIn(f"the hub of {room_id} is {first.server_name} now", ran.output)
        await self.some_more(talkers, 6)
        self.over = True
        await gatherResults(loads, consumeErrors=True)

        self.last = last = await carol.say(room_id, "the end")
        await following
        promised = {text: event_id for one in talkers for text, event_id in one.promised.items()}
        await self.assert_everything(alice, {**promised, "the end": last}, listener)
        await self.assert_sound()

    async def assert_everything(self, alice: ClientUser, promised: dict[str, str], listener: Listener) -> None:
        """What everybody holds is the same, and is what was promised."""
        timeline = await alice.timeline(self.room_id)
        order = [event["event_id"] for event in timeline]
        for operator in self.operators.values():
            await eventually("the server has it all", lambda operator=operator: operator.order(self.room_id) == order)
        texts = [
            (event["content"]["body"], event["event_id"])
            for event in timeline
            if event["type"] == "m.room.message" and not event["content"]["body"].startswith("history")
        ]
        self.assertEqual([], [text for text, count in Counter(text for text, _ in texts).items() if count > 1])
        self.assertEqual(promised, dict(texts))
        self.assertEqual(order[-len(listener.heard) :], listener.heard)
        moves = [index for index, event in enumerate(timeline) if event["type"] == "m.room.hub"]
        self.assertEqual(6, len(moves))
        for begin, end in zip(moves, [*moves[1:], len(timeline)], strict=True):
            senders = {event["sender"] for event in timeline[begin:end] if event["type"] == "m.room.message"}
            self.assertEqual(3, len(senders), "everybody was heard under every hub")

    async def assert_sound(self) -> None:
        """What the commands say of all three servers, while they run."""
        ran: list[Ran] = await gatherResults(
            [Deferred.fromCoroutine(one.command("verify", "--all")) for one in self.operators.values()],
            consumeErrors=True,
        )
        for one in ran:
            self.assertEqual((0, ""), (one.status, one.errors), one.output)
            self.assertIn("from its beginning: all is well", one.output)
            self.assertNotIn("could not be asked", one.output)
        for operator in self.operators.values():
            audit = await operator.command("audit", self.room_id)
            self.assertEqual((0, ""), (audit.status, audit.errors), audit.output)

    async def fill(self, alice: ClientUser) -> None:
        """Say much, many things at a time."""
        for begin in range(0, HISTORY, AT_ONCE):
            await gatherResults(
                [
                    Deferred.fromCoroutine(alice.say(self.room_id, f"history {number}"))
                    for number in range(begin, begin + AT_ONCE)
                ],
                consumeErrors=True,
            )

    async def moves(self, giver: RealServer, taker: RealServer) -> None:
        """The room moves, and all three hear of it."""
        answer = await self.operators[giver.server_name].transfer(self.room_id, taker)
        self.assertEqual(200, answer.status, answer)
        await self.hub_is(taker)

    async def hub_is(self, hub: RealServer) -> None:
        async def agreed() -> bool:
            rooms = [await operator.room(self.room_id) for operator in self.operators.values()]
            return {room["hub"] for room in rooms} == {hub.server_name}

        await eventually(f"{hub.place.label} is the hub", agreed)

    async def killed_meanwhile(self, giver: RealServer, taker: RealServer, *, victim: RealServer) -> None:
        """The taker is offered the room, and while it fetches the history, the victim is killed; later it starts again.

        Users go on talking, and the room stays where it was.
        """
        fetched = self.backfills(giver)
        moving = Deferred.fromCoroutine(self.operators[giver.server_name].transfer(self.room_id, taker))
        moving.addErrback(lambda _: None)  # the giver may be killed
        await eventually("the candidate fetches the room", lambda: self.backfills(giver) > fetched)
        self.assertFalse(moving.called, "the handshake is under way")
        await victim.kill()
        answer = await moving
        if answer is not None:
            self.assertEqual(502, answer.status, answer)
        await victim.start()
        await self.hub_is(giver)

    def backfills(self, server: RealServer) -> int:
        """How often others have fetched history from a server."""
        return server.log().count("GET /_matrix/federation/v2/backfill/")

    async def some_more(self, talkers: list[Talker], count: int) -> None:
        """Wait until everybody has been answered that many times more."""
        goals = [len(one.promised) + count for one in talkers]

        def reached(goals: list[int]) -> bool:
            return all(len(one.promised) >= goal for one, goal in zip(talkers, goals, strict=True))

        await eventually("further promises", partial(reached, goals))
