"""Rooms that move from hub to hub: whoever may start it does, at good times and at bad ones.

Owns: :class:`Moves`, which makes a move out of a plan's step. Moves are started by the operator of the hub, by a user
of the hub, by a user of another server through that server, and by the last users of the hub's server leaving; one
after the other in a circle, under load; and with a crash of either side, or a lost answer, at any step of the
handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lmatrix.ids import server_of
from lmatrix.rooms.local_users import NEW_HUB
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.workload import Workload


class Moves:
    """All moves.

    Args:
        nodes: the servers.
        network: loses answers when it is told to.
        workload: the users.
        note: writes a line into the timeline.
    """

    def __init__(
        self, nodes: dict[str, Node], network: Network, workload: Workload, seed: int, note: Callable[[str], None]
    ) -> None:
        self._nodes = nodes
        self._network = network
        self._workload = workload
        self._seed = seed
        self._note = note

    def step(self, kind: str, number: int) -> None:
        """Do what a step of this kind comes to."""
        rng = Random(f"{self._seed} step {number}")
        if self._workload.rooms:
            getattr(self, f"_do_{kind}")(rng, rng.choice(self._workload.rooms))

    # -- One move ------------------------------------------------------------------------------------------------------

    def _do_move(self, rng: Random, room_id: str) -> None:
        """A user of the hub sends the state event that says where to."""
        users = [user for user in self._workload.joined(room_id) if self._is_hub(server_of(user), room_id)]
        if users:
            self._move(room_id, rng.choice(users), rng.choice(sorted(self._nodes)))

    def _do_take(self, rng: Random, room_id: str) -> None:
        """A user of a participant sends the state event to their own server, which asks the hub for the room."""
        joined = self._workload.joined(room_id)
        if joined:
            self._take(room_id, rng.choice(joined))

    def _do_give(self, rng: Random, room_id: str) -> None:
        """The hub's operator gives the room away."""
        hub = self._hub(room_id)
        if hub is not None:
            self._give(room_id, hub, rng.choice(sorted(self._nodes)))

    def _do_desert(self, rng: Random, room_id: str) -> None:
        """The hub's users leave, all of them: the hub looks for another one."""
        hub = self._hub(room_id)
        for user in self._workload.joined(room_id):
            if server_of(user) == hub:
                self._workload.begin("leave", user, room_id, lambda local, user=user: local.leave(user, room_id, None))

    # -- Many moves ----------------------------------------------------------------------------------------------------

    def _do_carousel(self, rng: Random, room_id: str) -> None:
        """Round and round, while everybody talks."""
        clock = self._network.clock
        pause = rng.choice((0.0, 0.3, 2.0, 10.0))
        order = rng.sample(sorted(self._nodes), k=len(self._nodes))
        at = 0.0
        for server in order * rng.choice((1, 2, 3)):
            clock.callLater(at, self._to, room_id, server)
            for _ in range(rng.choice((0, 1, 5))):
                clock.callLater(at + rng.uniform(0.0, pause), self._talk, rng.random(), room_id)
            at += pause * rng.uniform(0.5, 1.5)

    def _to(self, room_id: str, server: str) -> None:
        hub = self._hub(room_id)
        if hub is not None and hub != server:
            self._give(room_id, hub, server)

    def _talk(self, chance: float, room_id: str) -> None:
        rng = Random(chance)
        joined = self._workload.joined(room_id)
        if joined:
            self._workload.say(rng, room_id, rng.choice(joined))

    # -- Moves in bad times --------------------------------------------------------------------------------------------

    def _do_fatal_move(self, rng: Random, room_id: str) -> None:
        """A move, and either side dies at some step of it, or an answer of either side is lost; while some talk."""
        hub = self._hub(room_id)
        others = sorted({server_of(user) for user in self._workload.joined(room_id)} - {hub})
        if hub is None or not others:
            return
        taker = rng.choice(others)
        takers = [user for user in self._workload.joined(room_id) if server_of(user) == taker]
        if rng.random() < 0.7:
            for name in rng.choice(([hub], [taker], [hub, taker])):
                self._nodes[name].light_fuse(rng.randint(1, 16), rng.choice((0.0, 1.0, 30.0)) * rng.random())
        else:
            origin, destination = rng.choice(((hub, taker), (taker, hub)))
            self._note(f"of the next answers of {destination} to {origin} one is lost")
            self._network.lose_next_answer(origin, destination, rng.randint(1, 4))
        for _ in range(rng.choice((0, 3))):
            self._talk(rng.random(), room_id)
        if rng.random() < 0.5:
            self._give(room_id, hub, taker)
        else:
            self._take(room_id, rng.choice(takers))
        for _ in range(rng.choice((0, 3))):
            self._talk(rng.random(), room_id)

    # -- Tools ---------------------------------------------------------------------------------------------------------

    def _move(self, room_id: str, user: str, to: str) -> None:
        self._workload.begin(
            "move", user, room_id, lambda local: local.send(room_id, user, "m.room.hub", {NEW_HUB: to}, state_key="")
        )

    def _take(self, room_id: str, user: str) -> None:
        self._workload.begin(
            "take", user, room_id, lambda local: local.send(room_id, user, "m.room.hub", {}, state_key="")
        )

    def _give(self, room_id: str, hub: str, to: str) -> None:
        process = self._nodes[hub].ready
        if process is not None:
            transfer = process.rooms.transfer
            user = self._nodes[hub].users[0]
            self._workload.begin("give", user, room_id, lambda _: transfer.transfer(room_id, to))

    def _hub(self, room_id: str) -> str | None:
        """The server that is up and takes itself for the hub."""
        return next((name for name in sorted(self._nodes) if self._is_hub(name, room_id)), None)

    def _is_hub(self, name: str, room_id: str) -> bool:
        room = self._workload.room_at(self._nodes[name].users[0], room_id)
        return room is not None and room.is_hub
