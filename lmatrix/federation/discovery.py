"""From a server name to where its requests go: the steps, without the look-ups. Pure.

Owns: the order of the I-D's resolution steps, and which TLS name and ``Host`` header belong to each outcome. A step
that needs to know something from outside is a value that says what; whoever drives it
(:mod:`lmatrix.federation.resolver`) looks it up and asks for the next step::

    begin ── explicit port ───────────────────────────────▶ Resolved              (1)
      └──▶ AskWellKnown ── valid, with a port ────────────▶ Resolved              (2.1)
             ├── valid, without ──▶ AskService ── records ▶ Resolved              (2.3)
             │                        └── none ───────────▶ Resolved, port 8448   (2.4)
             └── invalid ─────────▶ AskService ── records ▶ Resolved              (3)
                                      └── none ───────────▶ Resolved, port 8448   (4)

Host names are resolved to addresses by whoever connects, as the I-D's remark on DNS has it.

Implements the I-D's "Resolving Server Names". IP literals are refused ("Server Names"), unless they are allowed for
development; then their name is their address.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier, PeerUnreachable

DEFAULT_PORT = 8448

SERVICE_PREFIX = "_matrix._tcp."


@attrs.frozen(slots=True)
class Target:
    """Somewhere to connect to.

    Attributes:
        host: a host name, or an IP address without brackets.
        port: TCP port.
    """

    host: str
    port: int


@attrs.frozen(slots=True)
class ServiceRecord:
    """One SRV record (RFC 2782).

    Attributes:
        host: its target, without the last dot; empty when the record says that there is no such service.
    """

    priority: int
    weight: int
    port: int
    host: str


@attrs.frozen(slots=True)
class Route:
    """How requests to a server travel.

    Attributes:
        tls_name: the name (or IP address) that its certificate must be for.
        host_header: the value of ``Host``.
        targets: where to connect to, in the order in which to try; at least one.
        plaintext: without TLS, because the configuration says so.
    """

    tls_name: str
    host_header: str
    targets: tuple[Target, ...] = attrs.field(validator=attrs.validators.min_len(1))
    plaintext: bool = False


@attrs.frozen(slots=True)
class AskWellKnown:
    """Step 2: what does ``https://<host>/.well-known/matrix/server`` say?"""

    server_name: str
    host: str
    allow_ip_literals: bool


@attrs.frozen(slots=True)
class AskService:
    """Steps 2.3 and 3: which SRV records are there for ``_matrix._tcp.<host>``?"""

    server_name: str
    host: str

    @property
    def service_name(self) -> str:
        """The name to look up."""
        return SERVICE_PREFIX + self.host


@attrs.frozen(slots=True)
class Resolved:
    """The end."""

    route: Route


Step = AskWellKnown | AskService | Resolved


def begin(server_name: str, *, allow_ip_literals: bool) -> AskWellKnown | Resolved:
    """The first step.

    Args:
        server_name: any string.
        allow_ip_literals: whether a server may be named by its address.

    Raises:
        PeerUnreachable: not a server name, or an IP literal that is not allowed ("Server Names": an improper name is
            uncontactable).
    """
    host, port = _checked(server_name, allow_ip_literals)
    # 1. An explicit port. (An IP literal has nothing else to offer: neither delegation nor SRV records.)
    if port is not None or ids.is_ip_literal(server_name):
        return Resolved(_direct(server_name, host, port))
    return AskWellKnown(server_name, host, allow_ip_literals)


def after_well_known(asked: AskWellKnown, delegated: str | None) -> AskService | Resolved:
    """The step after a well-known look-up.

    Args:
        asked: the step that asked.
        delegated: the value of ``m.server``, ``None`` when there was no valid answer.
    """
    if delegated is None:
        return AskService(asked.server_name, asked.host)
    try:
        host, port = _checked(delegated, asked.allow_ip_literals)
    except PeerUnreachable:
        # A delegation to an improper name is an invalid answer, hence step 3.
        return AskService(asked.server_name, asked.host)
    # 2.1. Delegated, with an explicit port.
    if port is not None or ids.is_ip_literal(delegated):
        return Resolved(_direct(delegated, host, port))
    return AskService(asked.server_name, host)


def after_service(asked: AskService, records: Sequence[ServiceRecord]) -> Resolved:
    """The last step.

    Args:
        asked: the step that asked.
        records: what was found, in the order in which to try; empty when nothing was.

    Raises:
        PeerUnreachable: the records say that the service is not offered at all, or none of them can be used.
    """
    # 2.4 and 4. No SRV record: the default port.
    targets: tuple[Target, ...] = (Target(asked.host, DEFAULT_PORT),)
    # 2.3 and 3. The certificate and the Host header stay those of the name that was asked for, because DNS proves
    # nothing.
    if records:
        targets = tuple(Target(record.host, record.port) for record in records if _is_usable(record))
        if not targets:
            raise PeerUnreachable(asked.server_name, f"{asked.service_name} says that there is no such service")
    return Resolved(Route(tls_name=asked.host, host_header=asked.host, targets=targets))


def plaintext_route(server_name: str, *, allow_ip_literals: bool) -> Route:
    """The route to a peer that speaks no TLS. Its name is its address, with its own port or the default one: delegation
    without TLS would be delegation by whoever is in between.

    Raises:
        PeerUnreachable: as :func:`begin`.
    """
    host, port = _checked(server_name, allow_ip_literals)
    return attrs.evolve(_direct(server_name, host, port), plaintext=True)


def _direct(server_name: str, host: str, port: int | None) -> Route:
    return Route(tls_name=host, host_header=server_name, targets=(Target(host, port or DEFAULT_PORT),))


def _checked(server_name: str, allow_ip_literals: bool) -> tuple[str, int | None]:
    try:
        ids.server_name(server_name)
    except InvalidIdentifier as error:
        raise PeerUnreachable(server_name, str(error)) from None
    if ids.is_ip_literal(server_name) and not allow_ip_literals:
        raise PeerUnreachable(server_name, "a server may not be named by its IP address")
    return ids.split_host_port(server_name)


def _is_usable(record: ServiceRecord) -> bool:
    # An SRV target is a name, never an address, and port 0 cannot be connected to.
    if not record.host or not 1 <= record.port <= 65535:
        return False
    try:
        ids.server_name(record.host)
    except InvalidIdentifier:
        return False
    return ":" not in record.host and not ids.is_ip_literal(record.host)
