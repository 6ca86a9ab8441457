"""What the tests of the delivery stand on: real stores in memory, a clock, and a peer whose answers the test decides.

Owns: :class:`Bench`. Rooms are made of real signed events, so that bodies are what goes over the wire.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import PeerRefused, PeerUnreachable
from lmatrix.events.building import build_hub_event, build_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import PathForm, RoomVersion
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.delivery import FederationDelivery
from lmatrix.metrics import Metrics
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.interfaces import (
    AppendedEvent,
    JsonObject,
    LogEntry,
    LogGrowth,
    PendingLpdu,
    RoomAppend,
    SpanChange,
    Standing,
)
from lmatrix.storage.delivery import SqlDeliveryStore
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.pending_lpdus import SqlPendingLpduStore
from lmatrix.storage.room_log import SqlRoomStore
from tests.events.builders import ALICE, BOB, HUB, I1, KEYS, PARTICIPANT

START = 1_700_000_000
PEER = PARTICIPANT
OTHER = "other.example"

OK: JsonObject = {"failed_pdus": {}, "org.lmatrix.accepted": {}}


@attrs.define(eq=False)
class Request:
    """A transaction that was sent, and its answer to come."""

    destination: str
    transaction_id: str
    body: bytes
    form: PathForm
    at: float
    answer: Deferred[JsonObject]

    @property
    def pdus(self) -> list[JsonObject]:
        """The events in it."""
        pdus: list[JsonObject] = parse_object(self.body)["pdus"]
        return pdus

    @property
    def edus(self) -> list[JsonObject]:
        """The EDUs in it."""
        edus: list[JsonObject] = parse_object(self.body).get("edus", [])
        return edus

    @property
    def texts(self) -> list[str]:
        """What was said, message by message."""
        return [pdu["content"]["body"] for pdu in self.pdus if pdu["type"] == "m.room.message"]

    def ok(self, failed: Mapping[str, str] | None = None, accepted: Mapping[str, str] | None = None) -> None:
        """Answer 200."""
        reasons = {event_id: {"error": reason} for event_id, reason in (failed or {}).items()}
        self.answer.callback({"failed_pdus": reasons, "org.lmatrix.accepted": dict(accepted or {})})

    def later(self, *event_ids: str) -> None:
        """Answer 200, and that these are to be sent again."""
        entry = {"error": "not yet", "errcode": "org.lmatrix.try_later"}
        self.answer.callback({"failed_pdus": dict.fromkeys(event_ids, entry), "org.lmatrix.accepted": {}})

    def wrong_server(self, *event_ids: str) -> None:
        """Answer 200, and that another server should get these."""
        entry = {"error": "not me", "errcode": "M_WRONG_SERVER", "hub_server": "other.example"}
        self.answer.callback({"failed_pdus": dict.fromkeys(event_ids, entry), "org.lmatrix.accepted": {}})

    def unreachable(self) -> None:
        """No answer."""
        self.answer.errback(PeerUnreachable(self.destination, "connection refused"))

    def refuse(self, status: int, errcode: str = "M_UNKNOWN", **body: Any) -> None:
        """Answer an error."""
        self.answer.errback(PeerRefused(self.destination, status, errcode, "no", body))


class Peers:
    """All other servers: notes requests, and leaves them open unless ``respond`` answers them."""

    def __init__(self, clock: Clock) -> None:
        self.requests: list[Request] = []
        self.respond: Callable[[Request], None] | None = None
        self._clock = clock

    async def send_transaction(
        self, destination: str, transaction_id: str, body: bytes, path_form: PathForm
    ) -> JsonObject:
        request = Request(destination, transaction_id, body, path_form, self._clock.seconds(), Deferred())
        self.requests.append(request)
        if self.respond is not None:
            self.respond(request)
        return await request.answer

    @property
    def open(self) -> list[Request]:
        """Requests that wait for their answer."""
        return [request for request in self.requests if not request.answer.called]

    def last(self) -> Request:
        """The one request that waits for its answer."""
        [request] = self.open
        return request


class Outcomes:
    """Settles what hubs answered for LPDUs, as the rooms do."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.heard: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.fail_next = 0

    async def hub_answered(
        self,
        hub_server: str,
        lpdus: Sequence[PendingLpdu],
        failed: Mapping[str, str],
        accepted: Mapping[str, str],
        misdirected: Mapping[str, str],
    ) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise RuntimeError("the rooms are not well")
        await self._bench.database.write(lambda tx: self._bench.pending.settle(tx, [*failed, *accepted]))
        self.heard.append((hub_server, dict(failed), dict(accepted)))


