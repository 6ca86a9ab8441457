"""Time: the world's, and what each server takes it for.

Owns: :class:`WorldClock`, which is Twisted's :class:`Clock` taken one call at a time, and :class:`ServerClock`, a
server's own view of it, which can be wrong, jump, and end with its process. A jump does to a server's alarms what it
does to those of Twisted's reactor, which tells the time by the wall clock: forwards, they come at once; backwards, they
come late.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer


class WorldClock(Clock):
    """The true time, seconds since the epoch."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.rightNow = start
        self.steps = 0

    def step(self) -> bool:
        """Go to the next call, and make it; whether there was one."""
        if not self.calls:
            return False
        call = self.calls.pop(0)
        self.rightNow = max(self.rightNow, call.getTime())
        call.called = 1
        self.steps += 1
        call.func(*call.args, **call.kw)
        return True

    def run_until(self, moment: float) -> None:
        """Make every call that is due by then."""
        while self.calls and self.calls[0].getTime() <= moment:
            self.step()
        self.rightNow = max(self.rightNow, moment)


@implementer(IReactorTime)
class ServerClock:
    """The time as one run of a server's process sees it.

    Args:
        world: the true time.
        ahead: by how many seconds this clock is ahead of it.
    """

    log = Logger()

    def __init__(self, world: WorldClock, ahead: float = 0.0) -> None:
        self._world = world
        self._ahead = ahead
        self._calls: dict[DelayedCall, IDelayedCall] = {}
        self._dead = False
        self._buried: list[DelayedCall] = []

    def seconds(self) -> float:
        """Seconds since the epoch, as this server believes."""
        return self._world.seconds() + self._ahead

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        """See :class:`IReactorTime`. After the process's end nothing is called any more."""
        if delay < 0:
            raise ValueError(f"{delay} seconds from now is in the past")
        call = DelayedCall(self.seconds() + delay, callable, args, kw, self._cancelled, self._moved, self.seconds)
        if self._dead:
            self._buried.append(call)
        else:
            self._calls[call] = self._world.callLater(delay, self._due, call)
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        """See :class:`IReactorTime`."""
        return list(self._calls)

    def set_ahead(self, ahead: float) -> None:
        """The clock is set: from now on it is this many seconds ahead of the true time."""
        self._ahead = ahead
        for call in list(self._calls):
            self._moved(call)

    def kill(self) -> None:
        """The process ends: no alarm of its goes off any more."""
        self._dead = True
        for call in self._calls.values():
            call.cancel()
        # They are kept: what they hold on to must not be let go of in a dead process, where nothing runs any more.
        self._buried.extend(self._calls)
        self._calls = {}

    def _due(self, call: DelayedCall) -> None:
        del self._calls[call]
        if call.delayed_time > 0:
            call.activate_delay()
            self._calls[call] = self._world.callLater(max(0.0, call.time - self.seconds()), self._due, call)
            return
        call.called = 1
        try:
            call.func(*call.args, **call.kw)
        except Exception:
            # As the reactor does.
            self.log.failure("an alarm failed")

    def _cancelled(self, call: DelayedCall) -> None:
        alarm = self._calls.pop(call, None)
        if alarm is not None:
            alarm.cancel()

    def _moved(self, call: DelayedCall) -> None:
        alarm = self._calls.get(call)
        if alarm is not None:
            alarm.cancel()
            self._calls[call] = self._world.callLater(max(0.0, call.time - self.seconds()), self._due, call)
