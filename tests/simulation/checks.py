"""What must hold when the world has healed and everything has come to rest.

Owns: :class:`Ending`, which reads every correct server's disk and memory and holds them against one another, against
what clients and peers were told, and against the rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from lmatrix.events.forms import Pdu
from lmatrix.ids import server_of
from lmatrix.rooms.registry import room_of
from lmatrix.rooms.replay import Replay
from lmatrix.rooms.room import Room
from lmatrix.storage.stores import Stores
from tests.simulation.census import waiting
from tests.simulation.node import Node, Process
from tests.simulation.reverify import Keys, is_redacted_copy, problems_of
from tests.simulation.rulebook import Rulebook
from tests.simulation.watch import Violation, Watch
from tests.simulation.workload import Workload

THE_DELIVERY = "the delivery"
ALARMS = "alarms"
MOVES = ("move", "take", "give")


@attrs.frozen(slots=True)
class Held:
    """An event in a server's log."""

    position: int
    event_id: str
    canonical: bytes
    standing: str
    redacted_by: str | None
    live: bool


class Ending:
    """The checks at the end of a run.

    Args:
        nodes: the correct servers.
        keys: every server's public keys.
    """

    def __init__(self, nodes: Mapping[str, Node], keys: Keys, watch: Watch, workload: Workload) -> None:
        self._nodes = nodes
        self._keys = keys
        self._watch = watch
        self._workload = workload
        self._stores = Stores.create()

    # -- Reading -------------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        process = self._nodes[name].process
        assert process is not None
        return process

    def _log(self, name: str, room_id: str) -> list[Held]:
        rows = self._process(name).disk.look(
            "SELECT e.position, e.event_id, e.canonical, e.standing, e.redacted_by, e.stream IS NOT NULL"
            " FROM events AS e JOIN rooms AS r ON r.room_nid = e.room_nid"
            " WHERE r.room_id = ? AND e.position IS NOT NULL ORDER BY e.position",
            room_id,
        )
        return [Held(*row) for row in rows]

    def rooms(self) -> dict[str, dict[str, Room]]:
        """Every room on every disk: room ID → server name → the room as a fresh process would load it."""
        found: dict[str, dict[str, Room]] = {}
        for name in self._nodes:
            disk = self._process(name).disk
            for (room_id,) in disk.look("SELECT room_id FROM rooms ORDER BY room_id"):
                stored = disk.now(lambda tx, room_id=room_id: self._stores.rooms.load_room(tx, room_id))
                found.setdefault(room_id, {})[name] = room_of(stored, name)
        return found

    def strangers(self) -> Iterator[tuple[str, str, str]]:
        """Users whom a hub counts among its room's members, and whose servers know nothing of it: ``(user ID, room ID,
        hub)``. That is what a lost answer to a join comes to; the user's client tries again.
        """
        for room_id, views in self.rooms().items():
            hub = next((name for name, room in views.items() if room.is_hub), None)
            if hub is None or room_id in self._watch.tainted:
                continue
            for member in views[hub].state.members():
                server = server_of(member.state_key)
                if member.content.get("membership") != "join" or server not in self._nodes:
                    continue
                theirs = views.get(server)
                if theirs is None or not theirs.is_participating:
                    yield member.state_key, room_id, hub

    # -- Checking ------------------------------------------------------------------------------------------------------

    def violations(self) -> list[Violation]:
        """Everything that is wrong."""
        found = []
        for room_id, views in self.rooms().items():
            if room_id not in self._watch.tainted:
                found += self._room(room_id, views)
            elif room_id in self._watch.given:
                found += self._given_room(room_id, views, self._watch.given[room_id])
        found += self._answers()
        for name in self._nodes:
            found += self._at_rest(name)
        return found

    def _room(self, room_id: str, views: Mapping[str, Room]) -> Iterator[Violation]:
        hubs = sorted(name for name, room in views.items() if room.is_hub)
        if len(hubs) != 1:
            yield Violation("hubs", f"{room_id} has the hubs {hubs or 'none'}")
            return
        hub = hubs[0]
        order = self._log(hub, room_id)
        yield from self._order(room_id, hub, order, views[hub])
        index = {held.event_id: number for number, held in enumerate(order)}
        for name, room in views.items():
            if name == hub:
                continue
            log = self._log(name, room_id)
            yield from _same_order(f"{name} in {room_id}", log, order, index)
            yield from _same_bytes(f"{name} in {room_id}", log, order, index, room)
            if views[hub].joined_per_server[name] > 0:
                if room.hub_server != hub:
                    yield Violation("hubs", f"{name} takes {room.hub_server} for the hub of {room_id}, which is {hub}")
                if room.head_event_id != order[-1].event_id:
                    yield Violation(
                        "behind",
                        f"{name} has {room_id} up to {room.head_event_id}"
                        f" ({index.get(room.head_event_id or '')} of {len(order) - 1})",
                    )
                elif _state_of(room) != _state_of(views[hub]):
                    yield Violation("state", f"{name} and {hub} differ in the state of {room_id}")
            elif room.is_participating:
                yield Violation("behind", f"{name} takes itself for a participant of {room_id}, and {hub} does not")

    def _given_room(self, room_id: str, views: Mapping[str, Room], given: str) -> Iterator[Violation]:
        """A room that a correct hub gave to one that does not keep the rules: up to then all is as it must be, and
        those who were in the room know who has it, whatever the new hub says of that.
        """
        logs = {name: self._log(name, room_id) for name in views}
        held = [one for one in logs.values() if any(event.event_id == given for event in one)]
        hub = next(
            (json.loads(event.canonical)["hub_server"] for log in held for event in log if event.event_id == given), ""
        )
        if hub not in logs or not any(event.event_id == given for event in logs[hub]):
            yield Violation("lost", f"{hub} gave {room_id} away by {given}, which it does not hold")
            return
        order = logs[hub][: [event.event_id for event in logs[hub]].index(given) + 1]
        yield from self._sound(room_id, hub, order, views[hub])
        index = {event.event_id: number for number, event in enumerate(order)}
        came: dict[str, str] = {}
        for event in order:
            fields = json.loads(event.canonical)
            if fields["type"] == "m.room.member":
                server = server_of(fields["state_key"])
                if fields["content"].get("membership") == "join":
                    came[server] = event.event_id
        book = Rulebook(room_id, views[hub].version.identifier)
        for event in order:
            book.take(event.event_id, json.loads(event.canonical))
        for name, room in views.items():
            where = f"{name} in {room_id}"
            until = [event for event in logs[name] if event.event_id in index]
            yield from _same_order(where, until, order, index)
            yield from _same_bytes(where, until, order, index, room)
            present = any(book.membership(user) == "join" for user in self._nodes[name].users)
            there = {event.event_id for event in logs[name]}
            if present and came.get(name) in there and given not in there:
                yield Violation("behind", f"{name} does not know that {hub} gave {room_id} away by {given}")

    def _order(self, room_id: str, hub: str, order: Sequence[Held], room: Room) -> Iterator[Violation]:
        """The hub's log: whole, chained, allowed, and verified anew from its bytes."""
        yield from self._sound(room_id, hub, order, room)
        by_the_rules = Rulebook(room_id, room.version.identifier)
        for held in order:
            by_the_rules.take(held.event_id, json.loads(held.canonical))
        if by_the_rules.hub != hub:
            yield Violation("hubs", f"by the rules {by_the_rules.hub} is the hub of {room_id}, and not {hub}")

    def _sound(self, room_id: str, hub: str, order: Sequence[Held], room: Room) -> Iterator[Violation]:
        if len({held.event_id for held in order}) != len(order):
            yield Violation("twice", f"{hub} has an event of {room_id} twice")
        replay = Replay(room_id, room.version)
        pdus = [Pdu.from_canonical(held.canonical, room.version) for held in order]
        for problem in replay.take(pdus):
            yield Violation("replay", f"{room_id} at {hub}, event {problem.number}: {problem.reason}")
        rulebook = Rulebook(room_id, room.version.identifier)
        for held in order:
            refusal = rulebook.take(held.event_id, json.loads(held.canonical))
            if refusal is not None:
                yield Violation("rules", f"{held.event_id} of {room_id} at {hub}: {refusal}")
        # A hub that took the room over may have got an event redacted already, and then notes nobody as its redacter.
        targets = {pdu.content.get("redacts") for pdu in pdus if pdu.type == "m.room.redaction"}
        for held in order:
            if held.standing != "accepted":
                yield Violation("standing", f"{hub} holds {held.event_id} of {room_id} as {held.standing}")
            redacted = held.redacted_by is not None or held.event_id in targets
            # Content that was not what its sender had hashed goes on as its redacted copy.
            redacted = redacted or server_of(json.loads(held.canonical)["sender"]) not in self._nodes
            for reason in problems_of(
                held.canonical, held.event_id, room.version.identifier, self._keys, redacted=redacted
            ):
                yield Violation("bytes", f"{held.event_id} of {room_id} at {hub}: {reason}")

    def _answers(self) -> Iterator[Violation]:
        """What clients and peers were told is so."""
        logs: dict[str, dict[str, str]] = {}
        tokens: dict[str, list[tuple[str, str]]] = {}
        for room_id, views in self.rooms().items():
            hub = next((name for name, room in views.items() if room.is_hub), None)
            for name in views:
                for held in self._log(name, room_id):
                    token = json.loads(held.canonical)["content"].get("org.example.token")
                    if name == hub and isinstance(token, str):
                        tokens.setdefault(token, []).append((held.event_id, held.standing))
                    if name == hub:
                        logs.setdefault(room_id, {})[held.event_id] = held.standing
                    elif held.standing == "accepted" and isinstance(token, str):
                        tokens.setdefault(token, [])
        for operation in self._workload.operations:
            if operation.room_id in self._watch.tainted or server_of(operation.user_id) not in self._nodes:
                continue
            if operation.state == "open":
                yield Violation("hanging", f"{operation} was never answered")
            moved = operation.kind in MOVES and operation.state == "done"
            if moved and logs.get(operation.room_id, {}).get(operation.event_id or "") is None:
                yield Violation("lost", f"{operation} was done by {operation.event_id}, which is gone")
            if operation.token is None:
                continue
            made = tokens.get(operation.token)
            if made is not None and len(made) > 1:
                yield Violation("twice", f"{operation} made {made}")
            if operation.state == "refused" and made is not None:
                yield Violation("refused", f"{operation} was refused ({operation.reason}), and made {made}")
            if operation.state == "done" and logs.get(operation.room_id, {}).get(operation.event_id or "") is None:
                yield Violation("lost", f"{operation} was acknowledged as {operation.event_id}, which is gone")
            if operation.state == "done" and made and made[0][0] != operation.event_id:
                yield Violation("twice", f"{operation} was acknowledged as {operation.event_id}, and made {made}")
        for hub, participant, event_id in dict.fromkeys(self._watch.told_accepted):
            if not self._process(hub).disk.look(
                "SELECT 1 FROM events WHERE event_id = ? AND position IS NOT NULL", event_id
            ):
                yield Violation("lost", f"{hub} told {participant} that it accepted {event_id}, which is gone")

        for hub, room_id, content_hash in dict.fromkeys(self._watch.joins):
            joins = self._process(hub).disk.look(
                "SELECT e.canonical FROM events AS e JOIN rooms AS r ON r.room_nid = e.room_nid"
                " WHERE r.room_id = ? AND e.position IS NOT NULL AND e.type = 'm.room.member'",
                room_id,
            )
            if not any(json.loads(canonical)["hashes"].get("sha256") == content_hash for (canonical,) in joins):
                yield Violation("lost", f"{hub} let somebody into {room_id} by an event that is gone")

    # -- Rest ----------------------------------------------------------------------------------------------------------

    def _at_rest(self, name: str) -> Iterator[Violation]:
        """Nothing is owed, pending or going on at a server, and its memory agrees with its disk."""
        process = self._process(name)
        disk, stores = process.disk, self._stores
        for room_id, hub, lpdu in disk.look("SELECT room_id, hub_server, lpdu_event_id FROM pending_lpdus"):
            if room_id not in self._watch.tainted and hub in self._nodes:
                yield Violation("pending", f"{name} still has {lpdu} for {hub} in {room_id}")
        for destination in disk.now(stores.delivery.all_owing):
            if destination in self._nodes:
                rooms = disk.now(lambda tx, to=destination: stores.delivery.owed_rooms(tx, to))
                owed = [room for room in rooms if room[0] not in self._watch.tainted]
                if owed:
                    yield Violation("owed", f"{name} still owes {destination} {owed}")
        for room_id, loaded in process.rooms.rooms._loaded.items():
            stored = disk.now(lambda tx, room_id=room_id: stores.rooms.load_room(tx, room_id))
            fresh = room_of(stored, name)
            there = loaded.room
            if (there.head_event_id, there.head_position) != (fresh.head_event_id, fresh.head_position):
                yield Violation("memory", f"{name} has {room_id} at another head in memory than on disk")
            elif _state_of(there) != _state_of(fresh) or +there.joined_per_server != +fresh.joined_per_server:
                yield Violation("memory", f"{name} has another state of {room_id} in memory than on disk")
        if not self._watch.tainted:
            for one in waiting(process.server):
                yield Violation("hanging", f"{name} has come to rest, and there waits {one}")
        for what, left in _leftovers(process):
            # Of a room whose hub has lied there may be something that is never accepted, and tried for ever.
            if not self._watch.tainted or what not in (THE_DELIVERY, ALARMS):
                yield Violation("leak", f"{name}: {what} holds {left}")


