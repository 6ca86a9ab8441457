"""A standalone server: what it adds to the core that every server has, and the order of its beginning and end.

Owns: the wiring, in :func:`build_server`, and the order of starting and stopping, in :class:`Server`. The rooms, their
storage and the federation side are put together in :mod:`lmatrix.core`; here come listeners, keys out of files, and the
APIs for clients and operators. Every part knows only what its constructor was given.

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
from collections.abc import Callable
from functools import partial
from typing import Any

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
from lmatrix.core import Core, Outside, build_core, take_steps
from lmatrix.federation.notary import Notary
from lmatrix.federation.resources.routes import key_table
from lmatrix.federation.srv import DnsClient
from lmatrix.http.limits import RateLimiter
from lmatrix.http.status_resources import health_routes, metrics_routes
from lmatrix.listening import Listeners, PlannedListener
from lmatrix.metrics import Metrics
from lmatrix.network import this_network
from lmatrix.operator_policies import OperatorPolicies
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.signing_keys import OwnSigningKeys
from lmatrix.storage.database import SqliteDatabase


class Server:
    """A server that can be started once and stopped once.

    Args:
        config: for what the start-up log says.
        core, listeners: what is started and stopped.
        keys: what the server signs with.
        policies: what the operator allows.
        metrics: what is counted.
    """

    log = Logger()

    def __init__(
        self,
        config: Config,
        *,
        keys: OwnSigningKeys,
        core: Core,
        listeners: Listeners,
        policies: OperatorPolicies,
        metrics: Metrics,
    ) -> None:
        self.core = core
        self.listeners = listeners
        self.rooms = core.rooms
        self.metrics = metrics
        self._config = config
        self._keys = keys
        self._policies = policies

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
        await self.core.open()
        self.log.info("data are in {path}", path=str(config.database.path))
        self.listeners.open()
        # Now that the ports are ours, no other process signs in our name.
        self._keys.renew()
        await self.core.deliver()
        self.log.info("{server_name} is ready", server_name=config.server_name)

    async def stop(self) -> None:
        """Stop, finishing what is in flight; also after a start that failed or was not finished."""
        self.log.info("{server_name} is stopping", server_name=self._config.server_name)
        await take_steps((self.listeners.close, *self.core.closing()), self.log)
        self.log.info("{server_name} has stopped", server_name=self._config.server_name)

    def reload(self) -> None:
        """Read the certificates, the signing keys and the policies again; what happened is in the log."""
        self.listeners.reload_certificates()
        self._keys.reload()
        if self._policies.reload():
            self.rooms.leading_out.sweep_soon()


def build_server(
    config: Config,
    reactor: Any,
    *,
    rng: random.Random | None = None,
    dns_client: DnsClient | None = None,
    outside: Outside | None = None,
    reread: Callable[[], Config] | None = None,
) -> Server:
    """Build a server; nothing is opened yet but the files that the configuration names.

    Args:
        config: the configuration.
        reactor: Twisted's: TCP, time, threads, name resolution.
        rng: where tokens, IDs and jitter come from; by default the operating system's randomness, and nothing else is
            safe outside of tests.
        dns_client: looks SRV records up; by default asks the name servers of this machine.
        outside: the disk and the network; by default this machine's.
        reread: reads the configuration again, for what may change while the server runs: its policies.

    Raises:
        FileProblem: a key, a certificate or the admin token cannot be used.
        ModuleProblem: a policy module cannot be used.
    """
    keys = OwnSigningKeys(config, reactor)
    admin_token = load_admin_token(config)
    planned = [PlannedListener(one, None if one.tls is None else load_tls(one.tls)) for one in config.listeners]
    rng = rng or random.SystemRandom()
    metrics = Metrics()
    identity, own_keys = keys.identity, keys.published
    outside = outside or _this_machine(config, reactor, rng, dns_client, metrics)
    notifier = Notifier(reactor)
    policies = OperatorPolicies(config, reread, clock=reactor, metrics=metrics)
    core = build_core(
        identity,
        own_keys,
        config.federation,
        outside=outside,
        audience=notifier,
        limiter=_limiter(config, "federation", reactor),
        policies=policies.panel,
        reactor=reactor,
        rng=rng,
        metrics=metrics,
    )
    policies.attach(core.database, core.stores.sharing)
    database, stores, rooms, devices = core.database, core.stores, core.rooms, core.devices
    notary = Notary(
        identity,
        own_keys,
        core.fetcher,
        database=database,
        store=stores.server_keys,
        limiter=_limiter(config, "notary", reactor),
        clock=reactor,
    )
    tables = {
        Resource.FEDERATION: core.federation,
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
                policies=policies.panel,
                devices=devices,
                beside=BesideStores(
                    devices=stores.devices,
                    one_time_keys=stores.one_time_keys,
                    to_device=stores.to_device,
                    receipts=stores.receipts,
                    sharing=stores.sharing,
                ),
                names=core.names,
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
            recovery=rooms.recovery,
            listener=rooms.listener,
            aliases=core.names.aliases,
            exporter=EvidenceExporter(config.server_name, database, stores.rooms, stores.overview, core.keyring),
        )
    return Server(
        config,
        keys=keys,
        core=core,
        listeners=Listeners(planned, tables, reactor, metrics),
        policies=policies,
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
