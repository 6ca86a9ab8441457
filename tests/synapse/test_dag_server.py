"""The adapter against a real Synapse: what it reads, what it writes, and what it says when Synapse will not."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.end_to_end.client_user import place
from tests.end_to_end.processes import eventually
from tests.end_to_end.wire_events import canonical
from tests.synapse.processes import SynapseTestCase

DRIVER = "tests.synapse.driver.Driver"
PATH = "/_lmatrix_driver"


class Raised(Exception):
    """A method of the adapter raised something."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(f"{name}: {words}")
        self.name = name
        self.words = words


class DagServerTests(SynapseTestCase):
    """One Synapse whose only module is the driver."""

    async def test_adapter(self) -> None:
        """Everything on one Synapse, which takes a while to start."""
        await self.begin()
        for step in (
            self.reading,
            self.memberships,
            self.refusals_and_users,
            self.letting_in,
            self.beside_events,
            self.room_of_ghosts,
        ):
            await step()

    async def begin(self) -> None:
        """A Synapse, and a user of it."""

        def change(settings: dict[str, Any]) -> None:
            settings["modules"] = [{"module": DRIVER}]

        self.synapse = self.new_synapse("synapse")
        self.synapse.configure(change)
        await self.synapse.start()
        self.alice = await self.synapse.user("alice")

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call the adapter."""
        answer = await self.http.request(
            "POST",
            self.synapse.place.client_url,
            PATH,
            headers={},
            body=canonical({"method": method, "arguments": list(arguments)}),
        )
        if "raised" in answer.json:
            raise Raised(answer.json["raised"], answer.json["words"])
        return answer.json["result"]

    async def raises(self, name: str, method: str, *arguments: Any) -> str:
        """The words of what a call must raise."""
        try:
            result = await self.call(method, *arguments)
        except Raised as raised:
            self.assertEqual(name, raised.name, raised.words)
            return raised.words
        raise AssertionError(f"{method} gave {result!r}")

    def name(self, localpart: str) -> str:
        return f"@{localpart}:{self.synapse.server_name}"

    async def stream(self, room_id: str, *, after: int = 0, page: int = 3) -> list[dict[str, Any]]:
        """A room's events, read in small pieces."""
        events: list[dict[str, Any]] = []
        while True:
            found = await self.call("read", after, page, [room_id])
            events += found["events"]
            if found["position"] == after:
                return events
            after = found["position"]

    def write(self, room_id: str, sender: str, transaction_id: str, type: str, content: Any, **more: Any) -> Any:
        return {
            "room_id": room_id,
            "sender": sender,
            "type": type,
            "content": content,
            "transaction_id": transaction_id,
            **more,
        }

    async def mirror_room(self) -> tuple[str, str, str]:
        """A room made by the bot, with a ghost in it: its ID, the bot, the ghost."""
        bot, ghost = self.name("linearized"), self.name("lm.bob=3anorth.example")
        await self.call("ensure_ghost", bot, None)
        await self.call("ensure_ghost", ghost, ["Bob", None])
        state = [
            [
                "m.room.power_levels",
                "",
                {"users": {bot: 100, ghost: 50}, "state_default": 100, "events": {"m.room.name": 50}},
            ],
            ["m.room.join_rules", "", {"join_rule": "public"}],
            ["m.room.name", "", {"name": "Mirror"}],
            ["org.lmatrix.mirror", "", {"room_id": "!lm:north.example"}],
        ]
        room_id = await self.call("create_room", bot, state)
        join = {"room_id": room_id, "sender": ghost, "target": ghost, "membership": "join", "transaction_id": "j1"}
        content = {"displayname": "Bob of north", "org.lmatrix.source": {"event_id": "$1"}}
        await self.call("set_membership", {**join, "content": content})
        return room_id, bot, ghost

    async def reading(self) -> None:
        """What happened in a room comes once, in order, as it is now, in pages of any size, and of no other room."""
        alice = self.alice
        beginning = await self.call("position")
        room_id, other = await alice.create_room(preset="public_chat"), await alice.create_room()
        said = [await alice.say(room_id, str(number)) for number in range(4)]
        await alice.say(other, "not of interest")
        redaction = await alice.redact(room_id, said[1])
        await gatherResults([Deferred.fromCoroutine(alice.say(room_id, f"at once {n}")) for n in range(8)])
        events = await self.stream(room_id, after=beginning)
        self.assertEqual({room_id}, {event["room_id"] for event in events})
        streams = [event["stream"] for event in events]
        self.assertEqual(sorted(set(streams)), streams)
        self.assertEqual("m.room.create", events[0]["type"])
        by_id = {event["event_id"]: event for event in events}
        self.assertEqual(len(by_id), len(events))
        self.assertEqual({"body": "0", "msgtype": "m.text"}, by_id[said[0]]["content"])
        self.assertTrue(by_id[said[1]]["redacted"])
        self.assertEqual({}, by_id[said[1]]["content"])
        self.assertEqual(said[1], by_id[redaction]["redacts"])
        self.assertEqual([said[2]], by_id[said[3]]["prev_events"])
        self.assertIn(self.synapse.server_name, by_id[said[0]]["signatures"])
        self.assertEqual(8, sum(e["content"].get("body", "").startswith("at once") for e in events))
        self.assertEqual({said[0], said[1]}, set(await self.call("events", [said[0], said[1], "$gone"])))
        self.assertEqual(events, await self.stream(room_id, after=beginning, page=50))
        self.assertEqual(await self.call("position"), (await self.call("read", beginning, 1000, []))["position"])

    async def room_of_ghosts(self) -> None:
        """The bot makes a room as it is told to, a ghost joins and writes; what is written twice under one transaction
        ID is there once, after a SIGKILL too; times are kept; a redaction takes effect.
        """
        alice = self.alice
        room_id, bot, ghost = await self.mirror_room()
        await alice.join(room_id, self.synapse.server_name)
        message = self.write(
            room_id,
            ghost,
            "t1",
            "m.room.message",
            {"msgtype": "m.text", "body": "hello"},
            origin_server_ts=1234567890123,
        )
        event_id = await self.call("send", message)
        self.assertEqual(event_id, await self.call("send", message))
        await self.synapse.kill()
        await self.synapse.start()
        self.assertEqual(event_id, await self.call("send", message))
        other = self.write(room_id, ghost, "t2", "m.room.message", {"msgtype": "m.text", "body": "hello"})
        self.assertNotEqual(event_id, await self.call("send", other))
        seen = await alice.call("GET", place("rooms", room_id, "event", event_id))
        self.assertEqual((ghost, 1234567890123), (seen["sender"], seen["origin_server_ts"]))
        await self.call("send", self.write(room_id, ghost, "t3", "m.room.name", {"name": "Bob's"}, state_key=""))
        await self.call("send", self.write(room_id, ghost, "t4", "m.room.redaction", {"redacts": event_id}))
        seen = await alice.call("GET", place("rooms", room_id, "event", event_id))
        self.assertEqual({}, seen["content"])
        room = await self.call("room", room_id, None)
        state = {(event["type"], event["state_key"]): event for event in room["state"]}
        self.assertEqual(("12", [bot]), (room["room_version"], room["creators"]))
        self.assertEqual({"name": "Bob's"}, state["m.room.name", ""]["content"])
        self.assertEqual({ghost: 50}, state["m.room.power_levels", ""]["content"]["users"])
        self.assertNotIn(("m.room.encryption", ""), state)
        member = state["m.room.member", ghost]["content"]
        self.assertEqual("Bob of north", member["displayname"])
        self.assertEqual({"event_id": "$1"}, member["org.lmatrix.source"])
        some = await self.call("room", room_id, [["m.room.name", ""]])
        self.assertIn("m.room.name", {event["type"] for event in some["state"]})
        self.assertNotIn("m.room.member", {event["type"] for event in some["state"]})

    async def memberships(self) -> None:
        """Invite, withdrawal, join, kick, ban and its lifting are what they should be; each is done once."""
        alice = self.alice
        room_id, bot, ghost = await self.mirror_room()

        async def change(number: int, sender: str, target: str, membership: str, **content: Any) -> str:
            write = {"room_id": room_id, "sender": sender, "target": target, "membership": membership}
            write |= {"transaction_id": f"m{number}", "content": content}
            event_id: str = await self.call("set_membership", write)
            return event_id

        async def now(user_id: str) -> Any:
            room = await self.call("room", room_id, None)
            return next(e for e in room["state"] if (e["type"], e["state_key"]) == ("m.room.member", user_id))

        await change(1, bot, alice.user_id, "invite", reason="come")
        self.assertEqual("invite", (await now(alice.user_id))["content"]["membership"])
        await change(2, bot, alice.user_id, "leave", reason="do not")
        self.assertEqual("leave", (await now(alice.user_id))["content"]["membership"])
        await alice.join(room_id, self.synapse.server_name)
        kicked = await change(3, bot, alice.user_id, "leave", reason="out")
        self.assertEqual(kicked, await change(3, bot, alice.user_id, "leave", reason="out"))
        await change(4, bot, alice.user_id, "ban")
        self.assertEqual("ban", (await now(alice.user_id))["content"]["membership"])
        await change(5, bot, alice.user_id, "leave")
        after = await now(alice.user_id)
        self.assertEqual(("leave", bot), (after["content"]["membership"], after["sender"]))
        await change(6, ghost, ghost, "leave")
        self.assertEqual("leave", (await now(ghost))["content"]["membership"])
        # Nobody kicks who is not there.
        write = {"room_id": room_id, "sender": bot, "target": self.name("nobody"), "membership": "leave"}
        await self.raises("DagRefused", "set_membership", {**write, "transaction_id": "m7", "content": {}})

    async def refusals_and_users(self) -> None:
        """What the rooms' rules forbid is refused for good, in words; people are told apart from ghosts."""
        alice = self.alice
        room_id, bot, ghost = await self.mirror_room()
        words = await self.raises(
            "DagRefused", "send", self.write(room_id, ghost, "t1", "m.room.topic", {"topic": "x"}, state_key="")
        )
        self.assertIn("403", words)
        stranger = self.name("lm.stranger=3anorth.example")
        await self.call("ensure_ghost", stranger, None)
        await self.raises(
            "DagRefused",
            "send",
            self.write(room_id, stranger, "t2", "m.room.message", {"msgtype": "m.text", "body": "x"}),
        )
        await self.raises("DagRefused", "send", self.write(room_id, ghost, "t3", "m.room.message", {"no": "msgtype"}))
        for user_id, exists in ((alice.user_id, True), (ghost, False), (bot, False), (self.name("nobody"), False)):
            self.assertEqual(exists, await self.call("user_exists", user_id), user_id)
        self.assertIsNone(await self.call("room", "!nowhere", None))

    async def letting_in(self) -> None:
        """A local user's private room gets the bot, with the user's power; a second time nothing changes."""
        alice = self.alice
        room_id = await alice.create_room(preset="private_chat", room_version="11")
        for _ in range(2):
            await self.call("let_in", room_id, alice.user_id)
        state = await alice.state(room_id)
        bot = self.name("linearized")
        self.assertEqual("join", state["m.room.member", bot]["membership"])
        self.assertEqual(100, state["m.room.power_levels", ""]["users"][bot])
        twelve = await alice.create_room(preset="private_chat", room_version="12")
        await self.call("let_in", twelve, alice.user_id)
        self.assertEqual(100, (await alice.state(twelve))["m.room.power_levels", ""]["users"][bot])

    async def beside_events(self) -> None:
        """Typing and receipts go both ways; a user can be told something."""
        alice = self.alice
        room_id, _, ghost = await self.mirror_room()
        await alice.join(room_id, self.synapse.server_name)
        event_id = await alice.say(room_id, "hello")
        await self.call("told")
        await alice.call("PUT", place("rooms", room_id, "typing", alice.user_id), {"typing": True, "timeout": 30_000})
        await alice.call("POST", place("rooms", room_id, "receipt", "m.read", event_id), {})
        notes: list[Any] = []

        async def heard() -> bool:
            notes.extend((await self.call("told"))["notes"])
            return {"typing", "read"} <= {note[0] for note in notes}

        await eventually("the adapter tells who types and who has read", heard)
        self.assertIn(["typing", room_id, [alice.user_id]], notes)
        self.assertIn(["read", room_id, alice.user_id, event_id], [note[:4] for note in notes])
        await self.call("set_typing", room_id, ghost, True)
        await self.call("set_read", room_id, ghost, event_id)
        await self.call("tell_user", alice.user_id, "Something went wrong.")
        synced = await alice.call("GET", place("sync", query={"timeout": 0}))
        ephemeral = {e["type"]: e["content"] for e in synced["rooms"]["join"][room_id]["ephemeral"]["events"]}
        self.assertIn(ghost, ephemeral["m.typing"]["user_ids"])
        self.assertIn(ghost, ephemeral["m.receipt"][event_id]["m.read"])
        invited = synced["rooms"]["invite"].values()
        names = [e["content"].get("name") for one in invited for e in one["invite_state"]["events"]]
        self.assertIn("Notice", names)
