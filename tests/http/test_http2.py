"""HTTP/2 without a network: hyper-h2 on both sides of an in-memory connection."""

from __future__ import annotations

import json
from typing import Any

import h2.connection
import h2.events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.router import Route
from lmatrix.http.site import ApiSite, ListenerLimits

from .memory_http import RecordingTransport, site_for

_LIMITS = ListenerLimits(idle_timeout=30, body_timeout=10, drain=1000)


class _TlsTransport(RecordingTransport):
    negotiatedProtocol = b"h2"  # noqa: N815 - Twisted names it so


class Client:
    """One HTTP/2 connection to a site.

    Attributes:
        events: what the server's frames meant, since the beginning.
        bodies: the body of each stream's answer.
    """

    def __init__(self, site: ApiSite, clock: Clock) -> None:
        self.clock = clock
        self.transport = _TlsTransport()
        self.h2 = h2.connection.H2Connection()
        self.events: list[Any] = []
        self.bodies: dict[int, bytes] = {}
        protocol = site.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.gone = False
        protocol.makeConnection(self.transport)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Let both sides say what they have to say."""
        for _ in range(20):
            data = self.h2.data_to_send()
            if data:
                self.protocol.dataReceived(data)
            self.clock.advance(0)
            received = self.transport.value()
            self.transport.clear()
            if not data and not received:
                return
            for event in self.h2.receive_data(received):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    assert event.stream_id is not None and event.flow_controlled_length is not None
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + (event.data or b"")
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def start(self, method: str, path: str, end: bool = False, **headers: str) -> int:
        """Begin a request; its stream ID."""
        stream: int = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "x")]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """A part of a request's body."""
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def status(self, stream: int) -> int | None:
        """The status of a stream's answer, if it has come."""
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                headers: Any = event.headers
                return int(dict(headers)[b":status"])
        return None

    def reset_code(self, stream: int) -> int | None:
        """The error code with which the server reset a stream, if it did."""
        for event in self.events:
            if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                return event.error_code
        return None

    def hang_up(self) -> None:
        """The client goes away, unless it has already."""
        if self.gone:
            return
        self.gone = True
        self.protocol.connectionLost(Failure(ConnectionDone()))


