"""A whole server: the one place where everything is built and handed its collaborators.

Owns: the wiring, in :func:`build_server`, and the order of starting and stopping, in :class:`Server`. Nothing else
knows all the parts; every part knows only what its constructor was given.

Start: the database first (nothing works without it), then the listeners (so that whoever hears of us can check our
keys), then the delivery of what is owed from before. No other server is waited for. Stop is the reverse: no new
requests, the running ones answered, the deliveries in flight finished, the rooms idle, the database drained and closed.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.names.client import Resolver

from lmatrix import __version__
from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.client_api.notifier import Notifier
from lmatrix.client_api.passwords import Passwords
from lmatrix.client_api.routes import ClientApiParts, client_routes
from lmatrix.config import Config, Resource
from lmatrix.config.federation import FederationConfig
from lmatrix.config.files import load_signing_keys, load_tls
from lmatrix.config.rate_limits import Rate
from lmatrix.crypto.keys import VerifyKey
from lmatrix.federation.authentication import Authenticator
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.client import SignedClient
from lmatrix.federation.delivery import FederationDelivery
from lmatrix.federation.keyring import ServerKeyring
from lmatrix.federation.own_keys import OwnKeys, RetiredKey
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.peers import HttpPeers
from lmatrix.federation.resolver import ServerResolver
from lmatrix.federation.resources.admission import Admission
from lmatrix.federation.resources.routes import federation_table, key_table
from lmatrix.federation.srv import DnsClient, ServiceRecords
from lmatrix.federation.tls import ClientTls
from lmatrix.federation.transport import HttpTransport
from lmatrix.federation.well_known import WellKnown
from lmatrix.federation.well_known_fetch import WellKnownFetch, web_agent
from lmatrix.http.limits import RateLimiter
from lmatrix.http.outbound_guard import AddressPolicy, GuardedReactor
from lmatrix.http.status_resources import health_routes, metrics_routes
from lmatrix.listening import Listeners, PlannedListener
from lmatrix.metrics import Metrics
from lmatrix.peer_memory import StoredPeerTraits
from lmatrix.rooms.floor import RoomsFloor, RoomStores
from lmatrix.rooms.history import History
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, PendingLpdu, PendingOutcomes
from lmatrix.storage.database import SqliteDatabase
from lmatrix.storage.stores import Stores

_ANYWHERE = ("0.0.0.0/0", "::/0")


class Server:
    """A server that can be started once and stopped once.

    Args:
        config: for what the start-up log says.
        database, traits, listeners, delivery, rooms, transport: what is started and stopped.
        key_ids: of the keys that sign.
    """

    log = Logger()

    def __init__(
        self,
        config: Config,
        *,
        key_ids: Sequence[str],
        database: SqliteDatabase,
        traits: StoredPeerTraits,
        listeners: Listeners,
        delivery: FederationDelivery,
        rooms: RoomsFloor,
        transport: HttpTransport,
        metrics: Metrics,
    ) -> None:
        self.listeners = listeners
        self.rooms = rooms
        self.metrics = metrics
        self._config = config
        self._key_ids = tuple(key_ids)
        self._database = database
        self._traits = traits
        self._delivery = delivery
        self._transport = transport
        self._starting: Deferred[None] | None = None

    async def start(self) -> None:
        """Start; reaches out to nobody and waits for nobody. When it fails, :meth:`stop` tidies up.

        Raises:
            StorageFailed: the database cannot be used: damaged, in use, or written by a newer version.
            CannotListen: a port cannot be opened.
        """
        config = self._config
        self.log.info(
            "lmatrix {version}: {server_name}, signing with {keys}",
            version=__version__,
            server_name=config.server_name,
            keys=", ".join(self._key_ids),
        )
        for warning in config.warnings():
            self.log.warn("NOT FIT FOR THE INTERNET: {what}", what=warning)
        await self._database.start()
        self.log.info("data are in {path}", path=str(config.database.path))
        await self._traits.load()
        self.listeners.open()
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
            self._transport.close,
            self._database.stop,
        ):
            try:
                await step()
            except Exception:
                # Whatever one part makes of its end, the others must still come to theirs: the database most of all.
                self.log.failure("a part of the server did not stop in order")
        self.log.info("{server_name} has stopped", server_name=self._config.server_name)

    def reload_certificates(self) -> None:
        """Read the certificates again; what happened is in the log."""
        self.listeners.reload_certificates()


def build_server(
    config: Config, reactor: Any, *, rng: random.Random | None = None, dns_client: DnsClient | None = None
) -> Server:
    """Build a server; nothing is opened yet but the files that the configuration names.

    Args:
        config: the configuration.
        reactor: Twisted's: TCP, time, threads, name resolution.
        rng: where tokens, IDs and jitter come from; by default the operating system's randomness, and nothing else is
            safe outside of tests.
        dns_client: looks SRV records up; by default asks the name servers of this machine.

    Raises:
        FileProblem: a key or certificate cannot be used.
    """
    keys = load_signing_keys(config)
    planned = [PlannedListener(one, None if one.tls is None else load_tls(one.tls)) for one in config.listeners]
    rng = rng or random.SystemRandom()
    metrics = Metrics()
    identity = ServerIdentity(config.server_name, keys)
    own_keys = OwnKeys(config.server_name, keys, _retired_keys(config), clock=reactor)
    settings = PeerSettingsTable(config.federation.peers)
    database = SqliteDatabase(config.database.path, reactor=reactor, metrics=metrics)
    stores = Stores.create()

    # Towards other servers.
    traits = StoredPeerTraits(database, stores.delivery, stores.pending_lpdus)
    guarded = GuardedReactor(reactor, AddressPolicy(_allowed_networks(config.federation)))
    tls = ClientTls(verify=config.federation.verify_certificates)
    transport = HttpTransport(guarded, tls=tls)
    resolver = ServerResolver(
        WellKnown(WellKnownFetch(web_agent(guarded, tls=tls), clock=reactor), clock=reactor),
        ServiceRecords(dns_client or _SystemDns(reactor), clock=reactor),
        settings=settings,
        allow_ip_literals=config.federation.allow_ip_literals,
        rng=rng,
    )
    client = SignedClient(
        identity,
        resolver=resolver,
        transport=transport,
        traits=traits.memory,
        clock=reactor,
        metrics=metrics,
        user_agent=f"lmatrix/{__version__}",
    )
    keyring = ServerKeyring(
        config.server_name, own_keys, database=database, store=stores.server_keys, client=client, clock=reactor
    )
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

    # The rooms.
    notifier = Notifier(reactor)
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
        edus=_NoEdus(),
        may_overlap=lambda origin: settings.of(origin).concurrent_transactions,
        clock=reactor,
        rng=rng,
        metrics=metrics,
        accept_hub_offers=config.federation.accept_hub_offers,
    )
    outcomes.target = rooms.outbox

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
        max_send_body=config.federation.limits.transaction_bytes,
    )
    tables = {
        Resource.FEDERATION: attrs.evolve(federation, max_in_flight=config.federation.limits.concurrent_requests),
        Resource.KEYS: key_table(own_keys),
        Resource.CLIENT: client_routes(
            ClientApiParts(
                server_name=config.server_name,
                database=database,
                room_store=stores.rooms,
                timeline_store=stores.timeline,
                account_store=stores.accounts,
                invite_store=stores.invites,
                rooms=rooms.local_users,
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
    return Server(
        config,
        key_ids=[key.key_id for key in keys],
        database=database,
        traits=traits,
        listeners=Listeners(planned, tables, reactor, metrics),
        delivery=delivery,
        rooms=rooms,
        transport=transport,
        metrics=metrics,
    )


def _retired_keys(config: Config) -> list[RetiredKey]:
    return [
        RetiredKey(VerifyKey.from_base64(key_id, old.key), old.expired_ts)
        for key_id, old in config.old_signing_keys.items()
    ]


def _allowed_networks(config: FederationConfig) -> Sequence[str]:
    if config.allow_private_addresses:
        return _ANYWHERE
    return [str(network) for network in config.allowed_address_ranges]


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


class _NoEdus:
    """Where EDUs go as long as no part of the server wants any: an unknown kind of EDU is ignored (I-D "Ephemeral Data
    Units")."""

    log = Logger()

    async def receive(self, origin: str, edu: JsonObject) -> None:
        self.log.debug("{origin}: ignored an EDU of type {type}", origin=origin, type=str(edu.get("type"))[:100])


class _SystemDns:
    """This machine's name servers, looked for when they are first needed."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._resolver: Resolver | None = None

    def lookupService(self, name: str, timeout: Sequence[int] | None = None) -> Deferred[Any]:
        if self._resolver is None:
            self._resolver = Resolver("/etc/resolv.conf", reactor=self._reactor)
        found: Deferred[Any] = self._resolver.lookupService(name, timeout)
        return found
