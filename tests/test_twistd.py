"""The real thing: ``twistd -n lmatrix -c FILE`` in a process of its own, its start, its end and its exit status."""

from __future__ import annotations

import datetime
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from threading import Timer

from twisted.trial.unittest import SynchronousTestCase

import lmatrix
from lmatrix.demo.servers import Place, prepare

PATIENCE_SECONDS = 30.0


class Twistd(SynchronousTestCase):
    def setUp(self) -> None:
        (self.place,) = prepare(
            ["one"],
            Path(self.mktemp()).absolute(),
            random.Random(1),
            datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        )

    def spawn(self, place: Place) -> subprocess.Popen[str]:
        twistd = Path(sys.executable).with_name("twistd")
        # The plug-in lies beside the package, whether that is the checkout or an installation.
        environment = {**os.environ, "PYTHONPATH": str(Path(lmatrix.__file__).parent.parent)}
        process = subprocess.Popen(
            [str(twistd), "--nodaemon", "--pidfile=twistd.pid", "lmatrix", "-c", str(place.config)],
            cwd=place.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # One that says nothing more is ended, so that reading what it says comes to an end too.
        patience = Timer(PATIENCE_SECONDS, process.kill)
        patience.start()
        self.addCleanup(process.kill)
        self.addCleanup(patience.cancel)
        return process

    def read_until(self, process: subprocess.Popen[str], wanted: str) -> list[str]:
        """Lines up to the one with ``wanted``; fails at the end of the output."""
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if wanted in line:
                return lines
        return self.fail("".join(lines))  # type: ignore[no-any-return]

    def test_life(self) -> None:
        """It says that it is ready when it is; SIGHUP reads certificates again; SIGTERM ends it in order.

        Meanwhile nobody but the owner can read its database.
        """
        process = self.spawn(self.place)
        self.read_until(process, "is ready")
        with socket.create_connection(("127.0.0.1", int(self.place.server_name.rpartition(":")[2])), timeout=5):
            process.send_signal(signal.SIGHUP)
            self.read_until(process, "was read again")
        self.assertEqual(stat.S_IMODE(self.place.database.stat().st_mode), 0o600)
        process.send_signal(signal.SIGTERM)
        self.read_until(process, "has stopped")
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        # twistd leaves by the signal that ended it, once everything is tidied up.
        self.assertEqual(process.returncode, -signal.SIGTERM, output)
        self.assertIn("Server Shut Down", output)
        self.assertNotIn("Traceback", output)

    def test_port_in_use(self) -> None:
        """A start that fails says why in one line, leaves no pid file, and ends with status 1."""
        port = int(self.place.client_url.rpartition(":")[2])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            process = self.spawn(self.place)
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn(f"cannot start: cannot listen on port {port} of 127.0.0.1", output)
        self.assertNotIn("Traceback", output)
        self.assertFalse((self.place.directory / "twistd.pid").exists())

    def test_bad_configuration(self) -> None:
        """A bad configuration is a message on the terminal, and status 1."""
        self.place.config.write_text("listeners: 1\n")
        process = self.spawn(self.place)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("lmatrix.yaml: line 1: listeners: expected a list", output)
        self.assertNotIn("Traceback", output)
