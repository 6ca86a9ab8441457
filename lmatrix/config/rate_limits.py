"""The ``rate_limits`` section: how often one client or one server may ask.

Each limit is a token bucket: ``burst`` requests at once, refilled at ``per_second``.
"""

from __future__ import annotations

import attrs

from lmatrix.config.reading import Section, boolean, number, whole


@attrs.frozen(slots=True)
class Rate:
    """One limit.

    Attributes:
        per_second: sustained requests per second.
        burst: how many may come at once.
    """

    per_second: float
    burst: int


@attrs.frozen(slots=True)
class RateLimitConfig:
    """All limits; where they are off there is no such object.

    Attributes:
        registration: by client address.
        login: by client address.
        client: by local user, for everything that changes something.
        federation: by requesting server.
        notary: by address, for the fetching of other servers' keys at somebody's request.
    """

    registration: Rate
    login: Rate
    client: Rate
    federation: Rate
    notary: Rate


_DEFAULTS = RateLimitConfig(
    registration=Rate(per_second=0.2, burst=5),
    login=Rate(per_second=0.2, burst=10),
    client=Rate(per_second=10, burst=50),
    federation=Rate(per_second=200, burst=1000),
    notary=Rate(per_second=2, burst=200),
)


def read_rate_limits(section: Section) -> RateLimitConfig | None:
    """Read ``rate_limits``; ``None`` when ``enabled`` is false."""
    config = RateLimitConfig(
        registration=_rate(section, "registration"),
        login=_rate(section, "login"),
        client=_rate(section, "client"),
        federation=_rate(section, "federation"),
        notary=_rate(section, "notary"),
    )
    return config if section.optional("enabled", True, boolean) else None


def _rate(section: Section, name: str) -> Rate:
    default: Rate = getattr(_DEFAULTS, name)

    def read(inner: Section) -> Rate:
        return Rate(
            per_second=inner.optional("per_second", default.per_second, number(0, 1_000_000)),
            burst=inner.optional("burst", default.burst, whole(1, 1_000_000)),
        )

    return section.subsection(name, read)
