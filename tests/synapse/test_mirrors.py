"""Rooms that are in Synapse and in lmatrix at once, with real processes on both sides."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.end_to_end.client_user import ClientUser, place
from tests.end_to_end.processes import eventually
from tests.end_to_end.wire_events import JsonObject
from tests.synapse.processes import RealSynapse, SynapseTestCase


def ghost_of(user_id: str, synapse: RealSynapse) -> str:
    """The user of Synapse's who stands for a user of an lmatrix server."""
    spelt = user_id[1:].replace(":", "=3a")
    return f"@lm.{spelt}:{synapse.server_name}"


async def invites(user: ClientUser) -> dict[str, dict[tuple[str, str], JsonObject]]:
    """The rooms that a user is invited to, each with the state that is shown of it."""
    synced = await user.call("GET", place("sync", query={"timeout": 0}))
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
    async def test_synapse_user_in_a_room_of_lmatrix(self) -> None:
        """first"""
        (synapse,) = await self.start_synapses("synapse")
        (standalone,) = await self.start_servers("standalone")
        alice = await synapse.user("alice")
        bob = await self.user(standalone, "bob")
        lm_room = await bob.create_room(preset="private_chat", name="Two sides", topic="One room")
        await bob.say(lm_room, "before")
        await bob.change(lm_room, "invite", user_id=alice.user_id)
        dag_room = await invited(alice)
        shown = (await invites(alice))[dag_room]
        self.assertEqual("Two sides", shown["m.room.name", ""]["content"]["name"])
        await alice.join(dag_room, synapse.server_name)
        await member(bob, lm_room, alice.user_id, "join")
        await bob.say(lm_room, "hello alice")
        ghost = ghost_of(bob.user_id, synapse)
        await sees(alice, dag_room, (ghost, "hello alice"))
        await alice.say(dag_room, "hello bob")
        await sees(bob, lm_room, (bob.user_id, "hello alice"), (alice.user_id, "hello bob"))
