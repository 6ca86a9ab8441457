"""The whole demo, as a person runs it: four processes, TLS, three databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import lmatrix

COMMAND = "import sys; from lmatrix.cli import main; sys.exit(main())"


class Demo(SynchronousTestCase):
    def test_demo(self) -> None:
        """It ends well, having shown the room as three servers hold it, their agreement, and its measurements."""
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "demo", "--messages", "9", "--senders", "3"],
            # The plug-in lies beside the package, whether that is the checkout or an installation.
            env={**os.environ, "PYTHONPATH": str(Path(lmatrix.__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        for label in ("hub", "second", "third"):
            self.assertRegex(done.stdout, rf"as {label} \(localhost:\d+\) holds it")
        self.assertEqual(done.stdout.count("They agree: one chain"), 2)
        self.assertIn("LPDU: second, PDU: hub", done.stdout)
        self.assertIn("p50 ", done.stdout)
