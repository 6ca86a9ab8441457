"""Several servers' rooms, joined without a network.

Each server is the real rooms floor on the real stores, in memory. What one server says to another goes through JSON
both ways and through the error envelope, as on the wire; only HTTP, signatures of requests and the back-off of the
delivery are missing.
Nothing happens by itself: a test decides when what is owed is delivered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import encode, parse, parse_object
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import LMatrixError, PeerRefused, PeerUnreachable
from lmatrix.events.creation import Preset, RoomPlan
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.signatures import KnownKey
from lmatrix.http.errors import error_answer
from lmatrix.metrics import Metrics
from lmatrix.rooms.floor import RoomsFloor, RoomStores
from lmatrix.rooms.head_statements import HeadStatement
from lmatrix.rooms.history import History
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import (
    EduReceiver,
    JsonObject,
    LocalDirectory,
    LogGrowth,
    MembershipTemplate,
    MembershipWatcher,
    StoredEvent,
)
from lmatrix.rooms.local_users import ClientTransaction
from lmatrix.rooms.policy import NoPolicies, Policies
from lmatrix.storage.accounts import SqlAccountStore
from lmatrix.storage.delivery import SqlDeliveryStore
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.invites import SqlInviteStore
from lmatrix.storage.pending_lpdus import SqlPendingLpduStore
from lmatrix.storage.profiles import SqlProfileStore
from lmatrix.storage.restoration import SqlRestorationStore
from lmatrix.storage.room_log import SqlRoomStore
from lmatrix.storage.transactions import SqlTransactionStore

T = TypeVar("T")
START = 1_700_000_000


class Network:
    """All servers, their clock, and the switch between them.

    Attributes:
        denied: event IDs that a server (the second) keeps from another (the first), and says that they do not exist.
        other_programs: servers that do not know what is ours.
        device_servers: what :mod:`tests.devices.network` puts on top of the servers.
        directory_servers: what :mod:`tests.directory.network` does.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.servers: dict[str, Server] = {}
        self.unreachable: set[str] = set()
        self.keyless: set[str] = set()
        self.bare: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []
        self.slow: dict[tuple[str, str], Deferred[None]] = {}
        self.device_servers: dict[str, Any] = {}
        self.other_programs: set[str] = set()
        self.denied: dict[tuple[str, str], set[str]] = {}
        self.directory_servers: dict[str, Any] = {}

    def server(self, name: str) -> Server:
        """A new server."""
        self.servers[name] = Server(self, name)
        return self.servers[name]

    def reach(self, origin: str, destination: str, what: str) -> Server:
        """The other server, unless it is cut off."""
        self.requests.append((origin, destination, what))
        if destination not in self.servers or destination in self.unreachable or origin in self.unreachable:
            raise PeerUnreachable(destination, "connection refused")
        return self.servers[destination]

    async def think(self, destination: str, what: str) -> None:
        """A slow server takes its time to answer."""
        thinking = self.slow.pop((destination, what), None)
        if thinking is not None:
            await thinking

    async def ask(self, destination: str, answer: Awaitable[T]) -> T:
        """An answer of another server, with errors as the wire gives them."""
        try:
            return await answer
        except LMatrixError as error:
            envelope = error_answer(error)
            body = envelope.body if isinstance(envelope.body, dict) else parse_object(envelope.body)
            raise PeerRefused(
                destination, envelope.status, str(body["errcode"]), str(body["error"]), dict(body)
            ) from None

    def finished(self, work: Awaitable[T]) -> T:
        """The result of something that needs the reactor's next turns, but no time."""
        running = Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        for _ in range(1000):
            if running.called:
                break
            self.clock.advance(0)
        return result_of(running)

    def settle(self) -> None:
        """Deliver everything that is owed, and what follows from it."""
        while any(server.deliver_once() for server in self.servers.values()):
            pass


