"""An HTTP/2 connection.

Owns: what Twisted's ``H2Connection`` lacks for a public listener: a stream that is answered before its body has come
is reset and its late frames are ignored; a request that takes long to answer does not time its connection out; a window
that lets a large transaction arrive without waiting for a round trip every 64 KiB; and rest while a peer that does not
read leaves its own window shut.

Invariant: the sending loop runs only when some stream has something to send that its window lets through. Twisted's own
goes round for as long as a stream has data at all, and puts the idle time-out off each time.

Implements RFC 9113 as far as the I-D's "Transport" asks for it; the frames themselves are hyper-h2's work.
"""

# Twisted's HTTP internals have no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web._http2 import H2Connection

WINDOW = 1024 * 1024
"""Bytes that a peer may send on one stream before it has to hear from us."""

_DEFAULT_WINDOW = 65_535


class Http2Connection(H2Connection):
    """One HTTP/2 connection.

    Args:
        reactor: for time and scheduling.
    """

    site: Any = None
    transport: Any
    requestFactory: Any = None  # noqa: N815 - Twisted names it so

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self._still_sending: set[int] = set()
        self._closing = False
        self._gone = False

    def connectionMade(self) -> None:
        """Open the connection, with larger windows than HTTP/2's own."""
        super().connectionMade()
        self.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.conn.increment_flow_control_window(WINDOW - _DEFAULT_WINDOW)
        self._tryToWriteControlData()

    def dataReceived(self, data: bytes) -> None:
        """Frames came in. Any of them may have opened a window: an update, or a change of settings."""
        if not self._stillProducing:
            return  # we have said goodbye already
        super().dataReceived(data)
        if not self._stillProducing:
            return
        sendable = [stream for stream in self._outboundStreamQueues if self._has_data(stream) and self._window(stream)]
        for stream in sendable:
            self.priority.unblock(stream)
        if sendable and self._sendingDeferred is not None:
            resting, self._sendingDeferred = self._sendingDeferred, None
            resting.callback(None)

    def close(self) -> None:
        """Say goodbye and close, once every answer that has been given is on its way."""
        self._closing = True
        if self.streams:
            return
        self.conn.close_connection()
        self._terminate(Failure(ConnectionDone()))

    def connectionLost(self, reason: Failure = connectionDone, _cancelTimeouts: bool = True) -> None:
        """The connection has ended, or (with timers left running) we are the ones who are ending it."""
        super().connectionLost(reason, _cancelTimeouts)
        if not _cancelTimeouts:
            self._let_go()

    def _let_go(self) -> None:
        # TLS says goodbye only when nobody is going to write any more.
        if not self._gone:
            self._gone = True
            self.transport.unregisterProducer()

    def timeoutConnection(self) -> None:
        """Nothing came or went for a while. That is no reason to give up while we are the ones who are thinking."""
        if any(stream._request.in_hand for stream in self.streams.values()):
            self.setTimeout(self.timeOut)
        else:
            super().timeoutConnection()
            self._let_go()

    def _sendPrioritisedData(self, *args: Any) -> None:
        if self._stillProducing:
            for stream in self._outboundStreamQueues:
                if self._has_data(stream) and not self._window(stream):
                    self.priority.block(stream)
        super()._sendPrioritisedData(*args)

    def _has_data(self, stream: int) -> bool:
        """Whether the next thing to send on a stream is data, which needs a window; its end needs none."""
        queue = self._outboundStreamQueues[stream]
        return bool(queue) and isinstance(queue[0], bytes)

    def _window(self, stream: int) -> int:
        """Bytes that may be sent on a stream now; 0 when it is closed."""
        try:
            return max(0, int(self.conn.local_flow_control_window(stream)))
        except ProtocolError:
            return 0  # closed by the peer; Twisted removes the stream when it hears of that

    def _requestReceived(self, event: Any) -> None:
        if all(name != b":path" for name, _ in event.headers):
            # Only CONNECT has no path, and this is no proxy.
            self.conn.reset_stream(event.stream_id, error_code=ErrorCodes.REFUSED_STREAM)
            return
        self._still_sending.add(event.stream_id)
        super()._requestReceived(event)

    def _requestDataReceived(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)
        else:
            # Frames that were under way when we answered. They still count against the connection's window.
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _requestEnded(self, event: Any) -> None:
        self._still_sending.discard(event.stream_id)
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        self._still_sending.discard(event.stream_id)
        if event.stream_id in self.streams:
            super()._requestAborted(event)

    def _requestDone(self, streamID: int) -> None:
        super()._requestDone(streamID)
        if streamID in self._still_sending:
            self._still_sending.discard(streamID)
            if self._stillProducing:
                self._ask_to_stop(streamID)
        if self._closing and self._stillProducing:
            self.close()

    def _ask_to_stop(self, stream: int) -> None:
        """RFC 9113, 8.1: answered in full without the whole request; the client need not go on, and is not to blame."""
        try:
            self.conn.reset_stream(stream, error_code=ErrorCodes.NO_ERROR)
        except ProtocolError:
            return  # the stream, or the connection, is closed already: there is nobody left to ask
        self._tryToWriteControlData()
