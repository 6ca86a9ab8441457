"""The ``listeners`` section: which ports are open, with or without TLS, and what is served on each.

Invariants: a federation listener without TLS is only accepted on loopback addresses, or where the administrator says
that a reverse proxy stands before it (``x_forwarded``); the admin API is only accepted on loopback addresses, or where
the listener itself speaks TLS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import attrs

from lmatrix.config.reading import Section, Value, boolean, choice, list_of, path, section_of, whole


class Resource(Enum):
    """What a listener can serve."""

    FEDERATION = "federation"  # /_matrix/federation, for other servers
    KEYS = "keys"  # /_matrix/key/v2, this server's signing keys
    CLIENT = "client"  # /_matrix/client, for local users
    HEALTH = "health"  # /health
    METRICS = "metrics"  # /metrics, for Prometheus
    ADMIN = "admin"  # /_lmatrix/admin, for the operator


@attrs.frozen(slots=True)
class TlsFiles:
    """Where a listener's certificate is.

    Attributes:
        certificate_path: PEM, the server's certificate first and then the chain.
        private_key_path: PEM.
    """

    certificate_path: Path
    private_key_path: Path


@attrs.frozen(slots=True)
class ListenerConfig:
    """One port.

    Attributes:
        port: TCP port; 0 takes any free one (the start-up log says which).
        bind_addresses: IP addresses, at least one.
        tls: ``None`` for plain HTTP.
        x_forwarded: believe ``X-Forwarded-For``: a reverse proxy stands before this listener.
        max_connections: open connections at one time.
        resources: what is served.
    """

    port: int
    bind_addresses: tuple[str, ...]
    tls: TlsFiles | None
    x_forwarded: bool
    max_connections: int
    resources: tuple[Resource, ...]

    @property
    def loopback_only(self) -> bool:
        return all(ipaddress.ip_address(address).is_loopback for address in self.bind_addresses)

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        places = ", ".join(_place(scheme, address, self.port) for address in self.bind_addresses)
        return f"{places} ({', '.join(resource.value for resource in self.resources)})"


def _place(scheme: str, address: str, port: int) -> str:
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


def _address(value: Value) -> str:
    found = value.scalar("str")
    try:
        return str(ipaddress.ip_address(found or ""))
    except ValueError:
        value.wrong("an IP address to bind to, such as '127.0.0.1' or '::'")


def _resource(value: Value) -> Resource:
    return Resource(choice(*(resource.value for resource in Resource))(value))


def _read_listener(section: Section) -> ListenerConfig:
    tls = section.optional("tls", True, boolean)
    files = None
    if tls:
        files = TlsFiles(
            certificate_path=section.required("tls_certificate_path", path),
            private_key_path=section.required("tls_private_key_path", path),
        )
    else:
        for key in ("tls_certificate_path", "tls_private_key_path"):
            section.optional(key, None, path)
            if key in section:
                section.problem(key, "is given, but `tls` is false")
    listener = ListenerConfig(
        port=section.required("port", whole(0, 65535, "a port number")),
        bind_addresses=section.optional(
            "bind_addresses", ("127.0.0.1",), list_of(_address, "IP addresses", at_least=1)
        ),
        tls=files,
        x_forwarded=section.optional("x_forwarded", False, boolean),
        max_connections=section.optional("max_connections", 2000, whole(1, 1_000_000, "a number of connections")),
        resources=section.required("resources", list_of(_resource, "resources", at_least=1)),
    )
    if section.sound:
        _check_plain_federation(section, listener)
        _check_plain_admin(section, listener)
    return listener


def _check_plain_federation(section: Section, listener: ListenerConfig) -> None:
    exposed = Resource.FEDERATION in listener.resources and not listener.loopback_only
    if exposed and listener.tls is None and not listener.x_forwarded:
        section.problem(
            "tls",
            "federation without TLS is only possible on loopback addresses, or behind a reverse proxy "
            "that adds TLS (say so with `x_forwarded: true`)",
        )


def _check_plain_admin(section: Section, listener: ListenerConfig) -> None:
    # Not behind a proxy on another machine either: the token would travel to it in the clear.
    if Resource.ADMIN in listener.resources and listener.tls is None and not listener.loopback_only:
        section.problem("resources", "`admin` is only served on loopback addresses, or with TLS")


def read_listeners(section: Section) -> tuple[ListenerConfig, ...]:
    """Read ``listeners`` of the top level, and check them against one another."""
    listeners = section.required("listeners", list_of(section_of(_read_listener), "listeners", at_least=1))
    if not section.sound:
        return listeners
    seen: set[tuple[str, int]] = set()
    for listener in listeners:
        for address in listener.bind_addresses:
            if listener.port and (address, listener.port) in seen:
                section.problem("listeners", f"port {listener.port} of {address} is listened on twice")
            seen.add((address, listener.port))
    _check_reachable_keys(section, listeners)
    return listeners


def _check_reachable_keys(section: Section, listeners: Sequence[ListenerConfig]) -> None:
    served = {resource for listener in listeners for resource in listener.resources}
    if Resource.FEDERATION in served and Resource.KEYS not in served:
        section.problem(
            "listeners",
            "`federation` is served but `keys` is not: no other server could check this server's signatures",
        )
