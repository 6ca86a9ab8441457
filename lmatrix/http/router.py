"""The resource at the root of a listener.

Owns: the way of a request from Twisted to a handler and of its answer back: endpoint look-up, body limit, bounds on
what is handled at one time, CORS, error answers, and drain at shutdown.

Invariants:

* every answer is JSON with its length, unless a handler says otherwise;
* a handler runs to its end even when its client goes away (I-D "Sending Events": what was begun is processed); only a
  long poll is cancelled. An answer without a client is dropped silently;
* no exception of a handler leaves this file except as an answer.

Implements the I-D's "API Standards".
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import BinaryIO, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from lmatrix.errors import BadRequest, Overloaded, ShuttingDown, TooLarge
from lmatrix.fairness import FairShare
from lmatrix.http.access_log import CLIENT_CLOSED, AccessLog
from lmatrix.http.errors import error_answer, unrecognised_endpoint, unrecognised_method
from lmatrix.http.limits import Place
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest, parse_query, split_target
from lmatrix.http.routes import (
    DEFAULT_MAX_BODY,
    Endpoint,
    Found,
    Handler,
    Route,
    RouteTable,
    RouteTree,
    WrongMethod,
)
from lmatrix.metrics import Metrics

__all__ = ["DEFAULT_MAX_BODY", "Handler", "JsonAnswer", "JsonObject", "JsonRequest", "Route", "RouteTable", "Router"]

_RETRY_AFTER_MS = 1000

# HTTP/2 cuts what is written into frames, and copies the rest of it each time: large answers go out in pieces.
_WRITE_SIZE = 64 * 1024

_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}


class HttpRequest(Protocol):
    """What the router needs of Twisted's request."""

    method: bytes
    uri: bytes
    content: BinaryIO
    requestHeaders: Headers  # noqa: N815 - Twisted names it so
    responseHeaders: Headers  # noqa: N815

    def getClientAddress(self) -> IAddress:
        """The other end of the connection."""

    def notifyFinish(self) -> Deferred[None]:
        """Fires when the answer has been handed over; fails when the client goes away first."""

    def setResponseCode(self, code: int) -> None:
        """Set the status."""

    def write(self, data: bytes) -> None:
        """Send a part of the body."""

    def finish(self) -> None:
        """End the answer."""


