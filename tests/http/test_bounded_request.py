"""Limits of size, time and number on an HTTP/1.1 connection."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.http1 import LINGER
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.http.router import Route
from lmatrix.http.site import ApiSite, ListenerLimits

from .memory_http import Wire, site_for

_LIMITS = ListenerLimits(
    max_connections=3, idle_timeout=30, head_timeout=5, body_timeout=10, drain=1000, max_buffered=5000
)


class LimitCase(SynchronousTestCase):
    """A site with one route whose body may have 100 bytes, and one with 3000."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bodies: list[bytes] = []

        async def handler(request: JsonRequest) -> JsonObject:
            self.bodies.append(request.body)
            return {}

        self.site: ApiSite = site_for(
            Route("PUT", "/small", handler, "small", max_body=100),
            Route("PUT", "/large", handler, "large", max_body=3000),
            clock=self.clock,
            limits=_LIMITS,
        )
        self.wire = Wire(self.site)

    def tearDown(self) -> None:
        """Whatever happened, no memory stays counted once every connection has ended."""
        self.wire.hang_up()
        self.assertEqual(self.site.body_bytes.taken, 0)
        self.assertEqual(self.site.connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def _head(self, target: str, headers: str) -> bytes:
        return f"PUT {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)


class SizeTests(LimitCase):
    """The route's limit holds before anything is kept."""

    def test_the_limit_itself_is_allowed(self) -> None:
        """100 bytes of 100 arrive, with a length and in chunks."""
        self.wire.request("PUT", "/small", b"x" * 100)
        self.assertEqual(self.wire.answer().status, 200)
        head = self._head("/small", "Transfer-Encoding: chunked\r\n")
        self.wire.send(head + self._chunk(b"y" * 60) + self._chunk(b"y" * 40) + b"0\r\n\r\n")
        self.assertEqual(self.wire.answer().status, 200)
        self.assertEqual(self.bodies, [b"x" * 100, b"y" * 100])

    def test_a_little_too_much_is_answered_at_its_end(self) -> None:
        """The sender gets to finish, reads 413, and may go on with the same connection."""
        self.wire.send(self._head("/small", "Content-Length: 101\r\n") + b"x" * 100)
        self.assertEqual(self.site.body_bytes.taken, 0)
        self.assertEqual(self.wire.answers(), [])
        self.wire.send(b"x")
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json["errcode"]), (413, "M_TOO_LARGE"))
        self.assertFalse(self.wire.closed)
        self.wire.request("PUT", "/small", b"{}")
        self.assertEqual(self.wire.answer().status, 200)
        self.assertEqual(self.bodies, [b"{}"])

    def test_chunks_are_counted_as_they_come(self) -> None:
        """A body that does not say its length is dropped as soon as it is over the limit."""
        self.wire.send(self._head("/small", "Transfer-Encoding: chunked\r\n") + self._chunk(b"x" * 90))
        self.assertEqual(self.site.body_bytes.taken, 90)
        self.wire.send(self._chunk(b"x" * 90))
        self.assertEqual(self.site.body_bytes.taken, 0)
        self.wire.send(self._chunk(b"x" * 90) + b"0\r\n\r\n")
        self.assertEqual(self.wire.answer().status, 413)
        self.assertEqual(self.bodies, [])

    def test_far_too_much_is_answered_at_once(self) -> None:
        """A huge Content-Length is answered without reading; then input is thrown away and the connection closed."""
        self.wire.send(self._head("/small", "Content-Length: 100000000\r\n"))
        self.clock.advance(0)
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json["errcode"]), (413, "M_TOO_LARGE"))
        self.assertEqual(answer.headers["connection"], "close")
        self.wire.send(b"x" * 10_000)
        self.assertFalse(self.wire.closed, "a client that is still sending would not see the answer")
        self.clock.advance(LINGER)
        self.assertTrue(self.wire.closed)
        self.assertEqual(self.wire.answers(), [])

    def test_far_too_many_chunks_are_answered_at_once(self) -> None:
        """So is a body without length, as soon as it is beyond what is read for politeness."""
        self.wire.send(self._head("/small", "Transfer-Encoding: chunked\r\n"))
        for _ in range(12):
            self.wire.send(self._chunk(b"x" * 100))
        self.clock.advance(0)
        self.assertEqual(self.wire.answer().status, 413)
        self.wire.send(self._chunk(b"x" * 100) + b"0\r\n\r\n" + self._head("/small", "Content-Length: 0\r\n"))
        self.assertEqual(self.wire.answers(), [])
        self.assertEqual(self.bodies, [])

    def test_the_end_may_come_with_the_excess(self) -> None:
        """A body far over its limit that is complete in one read has one answer, and the next request is read."""
        body = self._chunk(b"x" * 2000) + b"0\r\n\r\n"
        self.wire.send(self._head("/small", "Transfer-Encoding: chunked\r\n") + body)
        self.clock.advance(0)
        self.assertEqual(self.wire.answer().status, 413)
        self.wire.request("PUT", "/small", b"{}")
        self.assertEqual(self.wire.answer().status, 200)

    def test_a_client_that_asks_first_is_told_first(self) -> None:
        """Expect: 100-continue with too large a body gets 413 and no go-ahead; with a good one it gets the go-ahead."""
        self.wire.send(self._head("/small", "Content-Length: 101\r\nExpect: 100-continue\r\n"))
        self.clock.advance(0)
        self.assertEqual(self.wire.answer().status, 413)
        other = Wire(self.site)
        other.send(self._head("/small", "Content-Length: 2\r\nExpect: 100-continue\r\n"))
        self.assertEqual(other.answer().status, 100)
        other.send(b"{}")
        self.assertEqual(other.answer().status, 200)
        other.hang_up()

    def test_an_unknown_endpoint_is_unknown_whatever_its_body(self) -> None:
        """404 and 405 win over 413."""
        for method, target, status in (("PUT", "/none", 404), ("POST", "/small", 405)):
            wire = Wire(self.site)
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
            wire.send(head.encode())
            self.clock.advance(0)
            self.assertEqual(wire.answer().status, status)
            wire.hang_up()

    def test_all_bodies_together_are_bounded(self) -> None:
        """When the listener holds as much as it may, a further body is refused with a time to try again."""
        second, third = Wire(self.site, "198.51.100.1"), Wire(self.site, "203.0.113.1")
        for wire in (self.wire, second):
            wire.send(self._head("/large", "Content-Length: 3000\r\n") + b"x" * 2000)
        third.request("PUT", "/large", b"x" * 2000)
        answer = third.answer()
        self.assertEqual((answer.status, answer.json["errcode"]), (429, "M_LIMIT_EXCEEDED"))
        second.hang_up()
        third.request("PUT", "/large", b"x" * 2000)
        self.assertEqual(third.answer().status, 200)
        third.hang_up()

    def test_one_address_does_not_get_all_memory(self) -> None:
        """Whoever sends as many bodies at one time as it can leaves room for others' bodies."""
        flood = [self.wire, Wire(self.site)]
        for wire in flood:
            wire.send(self._head("/large", "Content-Length: 3000\r\n") + b"x" * 2000)
        self.assertEqual([len(wire.answers()) for wire in flood], [0, 0])
        self.assertEqual(self.site.body_bytes.taken, 2000, "the second is being refused")
        other = Wire(self.site, "198.51.100.1")
        other.request("PUT", "/large", b"x" * 1500)
        self.assertEqual(other.answer().status, 200)
        other.hang_up()
        flood[1].hang_up()


