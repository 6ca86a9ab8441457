"""SRV records: their order, and how long they are believed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DNSServerError, ResolverError
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.discovery import ServiceRecord
from lmatrix.federation.srv import (
    FAILURE_TTL_S,
    LOOKUP_TIMEOUT_S,
    MIN_TTL_S,
    NO_RECORDS_TTL_S,
    ServiceRecords,
    in_order_of_trial,
)

NAME = "_matrix._tcp.example.org"

records = st.builds(
    ServiceRecord, st.integers(0, 3), st.integers(0, 5), st.integers(1, 65535), st.sampled_from("abcdef")
)


class OrderTests(SynchronousTestCase):
    """RFC 2782's choice."""

    @given(st.lists(records, max_size=8), st.integers(0, 1000))
    def test_each_once_by_priority(self, given_records: list[ServiceRecord], seed: int) -> None:
        """Every record comes exactly once, and none before one of a lower priority number."""
        ordered = in_order_of_trial(given_records, random.Random(seed))
        self.assertEqual(Counter(ordered), Counter(given_records))
        self.assertEqual([record.priority for record in ordered], sorted(record.priority for record in ordered))

    def test_in_proportion_to_weight(self) -> None:
        """A record with three times the weight comes first three times as often; one without weight hardly ever."""
        heavy, light, none = (ServiceRecord(0, weight, 1, f"w{weight}") for weight in (75, 25, 0))
        rng = random.Random(1)
        first = Counter(in_order_of_trial([none, light, heavy], rng)[0].host for _ in range(4000))
        self.assertTrue(2800 < first["w75"] < 3200, first)
        self.assertTrue(800 < first["w25"] < 1200, first)
        self.assertTrue(first["w0"] < 150, first)


class FakeDns:
    """Answers each question when told to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []

    def lookupService(self, name: str, timeout: Sequence[int] | None = None) -> Deferred[Any]:
        assert name == NAME
        answer: Deferred[Any] = Deferred()
        self.asked.append(answer)
        return answer


def srv(host: str, ttl: int, port: int = 8448) -> dns.RRHeader:
    """An SRV record as the DNS client gives it."""
    return dns.RRHeader(NAME, dns.SRV, ttl=ttl, payload=dns.Record_SRV(1, 2, port, host))


class CacheTests(SynchronousTestCase):
    """Asking and remembering."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dns = FakeDns()
        self.services = ServiceRecords(self.dns, clock=self.clock)

    def look_up(self) -> Deferred[tuple[ServiceRecord, ...]]:
        """One look-up."""
        return Deferred.fromCoroutine(self.services.lookup(NAME))

    def answered(self, outcome: Any) -> tuple[ServiceRecord, ...]:
        """One look-up that must ask the DNS, and gets this."""
        before = len(self.dns.asked)
        looking = self.look_up()
        self.assertEqual(len(self.dns.asked), before + 1, "the DNS was not asked")
        if isinstance(outcome, Exception):
            self.dns.asked[-1].errback(outcome)
        else:
            self.dns.asked[-1].callback((outcome, [], []))
        return self.successResultOf(looking)

    def test_records(self) -> None:
        """SRV records are read, other records in the answer passed over, the last dot of a target dropped."""
        alias = dns.RRHeader(NAME, dns.CNAME, ttl=5, payload=dns.Record_CNAME("x.example"))
        self.assertEqual(self.answered([alias, srv("h.example.", 300, 99)]), (ServiceRecord(1, 2, 99, "h.example"),))

    def test_time_to_live(self) -> None:
        """Records are believed for their shortest time to live, one minute at least."""
        self.answered([srv("a.example", 300), srv("b.example", 500)])
        self.clock.advance(299)
        self.assertEqual(len(self.successResultOf(self.look_up())), 2)
        self.clock.advance(1)
        self.answered([srv("a.example", 0)])
        self.clock.advance(MIN_TTL_S - 1)
        self.successResultOf(self.look_up())
        self.clock.advance(1)
        self.answered([])

    def test_no_such_name(self) -> None:
        """A name without records is no failure, and believed for a while."""
        for outcome in (DNSNameError(), []):
            self.assertEqual(self.answered(outcome), ())
            self.clock.advance(NO_RECORDS_TTL_S - 1)
            self.assertEqual(self.successResultOf(self.look_up()), ())
            self.clock.advance(1)

    def test_failure_keeps_what_was_known(self) -> None:
        """When the DNS fails, what it said last counts on; it is asked again soon."""
        known = self.answered([srv("a.example", 60)])
        self.clock.advance(60)
        for error in (DNSServerError(), DNSQueryTimeoutError(1), ResolverError("no servers"), OSError("no network")):
            self.assertEqual(self.answered(error), known)
            self.clock.advance(FAILURE_TTL_S)

    def test_failure_at_first(self) -> None:
        """When the DNS fails and nothing is known, there are no records."""
        self.assertEqual(self.answered(DNSServerError()), ())

    def test_unexpected_failure(self) -> None:
        """A DNS client that breaks in its own way is logged, and discovery goes on."""
        self.assertEqual(self.answered(ZeroDivisionError()), ())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_silence(self) -> None:
        """A DNS that never answers holds nobody up for longer than the limit."""
        looking = self.look_up()
        self.clock.advance(LOOKUP_TIMEOUT_S)
        self.assertEqual(self.successResultOf(looking), ())

    def test_asked_once(self) -> None:
        """Simultaneous look-ups share one question."""
        first, second = self.look_up(), self.look_up()
        self.assertEqual(len(self.dns.asked), 1)
        self.dns.asked[0].callback(([srv("a.example", 60)], [], []))
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
