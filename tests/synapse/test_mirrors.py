"""Rooms that are in Synapse and in lmatrix at once, with real processes on both sides."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.utils import getProcessOutputAndValue

from tests.end_to_end.client_user import ClientUser, place
from tests.end_to_end.operator import run
from tests.end_to_end.processes import eventually, reactor
from tests.end_to_end.signing_client import Refused
from tests.end_to_end.wire_events import JsonObject
from tests.synapse.processes import RealSynapse, SynapseTestCase

_LIMITS = itertools.count(1)

NIO = Path(__file__).with_name("nio_client.py")


def ghost_of(user_id: str, synapse: RealSynapse) -> str:
    """The user of Synapse's who stands for a user of an lmatrix server."""
    spelt = user_id[1:].replace(":", "=3a")
    return f"@lm.{spelt}:{synapse.server_name}"


async def invites(user: ClientUser) -> dict[str, dict[tuple[str, str], JsonObject]]:
    """The rooms that a user is invited to, each with the state that is shown of it."""
    # Synapse answers the same first sync from its cache for a while: no two of these are the same.
    another = json.dumps({"room": {"timeline": {"limit": next(_LIMITS)}}})
    synced = await user.call("GET", place("sync", query={"timeout": 0, "filter": another}))
    return {
        room_id: {(e["type"], e["state_key"]): e for e in room["invite_state"]["events"]}
        for room_id, room in synced.get("rooms", {}).get("invite", {}).items()
    }


async def invited(user: ClientUser, besides: Collection[str] = ()) -> str:
    """Wait until a user is invited to a room; its ID."""
    found: list[str] = []

    async def look() -> bool:
        found[:] = [room_id for room_id in await invites(user) if room_id not in besides]
        return bool(found)

    await eventually(f"{user.user_id} is invited", look)
    return found[0]


async def joins(user: ClientUser, room_id: str, hub: RealSynapse) -> None:
    """Join a room to which one is invited. The hub has the invite a moment after the invited user's server has it."""

    async def join() -> bool:
        try:
            await user.join(room_id, hub.server_name)
        except Refused as refused:
            if refused.answer.status != 403:
                raise
            return False
        return True

    await eventually(f"{user.user_id} joins {room_id}", join)


async def send(user: ClientUser, room_id: str, type: str, content: JsonObject) -> str:
    """Send an event; its event ID."""
    transaction_id = f"x{abs(hash(repr(content)))}"
    answer = await user.call("PUT", place("rooms", room_id, "send", type, transaction_id), content)
    return str(answer["event_id"])


async def react(user: ClientUser, room_id: str, event_id: str, key: str) -> str:
    """React to an event."""
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
    return await send(user, room_id, "m.reaction", {"m.relates_to": relation})


async def find(user: ClientUser, room_id: str, text: str) -> str:
    """The event ID of the one message with a text."""
    (event_id,) = [e["event_id"] for e in await user.timeline(room_id) if e["content"].get("body") == text]
    return str(event_id)


async def is_redacted(user: ClientUser, room_id: str, event_id: str) -> bool:
    """Whether nothing is left of an event's content."""
    return not (await user.call("GET", place("rooms", room_id, "event", event_id)))["content"]


async def ephemeral(user: ClientUser, room_id: str, type: str, whose: str) -> bool:
    """Whether a user hears of what somebody does beside the room's events."""
    synced = await user.call("GET", place("sync", query={"timeout": 0}))
    events = synced["rooms"]["join"][room_id]["ephemeral"]["events"]
    return any(whose in repr(event["content"]) for event in events if event["type"] == type)


async def nio(user: ClientUser, room_id: str, says: str, waits_for: str) -> Any:
    """What matrix-nio sees when it takes part in a room as a user."""
    command = [str(NIO), user.base_url, user.user_id, str(user.token), room_id, says, waits_for]
    output, errors, status = await getProcessOutputAndValue(sys.executable, command, env=os.environ, reactor=reactor)
    assert status == 0, errors.decode()
    return json.loads(output)


