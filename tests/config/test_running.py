"""The configuration of a running server of either kind."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config.reading import ConfigError
from lmatrix.config.running import load_running
from tests.config.test_config import MINIMAL

HOMESERVER = """\
server_name: example.org
modules:
  - module: somebody.elses.Module
  - module: lmatrix.synapse_module.LinearizedMatrix
    config:
      database: {path: lmatrix.db}
      admin_token_path: admin.token
      listeners: [{port: 1234, tls: false, resources: [admin]}]
"""


class RunningTests(SynchronousTestCase):
    def file(self, content: str) -> Path:
        path = Path(self.mktemp()).absolute()
        path.write_text(content, encoding="utf-8")
        return path

    def test_synapse(self) -> None:
        """Of a Synapse's configuration, the part that is ours, with paths beside it."""
        file = self.file(HOMESERVER)
        config = load_running(file)
        self.assertEqual(file.parent / "admin.token", config.admin_token_path)
        self.assertEqual([1234], [listener.port for listener in config.listeners])

    def test_standalone(self) -> None:
        """Anything else is a server's own configuration, and is complained about as such."""
        self.assertEqual([8448], [listener.port for listener in load_running(self.file(MINIMAL)).listeners])
        error = self.assertRaises(ConfigError, load_running, self.file(HOMESERVER.replace("lmatrix.syn", "other.syn")))
        self.assertIn("signing_key_path", str(error))
        self.assertRaises(ConfigError, load_running, self.file("a: ["))
