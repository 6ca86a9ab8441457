"""Starting and stopping the demo's servers: real ``twistd`` processes on loopback.

Owns: choosing ports, writing each server's configuration with the same code as ``lmatrix generate-config``, and the
processes. Every process that was started is stopped again, whatever happens in between.
"""

from __future__ import annotations

import datetime
import os
import random
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ProcessExitedAlready
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IProcessTransport, IReactorCore, IReactorProcess, IReactorTCP, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from lmatrix.config.generate import generate
from lmatrix.errors import LMatrixError

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOG_TAIL = 30


@attrs.frozen(slots=True)
class Place:
    """Where one of the demo's servers lives.

    Attributes:
        label: a short name for people: ``"hub"``.
        server_name: its name in Matrix, with its federation port.
        client_url: where its users' clients connect.
        directory: its configuration, keys, database and log.
    """

    label: str
    server_name: str
    client_url: str
    directory: Path
    config: Path
    database: Path

    @property
    def log(self) -> Path:
        return self.directory / "server.log"


def prepare(labels: Sequence[str], directory: Path, rng: random.Random, now: datetime.datetime) -> list[Place]:
    """Choose free ports and write a development configuration, key and certificate for each server."""
    ports = _free_ports(2 * len(labels))
    places = []
    for index, label in enumerate(labels):
        federation_port, client_port = ports[2 * index : 2 * index + 2]
        home = directory / label
        config = home / "lmatrix.yaml"
        server_name = f"localhost:{federation_port}"
        generated = generate(
            server_name=server_name,
            output=config,
            data_dir=None,
            federation_port=federation_port,
            client_port=client_port,
            tls=True,
            development=True,
            rng=rng,
            now=now,
        )
        places.append(
            Place(label, server_name, f"http://127.0.0.1:{client_port}", home, config, generated.database_path)
        )
    return places


class IReactorForDemo(IReactorCore, IReactorProcess, IReactorTCP, IReactorTime):
    """Everything that the demo needs of the reactor, for type checkers."""


class RunningServer:
    """One ``twistd`` process.

    Args:
        place: which server.
        reactor: spawns the process and tells the time.
        http: asks it whether it is ready.
    """

    def __init__(self, place: Place, reactor: IReactorForDemo, http: HTTPClient) -> None:
        self.place = place
        self._reactor = reactor
        self._http = http
        self._process: IProcessTransport | None = None
        self._protocol = _Process()

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            LMatrixError: it ended, or did not become ready in time; with the end of its log.
        """
        self._spawn()
        deadline = self._reactor.seconds() + _READY_SECONDS
        while not await self._is_ready():
            if self._protocol.ended:
                raise LMatrixError(f"the server {self.place.label} ended:\n{self._log_tail()}")
            if self._reactor.seconds() > deadline:
                raise LMatrixError(f"the server {self.place.label} did not become ready:\n{self._log_tail()}")
            await deferLater(self._reactor, 0.1, lambda: None)

    @property
    def pid(self) -> int | None:
        """Its process ID, while it runs."""
        return None if self._process is None or self._protocol.ended else self._process.pid

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        self._signal("KILL")

    async def stop(self) -> None:
        """Ask it to stop and wait until it has; end it at once when it takes too long."""
        if self._process is None or self._protocol.ended:
            return
        self._signal("TERM")
        too_long = self._reactor.callLater(_STOP_SECONDS, self.kill)
        await self._protocol.wait()
        if too_long.active():
            too_long.cancel()

    async def wait(self) -> None:
        """Wait until it has ended, for whatever reason."""
        await self._protocol.wait()

    def _spawn(self) -> None:
        command = [_twistd(), "--nodaemon", "--pidfile=", "lmatrix", "-c", str(self.place.config)]
        with self.place.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self._process = self._reactor.spawnProcess(
                self._protocol,
                command[0],
                [part.encode() for part in command],
                env=dict(os.environ),
                path=str(self.place.directory),
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    async def _is_ready(self) -> bool:
        try:
            response = await self._http.get(f"{self.place.client_url}/health", timeout=5)
            await response.content()
        except (ConnectError, ResponseFailed, ConnectTimeout, CancelledError):
            # Not yet: it is still starting.
            return False
        return bool(response.code == 200)

    def _signal(self, name: str) -> None:
        if self._process is None:
            return
        try:
            self._process.signalProcess(name)
        except ProcessExitedAlready:
            return

    def _log_tail(self) -> str:
        lines = self.place.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL:])


class _Process(ProcessProtocol):
    def __init__(self) -> None:
        self.ended = False
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        if self.ended:
            turn.callback(None)
        else:
            self._waiting.append(turn)
        return turn

    def processEnded(self, reason: Failure) -> None:
        self.ended = True
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            turn.callback(None)


def _twistd() -> str:
    beside = Path(sys.executable).with_name("twistd")
    if beside.exists():
        return str(beside)
    found = shutil.which("twistd")
    if found is None:
        raise LMatrixError("twistd was not found; it comes with Twisted")
    return found


def _free_ports(count: int) -> list[int]:
    # They are free now; should another program take one before its server does, that server says so and ends.
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
