"""A request that is read within its limits.

Owns: how the bytes of a body are taken in, over HTTP/1.1 and HTTP/2 alike: counted as they come against the limit of
the route that they are for, against a deadline, and against the memory that all bodies of the listener may take.

Invariants: nothing beyond a route's limit is ever kept; a request that is over a limit is answered with an error
object, at the end of its body when that is near, at once when it is not; the deadline is never put off.

Implements the I-D's ``M_TOO_LARGE`` ("Errors").
"""

# Twisted's HTTP internals have no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.http import Request, datetimeToString

from lmatrix.errors import Overloaded, TooLarge
from lmatrix.http.errors import error_answer, refusal
from lmatrix.http.http1 import Http1Channel
from lmatrix.http.messages import JsonAnswer

_RETRY_AFTER_MS = 1000


class BoundedRequest(Request):
    """One request of an :class:`~lmatrix.http.site.ApiSite`.

    Args:
        channel: the HTTP/1.1 connection or the HTTP/2 stream that it comes in on.
    """

    channel: Any
    content: Any = None
    _limit = 0
    _received = 0
    _held = 0
    _sender = "unknown"
    _refusal: JsonAnswer | None = None
    _deadline: IDelayedCall | None = None
    _early: IDelayedCall | None = None
    _in_hand = False

    def __init__(self, channel: Any, queued: object = False) -> None:
        super().__init__(channel, queued=False, parsePOSTFormSubmission=False)
        self._site = channel.site

    @property
    def refused(self) -> bool:
        """Whether it is known already that this request will be refused."""
        return self._refusal is not None

    @property
    def in_hand(self) -> bool:
        """Whether it has been read whole and its answer is awaited."""
        return self._in_hand and not self.finished

    # -- Called by the channel ----------------------------------------------------------------------------------------

    def gotLength(self, length: int | None) -> None:
        """The header is complete.

        Args:
            length: the ``Content-Length``, or ``None`` when it does not say.
        """
        if self.content is not None:
            return  # HTTP/2 calls for every Content-Length field; what counts is what arrives
        self.content = BytesIO()
        self._sender = self._site.router.client_address(self)
        self._limit = self._site.router.body_limit(self.channel.command, self.channel.path)
        self._deadline = self._site.reactor.callLater(self._site.limits.body_timeout, self._too_late)
        if length is not None and length > self._limit:
            self._refuse(self._too_large())
            if self.requestHeaders.hasHeader(b"expect") or length > self._limit + self._site.limits.drain:
                self._answer_soon()

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body came."""
        if self.finished:
            return
        self._received += len(data)
        if self._received > self._limit:
            self._refuse(self._too_large())
            if self._received > self._limit + self._site.limits.drain:
                self._answer_soon()
        elif self._refusal is None:
            if self._site.body_bytes.take(self._sender, len(data)):
                self._held += len(data)
                self.content.write(data)
            else:
                self._site.shed("bodies")
                self._refuse(error_answer(Overloaded(_RETRY_AFTER_MS, "The server has too much to do.")))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        if self.finished:
            return  # answered early: the rest of it came all the same
        self._cancel_timers()
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """Hand the request to the router."""
        self._in_hand = True
        # An origin server that has a clock must say when it answered (RFC 9110, 6.6.1).
        self.setHeader(b"Date", datetimeToString(self._site.reactor.seconds()))
        if self._refusal is None:
            self._site.router.render(self)
        else:
            self._site.router.refuse(self, self._refusal)

    def connectionLost(self, reason: Failure) -> None:
        """The client went away before its answer."""
        self._cancel_timers()
        self._release()
        super().connectionLost(reason)

    def finish(self) -> None:
        """The answer is complete."""
        self._release()
        super().finish()

    # -- Refusing -----------------------------------------------------------------------------------------------------

    def _too_large(self) -> JsonAnswer:
        return error_answer(TooLarge(f"the request body is limited to {self._limit} bytes"))

    def _refuse(self, answer: JsonAnswer) -> None:
        if self._refusal is None:
            self._refusal = answer
            self._release()
            self.content = BytesIO()

    def _too_late(self) -> None:
        self._refuse(refusal(408, "M_UNKNOWN", "The request body did not arrive in time."))
        self._answer_early()

    def _answer_soon(self) -> None:
        # Not at once: the channel is in the middle of parsing, and does not expect its request to be over.
        if self._early is None:
            self._early = self._site.reactor.callLater(0, self._answer_early)

    def _answer_early(self) -> None:
        """Answer although the body is not complete."""
        self._cancel_timers()
        self.method, self.uri = self.channel.command, self.channel.path
        if isinstance(self.channel, Http1Channel):
            self.clientproto = self.channel.version
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            self.channel.discard_input()
        else:
            self.clientproto = b"HTTP/2"
        self.process()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._early):
            if timer is not None and timer.active():
                timer.cancel()

    def _release(self) -> None:
        self._site.body_bytes.give_back(self._sender, self._held)
        self._held = 0
