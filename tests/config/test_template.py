"""The generated configuration file: it is read back as what was chosen, and everything in it is explained."""

from __future__ import annotations

import itertools
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config import Config, Resource, parse_config
from lmatrix.config.template import Choices, render


def choices(**changes: object) -> Choices:
    settings: dict[str, object] = {
        "server_name": "example.org",
        "data_dir": Path("/srv/data"),
        "federation_port": 8448,
        "client_port": 8008,
        "tls": True,
        "development": False,
    }
    return Choices(**(settings | changes))  # type: ignore[arg-type]


def read_back(chosen: Choices) -> Config:
    return parse_config(render(chosen), "generated", Path("/elsewhere"))


class Template(SynchronousTestCase):
    def test_every_choice_is_read_back(self) -> None:
        """All combinations of the switches give a file without a problem that says what was chosen."""
        for tls, development in itertools.product((True, False), repeat=2):
            chosen = choices(tls=tls, development=development, federation_port=1234, client_port=4321)
            config = read_back(chosen)
            federation, client = config.listeners
            self.assertEqual((federation.port, client.port), (1234, 4321))
            self.assertEqual(federation.tls is not None, tls)
            self.assertEqual(config.registration.enabled, development)
            self.assertEqual(config.rate_limits is None, development)
            self.assertEqual(config.federation.verify_certificates, not development)
            self.assertEqual(config.federation.allow_private_addresses, development)
            self.assertEqual(config.federation.allow_ip_literals, development)
            self.assertEqual(bool(config.warnings()), development)
            self.assertIn(Resource.KEYS, federation.resources)
            self.assertIn(Resource.CLIENT, client.resources)
            self.assertEqual(config.database.path, Path("/srv/data/example.org.db"))

    def test_only_federation_with_tls_is_public(self) -> None:
        """What has no TLS of its own, or is for development, listens on loopback only."""
        public = read_back(choices()).listeners[0]
        self.assertEqual(public.bind_addresses, ("0.0.0.0",))  # noqa: S104  # the point of this test
        for chosen in (choices(tls=False), choices(development=True), choices(tls=False, development=True)):
            self.assertTrue(all(listener.loopback_only for listener in read_back(chosen).listeners))

    def test_difficult_names(self) -> None:
        """Server names with ports and brackets, and directories with quotes in them, survive; file names stay plain."""
        for name, stem in [("localhost:18481", "localhost_18481"), ("[::1]:8448", "1_8448")]:
            chosen = choices(server_name=name, data_dir=Path('/srv/it\'s "here": #1'), development=True)
            config = read_back(chosen)
            self.assertEqual(config.server_name, name)
            self.assertEqual(config.signing_key_path, Path(f'/srv/it\'s "here": #1/{stem}.signing.key'))

    def test_examples_in_comments_are_valid(self) -> None:
        """Every commented-out setting can be uncommented as it is."""
        text = render(choices())
        lines = []
        for line in text.splitlines():
            stripped = line.lstrip()
            setting = stripped.removeprefix("# ")
            # Settings begin with a lower-case key and a colon, or a quoted one; prose does not.
            head = setting.strip().split(":")[0].strip('"')
            if stripped.startswith("# ") and ":" in setting and " " not in head and not setting.endswith("any of:"):
                lines.append(line.replace("# ", "", 1))
            else:
                lines.append(line)
        # An empty mapping stands beside its example.
        uncommented = "\n".join(lines).replace("old_signing_keys: {}", "")
        uncommented = uncommented.replace(
            "base64 of the public key, as /_matrix/key/v2/server showed it",
            "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI",
        )
        config = parse_config(uncommented, "uncommented", Path("/"))
        self.assertIn("old.example.org:8008", config.federation.peers)
        self.assertIn("ed25519:a_old1", config.old_signing_keys)
        self.assertEqual(config.policies.modules[0].module, "package.module.Class")
        self.assertEqual(config.policies.invites.blocked_users, ("@spam*:*",))
        self.assertEqual(config.log_config.file, Path("/lmatrix.log"))
