"""The driving of discovery: which look-ups are made for which name, and with what outcome."""

from __future__ import annotations

import random

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerUnreachable
from lmatrix.federation.discovery import Route, ServiceRecord, Target
from lmatrix.federation.peer_settings import PeerSettings, PeerSettingsTable
from lmatrix.federation.resolver import ServerResolver


class Lookups:
    """Well-known and SRV look-ups from two dictionaries; remembers what was looked up."""

    def __init__(self) -> None:
        self.delegations: dict[str, str] = {}
        self.records: dict[str, list[ServiceRecord]] = {}
        self.asked: list[str] = []


class FakeWellKnown(Lookups):
    """Answers out of ``delegations``."""

    async def lookup(self, host: str) -> str | None:
        """The delegation, if any."""
        self.asked.append(host)
        return self.delegations.get(host)


class FakeServices(Lookups):
    """Answers out of ``records``."""

    async def lookup(self, service_name: str) -> list[ServiceRecord]:
        """The records, if any."""
        self.asked.append(service_name)
        return self.records.get(service_name, [])


class ResolverTests(SynchronousTestCase):
    """Each way through the steps."""

    def setUp(self) -> None:
        self.well_known = FakeWellKnown()
        self.services = FakeServices()

    def resolve(self, name: str, *, allow_ip_literals: bool = False) -> Deferred[Route]:
        """Resolve a name."""
        resolver = ServerResolver(
            self.well_known,
            self.services,
            settings=PeerSettingsTable({"plain.example": PeerSettings(plaintext=True)}),
            allow_ip_literals=allow_ip_literals,
            rng=random.Random(1),
        )
        return Deferred.fromCoroutine(resolver.resolve(name))

    def test_explicit_port(self) -> None:
        """No look-up at all."""
        route = self.successResultOf(self.resolve("a.example:1"))
        self.assertEqual(route, Route("a.example", "a.example:1", (Target("a.example", 1),)))
        self.assertEqual(self.well_known.asked + self.services.asked, [])

    def test_delegated_with_port(self) -> None:
        """No SRV look-up."""
        self.well_known.delegations["a.example"] = "b.example:2"
        route = self.successResultOf(self.resolve("a.example"))
        self.assertEqual(route, Route("b.example", "b.example:2", (Target("b.example", 2),)))
        self.assertEqual(self.services.asked, [])

    def test_delegation_is_followed_once(self) -> None:
        """The delegated name is not itself looked up in well-known."""
        self.well_known.delegations.update({"a.example": "b.example", "b.example": "c.example"})
        route = self.successResultOf(self.resolve("a.example"))
        self.assertEqual(route.tls_name, "b.example")
        self.assertEqual(self.well_known.asked, ["a.example"])
        self.assertEqual(self.services.asked, ["_matrix._tcp.b.example"])

    def test_records_by_priority(self) -> None:
        """The targets are in the order in which to try them."""
        self.services.records["_matrix._tcp.a.example"] = [
            ServiceRecord(20, 1, 3, "third.example"),
            ServiceRecord(0, 1, 1, "first.example"),
            ServiceRecord(10, 1, 2, "second.example"),
        ]
        route = self.successResultOf(self.resolve("a.example"))
        self.assertEqual([target.port for target in route.targets], [1, 2, 3])
        self.assertEqual((route.tls_name, route.host_header), ("a.example", "a.example"))

    def test_default_port(self) -> None:
        """Nothing found: 8448."""
        route = self.successResultOf(self.resolve("a.example"))
        self.assertEqual(route.targets, (Target("a.example", 8448),))

    def test_plaintext_peer(self) -> None:
        """A peer that speaks no TLS is connected to by its name, without look-ups."""
        route = self.successResultOf(self.resolve("plain.example"))
        self.assertEqual(
            route, Route("plain.example", "plain.example", (Target("plain.example", 8448),), plaintext=True)
        )
        self.assertEqual(self.well_known.asked + self.services.asked, [])

    def test_ip_literals(self) -> None:
        """Refused, unless they are allowed; then there is nothing to look up."""
        self.failureResultOf(self.resolve("127.0.0.1:1"), PeerUnreachable)
        route = self.successResultOf(self.resolve("127.0.0.1:1", allow_ip_literals=True))
        self.assertEqual(route.targets, (Target("127.0.0.1", 1),))
        self.assertEqual(self.well_known.asked + self.services.asked, [])
