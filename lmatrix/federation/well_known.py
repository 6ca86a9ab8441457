"""``/.well-known/matrix/server``: judging the answer, and how long to believe it.

Owns: :class:`WellKnown`, a cache over whatever fetches the document, and the rules of caching:

* a valid answer is believed for as long as its cache headers say, 24 hours when they say nothing, 48 hours at most, and
  one minute at least, so that ``no-store`` does not make us ask before every request;
* "no delegation" (a 404, or an answer that makes no sense) is believed for one minute at first, twice as long each time
  it is found again, one hour at most;
* the same goes for a failure (no connection, 5xx). But when there was a valid answer less than 48 hours ago, that one
  still counts: a server that is down for a moment must not have its traffic sent elsewhere.

Implements the I-D's "GET /.well-known/matrix/server", its asking side; :mod:`lmatrix.federation.well_known_fetch` is
the request itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from lmatrix import canonical_json, ids
from lmatrix.errors import BadRequest, InvalidIdentifier, InvalidJson
from lmatrix.federation.bounded import BoundedCache, SingleFlight

DEFAULT_LIFETIME_S = 24 * 60 * 60
MAX_LIFETIME_S = 48 * 60 * 60
MIN_LIFETIME_S = 60
MAX_FAILURE_LIFETIME_S = 60 * 60
CACHE_SIZE = 10_000

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age\s*=\s*"?(\d{1,12})"?', re.IGNORECASE)
_UNCACHEABLE = re.compile(r"(?:^|[\s,])no-(?:store|cache)\b", re.IGNORECASE)


@attrs.frozen(slots=True)
class Delegated:
    """The server's name stands for another.

    Attributes:
        server: a valid server name.
        lifetime_s: seconds for which to believe it.
    """

    server: str
    lifetime_s: float


@attrs.frozen(slots=True)
class NotDelegated:
    """There was an answer, and it delegates nothing."""


@attrs.frozen(slots=True)
class NoAnswer:
    """The server could not say.

    Attributes:
        reason: why, in words.
    """

    reason: str


Outcome = Delegated | NotDelegated | NoAnswer
Fetch = Callable[[str], Coroutine[Any, Any, Outcome]]


def outcome_of(status: int, headers: Headers, body: bytes, now_s: float) -> Outcome:
    """Judge an answer that is no redirect.

    Args:
        status: HTTP status.
        headers: its header fields.
        body: its body. The media type does not matter.
        now_s: seconds since the epoch, for ``Expires``.
    """
    if status >= 500 or status == 429:
        return NoAnswer(f"status {status}")
    if status != 200:
        return NotDelegated()
    try:
        server = ids.server_name(canonical_json.parse_object(body).get("m.server"))
    except (InvalidJson, BadRequest, InvalidIdentifier):
        return NotDelegated()
    return Delegated(server, lifetime_of(headers, now_s))


def lifetime_of(headers: Headers, now_s: float) -> float:
    """Seconds to believe a valid answer for: ``Cache-Control`` goes before ``Expires`` (RFC 9111, section 5.3)."""
    wanted = _wanted_lifetime(headers, now_s)
    return max(MIN_LIFETIME_S, min(wanted, MAX_LIFETIME_S))


def _wanted_lifetime(headers: Headers, now_s: float) -> float:
    cache_control = ",".join(_texts(headers, b"Cache-Control"))
    if _UNCACHEABLE.search(cache_control):
        return 0
    max_age = _MAX_AGE.search(cache_control)
    if max_age is not None:
        return int(max_age[1])
    expires = _texts(headers, b"Expires")
    if not expires:
        return DEFAULT_LIFETIME_S
    try:
        moment = parsedate_to_datetime(expires[0])
    except ValueError:
        # RFC 9111, section 5.3: a date that cannot be read lies in the past.
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime.fromtimestamp(now_s, UTC)).total_seconds()


def _texts(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for value in headers.getRawHeaders(name) or ()]


@attrs.frozen(slots=True)
class _Known:
    """What is believed of one host.

    Attributes:
        delegated: the server name, ``None`` for no delegation.
        until: second until which it is not asked again.
        valid_until: second until which a valid answer may outlive failures.
        failures: fruitless answers in a row.
    """

    delegated: str | None
    until: float
    valid_until: float = 0.0
    failures: int = 0


class WellKnown:
    """A cache of delegations.

    Args:
        fetch: makes the request for one host; never raises.
        clock: tells the time.
    """

    _log = Logger()

    def __init__(self, fetch: Fetch, *, clock: IReactorTime) -> None:
        self._fetch = fetch
        self._clock = clock
        self._cache: BoundedCache[str, _Known] = BoundedCache(CACHE_SIZE)
        self._flights: SingleFlight[str, str | None] = SingleFlight()

    async def lookup(self, host: str) -> str | None:
        """The server name that ``host`` delegates to, ``None`` when it does not; never raises."""
        known = self._cache.get(host)
        if known is not None and self._clock.seconds() < known.until:
            return known.delegated
        return await self._flights.do(host, lambda: self._ask(host))

    async def _ask(self, host: str) -> str | None:
        outcome = await self._fetch(host)
        known = _after(outcome, self._cache.get(host), self._clock.seconds())
        self._cache.put(host, known)
        if isinstance(outcome, NoAnswer):
            self._log.debug("no well-known answer from {host}: {reason}", host=host, reason=outcome.reason)
        return known.delegated


def _after(outcome: Outcome, before: _Known | None, now: float) -> _Known:
    if isinstance(outcome, Delegated):
        return _Known(outcome.server, now + outcome.lifetime_s, valid_until=now + MAX_LIFETIME_S)
    failures = 1 if before is None else before.failures + 1
    # The exponent is bounded so that years of failures make no huge number.
    wait = min(MIN_LIFETIME_S * 2 ** min(failures - 1, 10), MAX_FAILURE_LIFETIME_S)
    if (
        isinstance(outcome, NoAnswer)
        and before is not None
        and before.delegated is not None
        and now < before.valid_until
    ):
        until = min(now + wait, before.valid_until)
        return _Known(before.delegated, until, valid_until=before.valid_until, failures=failures)
    return _Known(None, now + wait, failures=failures)
