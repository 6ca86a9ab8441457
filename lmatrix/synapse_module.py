"""A server inside of Synapse: what it adds to the core that every server has, and how it begins and ends.

Owns: :class:`LinearizedMatrix`, which ``homeserver.yaml`` names under ``modules``. Server name, signing keys,
federation port, log and metrics are Synapse's; rooms, devices and what is owed to other servers are in a database of
our own.

Every process of a Synapse with workers builds the module; one of them runs it. Start: when Synapse makes its modules,
everything is built and our endpoints are put before Synapse's own; then, in the background, database, ports of our own,
delivery. Requests that come before the database is open are answered with 503. Stop: when the reactor is about to,
before Synapse closes anything.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix import __version__
from lmatrix.admin_api.routes import admin_table
from lmatrix.config.files import load_admin_token_file, load_tls
from lmatrix.config.listeners import Resource
from lmatrix.config.rate_limits import Rate
from lmatrix.config.reading import ConfigError
from lmatrix.config.synapse_module import ModuleConfig, parse_module_config, words_for
from lmatrix.core import Core, Outside, build_core, take_steps
from lmatrix.errors import LMatrixError
from lmatrix.federation.linearized_servers import LinearizedServers
from lmatrix.federation.notary import Notary
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.resources.routes import key_table
from lmatrix.http.limits import RateLimiter
from lmatrix.http.router import Router
from lmatrix.http.routes import RouteTable
from lmatrix.http.status_resources import health_routes, metrics_routes
from lmatrix.listening import Listeners, PlannedListener
from lmatrix.metrics import Metrics
from lmatrix.network import this_network
from lmatrix.replication.interfaces import Mirrors
from lmatrix.replication.operating import MirrorOperations
from lmatrix.replication.service import MirrorService
from lmatrix.replication.synapse import logs
from lmatrix.replication.synapse.config_error import synapse_config_error
from lmatrix.replication.synapse.dag_server import SynapseDagServer
from lmatrix.replication.synapse.endpoints import FederationEndpoints
from lmatrix.replication.synapse.follower import Follower
from lmatrix.replication.synapse.internals import Internals, synapse_version
from lmatrix.replication.synapse.invites import RealInvites
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.storage.database import SqliteDatabase
from lmatrix.storage.stores import Stores


class LinearizedMatrix:
    """The module.

    Args:
        config: what :meth:`parse_config` returned.
        api: Synapse's ``ModuleApi``.

    Raises:
        UnsupportedSynapse: this Synapse lacks something that we rely on.
        NotReserved: the application service that owns the ghosts is not there.
        FileProblem, InvalidKey: a key or a certificate cannot be used.
    """

    log = Logger()

    def __init__(self, config: ModuleConfig, api: Any) -> None:
        self.server: HostedServer | None = None
        if api.worker_name != config.worker_to_run_on:
            return
        logs.install()
        self.server = HostedServer(config, Internals(api))
        self.server.install()

    @staticmethod
    def parse_config(config: dict[str, Any]) -> ModuleConfig:
        """Called by Synapse while it reads ``homeserver.yaml``. Raises Synapse's ``ConfigError``."""
        try:
            return parse_module_config(config, Path.cwd())
        except ConfigError as error:
            raise synapse_config_error(words_for(error)) from error


