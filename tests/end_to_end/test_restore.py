"""A hub is killed and started again on a backup that is older than what it had promised."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred

from tests.end_to_end.client_user import place
from tests.end_to_end.load import Talker
from tests.end_to_end.operator import Operator
from tests.end_to_end.processes import EndToEndTestCase, RealServer, eventually


class RestoreTests(EndToEndTestCase):
    """Nothing is lost, and there is one chain."""

    async def test_a_hub(self) -> None:
        """A backup while users talk; then more events, and SIGKILL. On the backup the hub takes nothing new while one
        of two participants is away, has everything back when both have answered, and goes on; all three hold the same,
        all that was promised is there once, clients hear of what comes, and every database holds together.
        """
        hub, second, third = await self.start_servers("hub", "second", "third")
        alice, bob, carol = (
            await self.user(hub, "alice"),
            await self.user(second, "bob"),
            await self.user(third, "carol"),
        )
        room_id = await alice.create_room(preset="public_chat")
        for guest in (bob, carol):
            await guest.join(room_id, hub.server_name)
        operators = [Operator(server, self.http) for server in (hub, second, third)]
        over: list[bool] = []
        talkers = [Talker(client, room_id) for client in (alice, bob, carol)]
        talking = [self.background(one.talk(lambda: bool(over))) for one in talkers]
        await eventually("some have talked", lambda: sum(len(one.promised) for one in talkers) > 20)
        copy = self.directory / "copy.db"
        ran = await operators[0].command("backup", str(copy))
        self.assertEqual((0, ""), (ran.status, ran.errors))
        promised = sum(len(one.promised) for one in talkers)
        await eventually("they have talked on", lambda: sum(len(one.promised) for one in talkers) > promised + 150)
        over.append(True)
        for one in talking:
            await one
        last = await alice.say(room_id, "before the end")
        for guest in (bob, carol):
            await guest.wait_for(room_id, last)
        since = (await alice.call("GET", place("sync")))["next_batch"]
        order = operators[0].order(room_id)

        await third.stop()
        await hub.kill()
        self.put_in_place(copy, hub.place.database)
        forgotten = len(order) - len(operators[0].order(room_id))
        self.assertGreater(forgotten, 100)
        await hub.start()
        await eventually("what the second has is back", lambda: operators[0].order(room_id) == order)
        ran = await operators[0].command("recovery")
        self.assertEqual(1, ran.status)
        self.assertIn(f"waits for {third.server_name}", ran.output)
        early = place("rooms", room_id, "send", "m.room.message", "early")
        refused = await alice.request("PUT", early, {"msgtype": "m.text", "body": "early"})
        self.assertEqual(503, refused.status)
        self.assertGreater(refused.json["retry_after_ms"], 0)
        saying: Deferred[str] = Deferred.fromCoroutine(bob.say(room_id, "while it was held"))
        await third.start()

        async def nothing_held() -> bool:
            return (await operators[0].command("recovery")).status == 0

        await eventually("the room is held no longer", nothing_held)
        held_back = await saying
        on = await alice.say(room_id, "on")
        for client in (bob, carol):
            await client.wait_for(room_id, on)
        heard = await alice.call("GET", place("sync", query={"since": since}))
        events = heard["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual(on, events[-1]["event_id"])

        order = operators[0].order(room_id)
        self.assertEqual(held_back, order[-2])
        for operator in operators[1:]:
            theirs = operator.order(room_id)
            self.assertEqual(order[len(order) - len(theirs) :], theirs)
        everything = {text: event_id for one in talkers for text, event_id in one.promised.items()}
        self.assertEqual([1] * len(everything), [order.count(event_id) for event_id in everything.values()])
        texts = [event["content"].get("body") for event in await carol.timeline(room_id)]
        self.assertEqual([], [text for text in everything if texts.count(text) != 1])
        for operator in operators:
            ran = await operator.command("verify", "--all")
            self.assertEqual((0, ""), (ran.status, ran.errors), ran.output)
            ran = await operator.command("audit", room_id)
            self.assertEqual(0, ran.status, ran.output)

    async def test_a_participant(self) -> None:
        """On a copy that bears no mark, it notices at the next event, and has everything."""
        hub, second = await self.start_servers("hub", "second")
        alice, bob = await self.user(hub, "alice"), await self.user(second, "bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        await second.stop()
        copy = self.directory / "copy.db"
        copy.write_bytes(second.place.database.read_bytes())
        await second.start()
        for number in range(30):
            await bob.say(room_id, str(number))
        await second.kill()
        self.put_in_place(copy, second.place.database)
        await second.start()
        last = await alice.say(room_id, "after")
        await bob.wait_for(room_id, last)
        self.assert_same_order(room_id, hub, second)
        operator = Operator(second, self.http)
        self.assertEqual(0, (await operator.command("verify", "--all")).status)
        self.assertEqual(0, (await operator.command("audit", room_id)).status)
        self.assertEqual(await bob.say(room_id, "on"), Operator(hub, self.http).order(room_id)[-1])

    def assert_same_order(self, room_id: str, hub: RealServer, other: RealServer) -> None:
        """The other server's log is the end of the hub's."""
        order, theirs = (Operator(server, self.http).order(room_id) for server in (hub, other))
        self.assertEqual(order[len(order) - len(theirs) :], theirs)

    def put_in_place(self, copy: Path, database: Path) -> None:
        """Let a copy be the database; what belongs to the former one must not stay beside it."""
        copy.replace(database)
        for left in ("-wal", "-shm"):
            Path(f"{database}{left}").unlink(missing_ok=True)
