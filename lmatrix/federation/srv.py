"""SRV records: looking them up, remembering them, putting them in the order in which to try.

Owns: :func:`in_order_of_trial` (RFC 2782's weighted choice, pure but for the randomness that it is handed) and
:class:`ServiceRecords`, a cache over whatever asks the DNS.

Invariants: what the DNS said is believed for as long as its time to live says, within bounds; when the DNS cannot be
asked, what it said last still counts, and otherwise the outcome is "no records" for a short while; simultaneous
questions are asked once.

Implements the SRV part of the I-D's "Resolving Server Names", and RFC 2782.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.names import dns
from twisted.names.error import AuthoritativeDomainError, DNSNameError, DomainError, ResolverError

from lmatrix.federation.bounded import BoundedCache, SingleFlight
from lmatrix.federation.discovery import ServiceRecord

LOOKUP_TIMEOUT_S = 10
MIN_TTL_S = 60
MAX_TTL_S = 24 * 60 * 60
NO_RECORDS_TTL_S = 15 * 60
FAILURE_TTL_S = 60
MAX_RECORDS = 32
"""Records of one name that are looked at."""

CACHE_SIZE = 10_000


class DnsClient(Protocol):
    """The part of :class:`twisted.internet.interfaces.IResolver` that is used."""

    def lookupService(self, name: str, timeout: Sequence[int] | None = None) -> Deferred[Any]:
        """Fires with three lists of :class:`twisted.names.dns.RRHeader`: answers, authority, additional."""


def in_order_of_trial(records: Sequence[ServiceRecord], rng: random.Random) -> tuple[ServiceRecord, ...]:
    """Lowest priority number first; within a priority at random, in proportion to weight (RFC 2782, "Weight").

    A record of weight 0 has a small chance to come before one that has weight.
    """
    ordered: list[ServiceRecord] = []
    for priority in sorted({record.priority for record in records}):
        # Records without weight stand first, so that a drawn 0 chooses one of them.
        left = sorted((record for record in records if record.priority == priority), key=lambda record: record.weight)
        while left:
            drawn = rng.randint(0, sum(record.weight for record in left))
            running = 0
            for record in left:
                running += record.weight
                if running >= drawn:
                    break
            left.remove(record)
            ordered.append(record)
    return tuple(ordered)


@attrs.frozen(slots=True)
class _Known:
    records: tuple[ServiceRecord, ...]
    until: float


class ServiceRecords:
    """A cache of SRV look-ups.

    Args:
        dns_client: asks the DNS, for example a :class:`twisted.names.client.Resolver`.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(self, dns_client: DnsClient, *, clock: IReactorTime) -> None:
        self._dns = dns_client
        self._clock = clock
        self._cache: BoundedCache[str, _Known] = BoundedCache(CACHE_SIZE)
        self._flights: SingleFlight[str, tuple[ServiceRecord, ...]] = SingleFlight()

    async def lookup(self, service_name: str) -> tuple[ServiceRecord, ...]:
        """The records of a name such as ``_matrix._tcp.example.org``, in no particular order; never raises."""
        known = self._cache.get(service_name)
        if known is not None and self._clock.seconds() < known.until:
            return known.records
        return await self._flights.do(service_name, lambda: self._ask(service_name))

    async def _ask(self, service_name: str) -> tuple[ServiceRecord, ...]:
        try:
            answers, _, _ = await self._dns.lookupService(service_name, timeout=(2, 3, 5)).addTimeout(
                LOOKUP_TIMEOUT_S, self._clock
            )
        except (DNSNameError, AuthoritativeDomainError):
            return self._remember(service_name, (), NO_RECORDS_TTL_S)
        except (DomainError, ResolverError, defer.TimeoutError, OSError) as error:
            return self._failed(service_name, error)
        except Exception as error:
            # A DNS client of another make may fail in ways of its own; discovery goes on without SRV records all the
            # same.
            self._log.failure("looking up SRV records of {name} failed unexpectedly", name=service_name)
            return self._failed(service_name, error)
        found = [answer for answer in answers if answer.type == dns.SRV][:MAX_RECORDS]
        if not found:
            return self._remember(service_name, (), NO_RECORDS_TTL_S)
        ttl = min(max(min(answer.ttl for answer in found), MIN_TTL_S), MAX_TTL_S)
        return self._remember(service_name, tuple(_record(answer.payload) for answer in found), ttl)

    def _failed(self, service_name: str, error: Exception) -> tuple[ServiceRecord, ...]:
        self._log.info(
            "SRV records of {name} could not be looked up: {error}",
            name=service_name,
            error=error or type(error).__name__,
        )
        last = self._cache.get(service_name)
        return self._remember(service_name, () if last is None else last.records, FAILURE_TTL_S)

    def _remember(
        self, service_name: str, records: tuple[ServiceRecord, ...], ttl_s: float
    ) -> tuple[ServiceRecord, ...]:
        self._cache.put(service_name, _Known(records, self._clock.seconds() + ttl_s))
        return records


def _record(payload: Any) -> ServiceRecord:
    host = payload.target.name.decode("ascii", "replace").rstrip(".")
    return ServiceRecord(priority=payload.priority, weight=payload.weight, port=payload.port, host=host)
