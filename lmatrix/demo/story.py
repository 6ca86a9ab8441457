"""What the demo's three users do, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from lmatrix.demo.client import ClientError, MatrixClient
from lmatrix.demo.servers import Place
from lmatrix.errors import LMatrixError

PASSWORD = "demo password"  # noqa: S105  # of accounts that live as long as the demo, and is printed by it
PATIENCE_SECONDS = 30.0

Tell = Callable[[str], None]


@attrs.frozen(slots=True)
class Cast:
    """Who plays: one user on each server, the first one on the hub."""

    alice: MatrixClient
    bob: MatrixClient
    carol: MatrixClient

    def everybody(self) -> tuple[MatrixClient, ...]:
        return (self.alice, self.bob, self.carol)


async def assemble_cast(clients: Sequence[MatrixClient], tell: Tell) -> Cast:
    """Register the three users."""
    for client, username in zip(clients, ("alice", "bob", "carol"), strict=True):
        await client.register(username, PASSWORD)
        tell(f"{client.user_id} registered")
    return Cast(*clients)


async def play(cast: Cast, places: Sequence[Place], tell: Tell) -> str:
    """The story; returns the room's ID once everybody has seen its last event.

    Raises:
        LMatrixError: something that should work did not, or something that should be refused was not.
    """
    alice, bob, carol = cast.alice, cast.bob, cast.carol
    hub = places[0].server_name
    room_id = await alice.create_room(name="Linearized", topic="One order for everybody", preset="private_chat")
    tell(f"{alice.user_id} created {room_id}: its hub is {hub}")
    for guest in (bob, carol):
        await alice.invite(room_id, guest.user_id)
        await guest.join(room_id, hub)
        tell(f"{guest.user_id} was invited and joined")
    await alice.say(room_id, "Welcome, both of you")
    await bob.say(room_id, "Hello from the second server")
    last = await carol.say(room_id, "And hello from the third")
    tell("all three said something")
    await _everybody_sees(cast, room_id, last)
    await _is_refused(bob, room_id, tell)
    await carol.leave(room_id)
    tell(f"{carol.user_id} left")
    await bob.say(room_id, "Carol does not hear this")
    await alice.invite(room_id, carol.user_id)
    await carol.join(room_id, hub)
    tell(f"{carol.user_id} was invited again and came back")
    last = await carol.say(room_id, "What did I miss?")
    last = await bob.say(room_id, "Nothing that the hub did not put in order")
    await _everybody_sees(cast, room_id, last)
    return room_id


async def _everybody_sees(cast: Cast, room_id: str, event_id: str) -> None:
    for client in cast.everybody():
        await client.wait_for(room_id, event_id, PATIENCE_SECONDS)


async def _is_refused(client: MatrixClient, room_id: str, tell: Tell) -> None:
    try:
        await client.set_state(room_id, "m.room.name", {"name": "Bob's room"})
    except ClientError as error:
        tell(f"{client.user_id} tried to rename the room, and the hub refused: {error.message}")
        return
    raise LMatrixError(f"{client.user_id} renamed the room without the power to")