def _same_order(
    where: str, log: Sequence[Held], order: Sequence[Held], index: Mapping[str, int]
) -> Iterator[Violation]:
    """A log is a part of the order: each run of positions a run of the order, and the bytes the same."""
    before: Held | None = None
    for held in log:
        number = index.get(held.event_id)
        if number is None:
            yield Violation("stranger", f"{where} holds {held.event_id}, which the hub does not")
            return
        if before is not None:
            step = number - index[before.event_id]
            if step < 1 or (step > 1 and held.position == before.position + 1):
                yield Violation("order", f"{where} has {held.event_id} {step} after {before.event_id}")
        before = held


def _same_bytes(
    where: str, log: Sequence[Held], order: Sequence[Held], index: Mapping[str, int], room: Room
) -> Iterator[Violation]:
    """An event is the same everywhere, but that one server may hold its redacted copy where another has it whole."""
    here = {held.event_id: held for held in log}
    redacted_later = {held.redacted_by for held in order if held.redacted_by is not None}
    redacted_later.update(json.loads(order[index[one]].canonical)["content"].get("redacts") for one in index)
    for held in log:
        if held.event_id not in index:
            continue
        hubs = order[index[held.event_id]]
        if held.canonical == hubs.canonical:
            continue
        version = room.version.identifier
        if is_redacted_copy(held.canonical, hubs.canonical, version):
            # History from before one's time may be for others' eyes only, and is given out without its content. What
            # has a state's place may have been redacted since, and come so with a new snapshot.
            fine = not held.live or held.event_id in redacted_later
        elif is_redacted_copy(hubs.canonical, held.canonical, version):
            # It was redacted when this server was not there to see it.
            by = hubs.redacted_by
            there = by is not None and by in here and here[by].position > held.position >= room.first_position
            fine = held.event_id in redacted_later and not there
        else:
            fine = False
        if not fine:
            yield Violation("bytes", f"{where} holds other bytes of {held.event_id} than the hub")


