"""The ``federation`` section: how this server talks to others, in general and to particular ones.

What may be loosened here is what development and test networks need; :func:`federation_warnings` names each loosening
in words, for the start-up log.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

import attrs

from lmatrix import ids
from lmatrix.config.reading import Section, Value, boolean, checked_text, list_of, mapping_of, number, section_of, whole
from lmatrix.federation.peer_settings import PeerSettings
from lmatrix.federation.resources.routes import MAX_SEND_BODY

AddressRange = IPv4Network | IPv6Network

MEBIBYTE = 1024 * 1024

MAX_NOTARIES = 8


@attrs.frozen(slots=True)
class FederationLimits:
    """How much other servers may ask of this one.

    Attributes:
        transaction_bytes: largest transaction (``PUT /send``) that is taken, in bytes.
        concurrent_requests: requests handled at one time; more are told to come back later.
    """

    transaction_bytes: int
    concurrent_requests: int


@attrs.frozen(slots=True)
class FederationTimeouts:
    """Times, in seconds.

    Attributes:
        longest_back_off: the most that delivery to a failing server waits between attempts.
    """

    longest_back_off: float


@attrs.frozen(slots=True)
class FederationConfig:
    """How this server talks to others.

    Attributes:
        verify_certificates: check other servers' TLS certificates.
        allow_ip_literals: accept server names that are IP addresses.
        allow_private_addresses: connect to private, loopback and link-local addresses.
        allowed_address_ranges: such addresses that are allowed all the same, when they are not in general.
        notaries: servers that are believed about the keys of servers that do not answer.
        peers: settings by server name.
    """

    verify_certificates: bool
    accept_hub_offers: bool
    allow_ip_literals: bool
    allow_private_addresses: bool
    allowed_address_ranges: tuple[AddressRange, ...]
    notaries: tuple[str, ...]
    limits: FederationLimits
    timeouts: FederationTimeouts
    peers: Mapping[str, PeerSettings]


def _range(value: Value) -> AddressRange:
    found = value.scalar("str") or ""
    try:
        return ipaddress.ip_network(found)
    except ValueError:
        value.wrong("a range of IP addresses, such as '10.1.0.0/16'")


def _read_peer(section: Section) -> PeerSettings:
    return PeerSettings(
        plaintext=section.optional("plaintext", False, boolean),
        concurrent_transactions=section.optional("concurrent_transactions", False, boolean),
        one_event_per_transaction=section.optional("one_event_per_transaction", False, boolean),
    )


def _read_limits(section: Section) -> FederationLimits:
    return FederationLimits(
        transaction_bytes=section.optional(
            "transaction_bytes", MAX_SEND_BODY, whole(128 * 1024, 1024 * MEBIBYTE, "a number of bytes")
        ),
        concurrent_requests=section.optional("concurrent_requests", 512, whole(1, 100_000, "a number of requests")),
    )


def _read_timeouts(section: Section) -> FederationTimeouts:
    return FederationTimeouts(
        longest_back_off=section.optional(
            "longest_back_off_seconds", 3600.0, number(1, 7 * 86_400, "a number of seconds")
        ),
    )


def _read_notaries(section: Section) -> tuple[str, ...]:
    server_name = checked_text(ids.server_name, "a server name")
    notaries: tuple[str, ...] = section.optional("notaries", (), list_of(server_name, "server names"))
    if len(notaries) > MAX_NOTARIES:
        section.problem("notaries", f"are {len(notaries)}; up to {MAX_NOTARIES} are allowed, and all are asked at once")
    if len(set(notaries)) < len(notaries):
        section.problem("notaries", "name a server twice")
    return notaries


def read_federation(section: Section) -> FederationConfig:
    """Read ``federation``; every key has a default, and the defaults are the strict ones."""
    server_name = checked_text(ids.server_name, "a server name")
    return FederationConfig(
        verify_certificates=section.optional("verify_certificates", True, boolean),
        accept_hub_offers=section.optional("accept_hub_offers", True, boolean),
        allow_ip_literals=section.optional("allow_ip_literals", False, boolean),
        allow_private_addresses=section.optional("allow_private_addresses", False, boolean),
        allowed_address_ranges=section.optional("allowed_address_ranges", (), list_of(_range, "address ranges")),
        notaries=_read_notaries(section),
        limits=section.subsection("limits", _read_limits),
        timeouts=section.subsection("timeouts", _read_timeouts),
        peers=section.optional(
            "peers", {}, mapping_of(server_name, section_of(_read_peer), "server names, each with its settings")
        ),
    )


def federation_warnings(config: FederationConfig) -> tuple[str, ...]:
    """What an administrator should know about loosened checks, in words."""
    warnings = []
    if not config.verify_certificates:
        warnings.append("certificates of other servers are NOT verified (federation.verify_certificates)")
    if config.allow_private_addresses:
        warnings.append("private and loopback addresses are allowed (federation.allow_private_addresses)")
    if config.allow_ip_literals:
        warnings.append("server names may be IP addresses (federation.allow_ip_literals)")
    plain = sorted(name for name, peer in config.peers.items() if peer.plaintext)
    if plain:
        warnings.append(f"plain HTTP is spoken to {', '.join(plain)} (federation.peers)")
    return tuple(warnings)
