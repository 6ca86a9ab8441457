"""Work that is done in turns: again whenever there may be something to do, and later when it cannot be done now.

Owns: :class:`Worker`. Invariants: one turn at a time; a wake-up during a turn leads to another turn; what fails for now
is tried again after a growing pause, which a wake-up does not shorten; after :meth:`Worker.stop` nothing begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import LMatrixError, Overloaded, PeerUnreachable, SendFailed, ShuttingDown, StorageFailed
from lmatrix.replication.interfaces import DagUnavailable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


def is_passing(error: BaseException) -> bool:
    """Whether trying again later makes sense."""
    if isinstance(error, SendFailed):
        return not error.refused
    return isinstance(error, DagUnavailable | StorageFailed | Overloaded | PeerUnreachable | ShuttingDown)


class Worker:
    """Does one piece of work in turns.

    Args:
        what: in words, for the log.
        turn: one turn; it does all that there is to do.
        clock: for the pauses.
        places: how many workers may be in a turn at once; ``None``: any number.
    """

    log = Logger()

    def __init__(
        self,
        what: str,
        turn: Callable[[], Awaitable[None]],
        clock: IReactorTime,
        places: DeferredSemaphore | None = None,
    ) -> None:
        self._what = what
        self._turn = turn
        self._clock = clock
        self._places = places
        self._running = False
        self._again = False
        self._stopped = False
        self._pause_s = FIRST_PAUSE_S
        self._alarm: IDelayedCall | None = None
        self._rested: list[Deferred[None]] = []

    @property
    def busy(self) -> bool:
        """Whether something is being done, or is to be."""
        return self._running or self._alarm is not None

    def wake(self) -> None:
        """There may be something to do. Never blocks or raises."""
        if self._stopped or self._alarm is not None:
            return
        if self._running:
            self._again = True
            return
        self._running = True
        Deferred.fromCoroutine(self._run()).addErrback(self._broken)

    async def stop(self) -> None:
        """Begin nothing more, and wait for the end of the turn."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._running:
            rested: Deferred[None] = Deferred()
            self._rested.append(rested)
            await rested

    async def _run(self) -> None:
        try:
            while True:
                self._again = False
                if self._places is not None:
                    await self._places.acquire()
                try:
                    if not self._stopped:
                        await self._turn()
                finally:
                    if self._places is not None:
                        self._places.release()
                self._pause_s = FIRST_PAUSE_S
                if not self._again or self._stopped:
                    break
        except Exception as error:
            self._failed(error)
        finally:
            self._running = False
            rested, self._rested = self._rested, []
            for waiter in rested:
                waiter.callback(None)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LMatrixError):
            if not isinstance(error, ShuttingDown):
                self.log.warn("{what}: not now: {error}", what=self._what, error=error)
        else:
            self.log.failure("{what}: failed", what=self._what)
        if not self._stopped:
            self._alarm = self._clock.callLater(self._pause_s, self._ring)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    def _broken(self, failure: Failure) -> None:
        self.log.failure("{what}: stopped unexpectedly", failure=failure, what=self._what)
