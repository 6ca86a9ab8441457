"""The command line: exit statuses, and messages instead of tracebacks."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix import __version__
from lmatrix.cli import main


class CommandLine(SynchronousTestCase):
    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                status = main(arguments)
            except SystemExit as left:
                status = int(left.code or 0)
        return status, output.getvalue(), errors.getvalue()

    def test_generate_then_check(self) -> None:
        """The two commands fit together; the development warnings are shown, and are not errors."""
        directory = Path(self.mktemp())
        file = str(directory / "lmatrix.yaml")
        status, output, errors = self.run_main(
            "generate-config", "--server-name", "localhost:18481", "--output", file, "--development"
        )
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("twistd -n lmatrix -c", output)
        status, output, errors = self.run_main("check-config", file)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("is fine: localhost:18481", output)
        self.assertIn("warning: certificates of other servers are NOT verified", output)

    def test_bad_configuration(self) -> None:
        """Status 1, every problem on standard error with file and line."""
        file = Path(self.mktemp())
        file.write_text("server_nmae: x\n")
        status, output, errors = self.run_main("check-config", str(file))
        self.assertEqual((status, output), (1, ""))
        self.assertIn(f"{file}: line 1: server_nmae: unknown key; did you mean 'server_name'?", errors)

    def test_missing_configuration(self) -> None:
        """A file that is not there is a message."""
        status, _, errors = self.run_main("check-config", "/not/there.yaml")
        self.assertEqual(status, 1)
        self.assertIn("/not/there.yaml", errors)

    def test_missing_files(self) -> None:
        """Status 1 when a file that the configuration names is missing."""
        directory = Path(self.mktemp())
        file = str(directory / "lmatrix.yaml")
        self.run_main("generate-config", "--server-name", "example.org", "--output", file)
        status, output, _ = self.run_main("check-config", file)
        self.assertEqual(status, 1)
        self.assertIn("error: ", output)
        self.assertNotIn("is fine", output)

    def test_usage(self) -> None:
        """Wrong usage is status 2, help and version status 0."""
        self.assertEqual(self.run_main()[0], 2)
        self.assertEqual(self.run_main("generate-config")[0], 2)
        self.assertEqual(self.run_main("generate-config", "--server-name", "x", "--client-port", "0")[0], 2)
        self.assertEqual(self.run_main("--version"), (0, f"lmatrix {__version__}\n", ""))
        for command in ("generate-config", "check-config", "demo"):
            self.assertEqual(self.run_main(command, "--help")[0], 0)