class MemoryKeyring:
    """Everybody's keys are known, but for those that cannot be had now."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def keys_for(self, wanted: Mapping[str, Iterable[str]]) -> Mapping[str, Mapping[str, KnownKey]]:
        await self._network.think("everybody", "keys")
        return {
            name: {
                key.key_id: KnownKey(key.key_id, key.public)
                for key in self._network.servers[name].identity.keys
                if key.key_id in set(key_ids)
            }
            for name, key_ids in wanted.items()
            if name in self._network.servers and name not in self._network.keyless
        }

    def has_spoken(self, server: str, since: float) -> bool:
        return server in self._network.servers and server not in self._network.keyless


class MemoryPeers:
    """Requests to the other servers."""

    def __init__(self, network: Network, server_name: str) -> None:
        self._network = network
        self._us = server_name

    async def make_membership(
        self, destination: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> MembershipTemplate:
        peer = self._network.reach(self._us, destination, f"make_{membership}")
        answer = await self._network.ask(
            destination, peer.floor.handshakes.make(self._us, membership, room_id, user_id, versions)
        )
        answer = parse_object(encode(answer))
        version = None if destination in self._network.bare else answer["room_version"]
        return MembershipTemplate(answer["event"], version)

    async def send_membership(
        self, destination: str, membership: str, room_version: RoomVersion, lpdu: Lpdu
    ) -> JsonObject:
        peer = self._network.reach(self._us, destination, f"send_{membership}")
        body = parse_object(lpdu.canonical)
        answer = await self._network.ask(
            destination, peer.floor.handshakes.send(self._us, membership, lpdu.event_id, body)
        )
        return parse_object(answer)

    async def invite(
        self,
        destination: str,
        room_version: RoomVersion,
        event: JsonObject,
        stripped_state: Sequence[JsonObject],
    ) -> JsonObject:
        peer = self._network.reach(self._us, destination, "invite")
        body = {"event": event, "room_version": room_version.identifier, "invite_room_state": list(stripped_state)}
        body = parse_object(encode(body))
        txn_id = f"{self._us}-{len(self._network.requests)}"
        await self._network.think(destination, "invite")
        answer = parse_object(
            await self._network.ask(destination, peer.floor.handshakes.invite(self._us, txn_id, body))
        )
        return dict(answer["pdu"])

    async def backfill(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str, limit: int
    ) -> Sequence[JsonObject]:
        peer = self._network.reach(self._us, destination, "backfill")
        await self._network.think(destination, "backfill")
        if event_id in self._network.denied.get((self._us, destination), ()):
            raise PeerRefused(destination, 404, "M_NOT_FOUND", "no such event", {})
        history = History(peer.database, peer.rooms, peer.floor.rooms, peer.policies, peer.floor.transfer.takes_over)
        answer = await self._network.ask(destination, history.backfill(self._us, room_id, event_id, limit))
        return list(parse_object(answer)["pdus"])

    async def head(self, destination: str, room_id: str) -> JsonObject | None:
        peer = self._network.reach(self._us, destination, "head")
        if destination in self._network.other_programs:
            return None
        await self._network.think(destination, "head")
        answer = parse_object(encode(await self._network.ask(destination, peer.floor.heads.tell(self._us, room_id))))
        denied = self._network.denied.get((self._us, destination), ())
        shown = [event.event_id for event in peer.log(room_id) if event.event_id not in denied]
        if answer["head"] == shown[-1]:
            return answer
        now_ms = int(self._network.clock.seconds() * 1000)
        return HeadStatement.make(peer.identity, room_id, shown[-1], len(shown), now_ms).json

    async def offer_hub(self, destination: str, offer: JsonObject) -> JsonObject:
        peer = self._network.reach(self._us, destination, "offer")
        lpdu = await self._network.ask(destination, peer.floor.candidacy.offered(self._us, parse_object(encode(offer))))
        await self._network.think(destination, "offer")
        return parse_object(lpdu.canonical)

    async def request_hub(self, destination: str, room_id: str, user_id: str) -> str:
        peer = self._network.reach(self._us, destination, "request")
        return await self._network.ask(destination, peer.floor.transfer.requested(self._us, room_id, user_id))

    async def event(self, destination: str, room_version: RoomVersion, event_id: str) -> JsonObject:
        raise AssertionError("not used by the rooms")

    async def state(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str
    ) -> tuple[Sequence[JsonObject], Sequence[JsonObject]]:
        raise AssertionError("not used by the rooms")


class MemoryDelivery:
    """Notes who is owed something; :meth:`Server.deliver_once` delivers it."""

    def __init__(self) -> None:
        self.destinations: set[str] = set()
        self.hubs: set[str] = set()
        self.edus: set[str] = set()
        self.fleeting: dict[tuple[str, str], JsonObject] = {}
        self.growths: list[tuple[frozenset[str], LogGrowth | None]] = []

    def room_advanced(self, room_id: str, destinations: Iterable[str], growth: LogGrowth | None = None) -> None:
        self.growths.append((frozenset(destinations), growth))
        self.destinations.update(destinations)

    def lpdus_pending(self, hub_server: str) -> None:
        self.hubs.add(hub_server)

    def heard_from(self, destination: str) -> None:
        """Nothing to end: there is no back-off here."""

    def edus_pending(self, destination: str) -> None:
        self.edus.add(destination)

    def offer_edu(self, destination: str, subject: str, edu: JsonObject) -> None:
        self.fleeting[destination, subject] = edu


class MemoryAudience:
    """Notes what local users were told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, tuple[str, ...] | None]] = []

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        self.told.append((stream, room_id, None if user_ids is None else tuple(user_ids)))


