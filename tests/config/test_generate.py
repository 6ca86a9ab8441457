"""Generating a configuration: what is written, and what is never overwritten."""

from __future__ import annotations

import datetime
import random
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config import Resource, load_config
from lmatrix.config.files import load_admin_token, load_signing_keys, load_tls
from lmatrix.config.generate import Generated, generate
from lmatrix.errors import LMatrixError

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class GenerateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())

    def generate(self, **changes: object) -> Generated:
        settings: dict[str, object] = {
            "server_name": "localhost:18481",
            "output": self.directory / "lmatrix.yaml",
            "data_dir": None,
            "federation_port": None,
            "client_port": 8008,
            "tls": True,
            "development": True,
            "rng": random.Random(1),
            "now": NOW,
        }
        return generate(**(settings | changes))  # type: ignore[arg-type]


class Written(GenerateTestCase):
    def test_development(self) -> None:
        """Everything that a development server needs is there and loads: configuration, key, certificate."""
        generated = self.generate()
        config = load_config(generated.output)
        self.assertEqual(config.server_name, "localhost:18481")
        self.assertEqual(load_signing_keys(config)[0].key_id, generated.signing_key_id)
        tls = config.listeners[0].tls
        assert tls is not None
        load_tls(tls)

    def test_secrets_are_for_their_owner_only(self) -> None:
        """Signing key, TLS key and admin token have mode 0600."""
        self.generate()
        for pattern in ("*.signing.key", "*.tls.key", "*.admin.token"):
            (file,) = self.directory.glob(pattern)
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)

    def test_admin_token(self) -> None:
        """The file that the configuration names holds a token; another server gets another one."""
        tokens = []
        for seed in (1, 2):
            generated = self.generate(output=self.directory / str(seed) / "x.yaml", rng=random.Random(seed))
            config = load_config(generated.output)
            self.assertIn(Resource.ADMIN, config.listeners[1].resources)
            tokens.append(load_admin_token(config))
        self.assertEqual(len(set(tokens)), 2)
        self.assertNotIn(None, tokens)

    def test_port_comes_from_the_name(self) -> None:
        """The federation port is the name's own, unless another is given; without either it is 8448."""
        for number, (name, given, expected) in enumerate(
            [("a.example:1234", None, 1234), ("a.example:1234", 5678, 5678), ("a.example", None, 8448)]
        ):
            output = self.directory / str(number) / "x.yaml"
            self.generate(server_name=name, federation_port=given, output=output)
            self.assertEqual(load_config(output).listeners[0].port, expected)

    def test_data_directory(self) -> None:
        """Key, certificate and database go to the data directory, which is made; the configuration stays elsewhere."""
        data = self.directory / "some" / "data"
        generated = self.generate(data_dir=data)
        self.assertEqual(
            {file.name for file in data.iterdir()},
            {
                "localhost_18481.signing.key",
                "localhost_18481.admin.token",
                "localhost_18481.tls.key",
                "localhost_18481.tls.crt",
            },
        )
        self.assertEqual(load_config(generated.output).database.path, data.absolute() / "localhost_18481.db")

    def test_no_certificate_without_tls_or_development(self) -> None:
        """A certificate is made for development only; otherwise a note says where to put one."""
        plain = self.generate(tls=False, output=self.directory / "1" / "x.yaml")
        self.assertEqual(list(plain.output.parent.glob("*.crt")), [])
        real = self.generate(development=False, server_name="a.example", output=self.directory / "2" / "x.yaml")
        self.assertEqual(list(real.output.parent.glob("*.crt")), [])
        self.assertTrue(any("put the TLS certificate in" in note for note in real.notes))


class NotOverwritten(GenerateTestCase):
    def test_configuration(self) -> None:
        """An existing configuration file is an error, and stays as it is."""
        output = self.generate().output
        before = output.read_bytes()
        error = self.assertRaises(LMatrixError, self.generate, server_name="other.example")
        self.assertIn("exists already", str(error))
        self.assertEqual(output.read_bytes(), before)

    def test_keys_are_kept(self) -> None:
        """Generating again beside existing keys and tokens uses them: a server never changes its key by accident."""
        first = self.generate()
        files = {file: file.read_bytes() for file in self.directory.iterdir() if file != first.output}
        second = self.generate(output=self.directory / "again.yaml")
        self.assertEqual(second.signing_key_id, first.signing_key_id)
        self.assertEqual({file: file.read_bytes() for file in files}, files)


class Refused(GenerateTestCase):
    def test_server_name(self) -> None:
        """What is no server name is refused before anything is written; an IP address outside development likewise."""
        for changes in (
            {"server_name": "exa mple"},
            {"server_name": "127.0.0.1:8448", "development": False},
        ):
            error = self.assertRaises(LMatrixError, self.generate, **changes)
            self.assertIn("--server-name", str(error))
        self.assertFalse(self.directory.exists())

    def test_unwritable_place(self) -> None:
        """A directory that cannot be made is named, without a traceback."""
        self.directory.mkdir()
        obstacle = self.directory / "file"
        obstacle.write_text("")
        error = self.assertRaises(LMatrixError, self.generate, data_dir=obstacle / "below")
        self.assertIn(str(obstacle), str(error))
