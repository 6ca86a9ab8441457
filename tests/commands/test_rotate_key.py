"""``lmatrix rotate-key``: what it prints, and that the other commands see its work."""

from __future__ import annotations

import contextlib
import io

from lmatrix.cli import main
from lmatrix.config import load_config
from lmatrix.config.files import load_own_keys
from tests.config.test_generate import GenerateTestCase


class RotateKey(GenerateTestCase):
    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                status = main(arguments)
            except SystemExit as left:
                status = int(left.code or 0)
        return status, output.getvalue(), errors.getvalue()

    def test_rotated(self) -> None:
        """It names the new key and the old one, and says when the server takes notice; the result passes the check."""
        generated = self.generate()
        file = str(generated.output)
        status, output, errors = self.run_main("rotate-key", "-c", file)
        self.assertEqual((status, errors), (0, ""))
        (active,) = load_own_keys(load_config(generated.output)).active
        self.assertIn(f"new signing key: {active.key_id}", output)
        self.assertIn(f"retired: {generated.signing_key_id}", output)
        self.assertIn(".signing.key.retired", output)
        self.assertIn("SIGHUP", output)
        self.assertEqual(self.run_main("check-config", file)[0], 0)

    def test_one_of_several(self) -> None:
        """``--retire`` leaves the other keys in their place, and says so."""
        generated = self.generate()
        file = str(generated.output)
        self.run_main("rotate-key", "--config", file)
        config = load_config(generated.output)
        (second,) = load_own_keys(config).active
        with config.signing_key_path.open("a") as keys:
            keys.write("ed25519 third AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
        status, output, _ = self.run_main("rotate-key", "-c", file, "--retire", second.key_id)
        self.assertEqual(status, 0)
        self.assertIn("signs beside it: ed25519:third", output)
        self.assertIn(f"retired: {second.key_id}", output)
        self.assertNotIn("retired: ed25519:third", output)

    def test_refused(self) -> None:
        """What cannot be done is a message and status 1; wrong usage is status 2."""
        file = str(self.generate().output)
        status, output, errors = self.run_main("rotate-key", "-c", file, "--retire", "ed25519:nobody")
        self.assertEqual((status, output), (1, ""))
        self.assertIn("ed25519:nobody is not a key that signs", errors)
        self.assertEqual(self.run_main("rotate-key", "-c", "/not/there.yaml")[0], 1)
        self.assertEqual(self.run_main("rotate-key")[0], 2)
        self.assertEqual(self.run_main("rotate-key", "--help")[0], 0)
