"""Finding servers, when those that are asked for the way answer with anything."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerUnreachable
from lmatrix.federation.discovery import Route, ServiceRecord
from lmatrix.federation.peer_settings import PeerSettingsTable
from lmatrix.federation.resolver import ServerResolver
from lmatrix.federation.well_known import MAX_LIFETIME_S, MIN_LIFETIME_S, Delegated, NoAnswer, NotDelegated, WellKnown
from lmatrix.federation.well_known_fetch import WellKnownFetch
from tests.federation.test_resolver import FakeServices
from tests.federation.test_well_known import HOME, Web, page
from tests.fuzz.values import anything, mutated, text_of

_NAMES = (
    "lm.example",
    "lm.example:1",
    "[::1]",
    "127.0.0.1",
    "a" * 300,
    "é.example",
    "lm.example:0",
    "x:99999",
    "a b",
    "",
)
_VALUES = (
    *("max-age=3600", "max-age=" + "9" * 5000, "max-age=-1", "no-store", "max-age=1,max-age=x", "MAX-AGE = 5", "\xff"),
    *("Thu, 01 Dec 2094 16:00:00 GMT", "0", "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359"),
    *(
        "https://www.example.org/",
        "https://[",
        "https://x:99999/",
        "//",
        "\\",
        "https://\xff/",
        "/" * 9000,
        "javascript:1",
    ),
)
_statuses = st.sampled_from((200, 200, 200, 201, 301, 302, 307, 308, 404, 429, 500, 503, 999))
_headers = st.dictionaries(
    st.sampled_from(("Cache-Control", "Expires", "Location", "Content-Type", "Age", "Date")),
    st.sampled_from(_VALUES),
    max_size=3,
)
_bodies = st.one_of(
    st.sampled_from(_NAMES).flatmap(lambda name: mutated({"m.server": name}, _NAMES, most=1)).map(text_of),
    anything.map(text_of),
    st.binary(max_size=20),
)


class LookupTests(SynchronousTestCase):
    """A name is resolved to a usable route or not at all, and nothing else comes of it."""

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(_statuses, _headers, _bodies)
    def test_well_known(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Whatever a web server answers is a delegation for a bounded time, none, or no answer."""
        clock, web = Clock(), Web()
        agent = RequestTraversalAgent(web)
        fetch = WellKnownFetch(agent, clock=clock)
        web.pages[HOME] = page(body, status, **headers)
        fetching = Deferred.fromCoroutine(fetch("example.org"))
        agent.flush()
        clock.advance(60)
        outcome = self.successResultOf(fetching)
        self.assertIsInstance(outcome, Delegated | NotDelegated | NoAnswer)
        if isinstance(outcome, Delegated):
            self.assertTrue(MIN_LIFETIME_S <= outcome.lifetime_s <= MAX_LIFETIME_S)

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(_NAMES),
        st.one_of(st.none(), st.sampled_from(_NAMES)),
        st.lists(
            st.builds(
                ServiceRecord,
                st.integers(0, 65535),
                st.integers(0, 65535),
                st.integers(0, 65535),
                st.sampled_from((*_NAMES, ".")),
            ),
            max_size=4,
        ),
    )
    def test_resolving(self, name: str, delegated: str | None, records: list[Any]) -> None:
        """Whatever web servers and name servers say, there is a route to what can be connected to, or none."""

        async def said(host: str) -> Any:
            return NotDelegated() if delegated is None else Delegated(delegated, 60)

        services = FakeServices()
        services.records = {f"_matrix._tcp.{host}": records for host in _NAMES}
        resolver = ServerResolver(
            WellKnown(said, clock=Clock()),
            services,
            settings=PeerSettingsTable({}),
            allow_ip_literals=False,
            rng=random.Random(1),
        )
        resolving = Deferred.fromCoroutine(resolver.resolve(name))
        resolving.addErrback(lambda failure: failure.trap(PeerUnreachable))
        route = self.successResultOf(resolving)
        if isinstance(route, Route):
            self.assertTrue(all(target.host and 0 < target.port < 65536 for target in route.targets))
