"""Where a request of ours may go.

Owns: the judgement whether an IP address is one that other servers may make us connect to (:class:`AddressPolicy`),
and a stand-in for the reactor that enforces it (:class:`GuardedReactor`). A server name, a well-known answer and a DNS
record are all chosen by strangers; without this they could point us at our own database.

Invariants: the address that is judged is the address that is connected to, since only literals are connected to and
names are resolved here; whatever cannot be judged is refused; an IPv6 address that stands for an IPv4 address is judged
as that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from zope.interface import implementer

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv6 addresses of the Internet are given out from here and nowhere else.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")

# IANA's registries of special-purpose addresses, as of 2024, and multicast. The `ipaddress` module has them too, but
# how many of them depends on the version of Python.
_SPECIAL: tuple[_Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and clouds' metadata services
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "2001::/23",  # protocol assignments, Teredo
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)

# RFC 6052: the prefix under which IPv6-only hosts reach the whole IPv4 Internet.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressPolicy:
    """Which IP addresses may be connected to: public ones, and those in networks that the operator allows.

    Args:
        allowed: networks that are allowed although they are not public: ``["127.0.0.0/8", "fd00::/8"]``.

    Raises:
        ValueError: something that is no network.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed: tuple[_Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed)

    def permits(self, host: str) -> bool:
        """Judge one address.

        Args:
            host: an IPv4 or IPv6 address; anything else is refused.
        """
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        # An address with a scope belongs to one link of this machine, and is no address of the Internet.
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            return False
        meant = _meant(address)
        if any(address in network or meant in network for network in self._allowed):
            return True
        return _is_public(meant)


def _meant(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.sixtofour is not None:
        return address.sixtofour
    return address


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _SPECIAL)


@implementer(IReactorTime, IReactorPluggableNameResolver)
class GuardedReactor:
    """As much of a reactor as an HTTP client uses, that makes no TCP connection which the policy forbids.

    Hand it to ``HostnameEndpoint``, ``Agent`` or ``HTTPConnectionPool`` in the reactor's place.

    Args:
        reactor: the real one (TCP, time, name resolver).
        policy: which addresses may be connected to.
    """

    def __init__(self, reactor: Any, policy: AddressPolicy) -> None:
        self._reactor = reactor
        self._policy = policy

    @property
    def nameResolver(self) -> IHostnameResolver:
        """The reactor's resolver, without the answers that the policy forbids."""
        return _GuardedResolver(self._reactor.nameResolver, self._policy)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Not for guests: the resolver belongs to the real reactor."""
        raise NotImplementedError("install the resolver in the reactor itself")

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """Connect to an address that has been resolved.

        Raises:
            ConnectError: the policy forbids it, or ``host`` is a name: what it stands for could not be judged.
        """
        if not self._policy.permits(host):
            raise ConnectError(string=f"connections to {host} are not allowed")  # type: ignore[no-untyped-call]
        connector: IConnector = self._reactor.connectTCP(host, port, factory, timeout, bindAddress)
        return connector

    def seconds(self) -> float:
        """The reactor's time."""
        return float(self._reactor.seconds())

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall:
        """The reactor's own ``callLater``."""
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """The reactor's own delayed calls."""
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls


@implementer(IHostnameResolver)
class _GuardedResolver:
    def __init__(self, resolver: IHostnameResolver, policy: AddressPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        receiver = _GuardedReceiver(resolutionReceiver, hostName, self._policy)
        return self._resolver.resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)


@implementer(IResolutionReceiver)
class _GuardedReceiver:
    _log = Logger()

    def __init__(self, receiver: IResolutionReceiver, name: str, policy: AddressPolicy) -> None:
        self._receiver = receiver
        self._name = name
        self._policy = policy

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        host = str(getattr(address, "host", ""))
        if self._policy.permits(host):
            self._receiver.addressResolved(address)
        else:
            # A name that has no other address now looks as if it had none at all; this line says why.
            self._log.info("{name} resolves to {host}, which is not allowed", name=self._name, host=host)

    def resolutionComplete(self) -> None:
        self._receiver.resolutionComplete()
