"""A whole server: the one place where everything is built and handed its collaborators.

Owns: the wiring, in :func:`build_server`, and the order of starting and stopping, in :class:`Server`. Nothing else
knows all the parts; every part knows only what its constructor was given.

What lies outside of the server, the disk and the network, can be handed to :func:`build_server` as an
:class:`Outside`; by default it is this machine's.

Start: the database first (nothing works without it), then the listeners (so that whoever hears of us can check our
keys), then the delivery of what is owed from before. No other server is waited for. Stop is the reverse: no new
requests, the running ones answered, the deliveries in flight finished, the rooms idle, the database drained and closed.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from lmatrix import __version__
from lmatrix.admin_api.routes import admin_table
from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.client_api.notifier import Notifier
from lmatrix.client_api.passwords import Passwords
from lmatrix.client_api.routes import BesideStores, ClientApiParts, client_routes
from lmatrix.config import Config, Resource
from lmatrix.config.files import load_admin_token, load_tls
from lmatrix.config.rate_limits import Rate
from lmatrix.devices.floor import DevicesFloor, DeviceStores
from lmatrix.federation.authentication import Authenticator
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.client import RouteFinder, SignedClient
from lmatrix.federation.delivery import FederationDelivery
from lmatrix.federation.device_peers import HttpDevicePeers
from lmatrix.federation.key_fetching import KeyFetcher
from lmatrix.federation.key_notaries import KeyNotaries
from lmatrix.federation.keyring import ServerKeyring
from lmatrix.federation.notary import Notary
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.peers import HttpPeers
from lmatrix.federation.resources.admission import Admission
from lmatrix.federation.resources.routes import federation_table, key_table
from lmatrix.federation.srv import DnsClient
from lmatrix.federation.transport import PeerTransport
from lmatrix.http.limits import RateLimiter
from lmatrix.http.status_resources import health_routes, metrics_routes
from lmatrix.listening import Listeners, PlannedListener
from lmatrix.metrics import Metrics
from lmatrix.network import this_network
from lmatrix.peer_memory import StoredPeerTraits
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.floor import RoomsFloor, RoomStores
from lmatrix.rooms.history import History
from lmatrix.rooms.interfaces import Database, PendingLpdu, PendingOutcomes
from lmatrix.rooms.registry import Rooms
from lmatrix.signing_keys import OwnSigningKeys
from lmatrix.storage.database import SqliteDatabase
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


class Server:
    """A server that can be started once and stopped once.

    Args:
        config: for what the start-up log says.
        database, traits, listeners, delivery, rooms, devices, transport: what is started and stopped.
        keys: what the server signs with.
    """

    log = Logger()

    def __init__(
        self,
        config: Config,
        *,
        keys: OwnSigningKeys,
        database: RunningDatabase,
        traits: StoredPeerTraits,
        listeners: Listeners,
        delivery: FederationDelivery,
        rooms: RoomsFloor,
        devices: DevicesFloor,
        transport: ClosingTransport,
        metrics: Metrics,
    ) -> None:
        self.listeners = listeners
        self.rooms = rooms
        self.metrics = metrics
        self._config = config
        self._keys = keys
        self._database = database
        self._traits = traits
        self._delivery = delivery
        self._devices = devices
        self._transport = transport
        self._starting: Deferred[None] | None = None

    async def start(self) -> None:
        """Start; reaches out to nobody and waits for nobody. When it fails, :meth:`stop` tidies up.

        Raises:
            StorageFailed: the database cannot be used: damaged, in use, or written by a newer version.
            CannotListen: a port cannot be opened.
            FileProblem: a key file cannot be used.
        """
        config = self._config
        self.log.info(
            "lmatrix {version}: {server_name}, signing with {keys}",
            version=__version__,
            server_name=config.server_name,
            keys=", ".join(self._keys.key_ids),
        )
        for warning in config.warnings():
            self.log.warn("NOT FIT FOR THE INTERNET: {what}", what=warning)
        await self._database.start()
        self.log.info("data are in {path}", path=str(config.database.path))
        await self._traits.load()
        self.listeners.open()
        # Now that the ports are ours, no other process signs in our name.
        self._keys.renew()
        await self._delivery.start()
        await self.rooms.resender.resume()
        self.log.info("{server_name} is ready", server_name=config.server_name)

    async def stop(self) -> None:
        """Stop, finishing what is in flight; also after a start that failed or was not finished."""
        self.log.info("{server_name} is stopping", server_name=self._config.server_name)
        for step in (
            self.listeners.close,
            self._delivery.stop,
            self.rooms.rooms.idle,
            self._devices.stop,
            self._transport.close,
            self._database.stop,
        ):
            try:
                await step()
            except Exception:
                # Whatever one part makes of its end, the others must still come to theirs: the database most of all.
                self.log.failure("a part of the server did not stop in order")
        self.log.info("{server_name} has stopped", server_name=self._config.server_name)

    def reload(self) -> None:
        """Read the certificates and the signing keys again; what happened is in the log."""
        self.listeners.reload_certificates()
        self._keys.reload()


def build_server(
    config: Config,
    reactor: Any,
    *,
    rng: random.Random | None = None,
    dns_client: DnsClient | None = None,
    outside: Outside | None = None,
) -> Server:
    """Build a server; nothing is opened yet but the files that the configuration names.

    Args:
        config: the configuration.
        reactor: Twisted's: TCP, time, threads, name resolution.
        rng: where tokens, IDs and jitter come from; by default the operating system's randomness, and nothing else is
            safe outside of tests.
        dns_client: looks SRV records up; by default asks the name servers of this machine.
        outside: the disk and the network; by default this machine's.

    Raises:
        FileProblem: a key, a certificate or the admin token cannot be used.
    """
    keys = OwnSigningKeys(config, reactor)
    admin_token = load_admin_token(config)
    planned = [PlannedListener(one, None if one.tls is None else load_tls(one.tls)) for one in config.listeners]
    rng = rng or random.SystemRandom()
    metrics = Metrics()
    identity, own_keys = keys.identity, keys.published
    settings = PeerSettingsTable(config.federation.peers)
    outside = outside or _this_machine(config, reactor, rng, dns_client, metrics)
    database, transport = outside.database, outside.transport
    stores = Stores.create()

    # Towards other servers.
    traits = StoredPeerTraits(database, stores.delivery, stores.pending_lpdus)
    client = SignedClient(
        identity,
        resolver=outside.resolver,
        transport=transport,
        traits=traits.memory,
        clock=reactor,
        metrics=metrics,
        user_agent=f"lmatrix/{__version__}",
    )
    fetcher = KeyFetcher(database=database, store=stores.server_keys, client=client, clock=reactor)
    notaries = None
    if config.federation.notaries:
        notaries = KeyNotaries(config.federation.notaries, fetcher, client=client, clock=reactor)
    keyring = ServerKeyring(config.server_name, own_keys, fetcher, notaries=notaries, clock=reactor)
    peers = HttpPeers(client, traits.memory)
    outcomes = _LateOutcomes()
    delivery = FederationDelivery(
        server_name=config.server_name,
        database=database,
        delivery_store=stores.delivery,
        pending_store=stores.pending_lpdus,
        room_store=stores.rooms,
        sender=peers,
        outcomes=outcomes,
        clock=reactor,
        rng=rng,
        metrics=metrics,
        policy=BackoffPolicy(max_ms=int(config.federation.timeouts.longest_back_off * 1000)),
        one_event_per_transaction=lambda destination: settings.of(destination).one_event_per_transaction,
    )

    # The rooms, and what there is beside them.
    notifier = Notifier(reactor)
    room_servers = _LateRooms()
    devices = DevicesFloor.build(
        config.server_name,
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
        waker=notifier,
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
        ),
        keyring=keyring,
        peers=peers,
        delivery=delivery,
        audience=notifier,
        edus=devices.inbound,
        watcher=devices,
        may_overlap=lambda origin: settings.of(origin).concurrent_transactions,
        clock=reactor,
        rng=rng,
        metrics=metrics,
        accept_hub_offers=config.federation.accept_hub_offers,
    )
    outcomes.target = rooms.outbox
    room_servers.target = rooms.rooms

    # Towards us.
    admission = Admission(
        Authenticator(
            config.server_name,
            keyring,
            allow_ip_literals=config.federation.allow_ip_literals,
            on_heard=delivery.heard_from,
        ),
        _limiter(config, "federation", reactor),
    )
    federation = federation_table(
        admission,
        rooms.receiver,
        rooms.handshakes,
        History(database, stores.rooms, rooms.rooms),
        rooms.candidacy,
        rooms.transfer,
        devices.directory,
        devices.claims,
        max_send_body=config.federation.limits.transaction_bytes,
    )
    notary = Notary(
        identity,
        own_keys,
        fetcher,
        database=database,
        store=stores.server_keys,
        limiter=_limiter(config, "notary", reactor),
        clock=reactor,
    )
    tables = {
        Resource.FEDERATION: attrs.evolve(federation, max_in_flight=config.federation.limits.concurrent_requests),
        Resource.KEYS: key_table(own_keys, notary),
        Resource.CLIENT: client_routes(
            ClientApiParts(
                server_name=config.server_name,
                database=database,
                room_store=stores.rooms,
                timeline_store=stores.timeline,
                account_store=stores.accounts,
                invite_store=stores.invites,
                rooms=rooms.local_users,
                devices=devices,
                beside=BesideStores(
                    devices=stores.devices,
                    one_time_keys=stores.one_time_keys,
                    to_device=stores.to_device,
                    receipts=stores.receipts,
                    sharing=stores.sharing,
                ),
                notifier=notifier,
                passwords=Passwords(partial(deferToThreadPool, reactor, reactor.getThreadPool())),
                clock=reactor,
                rng=rng,
                registration_enabled=config.registration.enabled,
                default_room_version=config.default_room_version,
                limits=ClientLimits(
                    registration=_limiter(config, "registration", reactor),
                    login=_limiter(config, "login", reactor),
                    changes=_limiter(config, "client", reactor),
                ),
            )
        ),
        Resource.HEALTH: health_routes(),
        Resource.METRICS: metrics_routes(metrics),
    }
    if admin_token is not None:
        tables[Resource.ADMIN] = admin_table(
            config.server_name,
            admin_token,
            database=database,
            overview=stores.overview,
            rooms=rooms.rooms,
            transfer=rooms.transfer,
            exporter=EvidenceExporter(config.server_name, database, stores.rooms, stores.overview, keyring),
        )
    return Server(
        config,
        keys=keys,
        database=database,
        traits=traits,
        listeners=Listeners(planned, tables, reactor, metrics),
        delivery=delivery,
        rooms=rooms,
        devices=devices,
        transport=transport,
        metrics=metrics,
    )


def _this_machine(
    config: Config, reactor: Any, rng: random.Random, dns_client: DnsClient | None, metrics: Metrics
) -> Outside:
    network = this_network(config.federation, reactor, rng, dns_client)
    return Outside(
        database=SqliteDatabase(config.database.path, reactor=reactor, metrics=metrics),
        transport=network.transport,
        resolver=network.resolver,
    )


def _limiter(config: Config, name: str, clock: IReactorTime) -> RateLimiter | None:
    if config.rate_limits is None:
        return None
    rate: Rate = getattr(config.rate_limits, name)
    return RateLimiter(rate.per_second, rate.burst, clock)


class _LateOutcomes:
    """Closes the one circle: the delivery tells the rooms what hubs answered, and the rooms wake the delivery."""

    target: PendingOutcomes

    async def hub_answered(
        self, hub_server: str, lpdus: Sequence[PendingLpdu], failed: Mapping[str, str], accepted: Mapping[str, str]
    ) -> None:
        await self.target.hub_answered(hub_server, lpdus, failed, accepted)


class _LateRooms:
    """Closes another circle: the devices ask the rooms who is there, and the rooms tell the devices who comes."""

    target: Rooms

    async def destinations(self, room_id: str) -> Collection[str]:
        return await self.target.destinations(room_id)
