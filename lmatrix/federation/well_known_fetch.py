"""The request for ``/.well-known/matrix/server``.

Owns: :class:`WellKnownFetch`. This is an ordinary web request, not a federation request: port 443, ordinary certificate
checks for whatever host is asked, redirects followed (five at most, never twice to the same place, HTTPS only), the
body bounded, no cookies.

Implements the I-D's "GET /.well-known/matrix/server", its asking side.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from lmatrix.federation.bodies import read_bounded
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.tls import ClientTls
from lmatrix.federation.transport import RouteEndpoint, words_for
from lmatrix.federation.well_known import NoAnswer, NotDelegated, Outcome, outcome_of

PATH = "/.well-known/matrix/server"

MAX_REDIRECTS = 5
MAX_BODY = 50 * 1024
TIMEOUT_S = 15.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def web_agent(reactor: Any, *, tls: ClientTls) -> IAgent:
    """An agent for ordinary HTTPS requests.

    Args:
        reactor: connects and tells the time. Give it wrapped in the guard against private addresses.
        tls: how connections are secured.
    """
    agent: IAgent = Agent.usingEndpointFactory(reactor, _WebEndpoints(reactor, tls))
    return agent


class WellKnownFetch:
    """Fetches the document of one host at a time; an instance is the ``fetch`` of
    :class:`~lmatrix.federation.well_known.WellKnown`.

    Args:
        agent: makes HTTPS requests, see :func:`web_agent`.
        clock: tells the time (``IReactorTime``).
    """

    def __init__(self, agent: IAgent, *, clock: Any) -> None:
        no_cookies = IndexableCookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._http = HTTPClient(agent, cookiejar=no_cookies)
        self._clock = clock

    async def __call__(self, host: str) -> Outcome:
        """What ``host`` says, in :data:`TIMEOUT_S` seconds at most; never raises."""
        fetching = Deferred.fromCoroutine(self._fetch(f"https://{host}{PATH}"))
        fetching.addTimeout(TIMEOUT_S, self._clock, lambda *_: NoAnswer(f"no answer within {TIMEOUT_S:.0f} s"))
        return await fetching

    async def _fetch(self, url: str) -> Outcome:
        visited: set[str] = set()
        while url not in visited and len(visited) <= MAX_REDIRECTS:
            visited.add(url)
            try:
                status, headers, body = await self._get(url)
            except CancelledError:
                raise
            except Exception as error:
                # The web has more ways to fail than can be listed (TLS, DNS, garbage, too much of it); all mean the
                # same.
                return NoAnswer(words_for(error))
            location = headers.getRawHeaders(b"Location")
            if status not in _REDIRECTS or not location:
                return outcome_of(status, headers, body, self._clock.seconds())
            url = _joined(url, location[0])
            if not url:
                return NotDelegated()
        return NotDelegated()

    async def _get(self, url: str) -> tuple[int, Headers, bytes]:
        response = await self._http.get(url, allow_redirects=False, unbuffered=True, reactor=self._clock)
        return response.code, response.headers, await read_bounded(response, MAX_BODY)


def _joined(url: str, location: bytes) -> str:
    """Where a redirect leads; empty when it is not to be followed."""
    try:
        target = urljoin(url, location.decode("ascii"))
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or port == 0:
        return ""
    return target


@implementer(IAgentEndpointFactory)
class _WebEndpoints:
    def __init__(self, reactor: Any, tls: ClientTls) -> None:
        self._reactor = reactor
        self._tls = tls

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        if uri.scheme != b"https":
            raise SchemeNotSupported(f"only https is followed, not {uri.scheme!r}")
        host = uri.host.decode("ascii")
        return RouteEndpoint(
            self._reactor, Route(tls_name=host, host_header=host, targets=(Target(host, uri.port),)), self._tls
        )
