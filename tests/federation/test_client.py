"""Signed requests: what is sent, what is made of the answer, and what is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from OpenSSL import SSL
from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from twisted.web.http_headers import Headers

from lmatrix import canonical_json
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import PeerMisbehaved, PeerRefused, PeerUnreachable, TooLarge, Unauthenticated, UnsafeJson
from lmatrix.federation.authentication import Authenticator
from lmatrix.federation.client import MAX_ANSWER, TIMEOUT_S, SignedClient, path_of
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.peer_traits import PeerTraits, PeerTraitsMemory
from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.http.messages import JsonRequest
from lmatrix.metrics import Metrics
from lmatrix.rooms.identity import ServerIdentity
from tests.federation.fakes import signing_key

KEYS = (signing_key("1", 1), signing_key("2", 2))
THEM = "them.example"
ROUTE = Route(THEM, THEM, (Target(THEM, 8448),))


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    """An answer with this JSON, or these bytes, as its body; underscores in header names stand for hyphens."""
    fields = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
    return Answer(status, fields, body if isinstance(body, bytes) else json.dumps(body).encode())


class FakeResolver:
    """Resolves one name."""

    failure: Exception | None = None

    async def resolve(self, server_name: str) -> Route:
        """Its route."""
        assert server_name == THEM
        if self.failure is not None:
            raise self.failure
        return ROUTE


class FakeTransport:
    """Gives the prepared answers in turn."""

    def __init__(self) -> None:
        self.requests: list[OutgoingRequest] = []
        self.limits: list[int] = []
        self.answers: list[Any] = []

    def exchange(self, route: Route, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        """The next answer."""
        assert route == ROUTE
        self.requests.append(request)
        self.limits.append(max_body)
        prepared = self.answers.pop(0)
        if isinstance(prepared, Deferred):
            return prepared
        return fail(prepared) if isinstance(prepared, Exception) else succeed(prepared)


class OurKeys:
    """A keyring at the other end."""

    async def current_keys(self, server: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        """Ours."""
        assert server == "us.example"
        return {key.key_id: key.public for key in KEYS if key.key_id in key_ids}


class ClientTests(SynchronousTestCase):
    """The signed client over a transport that does what it is told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = FakeResolver()
        self.transport = FakeTransport()
        self.changes: list[tuple[str, PeerTraits]] = []
        self.traits = PeerTraitsMemory(lambda server, traits: self.changes.append((server, traits)))
        self.metrics = Metrics()
        self.client = SignedClient(
            ServerIdentity("us.example", KEYS),
            resolver=self.resolver,
            transport=self.transport,
            traits=self.traits,
            clock=self.clock,
            metrics=self.metrics,
            user_agent="lmatrix/test",
        )

    def requesting(self, *answers: Any, method: str = "GET", path: str = "/p", **options: Any) -> Deferred[Any]:
        """Make a request that gets these answers."""
        self.transport.answers = list(answers)
        return Deferred.fromCoroutine(self.client.request(THEM, method, path, **options))

    def counted(self) -> dict[str, float]:
        """How many requests there were, by outcome."""
        outcomes = ("ok", "refused", "unreachable", "misbehaved")
        value = self.metrics.registry.get_sample_value
        found = {o: value("lmatrix_federation_requests_out_total", {"outcome": o}) for o in outcomes}
        return {outcome: count for outcome, count in found.items() if count}

    def verify(self, request: OutgoingRequest) -> None:
        """Let the other end authenticate what was sent."""
        received = JsonRequest(
            method=request.method,
            raw_uri=request.target.encode("ascii"),
            headers=Headers({name: list(values) for name, values in request.headers.items()}),
            body=request.body or b"",
        )
        content = None if request.body is None else received.json()
        authenticator = Authenticator(THEM, OurKeys())
        origin = self.successResultOf(Deferred.fromCoroutine(authenticator.authenticate(received, content)))
        self.assertEqual(origin, "us.example")

    def test_a_wait_that_is_asked_for_is_passed_on(self) -> None:
        """By header, by error object, by both (the header goes before), by neither; whatever the status is."""
        for body, headers, expected in (
            ({}, {"Retry_After": "7"}, 7_000),
            ({"retry_after_ms": 5}, {}, 5),
            ({"retry_after_ms": 5}, {"Retry_After": "7"}, 7_000),
            ({"retry_after_ms": 5}, {"Retry_After": "soon"}, 5),
            ({"retry_after_ms": "5"}, {}, 0),
            ({"retry_after_ms": -5}, {}, 0),
            (b"<html>", {"Retry_After": "60"}, 60_000),
        ):
            for status in (429, 503):
                refused = self.failureResultOf(self.requesting(answer(body, status, **headers)), PeerRefused)
                self.assertEqual(refused.value.retry_after_ms, expected, (body, headers))

    # -- What is sent -------------------------------------------------------------------------------------------------

    def test_get(self) -> None:
        """A request without a body: no body, no media type, and a signature by each key that the other end accepts."""
        result = self.successResultOf(self.requesting(answer({"x": 1})))
        self.assertEqual(result, {"x": 1})
        (request,) = self.transport.requests
        self.assertEqual((request.method, request.target, request.body), ("GET", "/p", None))
        self.assertEqual(request.headers["User-Agent"], ["lmatrix/test"])
        self.assertNotIn("Content-Type", request.headers)
        self.assertEqual(len(request.headers["Authorization"]), 2)
        self.assertTrue(request.repeatable)
        self.verify(request)

    def test_body(self) -> None:
        """A body is sent as the canonical JSON that was signed."""
        self.successResultOf(self.requesting(answer({}), method="PUT", content={"b": 1, "a": "é"}))
        (request,) = self.transport.requests
        self.assertEqual(request.body, '{"a":"é","b":1}'.encode())
        self.assertEqual(request.headers["Content-Type"], ["application/json"])
        self.verify(request)

    def test_encoded_body(self) -> None:
        """A body that is encoded already is neither parsed nor encoded again: the very bytes are sent and signed."""
        body = canonical_json.encode({"pdus": [{"x": "y"}]})
        self.successResultOf(self.requesting(answer({}), method="PUT", content_bytes=body))
        (request,) = self.transport.requests
        self.assertIs(request.body, body)
        self.verify(request)

    def test_target(self) -> None:
        """What was percent-encoded is signed in that form; query values may repeat."""
        path = path_of("/_matrix/x", "!r/2:a.example", "@u:a.example")
        self.assertEqual(path, "/_matrix/x/%21r%2F2%3Aa.example/%40u%3Aa.example")
        query = [("ver", "I.1"), ("ver", "org.x y&z=/"), ("é", "")]
        self.successResultOf(self.requesting(answer({}), path=path, query=query))
        (request,) = self.transport.requests
        self.assertEqual(request.target, path + "?ver=I.1&ver=org.x%20y%26z%3D%2F&%C3%A9=")
        self.verify(request)

    def test_repeatable(self) -> None:
        """GET and PUT may be repeated by the transport, POST only if the caller says so."""
        for method, said, expected in (("PUT", None, True), ("POST", None, False), ("POST", True, True)):
            self.successResultOf(self.requesting(answer({}), method=method, content={}, repeatable=said))
            self.assertEqual(self.transport.requests[-1].repeatable, expected)

    def test_bounds(self) -> None:
        """The transport is told how long the answer may be."""
        self.successResultOf(self.requesting(answer({})))
        self.successResultOf(self.requesting(answer({}), max_answer=5))
        self.assertEqual(self.transport.limits, [MAX_ANSWER, 5])

    def test_public(self) -> None:
        """A request to a public endpoint is not signed."""
        self.transport.answers = [answer({"x": 1})]
        getting = Deferred.fromCoroutine(self.client.get_public(THEM, "/_matrix/key/v2/server", max_answer=7))
        self.assertEqual(self.successResultOf(getting), {"x": 1})
        self.assertNotIn("Authorization", self.transport.requests[0].headers)
        self.assertEqual(self.transport.limits, [7])

    def test_unencodable(self) -> None:
        """A body that is no JSON is the caller's mistake, not the peer's."""
        self.failureResultOf(self.requesting(method="PUT", content={"x": {1}}), UnsafeJson)
        self.assertEqual(self.counted(), {})

    def test_ourselves(self) -> None:
        """A request to this server itself is a mistake, and goes nowhere."""
        requesting = Deferred.fromCoroutine(self.client.request("us.example", "GET", "/p"))
        self.failureResultOf(requesting, PeerUnreachable)

    # -- What comes back ----------------------------------------------------------------------------------------------

    def test_refused(self) -> None:
        """An error answer keeps its status, errcode, message and fields."""
        body = {"errcode": "M_WRONG_SERVER", "error": "not me", "hub_server": "hub.example"}
        error = self.failureResultOf(self.requesting(answer(body, 400)), PeerRefused).value
        self.assertEqual((error.destination, error.status, error.errcode), (THEM, 400, "M_WRONG_SERVER"))
        self.assertEqual((error.error, error.body), ("not me", body))
        self.assertEqual(self.counted(), {"refused": 1})

    def test_refused_without_sense(self) -> None:
        """An error answer without usable JSON is an error with its status all the same."""
        bodies = (b"", b"<html>", b"[]", b"\xff", b'{"a":1,"a":2}', b'{"errcode":5,"error":[]}', b'{"errcode":""}')
        for body in bodies:
            error = self.failureResultOf(self.requesting(answer(body, 502)), PeerRefused).value
            self.assertEqual((error.status, error.errcode), (502, "M_UNKNOWN"), body)

    def test_refusals_are_shortened(self) -> None:
        """A peer cannot fill our logs with one answer."""
        body = {"errcode": "M_" + "X" * 5000, "error": "x" * 5000}
        error = self.failureResultOf(self.requesting(answer(body, 400)), PeerRefused).value
        self.assertLess(len(str(error)), 1000)

    def test_other_statuses(self) -> None:
        """Only 200 is a success; a redirect is not followed, since a signature is for one server."""
        for status in (201, 204, 301, 304, 307):
            self.failureResultOf(self.requesting(answer({}, status)), PeerRefused)
        self.assertEqual(len(self.transport.requests), 5)

    def test_misbehaved(self) -> None:
        """A success must be a JSON object that survives canonicalisation."""
        for body in (b"", b"[]", b"nonsense", b'{"a":1,"a":2}', b'{"a":1e400}', b'{"a":"\\ud800"}', b"\xff{}"):
            self.failureResultOf(self.requesting(answer(body)), PeerMisbehaved)
        self.failureResultOf(self.requesting(TooLarge("the answer is longer than 5 bytes")), PeerMisbehaved)
        self.assertEqual(self.counted(), {"misbehaved": 8})

    def test_unreachable(self) -> None:
        """Whatever the network does, the caller learns that there was no answer, and in words why."""
        tls = ResponseNeverReceived([Failure(SSL.Error([("SSL routines", "", "certificate verify failed")]))])
        for error, said in (
            (network.ConnectionRefusedError(), "refused"),
            (network.DNSLookupError("no such name"), "not found"),
            (tls, "certificate verify failed"),
            (OSError(113, "No route to host"), "No route"),
        ):
            failure = self.failureResultOf(self.requesting(error), PeerUnreachable)
            self.assertIn(said, str(failure.value))
            self.assertIn(THEM, str(failure.value))
        self.assertEqual(self.counted(), {"unreachable": 4})

    def test_unresolvable(self) -> None:
        """A name that cannot be resolved is unreachable."""
        self.resolver.failure = PeerUnreachable(THEM, "not a server name")
        self.failureResultOf(self.requesting(), PeerUnreachable)
        self.assertEqual(self.counted(), {"unreachable": 1})

    def test_unexpected(self) -> None:
        """A mistake of our own looks the same to the caller, and is logged."""
        self.failureResultOf(self.requesting(ZeroDivisionError()), PeerUnreachable)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_silence(self) -> None:
        """A peer that does not answer is given up in time, and its exchange is ended."""
        cancelled = []
        silent: Deferred[Answer] = Deferred(cancelled.append)
        requesting = self.requesting(silent)
        self.clock.advance(TIMEOUT_S - 1)
        self.assertNoResult(requesting)
        self.clock.advance(1)
        self.failureResultOf(requesting, PeerUnreachable)
        self.assertEqual(cancelled, [silent])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_time_limit_covers_both_attempts(self) -> None:
        """The limit is for the request, however often it is sent."""
        second: Deferred[Answer] = Deferred()
        first: Deferred[Answer] = Deferred()
        requesting = self.requesting(first, second, timeout_s=10)
        self.clock.advance(6)
        first.callback(answer({}, 401))
        self.clock.advance(4)
        self.failureResultOf(requesting, PeerUnreachable)

    def test_cancelled(self) -> None:
        """A caller that gives up is not told of an unreachable peer."""
        requesting = self.requesting(Deferred())
        requesting.cancel()
        self.failureResultOf(requesting, CancelledError)

    # -- The two ways of signing a request without a body -------------------------------------------------------------

    def signed_forms(self) -> list[bool]:
        """For each request sent: whether it was signed without content (Matrix's form)."""
        forms = []
        for request in self.transport.requests:
            bare = canonical_json.encode(
                {"method": "GET", "uri": request.target, "origin": "us.example", "destination": THEM}
            )
            forms.append(KEYS[0].sign(bare) in request.headers["Authorization"][0])
        self.transport.requests.clear()
        return forms

    def test_other_form_on_401(self) -> None:
        """A 401 is answered with the other form, and what worked is used from then on, whichever it was."""
        refused = answer({"errcode": "M_FORBIDDEN"}, 401)
        self.successResultOf(self.requesting(refused, answer({})))
        self.assertEqual(self.signed_forms(), [False, True])
        self.assertEqual(self.changes, [(THEM, PeerTraits(bare_get_signature=True))])
        self.successResultOf(self.requesting(answer({})))
        self.assertEqual(self.signed_forms(), [True])
        self.successResultOf(self.requesting(refused, answer({})))
        self.assertEqual(self.signed_forms(), [True, False])
        self.assertFalse(self.traits.of(THEM).bare_get_signature)

    def test_form_was_right_but_the_request_refused(self) -> None:
        """Any answer but another 401 shows that the signature was accepted."""
        self.failureResultOf(self.requesting(answer({}, 401), answer({}, 404)), PeerRefused)
        self.assertTrue(self.traits.of(THEM).bare_get_signature)

    def test_both_forms_refused(self) -> None:
        """Nothing is learned, and the first refusal stands."""
        first = answer({"errcode": "M_FORBIDDEN", "error": "first"}, 401)
        error = self.failureResultOf(self.requesting(first, answer({}, 401)), PeerRefused).value
        self.assertEqual((error.status, error.error), (401, "first"))
        self.assertEqual(self.changes, [])

    def test_seeded(self) -> None:
        """What was known before a restart is used at once."""
        self.traits.seed(THEM, PeerTraits(bare_get_signature=True))
        self.successResultOf(self.requesting(answer({})))
        self.assertEqual(self.signed_forms(), [True])
        self.assertEqual(self.changes, [])

    def test_no_second_attempt_with_a_body(self) -> None:
        """With a body there is one way of signing only."""
        self.failureResultOf(self.requesting(answer({}, 401), method="PUT", content={}), PeerRefused)
        self.assertEqual(len(self.transport.requests), 1)

    def test_other_end_refuses_what_was_changed(self) -> None:
        """The check at the other end is a real one: a changed target does not pass it."""
        self.successResultOf(self.requesting(answer({})))
        sent = self.transport.requests[0]
        changed = JsonRequest(
            method="GET",
            raw_uri=b"/q",
            headers=Headers({"Authorization": sent.headers["Authorization"]}),
        )
        authenticator = Authenticator(THEM, OurKeys())
        self.failureResultOf(Deferred.fromCoroutine(authenticator.authenticate(changed, None)), Unauthenticated)
