"""Real servers for tests: ``twistd`` processes with their own files, on loopback with TLS.

Owns: :class:`EndToEndTestCase`, which starts and ends servers and whatever talks to them, :class:`RealServer`, one
server through any number of starts, and :func:`eventually`.

Invariants: no process and no connection outlives its test, however the test ends; a test fails when a server's log has
a traceback in it that the test did not announce.
"""

from __future__ import annotations

import datetime
import os
import random
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from signedjson.key import generate_signing_key, write_signing_keys
from treq.client import HTTPClient
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from lmatrix.config.generate import generate
from lmatrix.demo.servers import Place, RunningServer
from lmatrix.errors import LMatrixError
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.raw_http import RawHttp
from tests.end_to_end.signing_server import SigningServer
from tests.federation.certificates import Authority

reactor: Any = installed_reactor

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
"""How long a condition may take to become true: machines can be busy."""

FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Below the range from which systems take the local ports of connections: a port that its server has let go of for a
moment is then not taken by somebody's connection, not even by one to that very port."""

_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Unhandled error in Deferred|Unhandled Error")


async def eventually(what: str, is_so: Callable[[], Awaitable[object] | object], seconds: float | None = None) -> None:
    """Wait until a condition is true.

    Args:
        what: the condition in words, for the failure.
        is_so: looks; may be a coroutine function.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = reactor.seconds() + (seconds or PATIENCE_SECONDS)
    while True:
        result = is_so()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return
        if reactor.seconds() > deadline:
            raise AssertionError(f"not in time: {what}")
        await deferLater(reactor, POLL_SECONDS, lambda: None)


class RealServer:
    """One server, which can be started, stopped and killed again and again on the same files.

    Args:
        place: its files and names.
        http: a client for asking whether it is up.
    """

    def __init__(self, place: Place, http: HTTPClient) -> None:
        self.place = place
        self._http = http
        self._running: RunningServer | None = None

    @property
    def server_name(self) -> str:
        """Its name."""
        return self.place.server_name

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed since."""
        return self._running is not None

    @property
    def pid(self) -> int:
        """The process ID of the one that runs."""
        process: Any = None if self._running is None else self._running._process
        assert process is not None
        return int(process.pid)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        running = self._running = RunningServer(self.place, reactor, self._http)
        await running.start()

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    async def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            await running.wait()

    def freeze(self) -> None:
        """Stop the process in its tracks, so that whoever waits for it goes on waiting."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._running is not None
        assert self._running.pid is not None
        os.kill(self._running.pid, number)

    async def start_and_kill(self, *, after: float) -> None:
        """Start it, and SIGKILL it so many seconds later, ready or not."""
        starting = Deferred.fromCoroutine(self.start())
        running = self._running
        await deferLater(reactor, after, lambda: None)
        assert running is not None
        running.kill()
        with suppress(LMatrixError):
            # It may have ended before it was ready.
            await starting
        await self.kill()

    def kill_at_once(self) -> None:
        """SIGKILL it without waiting; for when the tests themselves are interrupted."""
        if self._running is not None:
            self._running.kill()

    def configure(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change its configuration file; it counts from the next start on."""
        settings = yaml.safe_load(self.place.config.read_text(encoding="utf-8"))
        change(settings)
        self.place.config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def rotate_key(self, version: str, published: Mapping[str, Any], now_ms: int) -> None:
        """Give it a new signing key from the next start on, and list the one that it had as an old one.

        Args:
            published: its answer to ``GET /_matrix/key/v2/server``.
        """
        path = self.place.directory / f"{version}.signing.key"
        with path.open("w", encoding="ascii") as file:
            path.chmod(0o600)
            write_signing_keys(file, [generate_signing_key(version)])

        def change(settings: dict[str, Any]) -> None:
            settings["signing_key_path"] = str(path)
            for key_id, key in published["verify_keys"].items():
                settings.setdefault("old_signing_keys", {})[key_id] = {"key": key["key"], "expired_ts": now_ms}

        self.configure(change)

    def log(self) -> str:
        """What it has logged since its first start."""
        file = self.place.log
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


