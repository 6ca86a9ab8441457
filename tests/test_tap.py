"""twistd's service: options, start, failed start, stop, hang-up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Application
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from lmatrix.errors import LMatrixError
from lmatrix.tap import LMatrixService, Options, makeService


class FakeReactor:
    """Remembers what is to be run; runs it when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[object, ...]]] = []
        self.stopped = 0

    def callWhenRunning(self, callable: Callable[..., Any], *args: object) -> None:
        self.calls.append((callable, args))

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> None:
        self.calls.append((callable, args))

    def stop(self) -> None:
        self.stopped += 1

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call, args in calls:
            call(*args)


class FakeServer:
    """Starts and stops when told to."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.starting: Deferred[None] = Deferred()
        self.stopping: Deferred[None] = Deferred()

    async def start(self) -> None:
        self.events.append("start")
        await self.starting

    async def stop(self) -> None:
        self.events.append("stop")
        await self.stopping

    def reload(self) -> None:
        self.events.append("reload")


@implementer(ILogObserver)
class Observer:
    def __call__(self, event: LogEvent) -> None:
        """Nothing is looked at."""


class Service(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.server = FakeServer()
        self.failed = 0
        self.hangups: list[Callable[[], None]] = []
        self.observer = Observer()
        self.service = LMatrixService(self.server, self.observer, self.reactor, self.fail_exit, self.hangups.append)
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def fail_exit(self) -> None:
        self.failed += 1

    def criticals(self) -> list[LogEvent]:
        return [event for event in self.logged if event["log_level"].name == "critical"]

    def test_starts_with_the_reactor(self) -> None:
        """Nothing is started before the reactor runs, because starting needs it."""
        self.service.startService()
        self.assertEqual(self.server.events, [])
        self.reactor.run()
        self.assertEqual(self.server.events, ["start"])

    def test_failed_start(self) -> None:
        """A start that fails on purpose is one critical line without a traceback; the process ends with a failure."""
        self.service.startService()
        self.reactor.run()
        self.server.starting.errback(LMatrixError("port 8448 is in use"))
        (event,) = self.criticals()
        self.assertEqual(event["reason"], "port 8448 is in use")
        self.assertEqual((self.failed, self.reactor.stopped), (1, 1))

    def test_broken_start(self) -> None:
        """A start that fails by mistake is logged with its traceback, and ends the process likewise."""
        self.service.startService()
        self.reactor.run()
        self.server.starting.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.failed, self.reactor.stopped), (1, 1))

    def test_stop_waits(self) -> None:
        """The reactor is kept until the server has finished what is in flight."""
        self.service.startService()
        self.reactor.run()
        self.server.starting.callback(None)
        stopping = self.service.stopService()
        self.assertNoResult(stopping)
        self.server.stopping.callback(None)
        self.successResultOf(stopping)

    def test_hangup(self) -> None:
        """SIGHUP reads certificates and keys again, in the reactor's turn and not in the signal handler's."""
        self.service.startService()
        self.reactor.run()
        (hangup,) = self.hangups
        hangup()
        self.assertEqual(self.server.events, ["start"])
        self.reactor.run()
        self.assertEqual(self.server.events, ["start", "reload"])

    def test_observer(self) -> None:
        """The application gets our log observer, before twistd asks for one."""
        application = Application("test")
        self.service.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), self.observer)


class Start(SynchronousTestCase):
    def options(self, file: Path) -> Options:
        options = Options()
        options.parseOptions(["-c", str(file)])
        return options

    def test_configuration_is_needed(self) -> None:
        """Without -c there is nothing to run."""
        self.assertRaises(usage.UsageError, Options().parseOptions, [])

    def test_bad_configuration(self) -> None:
        """A bad configuration ends the process before it is a daemon, with file and line for the terminal."""
        file = Path(self.mktemp())
        file.write_text("server_name: [1]\n")
        left = self.assertRaises(SystemExit, makeService, self.options(file))
        self.assertIn(f"{file}: line 1: server_name: expected a server name, found a list", str(left.code))

    def test_missing_configuration(self) -> None:
        """So does a file that is not there."""
        left = self.assertRaises(SystemExit, makeService, self.options(Path("/not/there.yaml")))
        self.assertIn("/not/there.yaml", str(left.code))
