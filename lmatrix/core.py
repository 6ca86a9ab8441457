"""What a server is made of, wherever it runs: the rooms and devices, their storage, and the federation side.

Owns: the wiring of these parts, in :func:`build_core`, and the order in which they start and stop, in :class:`Core`.
Whoever builds one (a composition root) adds what depends on where it runs: who the server is and what it signs with,
where requests come in, who its users are and how they hear of anything.

Start: the database first (nothing works without it), then, once requests can come in, the delivery of what is owed from
before. No other server is waited for. Stop is the reverse.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from lmatrix import __version__
from lmatrix.config.federation import FederationConfig
from lmatrix.devices.floor import DevicesFloor, DeviceStores
from lmatrix.devices.interfaces import SyncWaker
from lmatrix.directory.floor import DirectoryFloor, DirectoryStores
from lmatrix.federation.allowed_servers import OnlyFrom, OnlyTo
from lmatrix.federation.authentication import Authenticator
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.client import RouteFinder, SignedClient
from lmatrix.federation.delivery import FederationDelivery
from lmatrix.federation.device_peers import HttpDevicePeers
from lmatrix.federation.directory_peers import HttpDirectoryPeers
from lmatrix.federation.key_fetching import KeyFetcher
from lmatrix.federation.key_notaries import KeyNotaries
from lmatrix.federation.keyring import ServerKeyring
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.peers import HttpPeers
from lmatrix.federation.resources.admission import Admission, Authenticates, Limits
from lmatrix.federation.resources.routes import federation_table
from lmatrix.federation.transport import PeerTransport
from lmatrix.http.routes import RouteTable
from lmatrix.metrics import Metrics
from lmatrix.peer_memory import StoredPeerTraits
from lmatrix.rooms.floor import RoomsFloor, RoomStores
from lmatrix.rooms.history import History
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, EduReceiver, LocalDirectory, PendingLpdu, PendingOutcomes
from lmatrix.rooms.invitations import StoredAccounts
from lmatrix.rooms.policy import NoPolicies, Policies
from lmatrix.rooms.registry import Rooms
from lmatrix.storage.stores import Stores


class RunningDatabase(Database, Protocol):
    """A database with a beginning and an end; see :class:`lmatrix.storage.database.SqliteDatabase`."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class ClosingTransport(PeerTransport, Protocol):
    """A transport with an end; see :class:`lmatrix.federation.transport.HttpTransport`."""

    async def close(self) -> None: ...


@attrs.frozen(slots=True)
class Outside:
    """What a server stands on.

    Attributes:
        database: where everything is kept.
        transport: carries requests to other servers.
        resolver: finds them.
    """

    database: RunningDatabase
    transport: ClosingTransport
    resolver: RouteFinder