async def texts(user: ClientUser, room_id: str) -> list[tuple[str, str]]:
    """Sender and text of all messages that a user sees in a room."""
    return [
        (event["sender"], event["content"]["body"])
        for event in await user.timeline(room_id)
        if event["type"] == "m.room.message" and "body" in event["content"]
    ]


async def sees(user: ClientUser, room_id: str, *wanted: tuple[str, str]) -> None:
    """Wait until a user sees these messages, in this order, each once."""
    seen: list[tuple[str, str]] = []

    async def look() -> bool:
        seen[:] = await texts(user, room_id)
        return [one for one in seen if one in wanted] == list(wanted)

    try:
        await eventually(f"{user.user_id} sees {wanted}", look)
    except AssertionError as late:
        raise AssertionError(f"{late}; what is seen: {seen}") from None


async def member(user: ClientUser, room_id: str, whose: str, membership: str) -> None:
    """Wait until somebody has a membership, as a user sees it."""

    async def look() -> Any:
        state = await user.state(room_id)
        return state.get(("m.room.member", whose), {}).get("membership") == membership

    await eventually(f"{user.user_id} sees {membership} of {whose}", look)


class MirrorTests(SynapseTestCase):
    """A Synapse with lmatrix, a Synapse without it, and two standalone servers."""

    async def cast(self) -> None:
        """Start everything, and make a user on each."""
        synapses = [Deferred.fromCoroutine(self.start_synapses("synapse"))]
        synapses.append(Deferred.fromCoroutine(self.start_synapses("plain", module=False)))
        (self.synapse,), (self.plain,) = await gatherResults(synapses, consumeErrors=True)
        self.north, self.south = await self.start_servers("north", "south")
        self.alice = await self.synapse.user("alice")
        self.dora = await self.plain.user("dora")
        self.bob = await self.user(self.north, "bob")
        self.carol = await self.user(self.south, "carol")

    def ghost(self, user: ClientUser) -> str:
        return ghost_of(user.user_id, self.synapse)

    async def test_mirrors(self) -> None:
        """Both roles, one after the other: the servers take a while to start."""
        await self.cast()
        await self.room_of_lmatrix()
        await self.room_of_synapse()
        await self.everything_that_is_said()
        await self.over_ordinary_federation()
        await self.ordinary_clients()
        await self.killed()
        await self.operated()

    async def room_of_lmatrix(self) -> None:
        """A room whose hub is an lmatrix server: Synapse's user gets an ordinary invite, and takes part like others."""
        alice, bob, carol = self.alice, self.bob, self.carol
        lm_room = await bob.create_room(preset="private_chat", name="Two sides", topic="One room")
        await bob.change(lm_room, "invite", user_id=carol.user_id)
        await carol.join(lm_room, self.north.server_name)
        await bob.say(lm_room, "before")
        await bob.change(lm_room, "invite", user_id=alice.user_id)
        dag_room = await invited(alice)
        shown = (await invites(alice))[dag_room]
        self.assertEqual("Two sides", shown["m.room.name", ""]["content"]["name"])
        await alice.join(dag_room, self.synapse.server_name)
        await member(bob, lm_room, alice.user_id, "join")
        await bob.say(lm_room, "hello alice")
        await sees(alice, dag_room, (self.ghost(bob), "hello alice"))
        await alice.say(dag_room, "hello bob")
        for user in (bob, carol):
            await sees(user, lm_room, (bob.user_id, "hello alice"), (alice.user_id, "hello bob"))
        self.theirs = (lm_room, dag_room)

    async def room_of_synapse(self) -> None:
        """A room of Synapse's, whose hub Synapse becomes when its user invites users of two lmatrix servers."""
        alice, bob, carol = self.alice, self.bob, self.carol
        dag_room = await alice.create_room(preset="private_chat", name="Ours")
        await alice.say(dag_room, "early")
        for guest in (bob, carol):
            error = await self.refused(alice.change(dag_room, "invite", user_id=guest.user_id), 403)
            self.assertIn(self.ghost(guest), error["error"])
            lm_room = await invited(guest)
            self.assertEqual(self.synapse.server_name, lm_room.partition(":")[2])
            await joins(guest, lm_room, self.synapse)
            await member(alice, dag_room, self.ghost(guest), "join")
        await alice.say(dag_room, "welcome")
        await sees(bob, lm_room, (alice.user_id, "welcome"))
        await bob.say(lm_room, "thanks")
        await sees(carol, lm_room, (alice.user_id, "welcome"), (bob.user_id, "thanks"))
        await carol.say(lm_room, "me too")
        await sees(alice, dag_room, (self.ghost(bob), "thanks"), (self.ghost(carol), "me too"))
        self.ours = (lm_room, dag_room)

    async def everything_that_is_said(self) -> None:
        """Edits, reactions, replies, redactions, a name, a kick: each names on the other side what it named on this.

        Typing and receipts go over as well.
        """
        alice, bob = self.alice, self.bob
        lm_room, dag_room = self.theirs
        first = await alice.say(dag_room, "first")
        await sees(bob, lm_room, (alice.user_id, "first"))
        first_there = await find(bob, lm_room, "first")
        await react(bob, lm_room, first_there, "👍")
        edit = {"msgtype": "m.text", "body": "* 1st", "m.new_content": {"msgtype": "m.text", "body": "1st"}}
        edit["m.relates_to"] = {"rel_type": "m.replace", "event_id": first}
        await send(alice, dag_room, "m.room.message", edit)
        reply = {"msgtype": "m.text", "body": "reply", "m.relates_to": {"m.in_reply_to": {"event_id": first_there}}}
        await send(bob, lm_room, "m.room.message", reply)
        await sees(alice, dag_room, (self.ghost(bob), "reply"))
        here = {event["type"]: event for event in await alice.timeline(dag_room)}
        self.assertEqual(first, here["m.reaction"]["content"]["m.relates_to"]["event_id"])
        self.assertEqual(first, here["m.room.message"]["content"]["m.relates_to"]["m.in_reply_to"]["event_id"])
        await sees(bob, lm_room, (alice.user_id, "* 1st"))
        edits = [
            e["content"]["m.relates_to"] for e in await bob.timeline(lm_room) if e["content"].get("body") == "* 1st"
        ]
        self.assertEqual([{"rel_type": "m.replace", "event_id": first_there}], edits)
        await alice.redact(dag_room, first)
        await eventually("a redaction arrives", lambda: is_redacted(bob, lm_room, first_there))
        await bob.set_state(lm_room, "m.room.name", {"name": "Another name"})

        async def renamed() -> bool:
            return bool((await alice.state(dag_room))["m.room.name", ""]["name"] == "Another name")

        await eventually("a name arrives", renamed)
        await bob.call("PUT", place("rooms", lm_room, "typing", bob.user_id), {"typing": True, "timeout": 30_000})
        last = await alice.latest(dag_room)
        await alice.call("POST", place("rooms", dag_room, "receipt", "m.read", last["event_id"]), {})
        await eventually("bob types", lambda: ephemeral(alice, dag_room, "m.typing", self.ghost(bob)))
        await eventually("alice has read", lambda: ephemeral(bob, lm_room, "m.receipt", alice.user_id))
        await bob.change(lm_room, "kick", user_id=self.carol.user_id, reason="for a test")
        await member(alice, dag_room, self.ghost(self.carol), "leave")

    async def over_ordinary_federation(self) -> None:
        """A user of a Synapse that has never heard of lmatrix joins the room by ordinary federation: for lmatrix she is
        a user of the Synapse that is in between.
        """
        alice, bob, dora = self.alice, self.bob, self.dora
        lm_room, dag_room = self.ours
        await alice.change(dag_room, "invite", user_id=dora.user_id)
        self.assertEqual(dag_room, await invited(dora))
        await dora.join(dag_room, self.synapse.server_name)
        spelt = dora.user_id[1:].replace(":", "=3a")
        ghost = f"@dag.{spelt}:{self.synapse.server_name}"
        await member(bob, lm_room, ghost, "join")
        await dora.say(dag_room, "from far away")
        await sees(bob, lm_room, (ghost, "from far away"))
        await bob.say(lm_room, "hello dora")
        await sees(dora, dag_room, (ghost_of(bob.user_id, self.synapse), "hello dora"))

    async def ordinary_clients(self) -> None:
        """matrix-nio on both sides."""
        if importlib.util.find_spec("nio") is None:
            raise AssertionError("these tests need matrix-nio")
        lm_room, dag_room = self.theirs
        here, there = await gatherResults(
            [
                Deferred.fromCoroutine(nio(self.alice, dag_room, "nio in Synapse", "nio in lmatrix")),
                Deferred.fromCoroutine(nio(self.bob, lm_room, "nio in lmatrix", "nio in Synapse")),
            ],
            consumeErrors=True,
        )
        self.assertIn([self.ghost(self.bob), "nio in lmatrix"], here["seen"])
        self.assertIn([self.alice.user_id, "nio in Synapse"], there["seen"])
        self.assertEqual(("Another name", "Another name"), (here["name"], there["name"]))
        self.assertEqual(sorted([self.alice.user_id, self.bob.user_id]), there["members"])

    async def killed(self) -> None:
        """Synapse is killed between two words. What was said before, on either side and meanwhile, is there afterwards,
        once, and in order.
        """
        alice, bob, carol = self.alice, self.bob, self.carol
        (theirs_lm, theirs_dag), (ours_lm, ours_dag) = self.theirs, self.ours
        for number in range(3):
            await alice.say(ours_dag, f"just before {number}")
            await alice.say(theirs_dag, f"and here {number}")
        await self.synapse.kill()
        for number in range(3):
            await bob.say(theirs_lm, f"meanwhile {number}")
        await self.synapse.start()
        ghost = self.ghost(bob)
        before = [(alice.user_id, f"just before {number}") for number in range(3)]
        and_here = [(alice.user_id, f"and here {number}") for number in range(3)]
        meanwhile = [f"meanwhile {number}" for number in range(3)]
        await bob.say(ours_lm, "welcome back")
        for user in (bob, carol):
            await sees(user, ours_lm, *before)
        await sees(alice, ours_dag, *before)
        await sees(bob, theirs_lm, *and_here)
        await sees(alice, theirs_dag, *((ghost, text) for text in meanwhile))
        await sees(bob, theirs_lm, *((bob.user_id, text) for text in meanwhile))
        await sees(alice, ours_dag, (ghost, "welcome back"))

    async def operated(self) -> None:
        """What the operator sees: both mirrors are open, nothing was lost that could be carried over, both sides agree.

        A room can be opened, and a user brought into a linearized room, without anybody's invite.
        """
        alice, bob = self.alice, self.bob
        config = str(self.synapse.place.config)
        for lm_room, dag_room in (self.theirs, self.ours):

            async def agreed(room_id: str = dag_room) -> bool:
                compared = await run("mirrors", config, "--compare", room_id)
                return compared.status == 0 and "both sides agree" in compared.output

            await eventually("both sides agree", agreed)
            listed = (await run("mirrors", config)).output
            self.assertIn(f"{lm_room} = {dag_room}  open", listed)
        self.assertNotIn("not carried over", listed)
        dag_room = await alice.create_room(preset="private_chat", name="Opened")
        opening = ("mirrors", config, "--open", dag_room, "--user", alice.user_id, "--invite", bob.user_id)
        opened = await run(*opening)
        self.assertEqual(0, opened.status, opened.errors)
        lm_room = opened.output.strip()
        self.assertEqual(lm_room, await invited(bob))
        public = await bob.create_room(preset="public_chat", name="Open to all")
        via = ("--via", self.north.server_name)
        entered = await run("mirrors", config, "--enter", public, "--user", alice.user_id, *via)
        self.assertEqual(0, entered.status, entered.errors)
        there = await invited(alice)
        self.assertEqual(there, entered.output.strip())
        await alice.join(there, self.synapse.server_name)
        await member(bob, public, alice.user_id, "join")
        refused = await run("mirrors", config, "--compare", "!nothing")
        self.assertEqual((1, True), (refused.status, "is not mirrored" in refused.errors), refused)
