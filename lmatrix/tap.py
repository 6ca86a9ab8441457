"""The service that ``twistd lmatrix -c FILE`` runs.

Owns: twistd's options, the log observer, and what start-up failures look like. A configuration that cannot be used ends
the process before it becomes a daemon; what fails later is logged as critical, stops the reactor, and the process exits
with status 1. Everything that the server *is* lives in :mod:`lmatrix.server`.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from lmatrix.config import Config, ConfigError, load_config
from lmatrix.config.files import FileProblem
from lmatrix.errors import LMatrixError
from lmatrix.log_output import log_observer
from lmatrix.policies.modules import ModuleProblem
from lmatrix.server import build_server

_OWNER_ONLY = 0o077


class Options(usage.Options):
    """Options of ``twistd lmatrix``."""

    synopsis = "[options] lmatrix -c FILE"
    longdesc = "A Linearized Matrix server. Make FILE with `lmatrix generate-config`."
    optParameters = [  # noqa: N815, RUF012  # the form in which Twisted wants it
        ["config", "c", None, "The configuration file."],
    ]

    def postOptions(self) -> None:
        """Called by Twisted when all options have been read."""
        if not self["config"]:
            raise usage.UsageError("a configuration file is needed: -c FILE")


class Runnable(Protocol):
    """A server, as far as twistd's service needs to know it."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def reload(self) -> None: ...


class ServiceReactor(Protocol):
    """What the service needs of the reactor."""

    def callWhenRunning(self, callable: Callable[..., Any], *args: object) -> object: ...

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> object: ...

    def stop(self) -> None: ...


class LMatrixService(Service):
    """Starts a server with the reactor, stops it before the reactor ends.

    Args:
        server: what to run.
        observer: where log events go, unless twistd's own options say otherwise; ``None`` leaves that to twistd.
        reactor: the reactor that runs it.
        exit_with_failure: called after a failed start, so that the process's exit status tells of it.
        on_hangup: registers what is to be done on ``SIGHUP``.
    """

    _log = Logger()

    def __init__(
        self,
        server: Runnable,
        observer: ILogObserver | None,
        reactor: ServiceReactor,
        exit_with_failure: Callable[[], None],
        on_hangup: Callable[[Callable[[], None]], None],
    ) -> None:
        self._server = server
        self._observer = observer
        self._reactor = reactor
        self._exit_with_failure = exit_with_failure
        self._on_hangup = on_hangup

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with the application, before it begins to log: the one moment to choose the observer."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Called by twistd before the reactor runs."""
        super().startService()
        self._on_hangup(self._hangup)
        self._reactor.callWhenRunning(self._start)

    def stopService(self) -> Deferred[None]:
        """Called by twistd when the reactor is about to stop; fires when everything in flight is finished."""
        super().stopService()
        stopping = Deferred.fromCoroutine(self._server.stop())
        stopping.addErrback(lambda failure: self._log.failure("shutting down failed", failure=failure))
        return stopping

    def _hangup(self) -> None:
        # A signal handler runs between any two steps of the program; the reactor's turn is a better moment.
        self._reactor.callFromThread(self._server.reload)

    def _start(self) -> None:
        starting = Deferred.fromCoroutine(self._server.start())
        starting.addErrback(self._start_failed)
        starting.addErrback(lambda failure: self._log.failure("shutting down failed", failure=failure))

    def _start_failed(self, failure: Failure) -> None:
        if failure.check(LMatrixError):
            self._log.critical("cannot start: {reason}", reason=str(failure.value))
        else:
            self._log.failure("cannot start", failure=failure)
        self._exit_with_failure()
        self._reactor.stop()


def makeService(options: Options) -> IService:
    """What twistd runs.

    Raises:
        SystemExit: the configuration, or a file that it names, cannot be used; with the message for the terminal.
    """
    from twisted.internet import reactor

    try:
        file = Path(options["config"]).absolute()
        config = load_config(file)
        server = build_server(config, reactor, reread=partial(load_config, file))
        # What the server writes (database, log) is for its owner only; twistd itself sees to that in a daemon alone.
        if options.parent is None or options.parent.get("umask") is None:
            os.umask(_OWNER_ONLY)
        observer = log_observer(config.log_config, _log_stream(config, options.parent))
    except (ConfigError, FileProblem, ModuleProblem) as error:
        raise SystemExit(f"lmatrix: {error}") from error
    except OSError as error:
        raise SystemExit(f"lmatrix: {error.filename}: {error.strerror}") from error
    return LMatrixService(server, observer, cast(ServiceReactor, reactor), _exit_with_failure, _on_hangup)


def _log_stream(config: Config, twistd: usage.Options | None) -> TextIO:
    """Where lines go: the file of ``log_config``, else that of twistd's ``--logfile``, else standard output."""
    file = config.log_config.file
    logfile = None if twistd is None else twistd.get("logfile")
    if file is None and logfile and logfile != "-":
        file = Path(logfile)
    if file is not None:
        return file.open("a", encoding="utf-8", buffering=1)
    if twistd is not None and not twistd.get("nodaemon"):
        raise SystemExit("lmatrix: a daemon has no standard output: set `log_config.file`, or use twistd --nodaemon")
    return sys.stdout


def _on_hangup(act: Callable[[], None]) -> None:
    signal.signal(signal.SIGHUP, lambda *_: act())


def _exit_with_failure() -> None:
    # twistd returns normally whatever happened, and gives a service no say in the exit status. This runs after it has
    # cleaned up (its pid file), as the last thing in the process.
    atexit.register(_leave)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