class EndToEndTestCase(TestCase):
    """A test with real servers.

    Attributes:
        http: makes requests.
        urls: where the federation listeners are, by server name.
        servers: those of this test.
    """

    timeout = 300  # of trial: nothing should ever come near it

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.http = RawHttp(reactor)
        self.urls: dict[str, str] = {}
        self.servers: list[RealServer] = []
        self._signing_servers: list[SigningServer] = []
        self._pool = HTTPConnectionPool(reactor, persistent=False)  # type: ignore[no-untyped-call]
        self._health = HTTPClient(Agent(reactor, pool=self._pool))  # type: ignore[no-untyped-call]
        interrupted = reactor.addSystemEventTrigger("before", "shutdown", self._kill_at_once)
        self.addCleanup(reactor.removeSystemEventTrigger, interrupted)
        # Last in, first out: processes, then connections, then what was listening.
        self.addCleanup(lambda: Deferred.fromCoroutine(self._check_logs()))
        self.addCleanup(lambda: Deferred.fromCoroutine(self._end_signing_servers()))
        self.addCleanup(self.http.close)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._kill_all()))

    async def start_servers(
        self, *labels: str, configure: Callable[[dict[str, Any]], None] | None = None
    ) -> list[RealServer]:
        """Make servers and start them, all at the same time.

        Args:
            configure: changes each one's configuration first.
        """
        servers = [self._new_server(label) for label in labels]
        for server in servers:
            if configure is not None:
                server.configure(configure)
        self.servers += servers
        starting = [Deferred.fromCoroutine(server.start()) for server in servers]
        for _, result in await DeferredList(starting, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()
        return servers

    async def user(self, server: RealServer, username: str) -> ClientUser:
        """A new user of a server."""
        client = ClientUser(server.place.client_url, self.http)
        await client.register(username)
        return client

    def background(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Run something beside the test; what still runs when the test ends is cancelled."""
        running = Deferred.fromCoroutine(work)

        def end() -> None:
            # Whoever waited for it has heard what became of it; if the test failed before, that is what counts.
            running.addErrback(lambda _: None)
            running.cancel()

        self.addCleanup(end)
        return running

    def signing_server(self, *, tls: bool = True, key_version: str = "raw") -> SigningServer:
        """A server that is not lmatrix, listening."""
        certificate: CertificateOptions | None = Authority().server("localhost") if tls else None
        server = SigningServer(reactor, self.http, self.urls, certificate=certificate, key_version=key_version)
        server.start()
        self._signing_servers.append(server)
        return server

    def _new_server(self, label: str) -> RealServer:
        federation_port, client_port = free_ports(2)
        home = self.directory / label
        server_name = f"localhost:{federation_port}"
        generated = generate(
            server_name=server_name,
            output=home / "lmatrix.yaml",
            data_dir=None,
            federation_port=federation_port,
            client_port=client_port,
            tls=True,
            development=True,
            rng=random.SystemRandom(),
            now=datetime.datetime.now(datetime.UTC),
        )
        self.urls[server_name] = f"https://127.0.0.1:{federation_port}"
        client_url = f"http://127.0.0.1:{client_port}"
        place = Place(label, server_name, client_url, home.absolute(), generated.output, generated.database_path)
        return RealServer(place, self._health)

    async def _kill_all(self) -> None:
        for server in self.servers:
            await server.kill()

    def _kill_at_once(self) -> None:
        for server in self.servers:
            server.kill_at_once()

    async def _end_signing_servers(self) -> None:
        for server in self._signing_servers:
            await server.stop()

    async def _check_logs(self) -> None:
        for server in self.servers:
            log = server.log()
            found = _TRACEBACK.search(log)
            if found is not None:
                self.fail(f"{server.place.label} logged:\n{log[max(0, found.start() - 2000) : found.start() + 6000]}")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    rng = random.SystemRandom()
    taken: list[socket.socket] = []
    try:
        while len(taken) < count:
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                one.bind(("127.0.0.1", rng.randrange(FIRST_PORT, LAST_PORT)))
            except OSError:
                one.close()
                continue
            taken.append(one)
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()