@implementer(IResource)
class Router:
    """Root resource of one listener; a leaf, so that Twisted's own traversal never decodes a path.

    Args:
        tables: the route tables that this listener serves.
        clock: tells the time that requests take.
        metrics: where to count requests; ``None`` counts nowhere.
        software: value of the ``Server`` header: ``"lmatrix/0.1.0"``.
        forwarded: whether a reverse proxy stands before the listener, whose ``X-Forwarded-For`` names the client.

    Raises:
        ValueError: two routes contradict each other.
    """

    isLeaf = True  # noqa: N815 - IResource names it so
    _log = Logger()

    def __init__(
        self,
        tables: Sequence[RouteTable],
        *,
        clock: IReactorTime,
        metrics: Metrics | None = None,
        software: str = "lmatrix",
        forwarded: bool = False,
    ) -> None:
        self._tree = RouteTree(tables)
        self._cors = any(table.cors for table in tables)
        self._clock = clock
        self._metrics = metrics
        self._access_log = AccessLog(metrics)
        self._software = software
        self.forwarded = forwarded
        self._in_flight: dict[str, FairShare[Hashable]] = {
            table.api: FairShare(table.max_in_flight) for table in tables
        }
        self._long_polls: dict[str, set[Deferred[JsonAnswer]]] = {}
        self._stopping = False
        self._drained: list[Deferred[None]] = []

    # -- IResource ----------------------------------------------------------------------------------------------------

    def getChildWithDefault(self, name: bytes, request: HttpRequest) -> IResource:
        """Never called for a leaf; the router has no children."""
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        """A router's routes are given to its constructor."""
        raise NotImplementedError("a router has no children")

    def render(self, request: HttpRequest) -> int:
        """Answer a request whose body has been read within its limit."""
        body = request.content.read()
        self._serve(request, body, None)
        return NOT_DONE_YET

    # -- For the channel, which reads the body ------------------------------------------------------------------------

    def body_limit(self, method: bytes, raw_uri: bytes) -> int:
        """Bytes of body that a request may have, known as soon as its head is.

        Args:
            method: the HTTP method.
            raw_uri: the request target.
        """
        try:
            found = self._find(method.decode("latin-1"), raw_uri)
        except BadRequest:
            return DEFAULT_MAX_BODY
        return found.endpoint.route.max_body if isinstance(found, Found) else DEFAULT_MAX_BODY

    def shed(self, what: str) -> None:
        """Count something that was refused because a bound had been reached."""
        if self._metrics is not None:
            self._metrics.shed.labels(what=what).inc()

    def refuse(self, request: HttpRequest, answer: JsonAnswer) -> None:
        """Answer a request whose body was not taken.

        Args:
            request: the request; its content is not looked at.
            answer: why. An unknown path or method is answered as such all the same.
        """
        self._serve(request, b"", answer)

    # -- Shutdown -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Answer new requests with 503, end the long polls, and wait until every running request has been answered."""
        self._stopping = True
        for polls in list(self._long_polls.values()):
            for poll in list(polls):
                poll.cancel()
        if self.requests_in_flight:
            done: Deferred[None] = Deferred()
            self._drained.append(done)
            await done

    @property
    def requests_in_flight(self) -> int:
        """Requests being handled now, long polls not counted."""
        return sum(share.taken for share in self._in_flight.values())

    # -- One request --------------------------------------------------------------------------------------------------

    def _serve(self, request: HttpRequest, body: bytes, refusal: JsonAnswer | None) -> None:
        exchange = _Exchange(self._clock, self._access_log, request, self._software)
        parsed = JsonRequest(
            method=request.method.decode("latin-1"),
            raw_uri=request.uri,
            headers=request.requestHeaders,
            body=body,
            client_address=self.client_address(request),
        )
        exchange.request = parsed
        try:
            found = self._find(parsed.method, parsed.raw_uri)
        except BadRequest as malformed:
            exchange.cors = self._cors
            exchange.answer(error_answer(malformed))
            return
        if not isinstance(found, Found):
            self._answer_without_endpoint(exchange, found)
            return
        exchange.endpoint = found.endpoint
        exchange.cors = found.endpoint.table.cors
        if refusal is not None:
            exchange.answer(refusal)
            return
        try:
            if len(body) > found.endpoint.route.max_body:
                raise TooLarge(f"the request body is limited to {found.endpoint.route.max_body} bytes")
            parsed.params.update(found.params)
            parsed.query.update(parse_query(parsed.raw_uri.partition(b"?")[2]))
            self._admit(found.endpoint, parsed)
        except Exception as refused:
            # Every one of them becomes the answer; error_answer logs what is not ours.
            exchange.answer(error_answer(refused))
            return
        self._run(exchange, parsed, found.endpoint)

    def _find(self, method: str, raw_uri: bytes) -> Found | WrongMethod | None:
        segments, _ = split_target(raw_uri)
        return None if segments is None else self._tree.find(method, segments)

    def _answer_without_endpoint(self, exchange: _Exchange, found: WrongMethod | None) -> None:
        # A browser reads an answer, a 404 too, only when it has the CORS headers.
        exchange.cors = self._cors if found is None else found.cors
        if exchange.cors and exchange.request.method == "OPTIONS":
            exchange.answer(JsonAnswer(204, b""))
        elif found is None:
            exchange.answer(unrecognised_endpoint())
        else:
            exchange.answer(unrecognised_method(found.allowed))

    def _admit(self, endpoint: Endpoint, request: JsonRequest) -> None:
        """Take what the request needs; raise when nothing new, or nothing more, may be begun."""
        table = endpoint.table
        if self._stopping:
            raise ShuttingDown("the server is shutting down")
        if not endpoint.route.long_poll:
            # Where each request stands for itself, only the whole is bounded.
            holder: Hashable = ("address", request.client_address) if table.shared_out else id(request)
            request.place = Place(self._in_flight[table.api], holder, lambda: self.shed(table.api))
        elif len(self._long_polls.get(table.api, ())) >= table.max_long_polls:
            self.shed(table.api)
            raise Overloaded(_RETRY_AFTER_MS)

    def _run(self, exchange: _Exchange, request: JsonRequest, endpoint: Endpoint) -> None:
        running = Deferred.fromCoroutine(_answered(endpoint.route.handler, request))
        if endpoint.route.long_poll:
            polls = self._long_polls.setdefault(endpoint.table.api, set())
            polls.add(running)
            exchange.cancel_when_gone = running

        def finished(result: JsonAnswer | Failure) -> None:
            if endpoint.route.long_poll:
                self._long_polls[endpoint.table.api].discard(running)
            if request.place is not None:
                request.place.give_back()
            exchange.answer(self._answer_for(result, endpoint) if isinstance(result, Failure) else result)
            self._wake_drained()

        running.addBoth(finished)
        running.addErrback(lambda failure: self._log.failure("a request could not be answered", failure=failure))

    def _answer_for(self, failure: Failure, endpoint: Endpoint) -> JsonAnswer:
        # A long poll is cancelled when its client has gone or the server stops: neither is worth a traceback.
        if endpoint.route.long_poll and isinstance(failure.value, CancelledError):
            return error_answer(ShuttingDown("the server is shutting down"))
        return error_answer(failure.value or RuntimeError("a failure without an exception"))

    def _wake_drained(self) -> None:
        if self._stopping and not self.requests_in_flight:
            waiting, self._drained = self._drained, []
            for done in waiting:
                done.callback(None)

    def client_address(self, request: HttpRequest) -> str:
        """Where a request came from: an IP address, or ``"unknown"``."""
        if self.forwarded:
            # The last entry is what our own proxy saw; the ones before it are the client's to invent.
            values: Iterable[bytes] = request.requestHeaders.getRawHeaders(b"X-Forwarded-For") or ()
            last = b",".join(values).rpartition(b",")[2].strip()
            if last:
                return last.decode("latin-1")[:64]
        return str(getattr(request.getClientAddress(), "host", "unknown"))