class MemoryEdus:
    """Notes EDUs."""

    def __init__(self) -> None:
        self.received: list[tuple[str, JsonObject]] = []

    async def receive(self, origin: str, edus: Sequence[JsonObject], record: Callable[[Any], None]) -> None:
        self.received.extend((origin, edu) for edu in edus)


class MemoryWatcher:
    """Notes who came and went."""

    def __init__(self) -> None:
        self.told: list[tuple[str, set[str], set[str], set[str]]] = []

    def memberships_changed(
        self, room_id: str, joined: Collection[str], left: Collection[str], new_servers: Collection[str]
    ) -> None:
        self.told.append((room_id, set(joined), set(left), set(new_servers)))


class Server:
    """One server's rooms."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.name = name
        key = SigningKey.generate("1", seed=name.encode().ljust(32, b".")[:32])
        self.identity = ServerIdentity(name, (key,))
        self.database = InlineDatabase()
        self.rooms = SqlRoomStore()
        self.pending = SqlPendingLpduStore()
        self.cursors = SqlDeliveryStore()
        self.accounts = SqlAccountStore()
        self.restoration = SqlRestorationStore()
        self.invites = SqlInviteStore()
        self.profiles = SqlProfileStore()
        self.delivery = MemoryDelivery()
        self.audience = MemoryAudience()
        self.edus: EduReceiver = MemoryEdus()
        self.watcher: MembershipWatcher = MemoryWatcher()
        self.directory: LocalDirectory | None = None
        self.metrics = Metrics()
        self.may_overlap = False
        self.policies: Policies = NoPolicies()
        self._transactions = 0
        self.floor = self.build()

    def build(self) -> RoomsFloor:
        """The rooms floor, on this server's database; again after a restart."""
        return RoomsFloor.build(
            self.identity,
            self.database,
            RoomStores(
                rooms=self.rooms,
                pending_lpdus=self.pending,
                invites=self.invites,
                transactions=SqlTransactionStore(),
                client_transactions=self.accounts,
                directory=self.accounts,
                restoration=self.restoration,
                profiles=self.profiles,
            ),
            keyring=MemoryKeyring(self.network),
            peers=MemoryPeers(self.network, self.name),
            delivery=self.delivery,
            audience=self.audience,
            edus=self.edus,
            watcher=self.watcher,
            may_overlap=lambda _: self.may_overlap,
            clock=self.network.clock,
            rng=Random(self.name),
            metrics=self.metrics,
            policies=self.policies,
            directory=self.directory,
        )

    def restart(self) -> None:
        """Forget everything that is not in the database."""
        self.floor = self.build()

    # -- What tests do --

    def user(self, localpart: str) -> str:
        """Register a user."""
        user_id = f"@{localpart}:{self.name}"
        result_of(self.database.write(lambda tx: self.accounts.create_user(tx, user_id, "hash", 0)))
        return user_id

    def create_room(self, creator: str, version: str = "I.1", **plan: Any) -> str:
        """Create a room; a public one unless the plan says otherwise."""
        return done(
            self.floor.local_users.create_room(creator, version, RoomPlan(**{"preset": Preset.PUBLIC_CHAT, **plan}))
        )

    def send(self, room_id: str, sender: str, body: str, txn_id: str | None = None) -> Deferred[str]:
        """Send a message."""
        transaction = None if txn_id is None else ClientTransaction(sender, "DEVICE", txn_id)
        return Deferred.fromCoroutine(
            self.floor.local_users.send(
                room_id,
                sender,
                "m.room.message",
                {"msgtype": "m.text", "body": body},
                transaction=transaction,
            )
        )

    def join(self, user_id: str, room_id: str, *via: str) -> str:
        """Join a room, and deliver what follows."""
        joining = Deferred.fromCoroutine(self.floor.local_users.join(user_id, room_id, via, None))
        # The checking of the room's state takes some turns of the reactor.
        self.network.clock.pump([0] * 10)
        self.network.settle()
        self.network.clock.pump([0] * 100)
        return result_of(joining)

    def receive(self, origin: str, transaction_id: str, pdus: Sequence[JsonObject], **more: Any) -> JsonObject:
        """Take a transaction as if ``origin`` had sent it; the answer."""
        body = parse_object(encode({"pdus": list(pdus), **more}))
        return parse_object(self.network.finished(self.floor.receiver.receive(origin, transaction_id, body)))

    def log(self, room_id: str) -> list[StoredEvent]:
        """The room's log, as this server has it."""
        return list(result_of(self.database.read(lambda tx: self.rooms.events_between(tx, room_id, 0, 2**62, 10**6))))

    def pdus(self, room_id: str) -> list[Pdu]:
        """The room's events, as this server has them."""
        room = done(self.floor.rooms.load(room_id))
        version = room.version if room is not None else room_version("I.1")
        return [Pdu.from_canonical(event.canonical, version) for event in self.log(room_id)]

    def bodies(self, room_id: str) -> list[str]:
        """The texts of the room's messages."""
        return [pdu.content["body"] for pdu in self.pdus(room_id) if pdu.type == "m.room.message"]

    # -- Delivery --

    def deliver_once(self) -> bool:
        """Send one transaction to everybody who is owed something; whether there was anything to send."""
        sent = False
        for destination in sorted(self.delivery.destinations):
            sent = self._deliver_log(destination) or sent
        for hub in sorted(self.delivery.hubs):
            sent = self._deliver_lpdus(hub) or sent
        for destination in sorted({*self.delivery.edus, *(to for to, _ in self.delivery.fleeting)}):
            sent = self._deliver_edus(destination) or sent
        return sent

    def _deliver_log(self, destination: str) -> bool:
        def owed(tx: Any) -> list[tuple[str, Sequence[StoredEvent]]]:
            rooms = self.cursors.owed_rooms(tx, destination)
            return [(room[0], self.cursors.owed_events(tx, destination, room[0], 50)) for room in rooms]

        for room_id, events in result_of(self.database.read(owed)):
            if not events:
                continue
            answer = self._transaction(destination, [parse(event.canonical) for event in events])
            if answer is None:
                return False
            head = events[-1].position
            result_of(
                self.database.write(
                    lambda tx, room_id=room_id, head=head: self.cursors.advance(tx, destination, room_id, head)
                )
            )
            return True
        self.delivery.destinations.discard(destination)
        return False

    def _deliver_lpdus(self, hub: str) -> bool:
        lpdus = result_of(self.database.read(lambda tx: self.pending.for_hub(tx, hub, 0, 50)))
        if not lpdus:
            self.delivery.hubs.discard(hub)
            return False
        answer = self._transaction(hub, [parse(lpdu.canonical) for lpdu in lpdus])
        if answer is None:
            return False
        failed: dict[str, str] = {}
        misdirected: dict[str, str] = {}
        for event_id, one in answer["failed_pdus"].items():
            (misdirected if one.get("errcode") == "M_WRONG_SERVER" else failed)[event_id] = one["error"]
        accepted = answer.get("org.lmatrix.accepted", {})
        done(self.floor.outbox.hub_answered(hub, lpdus, failed, accepted, misdirected))
        return True

    def _deliver_edus(self, destination: str) -> bool:
        owed = result_of(self.database.read(lambda tx: self.cursors.edus(tx, destination, 50)))
        offered = {key: edu for key, edu in self.delivery.fleeting.items() if key[0] == destination}
        for key in offered:
            del self.delivery.fleeting[key]
        edus = [*(edu for _, edu in owed), *offered.values()]
        if not edus:
            self.delivery.edus.discard(destination)
            return False
        if self._transaction(destination, [], edus=edus) is None:
            return False
        result_of(self.database.write(lambda tx: self.cursors.remove_edus(tx, [number for number, _ in owed])))
        return True

    def _transaction(self, destination: str, pdus: Sequence[JsonObject], **more: Any) -> JsonObject | None:
        self._transactions += 1
        try:
            peer = self.network.reach(self.name, destination, "send")
            return peer.receive(self.name, f"{self.name}-{self._transactions}", pdus, **more)
        except PeerUnreachable:
            return None


