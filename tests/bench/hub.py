"""The hub that is measured: a ``twistd`` process, as an administrator would run it.

Owns: its configuration, its start and end, and the processor time that it has used.
"""

from __future__ import annotations

import datetime
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from lmatrix.config.generate import generate
from lmatrix.crypto.key_file import read_signing_keys
from lmatrix.rooms.identity import ServerIdentity

_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class HubSetup:
    """A hub's name, key and certificate, of which several runs with different databases make use.

    Args:
        directory: for its files.
        federation_port, client_port: TCP ports.
        patient_with: servers whose transactions may wait in a queue, so that they may send several at a time.
    """

    def __init__(self, directory: Path, federation_port: int, client_port: int, patient_with: Sequence[str]) -> None:
        self.directory = directory
        self.server_name = f"localhost:{federation_port}"
        self.client_port = client_port
        template = directory / "template.yaml"
        generate(
            server_name=self.server_name,
            output=template,
            data_dir=None,
            federation_port=federation_port,
            client_port=client_port,
            tls=True,
            development=True,
            rng=random.SystemRandom(),
            now=datetime.datetime.now(datetime.UTC),
        )
        self._settings: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
        self._settings["federation"]["peers"] = {name: {"concurrent_transactions": True} for name in patient_with}
        self.identity = ServerIdentity(self.server_name, read_signing_keys(Path(self._settings["signing_key_path"])))
        [listener] = [one for one in self._settings["listeners"] if one["tls"]]
        self.certificate = Path(listener["tls_certificate_path"])
        self.private_key = Path(listener["tls_private_key_path"])

    def configuration(self, database: Path) -> Path:
        """A configuration file with that database."""
        file = database.with_suffix(".yaml")
        settings = {**self._settings, "database": {"engine": "sqlite", "path": str(database)}}
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return file


class RunningHub:
    """A hub process; use it with ``with``.

    Args:
        setup: who it is.
        database: its database file, which may hold rooms already.
        cores: the processors that it may run on; ``None``: all of them.

    Raises:
        RuntimeError: it did not start; with the end of its log.
    """

    def __init__(self, setup: HubSetup, database: Path, cores: Collection[int] | None = None) -> None:
        self._setup = setup
        self._cores = cores
        self._configuration = setup.configuration(database)
        self._log = database.with_suffix(".log")

    def __enter__(self) -> Self:
        command = [_twistd(), "--nodaemon", "--pidfile=", "lmatrix", "-c", str(self._configuration)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._setup.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            if self._cores is not None:
                os.sched_setaffinity(self._process.pid, self._cores)
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time used so far by all of its threads, in the program and in the kernel."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        # man 5 proc: utime and stime are the 14th and 15th; the first two are cut off.
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
                raise RuntimeError("the hub did not start:\n" + "\n".join(tail))
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._setup.client_port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _twistd() -> str:
    beside = Path(sys.executable).with_name("twistd")
    found = str(beside) if beside.exists() else shutil.which("twistd")
    if found is None:
        raise RuntimeError("twistd was not found; it comes with Twisted")
    return found