@attrs.frozen(slots=True, kw_only=True)
class Core:
    """The parts, built.

    Attributes:
        database, stores: where everything is kept.
        keyring, fetcher: other servers' keys.
        client: makes requests to them.
        delivery: what is owed to other servers.
        rooms, devices, names: what is done for users and other servers; the last is the directory.
        federation: the endpoints for other servers.
        traits, transport: how other servers are talked to.
    """

    database: RunningDatabase
    stores: Stores
    keyring: ServerKeyring
    fetcher: KeyFetcher
    client: SignedClient
    delivery: FederationDelivery
    rooms: RoomsFloor
    devices: DevicesFloor
    names: DirectoryFloor
    federation: RouteTable
    traits: StoredPeerTraits
    transport: ClosingTransport

    async def open(self) -> None:
        """Open the database; after it, requests of other servers can be answered.

        Raises:
            StorageFailed: the database cannot be used: damaged, in use, or written by a newer version.
        """
        await self.database.start()
        await self.traits.load()
        # Before anybody is let in: what an older copy of the database has forgotten must not be made anew.
        await self.rooms.recovery.prepare()

    async def deliver(self) -> None:
        """Begin to deliver what is owed, now that others can check our keys."""
        await self.delivery.start()
        await self.rooms.resender.resume()
        self.rooms.recovery.start()
        await self.names.changes.resume()
        self.rooms.leading_out.sweep_soon()

    def closing(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """The steps of the way down, once no requests come in any more; each is to be taken whatever became of others.

        The deliveries in flight are finished, the rooms idle, the database is drained and closed last.
        """
        return (
            self.rooms.heads.stop,
            self.rooms.listener.stop,
            self.rooms.recovery.stop,
            self.names.stop,
            self.delivery.stop,
            self.rooms.rooms.idle,
            self.devices.stop,
            self.transport.close,
            self.database.stop,
        )


async def take_steps(steps: Sequence[Callable[[], Awaitable[None]]], log: Logger) -> None:
    """Take every step on the way down; one that fails is logged.

    Whatever one part makes of its end, the others must still come to theirs: the database most of all.
    """
    for step in steps:
        try:
            await step()
        except Exception:
            log.failure("a part of the server did not stop in order")


def build_core(
    identity: ServerIdentity,
    own_keys: OwnKeys,
    federation: FederationConfig,
    *,
    outside: Outside,
    audience: SyncWaker,
    directory: LocalDirectory | None = None,
    edus: EduReceiver | None = None,
    only_servers: Collection[str] | None = None,
    limiter: Limits | None,
    policies: Policies | None = None,
    reactor: Any,
    rng: random.Random,
    metrics: Metrics,
) -> Core:
    """Build the parts and hand them to one another; nothing is opened yet.

    Args:
        identity, own_keys: who this server is, and its keys as others may see them.
        federation: the configuration's section.
        outside: the disk and the network.
        audience: who is told what is new for local users.
        directory: which users are ours; by default those that have an account in the database.
        edus: where other servers' EDUs go; by default to the devices.
        only_servers: the only servers to talk to; ``None``: any.
        limiter: how often another server may ask; ``None``: as it likes.
        policies: what is allowed beside the rules of the rooms; by default everything.
        reactor: tells the time.
        rng: where IDs and jitter come from.
        metrics: counts.
    """
    policies = policies or NoPolicies()
    settings = PeerSettingsTable(federation.peers)
    database, transport = outside.database, outside.transport
    stores = Stores.create()

    # Towards other servers.
    traits = StoredPeerTraits(database, stores.delivery, stores.pending_lpdus)
    client = SignedClient(
        identity,
        resolver=outside.resolver if only_servers is None else OnlyTo(outside.resolver, only_servers),
        transport=transport,
        traits=traits.memory,
        clock=reactor,
        metrics=metrics,
        user_agent=f"lmatrix/{__version__}",
    )
    fetcher = KeyFetcher(database=database, store=stores.server_keys, client=client, clock=reactor)
    notaries = None
    if federation.notaries:
        notaries = KeyNotaries(federation.notaries, fetcher, client=client, clock=reactor)
    keyring = ServerKeyring(identity.server_name, own_keys, fetcher, notaries=notaries, clock=reactor)
    peers = HttpPeers(client, traits.memory)
    outcomes = _LateOutcomes()
    delivery = FederationDelivery(
        server_name=identity.server_name,
        database=database,
        delivery_store=stores.delivery,
        pending_store=stores.pending_lpdus,
        room_store=stores.rooms,
        sender=peers,
        outcomes=outcomes,
        clock=reactor,
        rng=rng,
        metrics=metrics,
        policy=BackoffPolicy(max_ms=int(federation.timeouts.longest_back_off * 1000)),
        one_event_per_transaction=lambda destination: settings.of(destination).one_event_per_transaction,
    )

    # The rooms, and what there is beside them.
    room_servers = _LateRooms()
    devices = DevicesFloor.build(
        identity.server_name,
        database,
        DeviceStores(
            accounts=stores.accounts,
            devices=stores.devices,
            one_time_keys=stores.one_time_keys,
            to_device=stores.to_device,
            receipts=stores.receipts,
            sharing=stores.sharing,
            outbox=stores.delivery,
            stream=stores.timeline,
            rooms=stores.rooms,
        ),
        peers=HttpDevicePeers(client, traits.memory),
        delivery=delivery,
        rooms=room_servers,
        waker=audience,
        clock=reactor,
        metrics=metrics,
    )
    rooms = RoomsFloor.build(
        identity,
        database,
        RoomStores(
            rooms=stores.rooms,
            pending_lpdus=stores.pending_lpdus,
            invites=stores.invites,
            transactions=stores.transactions,
            client_transactions=stores.accounts,
            directory=stores.accounts,
            restoration=stores.restoration,
            profiles=stores.profiles,
        ),
        keyring=keyring,
        peers=peers,
        delivery=delivery,
        audience=audience,
        edus=devices.inbound if edus is None else edus,
        watcher=devices,
        may_overlap=lambda origin: settings.of(origin).concurrent_transactions,
        clock=reactor,
        rng=rng,
        metrics=metrics,
        accept_hub_offers=federation.accept_hub_offers,
        directory=directory,
        policies=policies,
    )
    outcomes.target = rooms.outbox
    room_servers.target = rooms.rooms

    names = DirectoryFloor.build(
        identity.server_name,
        database,
        DirectoryStores(
            profiles=stores.profiles,
            aliases=stores.aliases,
            memberships=stores.sharing,
            published=stores.published_rooms,
        ),
        accounts=directory or StoredAccounts(database, stores.accounts),
        peers=HttpDirectoryPeers(client, traits.memory),
        rooms=rooms.rooms,
        sender=rooms.local_users,
        renamer=rooms.renamer,
        policies=policies,
        clock=reactor,
    )

    def heard_from(server: str) -> None:
        delivery.heard_from(server)
        rooms.recovery.heard_from(server)

    # Towards us.
    authenticator: Authenticates = Authenticator(
        identity.server_name,
        keyring,
        allow_ip_literals=federation.allow_ip_literals,
        on_heard=heard_from,
    )
    if only_servers is not None:
        authenticator = OnlyFrom(authenticator, only_servers)
    admission = Admission(authenticator, limiter)
    table = federation_table(
        admission,
        rooms.receiver,
        rooms.handshakes,
        History(database, stores.rooms, rooms.rooms, policies, rooms.transfer.takes_over),
        rooms.candidacy,
        rooms.transfer,
        rooms.heads,
        devices.directory,
        devices.claims,
        names.profiles,
        names.aliases,
        names.public_rooms,
        max_send_body=federation.limits.transaction_bytes,
    )
    return Core(
        database=database,
        stores=stores,
        keyring=keyring,
        fetcher=fetcher,
        client=client,
        delivery=delivery,
        rooms=rooms,
        devices=devices,
        names=names,
        federation=attrs.evolve(table, max_in_flight=federation.limits.concurrent_requests),
        traits=traits,
        transport=transport,
    )


class _LateOutcomes:
    """Closes the one circle: the delivery tells the rooms what hubs answered, and the rooms wake the delivery."""

    target: PendingOutcomes

    async def hub_answered(
        self,
        hub_server: str,
        lpdus: Sequence[PendingLpdu],
        failed: Mapping[str, str],
        accepted: Mapping[str, str],
        misdirected: Mapping[str, str],
    ) -> None:
        await self.target.hub_answered(hub_server, lpdus, failed, accepted, misdirected)


class _LateRooms:
    """Closes another circle: the devices ask the rooms who is there, and the rooms tell the devices who comes."""

    target: Rooms

    async def destinations(self, room_id: str) -> Collection[str]:
        return await self.target.destinations(room_id)
