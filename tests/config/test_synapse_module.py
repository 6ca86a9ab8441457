"""The configuration of lmatrix inside of Synapse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config.reading import ConfigError
from lmatrix.config.synapse_module import ModuleConfig, parse_module_config, words_for

HERE = Path("/srv/synapse")
LISTENER = {"port": 8449, "tls": False, "resources": ["federation", "keys"]}


def parsed(**config: Any) -> ModuleConfig:
    return parse_module_config({"database": {"path": "lmatrix.db"}, **config}, HERE)


class ModuleConfigTests(SynchronousTestCase):
    def complaint(self, **config: Any) -> str:
        return words_for(self.assertRaises(ConfigError, parsed, **config))

    def test_defaults(self) -> None:
        """One path is all that must be said, and what is not said is strict."""
        config = parsed()
        self.assertEqual(HERE / "lmatrix.db", config.database.path)
        self.assertTrue(config.federation.verify_certificates)
        self.assertFalse(config.federation.allow_private_addresses)
        self.assertEqual(
            ("lmatrix", (), None, ()),
            (
                config.application_service,
                config.listeners,
                config.worker_to_run_on,
                config.warnings(),
            ),
        )

    def test_empty(self) -> None:
        """A module block without any configuration is told what is missing."""
        error = self.assertRaises(ConfigError, parse_module_config, {}, HERE)
        self.assertEqual("`database.path` is missing", words_for(error))

    def test_every_problem_with_its_key(self) -> None:
        """All problems come together, each with the key, and without lines that are in no file."""
        words = self.complaint(federation={"notary": []}, worker_to_run_on=3)
        self.assertIn("`federation.notary` unknown key; did you mean 'notaries'?", words)
        self.assertIn("`worker_to_run_on` expected text, found a whole number '3'", words)
        self.assertNotIn("line", words)

    def test_listeners(self) -> None:
        """Ports of our own serve what is ours: not clients, and the admin API only with a token."""
        config = parsed(listeners=[LISTENER])
        self.assertEqual(8449, config.listeners[0].port)
        clients = {**LISTENER, "resources": ["client"]}
        self.assertIn("Synapse's to serve", self.complaint(listeners=[clients]))
        admin = {**LISTENER, "resources": ["admin"]}
        self.assertIn("`admin_token_path` is missing", self.complaint(listeners=[admin]))

    def test_warnings(self) -> None:
        """What makes the server unfit for the Internet is said."""
        config = parsed(federation={"verify_certificates": False}, rate_limits={"enabled": False})
        self.assertEqual(2, len(config.warnings()))
