"""``/.well-known/matrix/server``: how an answer is judged, how long it is believed, and how it is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet import error as network
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from lmatrix.federation.well_known import (
    DEFAULT_LIFETIME_S,
    MAX_FAILURE_LIFETIME_S,
    MAX_LIFETIME_S,
    MIN_LIFETIME_S,
    Delegated,
    NoAnswer,
    NotDelegated,
    Outcome,
    WellKnown,
    lifetime_of,
    outcome_of,
)
from lmatrix.federation.well_known_fetch import MAX_BODY, MAX_REDIRECTS, PATH, TIMEOUT_S, WellKnownFetch

NOW_S = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


class JudgementTests(SynchronousTestCase):
    """What an answer says."""

    def outcome(self, body: object, status: int = 200, **headers: str) -> Outcome:
        """The outcome of an answer with this body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return outcome_of(status, Headers({name: [value] for name, value in headers.items()}), data, NOW_S)

    def test_valid(self) -> None:
        """A server name, with or without a port; the media type is of no interest, nor is what else the object has."""
        self.assertEqual(self.outcome({"m.server": "lm.example:1"}), Delegated("lm.example:1", DEFAULT_LIFETIME_S))
        answer = self.outcome({"m.server": "lm.example", "x": {}}, **{"Content-Type": "text/html"})
        self.assertEqual(answer, Delegated("lm.example", DEFAULT_LIFETIME_S))

    def test_invalid(self) -> None:
        """What cannot be used is "no delegation", never a failure of discovery."""
        for body in (b"", b"<html>", b"\xff", [], "x", {}, {"m.server": None}, {"m.server": ""}, {"m.server": "a b"}):
            self.assertEqual(self.outcome(body), NotDelegated(), body)
        self.assertEqual(self.outcome(b'{"m.server":"a.example","m.server":"b.example"}'), NotDelegated())
        self.assertEqual(self.outcome({"m.server": "a.example"}, status=404), NotDelegated())
        self.assertEqual(self.outcome({"m.server": "a.example"}, status=204), NotDelegated())

    def test_trouble(self) -> None:
        """A server in trouble has not said that there is no delegation."""
        for status in (500, 502, 503, 429):
            self.assertIsInstance(self.outcome({"m.server": "a.example"}, status=status), NoAnswer)

    def test_lifetime(self) -> None:
        """Cache headers count within bounds; ``Cache-Control`` goes before ``Expires``."""
        cases: list[tuple[dict[str, str], float]] = [
            ({}, DEFAULT_LIFETIME_S),
            ({"Cache-Control": "max-age=3600"}, 3600),
            ({"Cache-Control": 'public, Max-Age = "7200"'}, 7200),
            ({"Cache-Control": "s-maxage=99"}, DEFAULT_LIFETIME_S),
            ({"Cache-Control": "max-age=999999999"}, MAX_LIFETIME_S),
            ({"Cache-Control": "max-age=0"}, MIN_LIFETIME_S),
            ({"Cache-Control": "no-store"}, MIN_LIFETIME_S),
            ({"Cache-Control": "no-cache, max-age=3600"}, MIN_LIFETIME_S),
            ({"Cache-Control": "max-age=rubbish"}, DEFAULT_LIFETIME_S),
            ({"Cache-Control": "private"}, DEFAULT_LIFETIME_S),
            ({"Expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, 3600),
            ({"Expires": "Tue, 14 Nov 2023 23:13:20 -0000"}, 3600),
            ({"Expires": "Fri, 14 Nov 2053 23:13:20 GMT"}, MAX_LIFETIME_S),
            ({"Expires": "0"}, MIN_LIFETIME_S),
            ({"Expires": "Tue, 14 Nov 2023 23:13:20 GMT", "Cache-Control": "max-age=600"}, 600),
        ]
        for headers, seconds in cases:
            found = lifetime_of(Headers({name: [value] for name, value in headers.items()}), NOW_S)
            self.assertEqual(found, seconds, headers)


class CacheTests(SynchronousTestCase):
    """How long an outcome is believed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fetches: list[Deferred[Outcome]] = []
        self.well_known = WellKnown(self.fetch, clock=self.clock)

    async def fetch(self, host: str) -> Outcome:
        """Records that it was asked, and waits to be told the outcome."""
        outcome: Deferred[Outcome] = Deferred()
        self.fetches.append(outcome)
        return await outcome

    def look_up(self) -> Deferred[str | None]:
        """One look-up."""
        return Deferred.fromCoroutine(self.well_known.lookup("example.org"))

    def assert_fetches(self, outcome: Outcome, expected: str | None) -> None:
        """A look-up asks, gets this outcome, and concludes that."""
        before = len(self.fetches)
        looking = self.look_up()
        self.assertEqual(len(self.fetches), before + 1, "it was not asked for")
        self.fetches[-1].callback(outcome)
        self.assertEqual(self.successResultOf(looking), expected)

    def assert_believed_for(self, seconds: float, expected: str | None) -> None:
        """Until these seconds are over nothing is fetched, and then something is (by whoever comes next)."""
        before = len(self.fetches)
        self.clock.advance(seconds - 0.5)
        self.assertEqual(self.successResultOf(self.look_up()), expected)
        self.assertEqual(len(self.fetches), before, "it was fetched again too early")
        self.clock.advance(0.5)

    def test_valid(self) -> None:
        """A valid answer is believed for its lifetime."""
        self.assert_fetches(Delegated("a.example", 3600), "a.example")
        self.assert_believed_for(3600, "a.example")
        self.assert_fetches(Delegated("b.example", 60), "b.example")

    def test_growing_pauses(self) -> None:
        """Fruitless answers are repeated after pauses that double, up to an hour; a good one starts anew."""
        for outcome in (NotDelegated(), NoAnswer("x")):
            pause: float = MIN_LIFETIME_S
            for _ in range(10):
                self.assert_fetches(outcome, None)
                self.assert_believed_for(pause, None)
                pause = min(pause * 2, MAX_FAILURE_LIFETIME_S)
            self.assert_fetches(Delegated("a.example", 60), "a.example")
            self.clock.advance(60)
            self.assert_fetches(NotDelegated(), None)
            self.assert_believed_for(MIN_LIFETIME_S, None)
            self.well_known = WellKnown(self.fetch, clock=self.clock)

    def test_trouble_does_not_end_a_delegation(self) -> None:
        """While the server is in trouble the last valid answer counts, until 48 hours after it came."""
        self.assert_fetches(Delegated("a.example", 3600), "a.example")
        came = self.clock.seconds()
        self.clock.advance(3600)
        while self.clock.seconds() < came + MAX_LIFETIME_S:
            self.assert_fetches(NoAnswer("x"), "a.example")
            self.clock.advance(MAX_FAILURE_LIFETIME_S)
        self.assert_fetches(NoAnswer("x"), None)

    def test_withdrawal_ends_a_delegation(self) -> None:
        """A clear answer that there is none counts at once."""
        self.assert_fetches(Delegated("a.example", 3600), "a.example")
        self.clock.advance(3600)
        self.assert_fetches(NotDelegated(), None)

    def test_asked_once(self) -> None:
        """Simultaneous look-ups share one request, and one that gives up does not spoil it for the others."""
        first, second = self.look_up(), self.look_up()
        self.assertEqual(len(self.fetches), 1)
        first.addErrback(lambda _: None)
        first.cancel()
        self.fetches[0].callback(Delegated("a.example", 60))
        self.assertEqual(self.successResultOf(second), "a.example")


class Web(Resource):
    """The whole web: a handler for each URL."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True
        self.pages: dict[str, Callable[[Request], Any]] = {}
        self.requested: list[str] = []

    def render(self, request: Request) -> Any:
        """Answer by what the URL's page says; 404 for others."""
        url = f"https://{request.getHeader('host')}{request.uri.decode()}"
        self.requested.append(url)
        self.cookies = request.getHeader("cookie")
        if url not in self.pages:
            request.setResponseCode(404)
            return b"{}"
        return self.pages[url](request)


def page(body: bytes, status: int = 200, **headers: str) -> Callable[[Request], bytes]:
    """A page with this content."""

    def render(request: Request) -> bytes:
        request.setResponseCode(status)
        for name, value in headers.items():
            request.setHeader(name, value)
        return body

    return render


def to(location: str, status: int = 302) -> Callable[[Request], bytes]:
    """A redirect."""
    return page(b"", status, Location=location)


@implementer(IAgent)
class Refusing:
    """An agent without a network."""

    def request(self, *args: object, **kwargs: object) -> Deferred[IResponse]:
        """Never works."""
        return fail(network.ConnectionRefusedError())


HOME = f"https://example.org{PATH}"
GOOD = page(b'{"m.server":"lm.example:1"}')


class FetchTests(SynchronousTestCase):
    """The request."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.web = Web()
        self.agent = RequestTraversalAgent(self.web)
        self.fetch = WellKnownFetch(self.agent, clock=self.clock)

    def fetched(self) -> Outcome:
        """The outcome for example.org."""
        fetching = Deferred.fromCoroutine(self.fetch("example.org"))
        self.agent.flush()
        return self.successResultOf(fetching)

    def test_plain(self) -> None:
        """One GET request, to the well-known path of the host."""
        self.web.pages[HOME] = GOOD
        self.assertEqual(self.fetched(), Delegated("lm.example:1", DEFAULT_LIFETIME_S))
        self.assertEqual(self.web.requested, [HOME])

    def test_none(self) -> None:
        """A 404 is no delegation."""
        self.assertEqual(self.fetched(), NotDelegated())

    def test_redirects(self) -> None:
        """Redirects are followed whatever their kind, relative ones too."""
        for status in (301, 302, 303, 307, 308):
            self.web.pages = {
                HOME: to("https://www.example.org/a?b", status),
                "https://www.example.org/a?b": to("/c", status),
                "https://www.example.org/c": GOOD,
            }
            self.assertIsInstance(self.fetched(), Delegated, status)

    def test_loop(self) -> None:
        """A loop is left when it closes."""
        self.web.pages = {HOME: to("/again"), "https://example.org/again": to(PATH)}
        self.assertEqual(self.fetched(), NotDelegated())
        self.assertEqual(len(self.web.requested), 2)

    def test_too_many_redirects(self) -> None:
        """After five redirects it is enough."""
        self.web.pages = {HOME: to("/0")}
        self.web.pages.update({f"https://example.org/{n}": to(f"/{n + 1}") for n in range(50)})
        self.assertEqual(self.fetched(), NotDelegated())
        self.assertEqual(len(self.web.requested), 1 + MAX_REDIRECTS)

    def test_redirects_that_are_not_followed(self) -> None:
        """Only HTTPS is; a redirect without a usable place to go to leads nowhere."""
        for location in ("http://example.org/a", "ftp://example.org/", "https://u:p@example.org/", "https://", "//:1/"):
            self.web.pages = {HOME: to(location), "https://example.org/": GOOD, "https://example.org/a": GOOD}
            self.web.requested.clear()
            self.assertEqual(self.fetched(), NotDelegated(), location)
            self.assertEqual(self.web.requested, [HOME], location)

    def test_too_long(self) -> None:
        """A body beyond the bound is not read to its end, whether its length is announced or not."""
        body = b'{"m.server":"a.example","x":"' + b"x" * MAX_BODY + b'"}'
        self.web.pages[HOME] = page(body)
        self.assertIsInstance(self.fetched(), NoAnswer)

        def unannounced(request: Request) -> Any:
            request.write(body)
            request.finish()
            return NOT_DONE_YET

        self.web.pages[HOME] = unannounced
        self.assertIsInstance(self.fetched(), NoAnswer)

    def test_silence(self) -> None:
        """A server that never answers is given up."""
        self.web.pages[HOME] = lambda request: NOT_DONE_YET
        fetching = Deferred.fromCoroutine(self.fetch("example.org"))
        self.clock.advance(TIMEOUT_S - 1)
        self.assertNoResult(fetching)
        self.clock.advance(1)
        self.assertIsInstance(self.successResultOf(fetching), NoAnswer)

    def test_no_connection(self) -> None:
        """A host that cannot be reached has not answered."""
        fetch = WellKnownFetch(Refusing(), clock=self.clock)
        self.assertIsInstance(self.successResultOf(Deferred.fromCoroutine(fetch("example.org"))), NoAnswer)

    def test_no_cookies(self) -> None:
        """What a server sets it never sees again."""
        self.web.pages[HOME] = page(b"{}", **{"Set-Cookie": "who=you; Path=/"})
        self.fetched()
        self.fetched()
        self.assertIsNone(self.web.cookies)
