"""``lmatrix check-config``: it complains about everything that would keep the server from starting."""

from __future__ import annotations

from pathlib import Path

from lmatrix.commands.check_config import file_problems
from lmatrix.config import load_config
from tests.config.test_generate import GenerateTestCase


class FileProblems(GenerateTestCase):
    def problems(self, output: Path) -> list[str]:
        return list(file_problems(load_config(output)))

    def one(self, pattern: str) -> Path:
        (file,) = self.directory.glob(pattern)
        return file

    def test_generated_configuration_is_fine(self) -> None:
        """What generate-config wrote has nothing to complain about."""
        self.assertEqual(self.problems(self.generate().output), [])

    def test_signing_key(self) -> None:
        """A key that is missing, or that others can read, or that is none."""
        output = self.generate().output
        key = self.one("*.signing.key")
        key.chmod(0o644)
        (problem,) = self.problems(output)
        self.assertIn("chmod 600", problem)
        key.chmod(0o600)
        key.write_text("rsa a b")
        (problem,) = self.problems(output)
        self.assertIn(str(key), problem)
        key.unlink()
        (problem,) = self.problems(output)
        self.assertIn("cannot be read", problem)

    def test_key_that_is_retired_too(self) -> None:
        """A key cannot sign and be retired at the same time."""
        generated = self.generate()
        key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
        old = f"old_signing_keys: {{'{generated.signing_key_id}': {{key: {key}, expired_ts: 1}}}}"
        generated.output.write_text(generated.output.read_text().replace("old_signing_keys: {}", old))
        (problem,) = self.problems(generated.output)
        self.assertIn("old_signing_keys", problem)

    def test_retired_keys(self) -> None:
        """A file of retired keys that cannot be used."""
        output = self.generate().output
        key = self.one("*.signing.key")
        key.with_name(key.name + ".retired").write_text("nonsense\n")
        (problem,) = self.problems(output)
        self.assertIn(".retired: line 1", problem)

    def test_admin_token(self) -> None:
        """A token that is missing, that others can read, or that anybody could guess."""
        output = self.generate().output
        token = self.one("*.admin.token")
        token.chmod(0o640)
        (problem,) = self.problems(output)
        self.assertIn("chmod 600", problem)
        token.chmod(0o600)
        for content in ("secret\n", "two words of more than twenty characters\n", ""):
            token.write_text(content)
            (problem,) = self.problems(output)
            self.assertIn(str(token), problem)
            self.assertNotIn("secret", problem)
        token.unlink()
        (problem,) = self.problems(output)
        self.assertIn("cannot be read", problem)

    def test_certificate(self) -> None:
        """A certificate that is missing, that is none, or that belongs to another key."""
        output = self.generate().output
        other = self.generate(output=self.directory / "other" / "x.yaml").output
        certificate, key = self.one("*.tls.crt"), self.one("*.tls.key")
        (foreign,) = other.parent.glob("*.tls.key")
        own = key.read_bytes()
        key.write_bytes(foreign.read_bytes())
        (problem,) = self.problems(output)
        self.assertIn("not the key of", problem)
        key.write_bytes(own)
        certificate.write_text("nothing")
        (problem,) = self.problems(output)
        self.assertIn(str(certificate), problem)
        certificate.unlink()
        (problem,) = self.problems(output)
        self.assertIn("cannot be read", problem)

    def test_policy_modules(self) -> None:
        """A module that is not there, or does not like its configuration, and one that is fine."""
        output = self.generate().output
        written = output.read_text()
        for module, words in (
            ("no.such.module.Policy", "No module named"),
            ("tests.policies.modules_to_load.Picky", "`colour` is missing"),
            ("tests.policies.modules_to_load.Good", None),
        ):
            output.write_text(written.replace("policies:\n", f"policies:\n  modules: [{{module: {module}}}]\n"))
            problems = self.problems(output)
            self.assertEqual(len(problems), 0 if words is None else 1, problems)
            self.assertIn(words or "", "".join(problems))

    def test_data_directory(self) -> None:
        """A database whose directory is not there."""
        output = self.generate().output
        text = output.read_text().replace(str(self.directory.absolute() / "localhost_18481.db"), "/not/there/x.db")
        output.write_text(text)
        self.assertEqual(self.problems(output), ["/not/there/x.db: its directory does not exist"])
