"""What an installation brings with it: the twistd plug-in, the command, the schema files, one version number.

These look at the installed distribution from another directory than the checkout; without an installation there is
nothing to look at, and they are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from lmatrix import __version__

CHECKOUT = Path(__file__).parent.parent
SHOW_VERSION = "from importlib import metadata; print(metadata.version('lmatrix'))"


class Installed(SynchronousTestCase):
    def setUp(self) -> None:
        try:
            self.version = self.run_elsewhere(sys.executable, "-c", SHOW_VERSION).strip()
        except subprocess.CalledProcessError:
            raise SkipTest("lmatrix is not installed in this environment") from None

    def run_elsewhere(self, *command: str) -> str:
        """Standard output of a command that is run outside of the checkout."""
        directory = Path(self.mktemp())
        directory.mkdir()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def script(self, name: str) -> str:
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        self.assertIsNotNone(found, f"{name} is not installed")
        return str(found)

    def test_twistd_lists_the_plugin(self) -> None:
        """twistd finds the plug-in, and shows its own options."""
        listed = self.run_elsewhere(self.script("twistd"), "--help")
        self.assertRegex(listed, r"(?m)^\s+lmatrix\s+A Linearized Matrix server")
        self.assertIn("--config", self.run_elsewhere(self.script("twistd"), "lmatrix", "--help"))

    def test_command(self) -> None:
        """The console script is there, and knows its version."""
        self.assertEqual(self.run_elsewhere(self.script("lmatrix"), "--version"), f"lmatrix {__version__}\n")

    def test_version(self) -> None:
        """The distribution's version is the package's."""
        self.assertEqual(self.version, __version__)

    def test_data_files(self) -> None:
        """The schema files and the mark of a typed package come along."""
        shown = self.run_elsewhere(
            sys.executable,
            "-c",
            "from importlib.resources import files; root = files('lmatrix');"
            "print(sorted(f.name for f in (root / 'storage' / 'schema').iterdir()));"
            "print((root / 'py.typed').is_file())",
        )
        self.assertIn("001_initial.sql", shown)
        self.assertIn("True", shown)


class Checkout(SynchronousTestCase):
    if not (CHECKOUT / "setup.cfg").exists():
        skip = "the tests were copied away from their checkout"

    def test_twisted_directories_are_no_packages(self) -> None:
        """An __init__.py there would hide Twisted's own package, or this plug-in."""
        self.assertEqual(list((CHECKOUT / "twisted").rglob("__init__.py")), [])

    def test_readme_has_one_test_command(self) -> None:
        """The continuous integration runs README's test command to the letter: there must be exactly one to find."""
        readme = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
        self.assertEqual(len(re.findall(r"(?m)^ +python3 -m venv .*\btwisted\.trial\b.*$", readme)), 1)

    def test_readme_demo_command(self) -> None:
        """README's demo command installs what it runs."""
        readme = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
        self.assertIn("pip install . && .venv/bin/lmatrix demo", readme)