def _state_of(room: Room) -> dict[tuple[str, str], tuple[str, Any]]:
    return {key: (event.event_id, dict(event.content)) for key, event in room.state.items()}


def _leftovers(process: Process) -> Iterator[tuple[str, Any]]:
    """What a server that has come to rest must not hold on to."""
    floor = process.server.rooms
    registry, local = floor.rooms, floor.local_users
    transactions = floor.receiver._transactions
    maps: dict[str, Any] = {
        "the outbox (who waits)": floor.outbox._expected,
        "the outbox (by hash)": floor.outbox._ids,
        "clients' transactions in flight": local._in_flight,
        "peers' transactions in flight": transactions._in_flight,
        "peers' transactions in the queue": transactions._waiting,
        "rooms being loaded": registry._loading,
        "rooms being joined": registry._joining,
        "entrances": registry._entrances,
        "rooms being moved": floor.transfer._moving,
        THE_DELIVERY: process.server.core.delivery._queues,
        "requests on their way": process.transport.open,
        "busy sequencers": [room_id for room_id, one in registry._loaded.items() if one.sequencer.busy],
        "operations": process.running,
    }
    for what, content in maps.items():
        if content:
            yield what, content
    in_flight = process.reactor.site.router.requests_in_flight if process.reactor.site is not None else 0
    if in_flight:
        yield "requests in flight", in_flight
    alarms = [call for call in process.reactor.getDelayedCalls() if call.getTime() < process.reactor.seconds() + 600]
    if alarms:
        yield ALARMS, alarms
