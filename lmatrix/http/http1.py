"""An HTTP/1.1 connection with deadlines.

Owns: what Twisted's ``HTTPChannel`` lacks for a public listener: a deadline for a request's header that dribbling bytes
do not put off, JSON in the answer to a malformed request, an end for connections whose other side never closes, and a
way to answer a request whose body is not going to be read.

Invariant: after :meth:`Http1Channel.discard_input` nothing that arrives is parsed any more, and the connection ends
within a bounded time whatever the client does.
"""

# Twisted's HTTP internals have no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

LINGER = 2.0
"""Seconds for which input is still read, and thrown away, after an early answer. Closing with unread input makes the
operating system reset the connection, and the client may then never see the answer."""

_BAD_REQUEST_BODY = b'{"errcode":"M_UNKNOWN","error":"malformed HTTP request"}'
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_BAD_REQUEST_BODY), _BAD_REQUEST_BODY)
)


class Http1Channel(HTTPChannel):
    """One HTTP/1.1 connection."""

    site: Any = None
    transport: Any
    _reading_head = False
    _reading_body = False
    _discarding = False
    _lingering: IDelayedCall | None = None

    # -- The request that is being read, as HTTP/2 streams show it ----------------------------------------------------

    @property
    def command(self) -> bytes:
        """Method of the request whose body is being read."""
        return self._command

    @property
    def path(self) -> bytes:
        """Target of the request whose body is being read."""
        return self._path

    @property
    def version(self) -> bytes:
        """HTTP version of the request whose body is being read."""
        return self._version

    def discard_input(self) -> None:
        """Parse nothing more that arrives here. The connection closes after the present answer."""
        self.persistent = 0
        self._discarding = True

    # -- Reading ------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Bytes came in."""
        if self._discarding:
            return
        if not (self._reading_head or self._reading_body or self._handlingRequest):
            self._reading_head = True
            self.setTimeout(self.site.limits.head_timeout)
        super().dataReceived(data)

    def resetTimeout(self) -> None:
        """More bytes put off the idle time-out, but not the deadline for a header."""
        if not self._reading_head:
            super().resetTimeout()

    def lineReceived(self, line: bytes) -> None:
        """A line of a header. After a malformed one the others mean nothing."""
        if not self._discarding:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of a header is longer than all of a header may be."""
        self._respondToBadRequestAndDisconnect()

    def rawDataReceived(self, data: bytes) -> None:
        """A part of a body, or what came after the request that is being handled."""
        if not self._discarding:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """A request's header is complete. Its body has a deadline of its own, kept by the request."""
        self._reading_head = False
        self._reading_body = True
        self.setTimeout(self.site.limits.idle_timeout)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """A request is complete."""
        self._reading_body = False
        super().allContentReceived()

    # -- Ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection, after the answer that is being given, if any."""
        self.persistent = 0
        if not self.requests:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close, after lingering for a client that is still sending; by force when the other side does not follow."""
        if self._discarding and self._lingering is None:
            self._lingering = self.callLater(LINGER, self._close)
        elif not self._discarding:
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)

    def _close(self) -> None:
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()

    def _send100Continue(self) -> None:
        # A client that asks first and is going to be refused gets the refusal alone.
        if not self.requests[-1].refused:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._discarding:
            return
        self.discard_input()
        self.transport.write(_BAD_REQUEST)
        self.loseConnection()
