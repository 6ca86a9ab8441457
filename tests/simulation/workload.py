"""Users and what they do.

Owns: :class:`Operation`, one wish of a user's client and what the client was told of it, and :class:`Workload`, which
makes wishes out of a plan's steps. A client that was left without a definite answer asks again with the same
transaction ID, after a while, until it has one, as the Client-Server API has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from lmatrix.errors import (
    BadRequest,
    EventDropped,
    EventRejected,
    Forbidden,
    IncompatibleRoomVersion,
    NotFound,
    Overloaded,
    PeerError,
    SendFailed,
    ShuttingDown,
    StorageFailed,
    UnsupportedRoomVersion,
    WrongServer,
)
from lmatrix.events.creation import Preset, RoomPlan
from lmatrix.ids import server_of
from lmatrix.rooms.local_users import ClientTransaction, LocalUsers
from lmatrix.rooms.room import Room
from tests.simulation.node import Node, Process

REFUSALS = (
    EventRejected,
    EventDropped,
    Forbidden,
    NotFound,
    BadRequest,
    WrongServer,
    UnsupportedRoomVersion,
    IncompatibleRoomVersion,
)
UNCERTAIN = (StorageFailed, Overloaded, ShuttingDown, PeerError)


@attrs.define(eq=False)
class Operation:
    """One wish of a user.

    Attributes:
        token: what marks the event that it makes, when it makes one that can be marked.
        repeatable: whether the client asks again until it knows.
        state: ``"open"``, ``"done"``, ``"refused"`` or ``"unknown"``.
        event_id: what the client was told.
    """

    number: int
    kind: str
    user_id: str
    room_id: str
    carry_out: Callable[[LocalUsers], Awaitable[Any]]
    token: str | None = None
    repeatable: bool = False
    state: str = "open"
    event_id: str | None = None
    reason: str = ""
    attempts: int = 0
    after: Callable[[Operation], None] | None = None

    def __str__(self) -> str:
        return f"#{self.number} {self.kind} by {self.user_id} in {self.room_id[:6]}"


class Workload:
    """All users.

    Args:
        nodes: the servers.
        seed: where the random streams come from.
        note: writes a line into the timeline.
        unexpected: told of an answer that no client should ever get.
        version: of the rooms that are made.
    """

    def __init__(
        self,
        nodes: dict[str, Node],
        seed: int,
        note: Callable[[str], None],
        unexpected: Callable[[str], None],
        version: str,
    ) -> None:
        self.nodes = nodes
        self.operations: list[Operation] = []
        self.rooms: list[str] = []
        self.retrying = True
        self._seed = seed
        self._note = note
        self._unexpected = unexpected
        self._version = version
        self._users = [user_id for node in nodes.values() for user_id in node.users]
        self._retry_rng = Random(f"{seed} retries")

    # -- Operations ----------------------------------------------------------------------------------------------------

    def begin(
        self,
        kind: str,
        user_id: str,
        room_id: str,
        carry_out: Callable[[LocalUsers], Awaitable[Any]],
        *,
        token: str | None = None,
        repeatable: bool = False,
        after: Callable[[Operation], None] | None = None,
    ) -> Operation:
        """A user wishes something."""
        operation = Operation(
            len(self.operations) + 1, kind, user_id, room_id, carry_out, token, repeatable, after=after
        )
        self.operations.append(operation)
        self._attempt(operation)
        return operation

    def _attempt(self, operation: Operation) -> None:
        if operation.state != "open":
            return
        node = self.nodes[server_of(operation.user_id)]
        process = node.ready
        operation.attempts += 1
        if process is None:
            self._uncertain(operation, "the server is down")
            return
        if operation.attempts == 1:
            self._note(str(operation) + (f" ({operation.token})" if operation.token else ""))
        process.running[operation.number] = lambda: self._uncertain(operation, "the server went down")
        answer = Deferred.fromCoroutine(operation.carry_out(process.rooms.local_users))  # type: ignore[arg-type]
        answer.addBoth(self._answered, operation, process)
        answer.addErrback(lambda failure: self._unexpected(f"the harness failed: {failure.getTraceback()}"))

    def _answered(self, result: object, operation: Operation, process: Process) -> None:
        if process.running.pop(operation.number, None) is None or operation.state != "open":
            return
        if not isinstance(result, Failure):
            operation.state = "done"
            operation.event_id = result if isinstance(result, str) else None
            self._note(f"{operation}: done {operation.event_id or ''}")
            if operation.after is not None:
                operation.after(operation)
            return
        error = result.value
        if isinstance(error, REFUSALS) or (isinstance(error, SendFailed) and error.refused):
            operation.state = "refused"
            operation.reason = str(error)
            self._note(f"{operation}: refused: {error}")
        elif isinstance(error, (SendFailed, UNCERTAIN)):
            self._uncertain(operation, str(error))
        else:
            operation.state = "unknown"
            self._unexpected(f"{operation} was answered with {result.getTraceback()}")

    def _uncertain(self, operation: Operation, why: str) -> None:
        self._note(f"{operation}: uncertain: {why}")
        if operation.repeatable and self.retrying:
            clock = self.nodes[server_of(operation.user_id)].around.clock
            clock.callLater(self._retry_rng.uniform(1.0, 15.0), self._attempt, operation)
        else:
            operation.state = "unknown"

    # -- What users see ------------------------------------------------------------------------------------------------

    def room_at(self, user_id: str, room_id: str) -> Room | None:
        """The room as the user's server has it in memory."""
        process = self.nodes[server_of(user_id)].ready
        loaded = None if process is None else process.rooms.rooms._loaded.get(room_id)
        return None if loaded is None else loaded.room

    def joined(self, room_id: str) -> list[str]:
        """Users who are in the room, as far as their own servers know."""
        found = []
        for user_id in self._users:
            room = self.room_at(user_id, room_id)
            if room is not None and room.is_participating and room.membership(user_id) == "join":
                found.append(user_id)
        return found

    # -- Steps ---------------------------------------------------------------------------------------------------------

    def step(self, kind: str, number: int) -> None:
        """Do what a step of this kind comes to."""
        rng = Random(f"{self._seed} step {number}")
        if kind == "create" or not self.rooms:
            self._create(rng)
            return
        room_id = rng.choice(self.rooms)
        joined = self.joined(room_id)
        doer = getattr(self, f"_do_{kind}")
        # Now and then somebody tries who is not in the room.
        sender = rng.choice(joined) if joined and rng.random() < 0.93 else rng.choice(self._users)
        target = rng.choice(self._users)
        doer(rng, room_id, sender, target)

    def _create(self, rng: Random) -> None:
        creator = rng.choice(self._users)
        preset = rng.choice((Preset.PUBLIC_CHAT, Preset.PUBLIC_CHAT, Preset.PRIVATE_CHAT))
        invited = tuple(user for user in self._users if user != creator and rng.random() < 0.2)
        levels: dict[str, Any] = {}
        if rng.random() < 0.5:
            levels = {"users": dict.fromkeys(self._users, 100)} if rng.random() < 0.5 else {"events": {}}
        plan = RoomPlan(preset=preset, invite=invited, power_level_content_override=levels)

        def made(operation: Operation) -> None:
            assert operation.event_id is not None
            self.rooms.append(operation.event_id)
            self._note(f"{operation.event_id} is there")
            for user in self._users:
                if rng.random() < 0.8 and user != creator:
                    self._join(user, operation.event_id, [server_of(creator)])

        self.begin("create", creator, "", lambda local: local.create_room(creator, self._version, plan), after=made)

    def _send(
        self,
        kind: str,
        rng: Random,
        room_id: str,
        sender: str,
        event_type: str,
        content: dict[str, Any],
        state_key: str | None = None,
    ) -> None:
        number = len(self.operations) + 1
        token = f"t{number}."
        transaction = ClientTransaction(sender, "D", f"m{number}") if rng.random() < 0.9 else None
        marked = {**content, "org.example.token": token}
        self.begin(
            kind,
            sender,
            room_id,
            lambda local: local.send(room_id, sender, event_type, marked, state_key=state_key, transaction=transaction),
            token=token,
            repeatable=transaction is not None,
        )

    def say(self, rng: Random, room_id: str, sender: str) -> None:
        """A user says something."""
        self._send("message", rng, room_id, sender, "m.room.message", {"msgtype": "m.text", "body": "hello"})

    def _do_message(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self.say(rng, room_id, sender)

    def _do_burst(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        for _ in range(rng.choice((3, 10, 60))):
            self.say(rng, room_id, sender)

    def _do_state(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        # Several at a time, who race for the same state.
        joined = self.joined(room_id)
        event_type, content = rng.choice(
            (
                ("m.room.topic", {"topic": "x"}),
                ("m.room.name", {"name": "x"}),
                ("m.room.join_rules", {"join_rule": "public"}),
                ("m.room.join_rules", {"join_rule": "invite"}),
                ("m.room.join_rules", {"join_rule": "knock"}),
                ("m.room.history_visibility", {"history_visibility": rng.choice(("joined", "invited", "shared"))}),
            )
        )
        for user in {sender: None, **{user: None for user in joined if rng.random() < 0.5}}:
            self._send("state", rng, room_id, user, event_type, content, "")

    def _do_power(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        room = self.room_at(sender, room_id)
        before = None if room is None else room.state.get("m.room.power_levels")
        content = dict(before.content) if before is not None else {}
        content.pop("org.example.token", None)
        users = dict(content.get("users", {}))
        users[target] = rng.choice((0, 50, 99, 100))
        content["users"] = users
        self._send("power", rng, room_id, sender, "m.room.power_levels", content, "")

    def _do_redact(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        made = [one for one in self.operations if one.room_id == room_id and one.event_id and one.token]
        if made:
            event_id = rng.choice(made).event_id
            self._send("redact", rng, room_id, sender, "m.room.redaction", {"redacts": event_id})

    def _do_invite(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self.begin("invite", sender, room_id, lambda local: local.invite(room_id, sender, target, None))

    def _do_join(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self._join(target, room_id, rng.sample(sorted(self.nodes), k=rng.randint(0, len(self.nodes))))

    def _join(self, user_id: str, room_id: str, via: list[str]) -> Operation:
        return self.begin("join", user_id, room_id, lambda local: local.join(user_id, room_id, via, None))

    def _do_leave(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self.begin("leave", sender, room_id, lambda local: local.leave(sender, room_id, None))

    def _do_kick(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self._membership("kick", room_id, sender, target, "leave")

    def _do_ban(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self._membership("ban", room_id, sender, target, "ban")

    def _do_unban(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self._membership("unban", room_id, sender, target, "leave")

    def _membership(self, kind: str, room_id: str, sender: str, target: str, membership: str) -> None:
        self.begin(kind, sender, room_id, lambda local: local.membership(room_id, sender, target, membership, None))

    def _do_knock(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        self.begin("knock", target, room_id, lambda local: local.knock(target, room_id, sorted(self.nodes), None))

    def _do_scroll(self, rng: Random, room_id: str, sender: str, target: str) -> None:
        room = self.room_at(sender, room_id)
        if room is not None:
            position, limit = room.head_position, rng.choice((5, 50, 500))
            self.begin("scroll", sender, room_id, lambda local: local.backfill_before(room_id, position, limit))