class Http2Tests(SynchronousTestCase):
    """The same endpoints, limits and answers as over HTTP/1.1."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bodies: list[bytes] = []
        self.turn: Deferred[None] | None = None
        self.large = b'{"a":"' + b"x" * 200_000 + b'"}'

        async def handler(request: JsonRequest) -> JsonObject:
            self.bodies.append(request.body)
            if self.turn is not None:
                await self.turn
            return {"uri": request.raw_uri.decode()}

        async def big(_request: JsonRequest) -> JsonAnswer:
            return JsonAnswer(200, self.large)

        self.site = site_for(
            Route("PUT", "/small", handler, "small", max_body=100),
            Route("GET", "/small", handler, "small", max_body=100),
            Route("GET", "/big", big, "big"),
            clock=self.clock,
            limits=_LIMITS,
        )
        self.client = Client(self.site, self.clock)

    def tearDown(self) -> None:
        """Nothing stays behind when the connection has ended."""
        self.client.hang_up()
        self.clock.advance(0)
        self.assertEqual(self.site.body_bytes.taken, 0)
        self.assertEqual(self.site.connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def _answer(self, stream: int) -> tuple[int | None, Any]:
        return self.client.status(stream), json.loads(self.client.bodies[stream])

    def test_a_request_is_answered(self) -> None:
        """Bodies with and without a Content-Length arrive."""
        first = self.client.start("PUT", "/small?a=%2F", content_length="2")
        self.client.send(first, b"{}", end=True)
        self.assertEqual(self._answer(first), (200, {"uri": "/small?a=%2F"}))
        second = self.client.start("PUT", "/small")
        self.client.send(second, b"x" * 60)
        self.client.send(second, b"x" * 40, end=True)
        self.assertEqual(self.client.status(second), 200)
        self.assertEqual(self.bodies, [b"{}", b"x" * 100])

    def test_a_large_answer_arrives_whole(self) -> None:
        """An answer of many frames keeps to the windows and is complete."""
        stream = self.client.start("GET", "/big", end=True)
        for _ in range(20):
            self.client.flush()
        self.assertEqual(self.client.bodies[stream], self.large)

    def test_a_peer_that_does_not_read_costs_nothing(self) -> None:
        """While its window is shut nothing runs, and the idle time-out ends the connection."""
        self.client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        self.client.start("GET", "/big", end=True)
        self.client.flush()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()], [])
        self.clock.advance(30)
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_window_that_opens_late_is_used(self) -> None:
        """An answer waits for its window and then goes out, whether an update or a setting opened it."""
        self.client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        first, second = (self.client.start("GET", "/small", end=True) for _ in range(2))
        self.assertEqual(self.client.status(second), 200)
        self.assertEqual(self.client.bodies, {})
        self.client.h2.increment_flow_control_window(1000, first)
        self.client.flush()
        self.assertEqual(self._answer(first), (200, {"uri": "/small"}))
        self.client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        self.client.flush()
        self.assertEqual(self._answer(second), (200, {"uri": "/small"}))

    def test_unknown_endpoints(self) -> None:
        """404 and 405 as ever."""
        self.assertEqual(self._answer(self.client.start("GET", "/none", end=True))[0], 404)
        self.assertEqual(self._answer(self.client.start("DELETE", "/small", end=True))[0], 405)

    def test_a_little_too_much_is_answered_at_its_end(self) -> None:
        """What is over the limit is not kept, and 413 comes when the body is complete."""
        stream = self.client.start("PUT", "/small")
        self.client.send(stream, b"x" * 60)
        self.client.send(stream, b"x" * 60)
        self.assertEqual((self.client.status(stream), self.site.body_bytes.taken), (None, 0))
        self.client.send(stream, b"x", end=True)
        status, error = self._answer(stream)
        self.assertEqual((status, error["errcode"]), (413, "M_TOO_LARGE"))
        self.assertIsNone(self.client.reset_code(stream))

    def test_far_too_much_is_answered_at_once(self) -> None:
        """413, then the stream is reset without blame; the other streams of the connection go on."""
        stream = self.client.start("PUT", "/small", content_length="5000")
        status, error = self._answer(stream)
        self.assertEqual((status, error["errcode"]), (413, "M_TOO_LARGE"))
        self.assertEqual(self.client.reset_code(stream), ErrorCodes.NO_ERROR)
        other = self.client.start("PUT", "/small")
        self.client.send(other, b"{}", end=True)
        self.assertEqual(self.client.status(other), 200)

    def test_frames_that_were_under_way_are_ignored(self) -> None:
        """Data and the end of a stream that has been answered early disturb nothing."""
        stream = self.client.start("PUT", "/small")
        self.client.h2.send_data(stream, b"x" * 3000)
        self.protocol_receives()  # the answer is on its way
        self.client.h2.send_data(stream, b"x" * 3000)
        self.client.h2.send_data(stream, b"x", end_stream=True)
        self.client.flush()
        self.assertEqual(self.client.status(stream), 413)
        self.assertFalse(self.client.transport.disconnecting)
        self.assertEqual(self.bodies, [])

    def protocol_receives(self) -> None:
        """The client's frames arrive; the server's are not read yet."""
        self.client.protocol.dataReceived(self.client.h2.data_to_send())
        for _ in range(5):
            self.clock.advance(0)

    def test_a_dribbled_body_does_not_last(self) -> None:
        """A stream has a deadline for its body even while data comes; the connection stays."""
        stream = self.client.start("PUT", "/small")
        for _ in range(9):
            self.client.send(stream, b"x")
            self.clock.advance(1)
        self.assertIsNone(self.client.status(stream))
        self.clock.advance(1)
        self.client.flush()
        self.assertEqual(self.client.status(stream), 408)
        self.assertFalse(self.client.transport.disconnecting)

    def test_a_get_without_end_does_not_last(self) -> None:
        """A request that never ends is over at the deadline, whatever its method."""
        stream = self.client.start("GET", "/small")
        self.clock.advance(10)
        self.client.flush()
        self.assertEqual(self.client.status(stream), 408)

    def test_a_slow_answer_is_waited_for(self) -> None:
        """The idle time-out does not end a connection on which we are the ones who are busy; afterwards it does."""
        self.turn = Deferred()
        stream = self.client.start("PUT", "/small")
        self.client.send(stream, b"{}", end=True)
        for _ in range(5):
            self.clock.advance(30)
        self.assertFalse(self.client.transport.disconnecting)
        self.turn.callback(None)
        self.client.flush()
        self.assertEqual(self.client.status(stream), 200)
        self.clock.advance(30)
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_reset_stream_does_not_stop_its_request(self) -> None:
        """A client that resets its stream gets no answer, and the handler ends in its own time."""
        self.turn = Deferred()
        stream = self.client.start("PUT", "/small")
        self.client.send(stream, b"{}", end=True)
        self.client.h2.reset_stream(stream)
        self.client.flush()
        self.assertEqual(self.site.router.requests_in_flight, 1)
        self.turn.callback(None)
        self.client.flush()
        self.assertEqual(self.site.router.requests_in_flight, 0)
        self.assertIsNone(self.client.status(stream))

    def test_closing_lets_answers_out(self) -> None:
        """At shutdown an answer that has been given is sent whole, then the client is told, then it is over."""
        self.client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stream = self.client.start("GET", "/big", end=True)
        closed = Deferred.fromCoroutine(self.site.close_connections(grace=5))
        self.client.flush()
        self.assertFalse(self.client.transport.disconnecting)
        self.client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: len(self.large)})
        for _ in range(20):
            self.client.flush()
        self.assertEqual(self.client.bodies[stream], self.large)
        self.assertTrue(any(isinstance(event, h2.events.ConnectionTerminated) for event in self.client.events))
        self.assertTrue(self.client.transport.disconnecting)
        self.assertNoResult(closed)
        self.client.hang_up()
        self.successResultOf(closed)

    def test_this_is_no_proxy(self) -> None:
        """CONNECT, which has no path, is refused and harms nothing."""
        stream = self.client.h2.get_next_available_stream_id()
        self.client.h2.send_headers(stream, [(":method", "CONNECT"), (":authority", "x:1")])
        self.client.flush()
        self.assertEqual(self.client.reset_code(stream), ErrorCodes.REFUSED_STREAM)
        self.assertEqual(self.client.status(self.client.start("GET", "/none", end=True)), 404)