def done(work: Awaitable[T]) -> T:
    """The result of a coroutine that must be finished by now; raises what it raised."""
    return result_of(Deferred.fromCoroutine(work))  # type: ignore[arg-type]


def result_of(deferred: Deferred[T]) -> T:
    """The result of a Deferred that must have fired by now."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    if not results:
        raise AssertionError("it has not finished yet")
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


class NetworkTestCase(SynchronousTestCase):
    """A hub and two participants, each with a user."""

    def setUp(self) -> None:
        self.network = Network()
        self.hub = self.network.server("hub.example")
        self.north = self.network.server("north.example")
        self.south = self.network.server("south.example")
        self.alice = self.hub.user("alice")
        self.bob = self.north.user("bob")
        self.carol = self.south.user("carol")

    def shared_room(self, version: str = "I.1", **plan: Any) -> str:
        """A room in which all three are."""
        room_id = self.hub.create_room(self.alice, version, **plan)
        self.north.join(self.bob, room_id, self.hub.name)
        self.south.join(self.carol, room_id, self.hub.name)
        return room_id

    def say(self, server: Server, room_id: str, sender: str, body: str) -> str:
        """Send a message and deliver everything; its event ID."""
        sending = server.send(room_id, sender, body)
        self.network.settle()
        return self.successResultOf(sending)

    def assert_same_order(self, room_id: str) -> None:
        """Each server's log is the tail of the hub's, in the same order and byte for byte."""
        whole = [event.canonical for event in self.hub.log(room_id)]
        for server in (self.north, self.south):
            theirs = [event.canonical for event in server.log(room_id)]
            self.assertEqual(whole[len(whole) - len(theirs) :], theirs, server.name)
