"""Real Synapse processes for tests, with lmatrix as a module or without it, on loopback with TLS.

Owns: :class:`SynapseTestCase`, and :class:`RealSynapse`, one Synapse through any number of starts on the same files.
Every process ends with its test, and a test fails when a Synapse logged a traceback.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import yaml
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from lmatrix.http.tls import write_self_signed
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.processes import EndToEndTestCase, eventually, free_ports, reactor
from tests.end_to_end.raw_http import RawHttp
from tests.end_to_end.signing_client import Refused

WITHOUT_SYNAPSE = (
    None
    if importlib.util.find_spec("synapse") is not None
    else "NOT TESTED: Synapse is not installed (pip install 'lmatrix[synapse]')"
)
"""Why these tests are skipped, or ``None``; trial shows it."""

MODULE = "lmatrix.synapse_module.LinearizedMatrix"


@attrs.frozen(slots=True)
class SynapsePlace:
    """Where one Synapse lives."""

    label: str
    server_name: str
    client_url: str
    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "homeserver.yaml"

    @property
    def log_file(self) -> Path:
        return self.directory / "synapse.log"


class RealSynapse:
    """One Synapse, which can be started, stopped and killed again and again on the same files.

    Args:
        place: its files and names.
        http: for asking whether it is up.
    """

    def __init__(self, place: SynapsePlace, http: RawHttp) -> None:
        self.place = place
        self._http = http
        self._process: IProcessTransport | None = None
        self._protocol = _Process()

    @property
    def server_name(self) -> str:
        """Its name."""
        return self.place.server_name

    @property
    def ended(self) -> bool:
        """Whether it does not run, or not any more."""
        return self._process is None or self._protocol.ended

    async def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it, and the module if it has one, is ready.

        Args:
            ready: false: wait until it has ended instead.
        """
        beginning = len(self.log())
        self._protocol = _Process()
        command = [sys.executable, "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]
        self._spawn(command)
        if not ready:
            await self._protocol.wait()
            return
        listening = f"Synapse now listening on TCP port {self.place.client_url.rpartition(':')[2]}"
        word = "lmatrix is ready" if self.runs_lmatrix else listening
        await eventually(f"{self.place.label} is ready", lambda: self._is_ready(beginning, word))

    def _spawn(self, command: list[str]) -> None:
        with self.place.log_file.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self._process = reactor.spawnProcess(
                self._protocol,
                command[0],
                [part.encode() for part in command],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                path=str(self.place.directory),
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    @property
    def runs_lmatrix(self) -> bool:
        """Whether lmatrix is one of its modules."""
        return any(one["module"] == MODULE for one in self.settings().get("modules", ()))

    def _is_ready(self, beginning: int, word: str) -> bool:
        new = self.log()[beginning:]
        if self._protocol.ended:
            raise AssertionError(f"{self.place.label} ended:\n{new[-6000:]}")
        if "lmatrix cannot start" in new:
            raise AssertionError(f"{self.place.label}:\n{new[-6000:]}")
        return word in new

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        await self._end("TERM")

    async def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        await self._end("KILL")

    def kill_at_once(self) -> None:
        """SIGKILL it without waiting; for when the tests themselves are interrupted."""
        self._signal("KILL")

    async def _end(self, signal: str) -> None:
        if self._process is not None:
            self._signal(signal)
            await self._protocol.wait()
            self._process = None

    def _signal(self, signal: str) -> None:
        if self._process is not None:
            with suppress(ProcessExitedAlready):
                self._process.signalProcess(signal)

    def settings(self) -> dict[str, Any]:
        """Its configuration."""
        found: dict[str, Any] = yaml.safe_load(self.place.config.read_text(encoding="utf-8"))
        return found

    def configure(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change its configuration file; it counts from the next start on."""
        settings = self.settings()
        change(settings)
        self.place.config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def log(self) -> str:
        """What it has logged since its first start."""
        file = self.place.log_file
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    async def user(self, username: str) -> ClientUser:
        """A new user."""
        client = ClientUser(self.place.client_url, self._http)
        await client.register(username)
        return client


class SynapseTestCase(EndToEndTestCase):
    """A test with real Synapses, and with real lmatrix servers as well."""

    if WITHOUT_SYNAPSE is not None:
        skip = WITHOUT_SYNAPSE

    async def start_synapses(
        self, *labels: str, module: bool = True, configure: Callable[[dict[str, Any]], None] | None = None
    ) -> list[RealSynapse]:
        """Make Synapses and start them, all at the same time.

        Args:
            module: whether lmatrix is in them.
            configure: changes each one's configuration first.
        """
        synapses = [self.new_synapse(label, module=module) for label in labels]
        for synapse in synapses:
            if configure is not None:
                synapse.configure(configure)
        starting = [Deferred.fromCoroutine(synapse.start()) for synapse in synapses]
        for _, result in await DeferredList(starting, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()
        return synapses

    def new_synapse(self, label: str, *, module: bool = True) -> RealSynapse:
        """A Synapse that has not been started yet; it ends with the test."""
        federation_port, client_port = free_ports(2)
        home = (self.directory / label).absolute()
        home.mkdir(parents=True)
        server_name = f"localhost:{federation_port}"
        place = SynapsePlace(label, server_name, f"http://127.0.0.1:{client_port}", home)
        certificate, key = home / "tls.crt", home / "tls.key"
        write_self_signed(certificate, key, ["localhost", "127.0.0.1"], datetime.datetime.now(datetime.UTC))
        settings = _settings(server_name, federation_port, client_port)
        if module:
            (home / "admin.token").touch(0o600)
            (home / "admin.token").write_text("only-for-tests-" + "x" * 32 + "\n", encoding="ascii")
            (admin_port,) = free_ports(1)
            settings["modules"] = [{"module": MODULE, "config": _module_settings(admin_port)}]
            settings["app_service_config_files"] = [str(home / "registration.yaml")]
            (home / "registration.yaml").write_text(yaml.safe_dump(_registration()), encoding="utf-8")
        place.config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        (home / "log.yaml").write_text(yaml.safe_dump(_LOGGING), encoding="utf-8")
        self.urls[server_name] = f"https://127.0.0.1:{federation_port}"
        synapse = RealSynapse(place, self.http)
        self.servers.append(synapse)  # type: ignore[arg-type]
        return synapse

    async def refused(self, request: Any, status: int) -> dict[str, Any]:
        """The error object of a request that must be refused."""
        try:
            await request
        except Refused as refused:
            self.assertEqual(status, refused.answer.status, refused.answer)
            error: dict[str, Any] = refused.answer.json
            return error
        raise AssertionError("not refused")


def _settings(server_name: str, federation_port: int, client_port: int) -> dict[str, Any]:
    def listener(port: int, *names: str, tls: bool) -> dict[str, Any]:
        resources = [{"names": list(names), "compress": False}]
        return {"port": port, "type": "http", "tls": tls, "bind_addresses": ["127.0.0.1"], "resources": resources}

    fast = {"per_second": 1000, "burst_count": 1000}
    return {
        "server_name": server_name,
        "listeners": [
            listener(federation_port, "federation", tls=True),
            listener(client_port, "client", "metrics", tls=False),
        ],
        "tls_certificate_path": "tls.crt",
        "tls_private_key_path": "tls.key",
        "database": {"name": "sqlite3", "args": {"database": "homeserver.db"}},
        "media_store_path": "media",
        "signing_key_path": "signing.key",
        "macaroon_secret_key": "only for tests",
        "form_secret": "only for tests",
        "report_stats": False,
        "log_config": "log.yaml",
        # Tests ask for a first sync again and again, and want a new one each time.
        "caches": {"sync_response_cache_duration": "0s"},
        "enable_metrics": True,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "password_config": {"pepper": ""},
        "bcrypt_rounds": 4,
        "federation_verify_certificates": False,
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "rc_message": fast,
        "rc_registration": fast,
        "rc_login": {"address": fast, "account": fast, "failed_attempts": fast},
        "rc_joins": {"local": fast, "remote": fast},
        "rc_invites": {"per_room": fast, "per_user": fast, "per_issuer": fast},
        "rc_federation": {"window_size": 1000, "sleep_limit": 1000, "reject_limit": 1000, "concurrent": 100},
    }


_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"precise": {"format": "%(asctime)s %(name)s %(levelname)s %(request)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "precise"}},
    "loggers": {"lmatrix": {"level": "DEBUG"}, "synapse.access": {"level": "INFO"}},
    "root": {"level": "INFO", "handlers": ["console"]},
}


def _module_settings(admin_port: int) -> dict[str, Any]:
    return {
        "listeners": [{"port": admin_port, "tls": False, "resources": ["admin", "health"]}],
        "admin_token_path": "admin.token",
        "database": {"path": "lmatrix.db"},
        "federation": {"verify_certificates": False, "allow_private_addresses": True},
        "rate_limits": {"enabled": False},
    }


def _registration() -> dict[str, Any]:
    return {
        "id": "lmatrix",
        "url": None,
        "as_token": "only for tests, as",
        "hs_token": "only for tests, hs",
        "sender_localpart": "linearized",
        "rate_limited": False,
        "namespaces": {
            "users": [
                {"exclusive": True, "regex": r"@lm\..*"},
                {"exclusive": True, "regex": r"@dag\..*"},
            ],
            "rooms": [],
            "aliases": [],
        },
    }


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