class TimeTests(LimitCase):
    """Nobody holds a connection by being slow."""

    def test_a_dribbled_header_does_not_last(self) -> None:
        """Bytes that keep coming do not put off the deadline for a header."""
        for byte in b"PUT /small HTTP":
            self.wire.send(bytes([byte]))
            self.clock.advance(0.3)
        self.assertFalse(self.wire.closed)
        self.wire.send(b"/")
        self.clock.advance(1)
        self.assertTrue(self.wire.closed)

    def test_a_dribbled_body_does_not_last(self) -> None:
        """Nor the deadline for a body; the client is told before the connection ends."""
        self.wire.send(self._head("/small", "Content-Length: 50\r\n"))
        for _ in range(9):
            self.wire.send(b"x")
            self.clock.advance(1)
        self.assertEqual(self.wire.answers(), [])
        self.clock.advance(1)
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json["errcode"]), (408, "M_UNKNOWN"))
        self.clock.advance(LINGER)
        self.assertTrue(self.wire.closed)
        self.assertEqual(self.bodies, [])

    def test_an_idle_connection_is_closed(self) -> None:
        """Before the first request, and between two; each request may take its full time after that."""
        self.wire.request("PUT", "/small", b"{}")
        self.wire.answer()
        self.clock.advance(29)
        self.wire.send(b"PUT /small HTTP/1.1\r\n")
        self.clock.advance(4)
        self.wire.send(b"Content-Length: 2\r\n\r\n{}")
        self.assertEqual(self.wire.answer().status, 200)
        self.clock.advance(29)
        self.assertFalse(self.wire.closed)
        self.clock.advance(1)
        self.assertTrue(self.wire.closed)

    def test_a_client_that_never_closes_is_cut_off(self) -> None:
        """When the other side does not follow, the connection is aborted."""
        self.wire.request("PUT", "/small", b"{}", "Connection: close\r\n")
        self.assertTrue(self.wire.closed)
        self.assertFalse(self.wire.transport.aborted)
        self.clock.advance(60)
        self.assertTrue(self.wire.transport.aborted)

    def test_a_client_that_leaves_within_its_body_leaves_nothing(self) -> None:
        """Timers and counted memory go with the connection."""
        self.wire.send(self._head("/large", "Content-Length: 3000\r\n") + b"x" * 2000)
        self.wire.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectionTests(LimitCase):
    """How many connections there may be, and malformed ones."""

    def test_connections_beyond_the_bound_are_closed(self) -> None:
        """There is no protocol for one too many; when one has ended, there is room again."""
        others = [Wire(self.site, f"127.0.0.{number}") for number in (1, 2)]
        self.assertIsNone(self.site.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1)))
        others[0].hang_up()
        self.assertIsNotNone(self.site.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1)))
        others[1].hang_up()

    def test_one_address_does_not_get_all_connections(self) -> None:
        """Whoever opens as many as it can leaves one for others; a proxy on this machine speaks for many."""
        second = Wire(self.site)
        self.assertIsNone(self.site.buildProtocol(IPv4Address("TCP", "192.168.1.1", 3)))
        other = Wire(self.site, "198.51.100.1")
        second.hang_up()
        other.hang_up()
        proxied = [Wire(self.site, "127.0.0.1") for _ in range(2)]
        for wire in proxied:
            wire.hang_up()

    def test_what_is_no_http_is_answered_in_json(self) -> None:
        """One error object, and nothing after the malformed line is taken for a request."""
        for garbage in (
            b"nonsense\r\n",
            b"PUT /small HTTP/1.1\r\nContent-Length: x\r\n",
            b"PUT /small HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\nX: y\r\n\r\n{}",
            b"PUT /small HTTP/1.1\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
            b"PUT /small HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):
            wire = Wire(self.site)
            wire.send(garbage + b"\r\nPUT /small HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            answer = wire.answer()
            self.assertEqual((answer.status, answer.json["errcode"]), (400, "M_UNKNOWN"), garbage[:40])
            self.clock.advance(LINGER)
            self.assertTrue(wire.closed)
            wire.hang_up()
        self.assertEqual(self.bodies, [])

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """Two requests in one read have two answers."""
        head = self._head("/small", "Content-Length: 2\r\n")
        self.wire.send(head + b"{}" + head + b"[]")
        self.assertEqual([answer.status for answer in self.wire.answers()], [200, 200])
        self.assertEqual(self.bodies, [b"{}", b"[]"])
