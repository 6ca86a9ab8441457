"""A busy room moves from hub to hub, while servers are killed in the middle of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from twisted.internet.defer import Deferred, gatherResults

from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.load import Listener, Talker
from tests.end_to_end.operator import Operator, Ran
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually

HISTORY = 400
"""Events that a server which joins now has to fetch before it can become the hub: some pages, and some time."""

AT_ONCE = 40

PATIENCE_SECONDS = 300.0
"""How long anything may take: on an idle machine the whole test takes a fraction of it."""


class HubTransferTests(EndToEndTestCase):
    """Nothing is lost, nothing is doubled, and everybody agrees, whatever happens in the middle of a handshake."""

    timeout = 1800  # of trial: several of the patience above

    def setUp(self) -> None:
        super().setUp()
        self.over = False
        self.last: str | None = None
        self.moved = 0

    async def test_around_twice(self) -> None:
        """Three servers, whose users all talk, pass a room around twice, and SIGKILLs hit either side of a handshake.

        A candidate that is killed before it has answered leaves the room with its hub; so does a hub that is killed
        while it waits for the answer. Killed while the candidate fetches the room, either leaves it with one of the
        two, and everybody agrees with which. What users sent meanwhile is delivered. At the end every message that was
        answered is there once, all three servers hold the same events in the same order, each from the first one on,
        clients saw them in that order, and ``lmatrix verify`` finds nothing to complain about.
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
        talkers = [Talker(client, room_id, PATIENCE_SECONDS) for client in (alice, bob, carol)]
        listener = Listener(carol, room_id, PATIENCE_SECONDS)
        loads = [Deferred.fromCoroutine(one.talk(lambda: self.over)) for one in talkers]
        following = Deferred.fromCoroutine(listener.follow(lambda: self.last))
        await self.some_more(talkers, 3)

        # Fetching: the second server, then the third, each of which has nothing from before it came.
        await self.killed_before_the_answer(first, second, victim=second)
        await self.some_more(talkers, 3)
        hub = await self.killed_while_it_fetches(first, second, victim=second)
        await self.some_more(talkers, 3)
        await self.moves(hub, second)
        await self.some_more(talkers, 6)
        await self.killed_before_the_answer(second, third, victim=second)
        await self.some_more(talkers, 3)
        hub = await self.killed_while_it_fetches(second, third, victim=second)
        await self.some_more(talkers, 6)
        for taker in (third, first, second, third):
            await self.moves(hub, taker)
            hub = taker
            await self.some_more(talkers, 6)
        ran = await self.operators[third.server_name].command("transfer-hub", room_id, first.server_name)
        if ran.status:
            # It took the candidate too long, as it may. The room is where it was.
            self.assertIn("the room was not moved", ran.errors)
            await self.moves(third, first)
        else:
            self.moved += 1
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
            await self.eventually(
                "the server has it all", lambda operator=operator: operator.order(self.room_id) == order
            )
        texts = [
            (event["content"]["body"], event["event_id"])
            for event in timeline
            if event["type"] == "m.room.message" and not event["content"]["body"].startswith("history")
        ]
        self.assertEqual([], [text for text, count in Counter(text for text, _ in texts).items() if count > 1])
        there = dict(texts)
        self.assertEqual(
            {}, {text: (made, there.get(text)) for text, made in promised.items() if there.get(text) != made}
        )
        self.assertEqual({}, {text: made for text, made in there.items() if text not in promised})
        self.assertEqual(order[-len(listener.heard) :], listener.heard)
        moves = [index for index, event in enumerate(timeline) if event["type"] == "m.room.hub"]
        self.assertEqual(self.moved, len(moves))
        self.assertGreaterEqual(self.moved, 6)
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

    async def eventually(self, what: str, is_so: Callable[[], Awaitable[object] | object]) -> None:
        await eventually(what, is_so, PATIENCE_SECONDS)

    async def moves(self, giver: RealServer, taker: RealServer) -> None:
        """The room moves, and all three hear of it; unless it is there already."""
        if giver is taker:
            return

        async def moved() -> bool:
            answer = await self.operators[giver.server_name].transfer(self.room_id, taker)
            if answer.status == 200:
                return True
            # It took the candidate too long, as it may. The room is where it was.
            self.assertIn(answer.status, (403, 502), answer)
            return False

        await self.eventually("the room moves", moved)
        self.moved += 1
        await self.hub_is(taker)

    async def agreed(self) -> str:
        """Wait until all three name one hub; its server name."""
        named: set[str] = set()

        async def one_hub() -> bool:
            named.clear()
            named.update([(await operator.room(self.room_id))["hub"] for operator in self.operators.values()])
            return len(named) == 1

        await self.eventually("everybody names one hub", one_hub)
        return named.pop()

    async def hub_is(self, hub: RealServer) -> None:
        """Wait until all three name this one."""

        async def so() -> bool:
            return await self.agreed() == hub.server_name

        await self.eventually(f"{hub.place.label} is the hub", so)

    async def killed_before_the_answer(self, giver: RealServer, taker: RealServer, *, victim: RealServer) -> None:
        """The taker is offered the room, and has not answered when the victim is killed; later it starts again.

        Users go on talking, and the room stays where it was. The taker is frozen meanwhile, so that it cannot answer,
        however fast or slow the machine is.
        """
        offers = self.offers(giver)
        taker.freeze()
        moving = Deferred.fromCoroutine(self.operators[giver.server_name].transfer(self.room_id, taker))
        moving.addErrback(lambda _: None)  # the giver may be killed
        await self.eventually("the room is offered", lambda: self.offers(giver) > offers)
        self.assertFalse(moving.called, "the handshake is under way")
        await victim.kill()
        if victim is not taker:
            taker.thaw()
        answer = await moving
        if answer is not None:
            self.assertEqual(502, answer.status, answer)
        await victim.start()
        await self.hub_is(giver)

    async def killed_while_it_fetches(self, giver: RealServer, taker: RealServer, *, victim: RealServer) -> RealServer:
        """The taker is offered the room, and while it fetches the history the victim is killed; later it starts again.

        Whether the taker was quicker than the SIGKILL or not, one of the two is the hub afterwards: it is returned.
        """
        fetched = self.backfills(giver)
        moving = Deferred.fromCoroutine(self.operators[giver.server_name].transfer(self.room_id, taker))
        moving.addErrback(lambda _: None)  # the giver may be killed
        await self.eventually("it begins", lambda: self.backfills(giver) > fetched or moving.called)
        await victim.kill()
        answer = await moving
        await victim.start()
        hub = await self.agreed()
        if hub == taker.server_name:
            self.moved += 1
            return taker
        self.assertEqual(giver.server_name, hub)
        self.assertTrue(answer is None or answer.status != 200, answer)
        return giver

    def offers(self, server: RealServer) -> int:
        """How often a server has offered the room to another."""
        return server.log().count(f"{self.room_id}: offered to ")

    def backfills(self, server: RealServer) -> int:
        """How often others have fetched history from a server."""
        return server.log().count("GET /_matrix/federation/v2/backfill/")

    async def some_more(self, talkers: list[Talker], count: int) -> None:
        """Wait until everybody has been answered that many times more."""
        goals = [len(one.promised) + count for one in talkers]

        def reached(goals: list[int]) -> bool:
            return all(len(one.promised) >= goal for one, goal in zip(talkers, goals, strict=True))

        await self.eventually("further promises", partial(reached, goals))