class Bench:
    """One server's delivery with all that it stands on. It is the hub of its rooms, and :data:`PEER` of others.

    Args:
        commit_seconds, read_seconds: how long the disk takes to commit and, if it takes time to commit, to read.

    Attributes:
        reads: how often the disk was read.
    """

    def __init__(self, commit_seconds: float = 0, read_seconds: float = 0) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self._commit_seconds = commit_seconds
        self.reads = 0

        def reading() -> float:
            self.reads += 1
            return read_seconds

        self.database = InlineDatabase(
            clock=self.clock if commit_seconds else None,
            commit_seconds=lambda: commit_seconds,
            read_seconds=reading,
        )
        self.rooms = SqlRoomStore()
        self.cursors = SqlDeliveryStore()
        self.pending = SqlPendingLpduStore()
        self.peers = Peers(self.clock)
        self.outcomes = Outcomes(self)
        self.heads: dict[str, tuple[RoomVersion, list[Pdu]]] = {}
        self.one_event: set[str] = set()
        self.policy = BackoffPolicy()
        self._lives = 0
        self.metrics = Metrics()
        self.delivery = self.live()

    def live(self) -> FederationDelivery:
        """A delivery on what is in the database; the one before is gone as after a crash."""
        self._lives += 1
        self.metrics = Metrics()
        self.peers = Peers(self.clock)
        self.delivery = FederationDelivery(
            server_name=HUB,
            database=self.database,
            delivery_store=self.cursors,
            pending_store=self.pending,
            room_store=self.rooms,
            sender=self.peers,
            outcomes=self.outcomes,
            clock=self.clock,
            rng=random.Random(self._lives),
            metrics=self.metrics,
            policy=self.policy,
            one_event_per_transaction=self.one_event.__contains__,
        )
        return self.delivery

    # -- Rooms -----------------------------------------------------------------------------------------------------

    def room(self, name: str, version: RoomVersion = I1, destinations: Sequence[str] = (PEER,)) -> str:
        """A room of ours with its create event, in which the destinations take part from the start."""
        room_id = f"!{name}:{HUB}"
        self.heads[room_id] = (version, [])
        self._run(lambda tx: self.rooms.insert_room(tx, room_id, version.identifier, 1))
        create = self._event(room_id, "m.room.create", {"room_version": version.identifier}, state_key="")
        self._append(room_id, [create], [SpanChange(destination, 1, True) for destination in destinations])
        return room_id

    def say(self, room_id: str, *texts: str) -> None:
        """Messages into the room's log; nobody is woken."""
        for text in texts:
            self._append(room_id, [self._event(room_id, "m.room.message", {"body": text})])

    def leave(self, room_id: str, destination: str, text: str = "kick") -> None:
        """The destination ceases to take part with the message that says ``text``."""
        event = self._event(room_id, "m.room.message", {"body": text})
        position = len(self.heads[room_id][1]) + 1
        self._append(room_id, [event], [SpanChange(destination, position, False)])

    def texts(self, room_id: str) -> list[str]:
        """Everything that was said in the room."""
        return [pdu.content["body"] for pdu in self.heads[room_id][1] if pdu.type == "m.room.message"]

    def ids(self, room_id: str, *texts: str) -> list[str]:
        """Event IDs of what was said in the room."""
        return [pdu.event_id for pdu in self.heads[room_id][1] if pdu.content.get("body") in texts]

    def advanced(self, *room_ids: str, destinations: Sequence[str] = (PEER,)) -> None:
        """Wake the delivery for rooms."""
        for room_id in room_ids:
            self.delivery.room_advanced(room_id, destinations)

    def grown(self, room_id: str, *texts: str, destinations: Sequence[str] = (PEER,)) -> None:
        """Messages into the room's log in one commit, which the delivery is told of with what they are."""
        self.say(room_id, *texts)
        version, log = self.heads[room_id]
        first = len(log) - len(texts)
        entries = [
            LogEntry(position, pdu.event_id, pdu.canonical) for position, pdu in enumerate(log[first:], start=first + 1)
        ]
        self.delivery.room_advanced(room_id, destinations, LogGrowth(room_id, version.outbound_paths, entries))
        self.clock.advance(0)

    def cursor(self, room_id: str, destination: str = PEER) -> int:
        """The stored cursor."""
        rows = self._run(
            lambda tx: tx.rows(
                "SELECT position FROM delivery_cursors JOIN rooms USING (room_nid)"
                " WHERE room_id = ? AND destination = ?",
                (room_id, destination),
            )
        )
        return int(rows[0][0])

    # -- LPDUs and EDUs ----------------------------------------------------------------------------------------------

    def lpdu(self, text: str, room: str = "theirs", version: RoomVersion = I1, hub: str = PEER) -> Lpdu:
        """An LPDU of Alice for a room of another hub, pending."""
        lpdu = build_lpdu(
            version,
            room_id=f"!{room}:{hub}",
            type="m.room.message",
            sender=ALICE,
            content={"body": text},
            origin_server_ts=1,
            hub_server=hub,
            server_name=HUB,
            keys=[KEYS[HUB]],
        )
        self._run(lambda tx: self.pending.add(tx, lpdu, hub))
        return lpdu

    def settle(self, *lpdus: Lpdu) -> None:
        """What happens when their echo comes."""
        self._run(lambda tx: self.pending.settle(tx, [lpdu.event_id for lpdu in lpdus]))

    def edu(self, number: int, destination: str = PEER) -> None:
        """An EDU in the outbox."""
        edu = {"type": "m.direct_to_device", "sender": BOB, "content": {"number": number}}
        self._run(lambda tx: self.cursors.add_edu(tx, destination, edu))

    # -- What is stored ----------------------------------------------------------------------------------------------

    def stored_state(self, destination: str = PEER) -> DestinationState:
        """What is stored of a destination."""
        state = self._run(lambda tx: self.cursors.destination(tx, destination))
        return state or DestinationState()

    def stored_edus(self, destination: str = PEER) -> list[int]:
        """The EDUs in the outbox, by their numbers in their contents."""
        return [edu["content"]["number"] for _, edu in self._run(lambda tx: self.cursors.edus(tx, destination, 10**6))]

    def lag(self, destination: str = PEER) -> float | None:
        """The metric, ``None`` when the destination has none."""
        return self.metrics.registry.get_sample_value("lmatrix_delivery_lag_events", {"destination": destination})

    def _run(self, work: Callable[[Any], Any]) -> Any:
        results: list[Any] = []
        self.database.write(work).addCallback(results.append)
        if not results:
            self.clock.advance(self._commit_seconds)
        return results[0]

    def _event(self, room_id: str, event_type: str, content: JsonObject, state_key: str | None = None) -> Pdu:
        version, log = self.heads[room_id]
        return build_hub_event(
            version,
            room_id=room_id,
            type=event_type,
            sender=ALICE,
            content=content,
            origin_server_ts=len(log),
            hub_server=HUB,
            auth_events=[log[0].event_id] if log else [],
            prev_events=[log[-1].event_id] if log else [],
            keys=[KEYS[HUB]],
            state_key=state_key,
        )

    def _append(self, room_id: str, events: Sequence[Pdu], spans: Sequence[SpanChange] = ()) -> None:
        log = self.heads[room_id][1]
        appended = [
            AppendedEvent(len(log) + number, pdu, Standing.ACCEPTED, pdu.lpdu_hash)
            for number, pdu in enumerate(events, start=1)
        ]
        self._run(lambda tx: self.rooms.append(tx, RoomAppend(room_id, appended, spans)))
        log.extend(events)


def is_canonical(body: bytes) -> bool:
    """Whether a body is canonical JSON."""
    return encode(parse_object(body)) == body
