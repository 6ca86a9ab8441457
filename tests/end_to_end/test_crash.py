"""Servers that are killed under load, and what they had promised.

The moments are random, from a seed that a failure names. A kill is SIGKILL: whatever the process had not written is
lost.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.end_to_end.load import Listener, RawParticipant, Talker
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually, reactor
from tests.end_to_end.wire_events import JsonObject, check_chain, check_pdu

SEED = 20260412
HUB_KILLS = 5
PARTICIPANT_KILLS = 3


class CrashTests(EndToEndTestCase):
    """What was acknowledged is there afterwards, once, in one chain, in the same order for everybody."""

    def setUp(self) -> None:
        super().setUp()
        self.rng = random.Random(SEED)
        self.over = False
        self.last: str | None = None
        self.broken: list[Failure] = []

    async def test_hub(self) -> None:
        """A hub with three participants and users of its own is killed again and again.

        Every LPDU that it said it accepted, and every event that it gave a user an ID for, is in the room exactly once;
        nothing else is; every event names the one before it and verifies; participants and clients have seen the same
        events in the same order; a transaction that was answered before a kill gets the same answer after it; the
        room's state is what its events say.
        """
        (hub,) = await self.start_servers("hub")
        alice, ann = await self.user(hub, "alice"), await self.user(hub, "ann")
        room_id = await alice.create_room(preset="public_chat")
        await ann.join(room_id, hub.server_name)
        raws = [RawParticipant(self.signing_server(), hub.server_name, room_id, self.rng) for _ in range(3)]
        joins = [await raw.join() for raw in raws]
        talkers = [Talker(alice, room_id), Talker(ann, room_id)]
        listener = Listener(ann, room_id)
        everybody: list[RawParticipant | Talker] = [*raws, *talkers]
        loads = [self.load(one.talk(lambda: self.over)) for one in everybody]
        following = self.load(listener.follow(lambda: self.last))
        for number in range(HUB_KILLS):
            await self.kill_somewhen(hub, everybody, while_starting=number == 1)
        await self.some_more(raws)
        self.over = True
        await gatherResults(loads, consumeErrors=True)

        self.last = last = await alice.say(room_id, "the end")
        await following
        for raw in raws:
            await eventually("the participant has it all", partial(raw.has, last))
        events = await raws[0].server.client.room(hub.server_name, room_id, last)
        order = check_chain(events)
        keys = await raws[0].server.client.keys_of([hub.server_name, *(raw.server.server_name for raw in raws)])
        for event in events:
            check_pdu(event, keys)
        promised = {text: event_id for one in everybody for text, event_id in one.promised.items()}
        self.check_kept({**promised, "the end": last}, events, order)
        self.assertEqual(order, [event["event_id"] for event in await alice.timeline(room_id)])
        self.assertEqual(order[-len(listener.heard) :], listener.heard)
        for raw, join in zip(raws, joins, strict=True):
            self.assertEqual([], raw.server.complaints)
            self.assertEqual(order[order.index(join) :], check_chain(raw.log), f"seed {SEED}")
            transaction_id, lpdus, answer = raw.transactions[0]
            self.assertEqual(answer, (await raw.put(transaction_id, lpdus)).body)
        self.assertEqual(last, (await alice.latest(room_id))["event_id"])
        state = {(event["type"], event["state_key"]): event for event in events if "state_key" in event}
        late = raws[0].server.identity.user("late")
        joined = await raws[0].server.client.join(hub.server_name, room_id, late)
        self.assertEqual(state, {(event["type"], event["state_key"]): event for event in joined["state"]})

    async def test_participant(self) -> None:
        """A participant whose users talk is killed again and again, and at last its hub too.

        What a user of the participant was given an event ID for is in the room exactly once, under that ID, and so is
        what was sent and answered only after a kill; hub and participant agree about the order.
        """
        hub, second = await self.start_servers("hub", "second")
        alice, bob, carol = (
            await self.user(hub, "alice"),
            await self.user(second, "bob"),
            await self.user(second, "carol"),
        )
        room_id = await alice.create_room(preset="public_chat")
        for guest in (bob, carol):
            await guest.join(room_id, hub.server_name)
        talkers = [Talker(client, room_id) for client in (alice, bob, carol)]
        listener = Listener(carol, room_id)
        loads = [self.load(one.talk(lambda: self.over)) for one in talkers]
        following = self.load(listener.follow(lambda: self.last))
        for number in range(PARTICIPANT_KILLS):
            await self.kill_somewhen(second, talkers[1:], while_starting=number == 1)
        await self.kill_somewhen(hub, talkers)
        await self.some_more(talkers)
        self.over = True
        await gatherResults(loads, consumeErrors=True)

        self.last = last = await bob.say(room_id, "the end")
        await following
        timeline = await alice.timeline(room_id)
        order = [event["event_id"] for event in timeline]
        promised = {text: event_id for one in talkers for text, event_id in one.promised.items()}
        self.check_kept({**promised, "the end": last}, timeline, order)
        self.assertEqual(order, [event["event_id"] for event in await bob.timeline(room_id)], f"seed {SEED}")
        self.assertEqual(order[-len(listener.heard) :], listener.heard)

    def load(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Run something beside the test, which is not waited for any longer once it has failed."""
        running = self.background(work)

        def broke(failure: Failure) -> Failure:
            self.broken.append(failure)
            return failure

        return running.addErrback(broke)

    async def kill_somewhen(
        self, server: RealServer, loads: Sequence[RawParticipant | Talker], *, while_starting: bool = False
    ) -> None:
        """Kill a server once a random number of further promises was made, a random moment later; start it again."""
        await self.some_more(loads)
        await deferLater(reactor, self.rng.uniform(0, 0.1), lambda: None)
        await server.kill()
        if while_starting:
            await server.start_and_kill(after=self.rng.uniform(0.2, 1.2))
        await server.start()

    async def some_more(self, loads: Sequence[RawParticipant | Talker]) -> None:
        """Wait until a random number of further promises was made."""

        def promises() -> int:
            for failure in self.broken:
                failure.raiseException()
            return sum(len(one.promised) for one in loads)

        goal = promises() + self.rng.randint(10, 60)
        await eventually("further promises", lambda: promises() >= goal)

    def check_kept(self, promised: dict[str, str], events: Iterable[JsonObject], order: Sequence[str]) -> None:
        """Every promised text is there once, under the promised ID, and no other text is."""
        texts = [
            (event["content"]["body"], event_id)
            for event, event_id in zip(events, order, strict=True)
            if event["type"] == "m.room.message"
        ]
        self.assertEqual([], [text for text, count in Counter(text for text, _ in texts).items() if count > 1])
        self.assertEqual(promised, dict(texts), f"seed {SEED}")