class HostedServer:
    """The server that the module runs.

    Args:
        config: the configuration.
        internals: the way into Synapse.
    """

    log = Logger()

    def __init__(self, config: ModuleConfig, internals: Internals) -> None:
        reactor, rng = internals.reactor, random.SystemRandom()
        self._config = config
        self._internals = internals
        self._reactor = reactor
        metrics = Metrics(internals.metrics_registry)
        server_name = internals.server_name
        identity = ServerIdentity(server_name, internals.signing_keys())
        own_keys = OwnKeys(server_name, identity.keys, internals.retired_keys(), clock=reactor)
        network = this_network(config.federation, reactor, rng)
        database = SqliteDatabase(config.database.path, reactor=reactor, metrics=metrics)
        stores = Stores.create()
        dag = SynapseDagServer(internals, config.application_service)
        self._mirrors = MirrorService(
            dag,
            identity=identity,
            database=database,
            store=stores.mirrors,
            room_store=stores.rooms,
            clock=reactor,
            rng=rng,
            metrics=metrics,
        )
        self._core = build_core(
            identity,
            own_keys,
            config.federation,
            outside=Outside(database=database, transport=network.transport, resolver=network.resolver),
            audience=self._mirrors.audience,
            directory=self._mirrors,
            edus=self._mirrors.edus,
            only_servers=internals.federation_domain_whitelist,
            limiter=_limiter(config, "federation", reactor),
            reactor=reactor,
            rng=rng,
            metrics=metrics,
        )
        self._mirrors.attach(self._core.rooms, self._core.delivery)
        self._follower = Follower(internals, self._mirrors, reactor)
        self._invites = RealInvites(
            internals,
            dag,
            LinearizedServers(self._core.client, reactor).is_linearized,
            reactor,
            lambda: f"lmatrix.invite.{rng.getrandbits(64):016x}",
        )
        self._router = Router(
            [self._core.federation], clock=reactor, metrics=metrics, software=f"lmatrix/{__version__}"
        )
        self._endpoints = FederationEndpoints(internals, self._core.federation, self._router, self._holds)
        self._listeners = Listeners(
            [PlannedListener(one, None if one.tls is None else load_tls(one.tls)) for one in config.listeners],
            _tables(config, self._core, self._mirrors, identity, own_keys, metrics, reactor),
            reactor,
            metrics,
        )

    def install(self) -> None:
        """Called while Synapse starts: serve our endpoints, start when it is done with that, stop when it stops."""
        self._endpoints.install()
        self._invites.install()
        self._reactor.callLater(0, self._begin)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._end)

    async def start(self) -> None:
        """Start; waits for no other server.

        Raises:
            StorageFailed: the database cannot be used.
            CannotListen: a port of our own cannot be opened.
        """
        self.log.info(
            "lmatrix {version} inside of Synapse {synapse}: {server_name}",
            version=__version__,
            synapse=synapse_version(),
            server_name=self._internals.server_name,
        )
        for warning in self._config.warnings():
            self.log.warn("NOT FIT FOR THE INTERNET: {what}", what=warning)
        _for_owner_only(self._config.database.path)
        await self._core.open()
        self.log.info("data are in {path}", path=str(self._config.database.path))
        self._listeners.open()
        self._endpoints.begin()
        await self._mirrors.start()
        self._follower.start()
        await self._core.deliver()
        self.log.info("lmatrix is ready")

    async def stop(self) -> None:
        """Stop, finishing what is in flight; also after a start that failed or was not finished."""
        self._follower.stop()
        steps = (self._listeners.close, self._router.drain, self._mirrors.stop, *self._core.closing())
        await take_steps(steps, self.log)
        self.log.info("lmatrix has stopped")

    async def _holds(self, room_id: str) -> bool:
        return await self._core.rooms.rooms.loaded(room_id) is not None

    def _begin(self) -> None:
        starting = Deferred.fromCoroutine(self.start())
        starting.addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        # Synapse goes on without us: it has other rooms, and users who are in them.
        self._endpoints.give_up()
        if failure.check(LMatrixError):
            self.log.critical("lmatrix cannot start: {reason}", reason=str(failure.value))
        else:
            self.log.failure("lmatrix cannot start", failure=failure)

    def _end(self) -> Deferred[None]:
        stopping = Deferred.fromCoroutine(self.stop())
        return stopping.addErrback(lambda failure: self.log.failure("shutting down failed", failure=failure))


def _tables(
    config: ModuleConfig,
    core: Core,
    mirrors: Mirrors,
    identity: ServerIdentity,
    own_keys: OwnKeys,
    metrics: Metrics,
    clock: IReactorTime,
) -> dict[Resource, RouteTable]:
    """What ports of our own can serve."""
    database, stores = core.database, core.stores
    notary = Notary(
        identity,
        own_keys,
        core.fetcher,
        database=database,
        store=stores.server_keys,
        limiter=_limiter(config, "notary", clock),
        clock=clock,
    )
    tables = {
        Resource.FEDERATION: core.federation,
        Resource.KEYS: key_table(own_keys, notary),
        Resource.HEALTH: health_routes(),
        Resource.METRICS: metrics_routes(metrics),
    }
    if config.admin_token_path is not None:
        tables[Resource.ADMIN] = admin_table(
            identity.server_name,
            load_admin_token_file(config.admin_token_path),
            database=database,
            overview=stores.overview,
            rooms=core.rooms.rooms,
            transfer=core.rooms.transfer,
            recovery=core.rooms.recovery,
            listener=core.rooms.listener,
            aliases=core.names.aliases,
            mirrors=MirrorOperations(mirrors),
            exporter=EvidenceExporter(identity.server_name, database, stores.rooms, stores.overview, core.keyring),
        )
    return tables


def _for_owner_only(database: Path) -> None:
    """Make the database's file, if there is none: Synapse would let its group read what it writes.

    What is wrong with the path is said by the database itself.
    """
    with suppress(OSError):
        database.touch(mode=0o600, exist_ok=True)


def _limiter(config: ModuleConfig, name: str, clock: IReactorTime) -> RateLimiter | None:
    if config.rate_limits is None:
        return None
    rate: Rate = getattr(config.rate_limits, name)
    return RateLimiter(rate.per_second, rate.burst, clock)
