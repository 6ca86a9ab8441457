"""Many messages at once: how fast the three servers take them, and how long each takes.

Owns: the senders, spread over the servers, and the measurement. What is measured includes this program's own work as
the senders' client, on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.demo.client import MatrixClient
from lmatrix.demo.servers import Place
from lmatrix.demo.story import PASSWORD, Cast
from lmatrix.demo.together import together

_PATIENCE_SECONDS = 600.0


@attrs.frozen(slots=True)
class Measured:
    """The outcome of a load.

    Attributes:
        room_id: the room that was written to.
        messages: how many were sent.
        latencies: seconds from a message's sending until its server answered with the event ID, in no order.
        sending_seconds: from the first message's sending to the last answer.
        everywhere_seconds: from the first message's sending until a user of every server has seen the last one.
    """

    room_id: str
    messages: int
    latencies: tuple[float, ...]
    sending_seconds: float
    everywhere_seconds: float


async def run_load(
    cast: Cast,
    places: Sequence[Place],
    *,
    messages: int,
    senders: int,
    new_client: Callable[[Place], MatrixClient],
    clock: IReactorTime,
) -> Measured:
    """Send ``messages`` to a new public room from ``senders`` users at once, one at a time from each."""
    hub = places[0].server_name
    room_id = await cast.alice.create_room(name="Load", preset="public_chat")
    for client in (cast.bob, cast.carol):
        await client.join(room_id, hub)
    writers = []
    for number in range(senders):
        place = places[number % len(places)]
        writer = new_client(place)
        await writer.register(f"sender{number}", PASSWORD)
        await writer.join(room_id, hub)
        writers.append(writer)
    latencies: list[float] = []
    left = list(range(messages))

    async def write(writer: MatrixClient) -> None:
        while left:
            number = left.pop()
            began = clock.seconds()
            await writer.say(room_id, f"message {number}")
            latencies.append(clock.seconds() - began)

    began = clock.seconds()
    await together(write(writer) for writer in writers)
    sent = clock.seconds()
    # The hub puts this one after all the others: who has seen it, has them all.
    last = await cast.alice.say(room_id, "That was all")
    await together(client.wait_for(room_id, last, _PATIENCE_SECONDS) for client in cast.everybody())
    return Measured(room_id, messages, tuple(latencies), sent - began, clock.seconds() - began)
