"""This machine's network, as far as requests to other servers go: finding them, and reaching them.

Owns: :func:`this_network`, which builds the resolver and the transport that a configuration asks for: which addresses
may be connected to, whether certificates are checked, what is different about particular servers.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.names.client import Resolver

from lmatrix.config.federation import FederationConfig
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.resolver import ServerResolver
from lmatrix.federation.srv import DnsClient, ServiceRecords
from lmatrix.federation.tls import ClientTls
from lmatrix.federation.transport import HttpTransport
from lmatrix.federation.well_known import WellKnown
from lmatrix.federation.well_known_fetch import WellKnownFetch, web_agent
from lmatrix.http.outbound_guard import AddressPolicy, GuardedReactor

_ANYWHERE = ("0.0.0.0/0", "::/0")


@attrs.frozen(slots=True)
class Network:
    """The way to other servers.

    Attributes:
        transport: carries requests to them.
        resolver: finds them.
    """

    transport: HttpTransport
    resolver: ServerResolver


def this_network(
    federation: FederationConfig, reactor: Any, rng: random.Random, dns_client: DnsClient | None = None
) -> Network:
    """Build it; nothing is opened or looked up yet.

    Args:
        federation: the configuration's section.
        reactor: Twisted's.
        rng: chooses among SRV records.
        dns_client: looks SRV records up; by default asks the name servers of this machine.
    """
    guarded = GuardedReactor(reactor, AddressPolicy(_allowed_networks(federation)))
    tls = ClientTls(verify=federation.verify_certificates)
    resolver = ServerResolver(
        WellKnown(WellKnownFetch(web_agent(guarded, tls=tls), clock=reactor), clock=reactor),
        ServiceRecords(dns_client or _SystemDns(reactor), clock=reactor),
        settings=PeerSettingsTable(federation.peers),
        allow_ip_literals=federation.allow_ip_literals,
        rng=rng,
    )
    return Network(HttpTransport(guarded, tls=tls), resolver)


def _allowed_networks(federation: FederationConfig) -> Sequence[str]:
    if federation.allow_private_addresses:
        return _ANYWHERE
    return [str(network) for network in federation.allowed_address_ranges]


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
