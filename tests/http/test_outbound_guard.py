"""Where a request of ours may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from zope.interface import implementer

from lmatrix.http.outbound_guard import AddressPolicy, GuardedReactor

_PUBLIC = ["8.8.8.8", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
_PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - an address to be refused
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
]
_NO_ADDRESSES = [
    "",
    "localhost",
    "b.example",
    "127.1",
    "0x7f000001",
    "2130706433",
    "010.0.0.1",
    "8.8.8.8 ",
    "8.8.8.8:80",
]


class PolicyTests(SynchronousTestCase):
    """Judging addresses."""

    def test_public_addresses_are_allowed(self) -> None:
        """Addresses of the Internet, in every spelling that stands for one."""
        for host in _PUBLIC:
            self.assertTrue(AddressPolicy().permits(host), host)

    def test_all_others_are_not(self) -> None:
        """Private, loopback, link-local, multicast, reserved, documentation, and IPv6 that hides one of them."""
        for host in _PRIVATE:
            self.assertFalse(AddressPolicy().permits(host), host)

    def test_what_is_no_address_is_refused(self) -> None:
        """Names and odd spellings cannot be judged."""
        for host in _NO_ADDRESSES:
            self.assertFalse(AddressPolicy(["0.0.0.0/0", "::/0"]).permits(host), host)

    def test_the_operator_can_allow_networks(self) -> None:
        """An allowed network is allowed, in either spelling of its addresses, and nothing around it."""
        policy = AddressPolicy(["127.0.0.0/8", "fd00::/8"])
        for host in ("127.0.0.1", "::ffff:127.0.0.1", "fd00::1", "8.8.8.8"):
            self.assertTrue(policy.permits(host), host)
        for host in ("10.0.0.1", "::1", "fe80::1"):
            self.assertFalse(policy.permits(host), host)

    def test_networks_must_be_networks(self) -> None:
        """A mistake in the configuration is found at once."""
        for text in ("localhost", "127.0.0.1/8", "10.0.0.0/33"):
            with self.assertRaises(ValueError):
                AddressPolicy([text])

    @given(st.ip_addresses(v=4))
    def test_every_spelling_is_judged_alike(self, address: Any) -> None:
        """An IPv4 address and its IPv6 forms have one judgement."""
        policy = AddressPolicy()
        number = int(address)
        mapped, nat64 = f"::ffff:{address}", f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}"
        self.assertEqual({policy.permits(str(address))}, {policy.permits(mapped), policy.permits(nat64)})


@implementer(IHostnameResolver)
class _Names:
    """A resolver that knows one answer."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution: Any = None
        resolutionReceiver.resolutionBegan(resolution)
        for host in self._hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution  # type: ignore[no-any-return]


class ReactorTests(SynchronousTestCase):
    """Enforcing it below Twisted's own endpoints and HTTP client."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def _guarded(self, *hosts: str) -> GuardedReactor:
        self.reactor.installNameResolver(_Names(*hosts))
        return GuardedReactor(self.reactor, AddressPolicy())

    def _connections(self) -> list[str]:
        return [host for host, *_ in self.reactor.tcpClients]

    def test_a_public_name_is_connected_to(self) -> None:
        """The address that was judged is the one that is connected to."""
        endpoint = HostnameEndpoint(self._guarded("8.8.8.8"), "b.example", 8448)
        self.assertNoResult(endpoint.connect(Factory.forProtocol(Protocol)))
        self.assertEqual(self._connections(), ["8.8.8.8"])

    def test_a_private_name_is_not(self) -> None:
        """A name whose every address is private looks like a name without addresses."""
        endpoint = HostnameEndpoint(self._guarded("10.0.0.1", "::1"), "b.example", 8448)
        self.failureResultOf(endpoint.connect(Factory.forProtocol(Protocol)), DNSLookupError)
        self.assertEqual(self._connections(), [])

    def test_private_answers_among_public_ones_are_left_out(self) -> None:
        """Of several addresses only the allowed ones are tried."""
        reactor = self._guarded("127.0.0.1", "8.8.8.8", "fd00::1")
        self.assertNoResult(HostnameEndpoint(reactor, "b.example", 1).connect(Factory.forProtocol(Protocol)))
        self.reactor.advance(1)
        self.assertEqual(self._connections(), ["8.8.8.8"])

    def test_literals_are_judged_too(self) -> None:
        """An endpoint that needs no resolver cannot get around it, nor can a name that nobody resolved."""
        for host in ("127.0.0.1", "localhost"):
            endpoint = TCP4ClientEndpoint(self._guarded(), host, 80)
            self.failureResultOf(endpoint.connect(Factory.forProtocol(Protocol)), ConnectError)
        self.assertEqual(self._connections(), [])

    def test_an_http_client_can_use_it(self) -> None:
        """Agent takes it for a reactor: a request to a private address fails, one to a public address goes out."""
        self.failureResultOf(Agent(self._guarded("192.168.0.1")).request(b"GET", b"http://b.example/"), DNSLookupError)
        self.assertNoResult(Agent(self._guarded("8.8.8.8")).request(b"GET", b"http://b.example/"))
        self.assertEqual(self._connections(), ["8.8.8.8"])

    def test_time_is_the_reactors(self) -> None:
        """Time-outs of an HTTP client run on the real clock."""
        reactor = self._guarded()
        called: list[int] = []
        reactor.callLater(2, called.append, 1)
        self.assertEqual(len(reactor.getDelayedCalls()), 1)
        self.reactor.advance(2)
        self.assertEqual((called, reactor.seconds()), ([1], 2.0))

    def test_the_resolver_cannot_be_replaced_through_it(self) -> None:
        """Whoever has only the guarded reactor cannot lift the guard."""
        with self.assertRaises(NotImplementedError):
            self._guarded().installNameResolver(_Names("127.0.0.1"))
