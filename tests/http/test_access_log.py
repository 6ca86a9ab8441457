"""What is written down about a request."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.access_log import MAX_PATH, loggable_path
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.http.router import Route
from lmatrix.metrics import Metrics

from .memory_http import Wire, site_for


class AccessLogTests(SynchronousTestCase):
    """One line and two measurements."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.clock = Clock()
        self.metrics = Metrics()

        async def handler(request: JsonRequest) -> JsonObject:
            request.origin = "a.example"
            self.clock.advance(0.25)
            return {}

        route = Route("GET", "/get/{id}", handler, "get")
        self.wire = Wire(site_for(route, clock=self.clock, metrics=self.metrics))

    def test_a_line_for_each_request(self) -> None:
        """Method, path, status, time and who it was."""
        self.wire.request("GET", "/get/%2421")
        [line] = [line for line in map(formatEvent, self.events) if line.startswith("GET ")]
        self.assertEqual(line, "GET /get/%2421 200 250.0ms 192.168.1.1 a.example")

    def test_the_query_is_nobodys_business(self) -> None:
        """An access token in the query appears nowhere in the log."""
        self.wire.request("GET", "/get/1?access_token=sesame")
        self.wire.request("GET", "/unknown?access_token=sesame")
        self.assertNotIn("sesame", "".join(map(formatEvent, self.events)))

    def test_requests_are_counted_by_route(self) -> None:
        """Labels are names of routes, never paths."""
        self.wire.request("GET", "/get/1")
        self.wire.request("GET", "/get/2")
        self.wire.request("GET", "/made/up")

        def count(**labels: str) -> float | None:
            return self.metrics.registry.get_sample_value("lmatrix_requests_total", labels)

        self.assertEqual(count(api="test", endpoint="get", status="200"), 2)
        self.assertEqual(count(api="none", endpoint="unrecognised", status="404"), 1)
        seconds = {"api": "test", "endpoint": "get"}
        self.assertEqual(self.metrics.registry.get_sample_value("lmatrix_request_seconds_sum", seconds), 0.5)

    def test_paths_in_the_log_are_bounded_and_printable(self) -> None:
        """A path cannot forge or flood the log."""
        self.assertEqual(loggable_path(b"/a\x1b[31m\n b\xff?q"), "/a%1B[31m%0A%20b%FF")
        self.assertLessEqual(len(loggable_path(b"/" + b"x" * 10_000)), MAX_PATH + 3)
