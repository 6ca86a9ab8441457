"""Bodies of requests that go out and of the answers that come back.

Owns: :class:`BytesProducer` and :func:`read_bounded`.

Invariant: no more of an answer is kept in memory than the caller allows, however long it is and whatever length it
announces; an answer that is not wanted any more costs its connection.

Implements PROTOCOL's "Response bodies from peers are bounded (size and time) before they are parsed".
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from lmatrix.errors import TooLarge


@implementer(IBodyProducer)
class BytesProducer:
    """A request's body that is in memory already, written at once.

    Args:
        body: the bytes.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write everything."""
        consumer.write(self._body)
        return succeed(None)

    def stopProducing(self) -> None:
        """Nothing is left to be stopped."""

    def pauseProducing(self) -> None:
        """Nothing is left to be paused."""

    def resumeProducing(self) -> None:
        """Nothing is left to be resumed."""


def read_bounded(response: IResponse, limit: int) -> Deferred[bytes]:
    """Read an answer's body.

    Args:
        response: the answer, its body not yet asked for.
        limit: greatest number of bytes.

    Returns:
        Fires with the body. Fails with :class:`~lmatrix.errors.TooLarge` when it is longer, or with whatever broke the
        connection. Cancelling it, like the failure, drops the connection.
    """
    reader = _BoundedReader(limit)
    if response.length is not UNKNOWN_LENGTH and response.length > limit:
        reader.refuse()
    response.deliverBody(reader)
    return reader.done


class _BoundedReader(Protocol):
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit
        self._parts: list[bytes] = []
        self._over = False
        self.done: Deferred[bytes] = Deferred(lambda _: self._drop())

    def refuse(self) -> None:
        self._over = True
        self._parts.clear()
        self._drop()
        self.done.errback(TooLarge(f"the answer is longer than {self._limit} bytes"))

    def connectionMade(self) -> None:
        if self._over:
            self._drop()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._left -= len(data)
        if self._left < 0:
            self.refuse()
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over or self.done.called:
            return
        self._over = True
        # An answer that ends with its connection may have been cut short. The JSON parser will see that.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)

    def _drop(self) -> None:
        self._over = True
        transport = self.transport
        if transport is None:
            return
        # Aborting does not wait for a peer that reads nothing; in-memory transports know only the gentle way.
        drop = getattr(transport, "abortConnection", None) or transport.loseConnection
        drop()
