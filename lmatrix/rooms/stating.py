"""Saying how far we hold a room, so that participants can compare what their hub tells them.

Owns: :class:`HeadSpeaker`: the answer to whoever asks for a room's head, and the head statements that are sent unasked:
when, and to whom.

Invariants:

* Only the room's hub, and servers with a joined user as of that very head, are told. Whatever the room's history
  visibility is, they may know of every event since they came, and the head is one.
* A room costs each of its participants :data:`FANOUT` small EDUs in :data:`INTERVAL_SECONDS` at most, however busy and
  however large it is; and nothing when nothing happens in it.
* A head is stated :data:`QUIET_SECONDS` after it was appended, or when the last statement is an interval old. The first
  to hear of it is the server that comes next by name; the others follow in turn, three at a time, until all have heard.
  So with the first round already any two parts of the servers in a room are connected, and a hub that tells them
  different stories is found at the seam; and any two servers compare within a number of rounds that is a third of their
  number: within minutes in a room of ten, and within hours in one of a hundred.
* A hub says nothing unasked: what it has to say of the order are its events. In rooms whose version tolerates forks
  nobody does.

What is stated may be lost on its way, and is then not said again: the next head is.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import LMatrixError, NotFound
from lmatrix.metrics import Metrics
from lmatrix.rooms.head_statements import HEAD, HeadStatement
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Delivery, JsonObject
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.room import Room

QUIET_SECONDS = 15.0
INTERVAL_SECONDS = 60.0
SLOW_INTERVAL_SECONDS = 600.0
"""Between rounds about one head, after the first :data:`QUICK_ROUNDS`."""

QUICK_ROUNDS = 4
FANOUT = 3
MAX_ROOMS = 10_000
"""Rooms about which something is to be said; beyond it the one that has waited longest is passed over."""


@attrs.define(slots=True, eq=False)
class _Topic:
    """What is to be said of a room.

    Attributes:
        told: who has heard of the present head.
        turn: whose turn it is, by name.
        rounds: how often the present head was stated.
        last: when it was stated last.
        urged: when the hub was told last, out of turn.
    """

    told: set[str] = attrs.field(factory=set)
    turn: str = ""
    rounds: int = 0
    last: float = float("-inf")
    urged: float = float("-inf")
    alarm: IDelayedCall | None = None


class HeadSpeaker:
    """States heads.

    Args:
        identity: who signs.
        rooms: whose heads.
        delivery: carries statements.
        policies: may block a room.
        clock: the time.
        metrics: ``head_statements``.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        delivery: Delivery,
        policies: Policies,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._delivery = delivery
        self._policies = policies
        self._clock = clock
        self._metrics = metrics
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self._stopped = False

    async def tell(self, origin: str, room_id: str) -> JsonObject:
        """Answer another server that asks how far we hold a room.

        Raises:
            NotFound: we are not in the room, or the asker is not.
            Forbidden: the room is blocked here.
        """
        await self._policies.check_room(room_id)
        room = await self._rooms.load(room_id)
        if room is None or not room.is_participating or not may_hear(room, origin):
            raise NotFound("this server is not in the room, or yours is not")
        return self._statement(room).json

    def committed(self, room: Room) -> None:
        """After a commit: there is another head. Never raises."""
        if self._stopped or not _speaks(room):
            return
        topic = self._topic(room.room_id)
        topic.told.clear()
        topic.rounds = 0
        now = self._clock.seconds()
        due = max(now + QUIET_SECONDS, topic.last + INTERVAL_SECONDS)
        if topic.alarm is None or topic.alarm.getTime() > due:
            self._set_alarm(room.room_id, topic, due - now)

    def urge(self, room_id: str) -> None:
        """What the hub sent contradicts what we hold, or is old: tell the hub how far we are. Never raises."""
        topic = self._topic(room_id)
        now = self._clock.seconds()
        if not self._stopped and now >= topic.urged + INTERVAL_SECONDS:
            topic.urged = now
            self._in_background(room_id, self._tell_hub(room_id))

    async def stop(self) -> None:
        """Say nothing more."""
        self._stopped = True
        for topic in self._topics.values():
            _cancel(topic)
        self._topics.clear()

    def _set_alarm(self, room_id: str, topic: _Topic, seconds: float) -> None:
        _cancel(topic)
        topic.alarm = self._clock.callLater(seconds, self._alarmed, room_id, topic)

    def _alarmed(self, room_id: str, topic: _Topic) -> None:
        topic.alarm = None
        self._in_background(room_id, self._round(room_id, topic))

    def _in_background(self, room_id: str, work: Coroutine[Any, Any, None]) -> None:
        def failed(failure: Failure) -> None:
            # Nobody is owed a statement: the next head is stated again.
            if not failure.check(LMatrixError):
                self.log.failure("{room_id}: its head was not stated", failure=failure, room_id=room_id)

        Deferred.fromCoroutine(work).addErrback(failed)

    async def _tell_hub(self, room_id: str) -> None:
        room = await self._rooms.load(room_id)
        if room is not None and _speaks(room) and not self._stopped:
            self._say(room, [room.hub_server])

    def _say(self, room: Room, servers: Sequence[str]) -> None:
        statement = self._statement(room)
        for server in servers:
            self._delivery.offer_edu(server, f"head {room.room_id}", {"type": HEAD, "content": statement.json})
        self._metrics.head_statements.labels(outcome="sent").inc(len(servers))

    async def _round(self, room_id: str, topic: _Topic) -> None:
        room = await self._rooms.load(room_id)
        if self._stopped:
            return
        if room is None or not _speaks(room):
            self._topics.pop(room_id, None)
            return
        ring = sorted({*room.destinations(), room.hub_server})
        targets = self._targets(room, ring, topic)
        self._say(room, targets)
        topic.told.update(targets)
        topic.rounds += 1
        topic.last = self._clock.seconds()
        if topic.told >= set(ring):
            topic.told.clear()
        else:
            slow = topic.rounds >= QUICK_ROUNDS
            self._set_alarm(room_id, topic, SLOW_INTERVAL_SECONDS if slow else INTERVAL_SECONDS)

    def _targets(self, room: Room, ring: list[str], topic: _Topic) -> list[str]:
        """Whom to tell now: our neighbour, then whoever's turn it is."""
        first = [_after(ring, room.server_name)] if topic.rounds == 0 else []
        waiting = [server for server in ring if server not in topic.told and server not in first]
        start = next((index for index, server in enumerate(waiting) if server > topic.turn), 0)
        turn = (waiting[start:] + waiting[:start])[: FANOUT - len(first)]
        if turn:
            topic.turn = turn[-1]
        return first + turn

    def _statement(self, room: Room) -> HeadStatement:
        if room.head_event_id is None:
            raise NotFound(f"{room.room_id} has no events yet")
        now_ms = int(self._clock.seconds() * 1000)
        return HeadStatement.make(self._identity, room.room_id, room.head_event_id, room.head_position, now_ms)

    def _topic(self, room_id: str) -> _Topic:
        topic = self._topics.get(room_id)
        if topic is None:
            topic = self._topics[room_id] = _Topic()
        self._topics.move_to_end(room_id)
        while len(self._topics) > MAX_ROOMS:
            _, passed_over = self._topics.popitem(last=False)
            _cancel(passed_over)
        return topic


def may_hear(room: Room, server: str) -> bool:
    """Whether a server may know of the room's head."""
    return room.joined_per_server[server] > 0 or room.hub_server == server


def _speaks(room: Room) -> bool:
    if room.head_event_id is None or room.is_hub or not room.version.enforces_chain:
        return False
    return room.joined_per_server[room.server_name] > 0


def _after(ring: list[str], name: str) -> str:
    return next((server for server in ring if server > name), ring[0])


def _cancel(topic: _Topic) -> None:
    if topic.alarm is not None and topic.alarm.active():
        topic.alarm.cancel()
    topic.alarm = None
