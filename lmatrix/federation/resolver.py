"""Drives discovery: makes the look-ups that its steps ask for.

Owns: :class:`ServerResolver`. It caches nothing itself: the well-known and SRV look-ups under it do, each with its own
rules, and the steps between them cost nothing.

Implements the I-D's "Resolving Server Names".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from lmatrix.federation.discovery import (
    AskWellKnown,
    Resolved,
    Route,
    ServiceRecord,
    Step,
    after_service,
    after_well_known,
    begin,
    plaintext_route,
)
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.srv import in_order_of_trial


class WellKnownLookup(Protocol):
    """See :class:`lmatrix.federation.well_known.WellKnown`."""

    async def lookup(self, host: str) -> str | None: ...


class ServiceLookup(Protocol):
    """See :class:`lmatrix.federation.srv.ServiceRecords`."""

    async def lookup(self, service_name: str) -> Sequence[ServiceRecord]: ...


class ServerResolver:
    """Finds the route to a server.

    Args:
        well_known: looks delegations up.
        services: looks SRV records up.
        settings: which peers speak no TLS.
        allow_ip_literals: whether a server may be named by its IP address (development).
        rng: for the weighted choice among SRV records.
    """

    def __init__(
        self,
        well_known: WellKnownLookup,
        services: ServiceLookup,
        *,
        settings: PeerSettingsTable,
        allow_ip_literals: bool,
        rng: random.Random,
    ) -> None:
        self._well_known = well_known
        self._services = services
        self._settings = settings
        self._allow_ip_literals = allow_ip_literals
        self._rng = rng

    async def resolve(self, server_name: str) -> Route:
        """The route to a server.

        Raises:
            PeerUnreachable: the name is improper, or its DNS records say that there is no such service.
        """
        if self._settings.of(server_name).plaintext:
            return plaintext_route(server_name, allow_ip_literals=self._allow_ip_literals)
        step: Step = begin(server_name, allow_ip_literals=self._allow_ip_literals)
        while not isinstance(step, Resolved):
            if isinstance(step, AskWellKnown):
                step = after_well_known(step, await self._well_known.lookup(step.host))
            else:
                records = await self._services.lookup(step.service_name)
                step = after_service(step, in_order_of_trial(records, self._rng))
        return step.route
