"""The way of a request to its handler and of the answer back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import Forbidden, NotFound
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.router import Handler, Route
from lmatrix.metrics import Metrics

from .memory_http import Wire, site_for


class Recorder:
    """A handler that keeps its requests, waits when told to, and counts how it ended."""

    def __init__(self, answer: JsonObject | JsonAnswer | Exception | None = None) -> None:
        self.requests: list[JsonRequest] = []
        self.waiting: list[Deferred[None]] = []
        self.completed = 0
        self.cancelled = 0
        self.wait = False
        self._answer = {} if answer is None else answer

    async def __call__(self, request: JsonRequest) -> JsonObject | JsonAnswer:
        self.requests.append(request)
        if self.wait:
            turn: Deferred[None] = Deferred()
            self.waiting.append(turn)
            try:
                await turn
            except CancelledError:
                self.cancelled += 1
                raise
        self.completed += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def _route(method: str, path: str, handler: Handler, **options: Any) -> Route:
    return Route(method, path, handler, "name", **options)


class AnswerTests(SynchronousTestCase):
    """What comes back over the wire."""

    def setUp(self) -> None:
        self.clock = Clock()

    def test_a_request_reaches_its_handler_whole(self) -> None:
        """Method, raw target, decoded parameters, ordered query, headers and body all arrive."""
        handler = Recorder({"ok": True})
        site = site_for(_route("PUT", "/send/{txnId}/{room}", handler), clock=self.clock)
        wire = Wire(site)
        wire.request("PUT", "/send/t%2F1/%21r:x?v=b&v=a&limit=3", b'{"a":1}', "X-Test: yes\r\n")
        self.assertEqual(wire.answer().json, {"ok": True})
        [request] = handler.requests
        self.assertEqual(request.method, "PUT")
        self.assertEqual(request.raw_uri, b"/send/t%2F1/%21r:x?v=b&v=a&limit=3")
        self.assertEqual(request.params, {"txnId": "t/1", "room": "!r:x"})
        self.assertEqual(request.query, {"v": ["b", "a"], "limit": ["3"]})
        self.assertEqual(request.header("X-Test"), "yes")
        self.assertEqual(request.json(), {"a": 1})

    def test_every_answer_is_json_with_its_length(self) -> None:
        """Answers and errors alike carry type, length, server and date."""
        site = site_for(
            _route("GET", "/good", Recorder({"é": 1})),
            _route("GET", "/bad", Recorder(NotFound("no such room"))),
            clock=self.clock,
            software="lmatrix/9.9",
        )
        wire = Wire(site)
        for target, status in (("/good", 200), ("/bad", 404), ("/none", 404)):
            wire.request("GET", target)
            answer = wire.answer()
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["content-type"], "application/json")
            self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
            self.assertEqual(answer.headers["server"], "lmatrix/9.9")
            self.assertIn("date", answer.headers)
            self.assertIsInstance(answer.json, dict)

    def test_encoded_bodies_and_headers_go_out_as_given(self) -> None:
        """A handler may give bytes, a status, and a content type of its own; large bodies arrive whole."""
        body = b'{"a" : "' + b"x" * 300_000 + b'"}'
        handler = Recorder(JsonAnswer(202, body, {"Content-Type": "text/plain", "X-Extra": "1"}))
        wire = Wire(site_for(_route("GET", "/", handler), clock=self.clock))
        wire.request("GET", "/")
        answer = wire.answer()
        self.assertEqual((answer.status, answer.body), (202, body))
        self.assertEqual((answer.headers["content-type"], answer.headers["x-extra"]), ("text/plain", "1"))

    def test_unknown_paths_and_methods(self) -> None:
        """404 and 405 with M_UNRECOGNIZED; HEAD and OPTIONS are methods that the path does not have."""
        wire = Wire(site_for(_route("GET", "/a/{x}", Recorder()), clock=self.clock))
        for method, target, status in (
            ("GET", "/a/", 404),
            ("GET", "//a/b", 404),
            ("GET", "/a/b/", 404),
            ("GET", "/a", 404),
            ("POST", "/a/b", 405),
            ("OPTIONS", "/a/b", 405),
            ("OPTIONS", "*", 404),
        ):
            wire.request(method, target)
            answer = wire.answer()
            self.assertEqual((answer.status, answer.json["errcode"]), (status, "M_UNRECOGNIZED"), f"{method} {target}")
            self.assertEqual(answer.headers.get("allow"), "GET" if status == 405 else None)
        wire.request("HEAD", "/a/b")
        self.assertIn(b" 405 ", wire.transport.value())
        self.assertTrue(wire.transport.value().endswith(b"\r\n\r\n"), "HEAD has no body")

    def test_targets_that_cannot_be_read(self) -> None:
        """A path or query that is not UTF-8 is M_BAD_JSON, before the handler sees it."""
        handler = Recorder()
        wire = Wire(site_for(_route("GET", "/a/{x}", handler), clock=self.clock))
        for target in ("/a/%ff", "/a/b?q=%ff"):
            wire.request("GET", target)
            answer = wire.answer()
            self.assertEqual((answer.status, answer.json["errcode"]), (400, "M_BAD_JSON"))
        self.assertEqual(handler.requests, [])

    def test_errors_of_handlers_become_answers(self) -> None:
        """Ours by their row; any other is 500, logged, and the connection goes on."""
        site = site_for(
            _route("GET", "/ours", Recorder(Forbidden("not you"))),
            _route("GET", "/other", Recorder(ValueError("secret"))),
            _route("GET", "/odd", Recorder({"x": object()})),
            clock=self.clock,
        )
        wire = Wire(site)
        wire.request("GET", "/ours")
        self.assertEqual(wire.answer().json, {"errcode": "M_FORBIDDEN", "error": "not you"})
        for target in ("/other", "/odd"):
            wire.request("GET", target)
            answer = wire.answer()
            self.assertEqual((answer.status, answer.json["error"]), (500, "Internal server error"))
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def test_a_handler_that_is_no_coroutine_function_is_an_error(self) -> None:
        """A handler that raises before it awaits, or returns nothing to await, is answered like any failure."""

        def broken(_request: JsonRequest) -> Any:
            raise RuntimeError("no coroutine")

        wire = Wire(site_for(_route("GET", "/", broken), clock=self.clock))
        wire.request("GET", "/")
        self.assertEqual(wire.answer().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class DisconnectTests(SynchronousTestCase):
    """The client goes away before its answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.handler = Recorder()
        self.handler.wait = True

    def test_a_running_request_goes_on(self) -> None:
        """The handler runs to its end, its answer is dropped, and nothing is logged as an error."""
        site = site_for(_route("PUT", "/send", self.handler), clock=self.clock)
        wire = Wire(site)
        wire.request("PUT", "/send", b"{}")
        wire.hang_up()
        self.assertEqual((self.handler.completed, site.router.requests_in_flight), (0, 1))
        self.handler.waiting[0].callback(None)
        self.assertEqual((self.handler.completed, self.handler.cancelled), (1, 0))
        self.assertEqual(site.router.requests_in_flight, 0)
        self.assertEqual(wire.answers(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_failing_request_without_client_is_still_logged(self) -> None:
        """An unexpected exception is logged whether or not anyone waits for the answer."""
        handler = Recorder(RuntimeError("bug"))
        handler.wait = True
        wire = Wire(site_for(_route("PUT", "/send", handler), clock=self.clock))
        wire.request("PUT", "/send", b"{}")
        wire.hang_up()
        handler.waiting[0].callback(None)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_long_poll_is_cancelled(self) -> None:
        """Only a route that waits on purpose stops when its client has gone; that is no error either."""
        metrics = Metrics()
        site = site_for(_route("GET", "/sync", self.handler, long_poll=True), clock=self.clock, metrics=metrics)
        wire = Wire(site)
        wire.request("GET", "/sync")
        wire.hang_up()
        self.assertEqual(self.handler.cancelled, 1)
        self.assertEqual(self.flushLoggedErrors(), [])
        labels = {"api": "test", "endpoint": "name", "status": "499"}
        self.assertEqual(metrics.registry.get_sample_value("lmatrix_requests_total", labels), 1)


class BoundTests(SynchronousTestCase):
    """How much is handled at one time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.handler = Recorder()
        self.handler.wait = True

    def test_requests_beyond_the_bound_are_told_to_wait(self) -> None:
        """One request more than the table allows is 429; when one has ended there is room again."""
        site = site_for(_route("GET", "/", self.handler), clock=self.clock, table={"max_in_flight": 2})
        wires = [Wire(site) for _ in range(3)]
        for wire in wires:
            wire.request("GET", "/")
        refused = wires[2].answer()
        self.assertEqual((refused.status, refused.json["errcode"]), (429, "M_LIMIT_EXCEEDED"))
        self.assertGreater(refused.json["retry_after_ms"], 0)
        self.handler.waiting[0].callback(None)
        wires[2].request("GET", "/")
        self.assertEqual(len(self.handler.requests), 3)

    def test_places_are_shared_out_by_address_and_then_by_origin(self) -> None:
        """A flood from one address, and one by one origin from many addresses, each leave places to others."""

        async def handler(request: JsonRequest) -> JsonObject:
            origin = request.header("X-Origin")
            if origin is not None and request.place is not None:
                request.place.pass_to(("server", origin))
            return dict(await self.handler(request))

        metrics = Metrics()
        site = site_for(
            _route("GET", "/", handler),
            clock=self.clock,
            table={"max_in_flight": 8, "shared_out": True},
            metrics=metrics,
        )

        def flood(addresses: list[str], headers: str = "") -> list[int]:
            wires = [Wire(site, address) for address in addresses]
            for wire in wires:
                wire.request("GET", "/", headers=headers)
            return [answer.status for wire in wires for answer in wire.answers()]

        self.assertEqual(flood(["192.0.2.1"] * 8), [429] * 4, "one address gets half of the places")
        self.assertEqual(flood([f"198.51.100.{n}" for n in range(8)], "X-Origin: a.example\r\n"), [429] * 6)
        self.assertEqual(flood(["203.0.113.1"], "X-Origin: b.example\r\n"), [], "and there is one for another origin")
        while self.handler.waiting:
            self.handler.waiting.pop().callback(None)
        self.assertEqual(site.router.requests_in_flight, 0)
        self.assertEqual(metrics.registry.get_sample_value("lmatrix_shed_total", {"what": "test"}), 10)

    def test_long_polls_have_a_bound_of_their_own(self) -> None:
        """Waiting clients do not take the places of working ones."""
        site = site_for(
            _route("GET", "/sync", self.handler, long_poll=True),
            _route("GET", "/work", Recorder()),
            clock=self.clock,
            table={"max_in_flight": 1, "max_long_polls": 2},
        )
        wires = [Wire(site) for _ in range(3)]
        for wire in wires:
            wire.request("GET", "/sync")
        self.assertEqual(wires[2].answer().status, 429)
        wires[2].request("GET", "/work")
        self.assertEqual(wires[2].answer().status, 200)

    def test_drain_waits_for_what_runs_and_takes_nothing_new(self) -> None:
        """At shutdown long polls end, running requests are answered, new ones get 503, and then it is done."""
        site = site_for(
            _route("GET", "/sync", self.handler, long_poll=True),
            _route("PUT", "/send", self.handler),
            clock=self.clock,
        )
        polling, sending, late = Wire(site), Wire(site), Wire(site)
        polling.request("GET", "/sync")
        sending.request("PUT", "/send", b"{}")
        drained = Deferred.fromCoroutine(site.router.drain())
        self.assertEqual(polling.answer().status, 503)
        late.request("PUT", "/send", b"{}")
        self.assertEqual(late.answer().status, 503)
        self.assertNoResult(drained)
        self.handler.waiting[1].callback(None)
        self.assertEqual(sending.answer().status, 200)
        self.successResultOf(drained)

    def test_drain_with_nothing_running_is_done_at_once(self) -> None:
        """There is nothing to wait for."""
        site = site_for(_route("GET", "/", self.handler), clock=self.clock)
        self.successResultOf(Deferred.fromCoroutine(site.router.drain()))


class BrowserTests(SynchronousTestCase):
    """The Client-Server API's "Web Browser Clients"."""

    def setUp(self) -> None:
        self.handler = Recorder()
        self.site = site_for(_route("PUT", "/client/{x}", self.handler), clock=Clock(), table={"cors": True})

    def test_every_answer_may_be_read_by_any_origin(self) -> None:
        """Answers, errors and unknown endpoints carry the CORS headers."""
        wire = Wire(self.site)
        for method, target in (("PUT", "/client/a"), ("GET", "/client/a"), ("GET", "/nothing"), ("PUT", "/client/%ff")):
            wire.request(method, target)
            headers = wire.answer().headers
            self.assertEqual(headers["access-control-allow-origin"], "*", target)
            self.assertIn("PUT", headers["access-control-allow-methods"])
            self.assertIn("Authorization", headers["access-control-allow-headers"])

    def test_a_preflight_does_nothing(self) -> None:
        """OPTIONS is answered without a body and without the handler."""
        wire = Wire(self.site)
        wire.request("OPTIONS", "/client/a")
        answer = wire.answer()
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")
        self.assertEqual(self.handler.requests, [])

    def test_other_tables_have_no_such_headers(self) -> None:
        """Federation is not for browsers."""
        wire = Wire(site_for(_route("PUT", "/send", self.handler), clock=Clock()))
        wire.request("PUT", "/send")
        self.assertNotIn("access-control-allow-origin", wire.answer().headers)


class AddressTests(SynchronousTestCase):
    """Whose request it is."""

    def _address(self, headers: str, **options: Any) -> str:
        handler = Recorder()
        wire = Wire(site_for(_route("GET", "/", handler), clock=Clock(), **options))
        wire.request("GET", "/", headers=headers)
        return handler.requests[0].client_address

    def test_the_connection_says(self) -> None:
        """Without a proxy of ours nobody can claim another address."""
        self.assertEqual(self._address("X-Forwarded-For: 10.9.9.9\r\n"), "192.168.1.1")

    def test_our_proxy_says(self) -> None:
        """Behind a proxy the last entry counts, which the proxy wrote itself."""
        header = "X-Forwarded-For: 6.6.6.6, 10.9.9.9\r\n"
        self.assertEqual(self._address(header, forwarded=True), "10.9.9.9")
        self.assertEqual(self._address("", forwarded=True), "192.168.1.1")