class _Exchange:
    """One request and its one answer, which is sent, or dropped when the client has gone.

    Args:
        clock: for the time taken.
        access_log: where the exchange is written down.
        http: Twisted's request.
        software: value of the ``Server`` header.
    """

    request: JsonRequest
    endpoint: Endpoint | None = None
    cors = False
    cancel_when_gone: Deferred[JsonAnswer] | None = None

    def __init__(self, clock: IReactorTime, access_log: AccessLog, http: HttpRequest, software: str) -> None:
        self._clock = clock
        self._access_log = access_log
        self._http = http
        self._software = software
        self._started = clock.seconds()
        self._gone = False
        self._over = False
        http.notifyFinish().addCallbacks(self._sent, self._client_gone)

    def answer(self, answer: JsonAnswer) -> None:
        """Send the answer, or drop it when nobody waits for it."""
        if self._over:
            return
        self._over = True
        if self._gone:
            self._record(CLIENT_CLOSED)
            return
        try:
            body = answer.encoded()
        except Exception as error:
            # An answer that cannot be encoded is our own mistake; error_answer logs it.
            answer = error_answer(RuntimeError(f"an answer could not be encoded: {error}"))
            body = answer.encoded()
        self._send(answer, body)
        self._record(answer.status)

    def _send(self, answer: JsonAnswer, body: bytes) -> None:
        http = self._http
        http.setResponseCode(answer.status)
        headers = {"Server": self._software, "Content-Type": "application/json"}
        if self.cors:
            headers.update(_CORS_HEADERS)
        headers.update(answer.headers)
        if answer.status == 204:
            del headers["Content-Type"]
        else:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            http.responseHeaders.setRawHeaders(name, [value])
        for start in range(0, len(body), _WRITE_SIZE):
            http.write(body[start : start + _WRITE_SIZE])
        http.finish()

    def _sent(self, _: object) -> None:
        """The answer has been handed to the connection."""

    def _client_gone(self, _: Failure) -> None:
        self._gone = True
        if self.cancel_when_gone is not None:
            self.cancel_when_gone.cancel()

    def _record(self, status: int) -> None:
        self._access_log.finished(self.request, self.endpoint, status, self._clock.seconds() - self._started)


async def _answered(handler: Handler, request: JsonRequest) -> JsonAnswer:
    result = await handler(request)
    return result if isinstance(result, JsonAnswer) else JsonAnswer(200, result)
