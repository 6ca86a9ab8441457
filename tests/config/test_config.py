"""The whole configuration: sections, defaults, and what must hold between them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config import Config, ConfigError, Resource, parse_config

MINIMAL = """\
server_name: "example.org"
signing_key_path: "signing.key"
listeners:
  - port: 8448
    tls_certificate_path: "tls.crt"
    tls_private_key_path: "tls.key"
    resources: [federation, keys]
database:
  path: "lmatrix.db"
"""


def parse(content: str) -> Config:
    return parse_config(content, "lmatrix.yaml", Path("/srv/lm"))


class Defaults(SynchronousTestCase):
    def test_minimal_is_strict(self) -> None:
        """A minimal configuration is the strict one: nothing loosened, registration closed, limits on, no warnings."""
        config = parse(MINIMAL)
        self.assertEqual(config.warnings(), ())
        self.assertTrue(config.federation.verify_certificates)
        self.assertFalse(config.federation.allow_private_addresses)
        self.assertFalse(config.federation.allow_ip_literals)
        self.assertFalse(config.registration.enabled)
        self.assertIsNotNone(config.rate_limits)
        self.assertEqual(config.default_room_version, "I.1")
        self.assertEqual(config.log_config.level, "info")

    def test_paths_are_relative_to_the_file(self) -> None:
        """Every path starts at the configuration file's directory, wherever the server is started."""
        config = parse(MINIMAL)
        self.assertEqual(config.signing_key_path, Path("/srv/lm/signing.key"))
        self.assertEqual(config.database.path, Path("/srv/lm/lmatrix.db"))
        (listener,) = config.listeners
        assert listener.tls is not None
        self.assertEqual(listener.tls.certificate_path, Path("/srv/lm/tls.crt"))
        self.assertEqual(listener.resources, (Resource.FEDERATION, Resource.KEYS))
        self.assertEqual(listener.bind_addresses, ("127.0.0.1",))


class Values(SynchronousTestCase):
    def test_federation(self) -> None:
        """Peers, ranges, limits and times arrive as they were written, and each loosening is warned of."""
        config = parse(
            MINIMAL
            + """\
federation:
  verify_certificates: false
  allow_ip_literals: true
  allow_private_addresses: true
  allowed_address_ranges: ["10.1.0.0/16", "fd00::/8"]
  limits: {transaction_bytes: 200000, concurrent_requests: 7}
  timeouts: {longest_back_off_seconds: 60}
  peers:
    "old.example.org:8008":
      plaintext: true
      concurrent_transactions: true
registration: {enabled: true}
rate_limits: {enabled: false}
"""
        ).federation
        self.assertEqual(
            config.allowed_address_ranges, (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
        )
        self.assertEqual((config.limits.transaction_bytes, config.limits.concurrent_requests), (200_000, 7))
        self.assertEqual(config.timeouts.longest_back_off, 60.0)
        peer = config.peers["old.example.org:8008"]
        self.assertTrue(peer.plaintext and peer.concurrent_transactions)
        self.assertFalse(peer.one_event_per_transaction)

    def test_loosened_configuration_warns(self) -> None:
        """Everything that is unfit for the open Internet has its own warning."""
        loosened = (
            "federation: {verify_certificates: false, allow_ip_literals: true, allow_private_addresses: true,"
            " peers: {a.example: {plaintext: true}}}\n"
            "registration: {enabled: true}\nrate_limits: {enabled: false}\n"
        )
        warnings = parse(MINIMAL + loosened).warnings()
        for name in (
            "federation.verify_certificates",
            "federation.allow_ip_literals",
            "federation.allow_private_addresses",
            "federation.peers",
            "registration.enabled",
            "rate_limits.enabled",
        ):
            self.assertEqual(len([warning for warning in warnings if name in warning]), 1, name)

    def test_rates(self) -> None:
        """A limit that is given replaces its default; the others keep theirs."""
        limits = parse(MINIMAL + "rate_limits: {login: {per_second: 2, burst: 3}}\n").rate_limits
        assert limits is not None
        self.assertEqual((limits.login.per_second, limits.login.burst), (2.0, 3))
        self.assertEqual(limits.registration.burst, 5)

    def test_notaries(self) -> None:
        """Names of servers, in their order; none unless they are given."""
        self.assertEqual(parse(MINIMAL).federation.notaries, ())
        config = parse(MINIMAL + "federation: {notaries: [b.example, 'a.example:8449']}\n")
        self.assertEqual(config.federation.notaries, ("b.example", "a.example:8449"))
        self.assertEqual(config.warnings(), ())

    def test_logs(self) -> None:
        """Levels, file and form."""
        logs = parse(MINIMAL + "log_config: {levels: {lmatrix.http: debug}, file: l.log, format: json}\n").log_config
        self.assertEqual(dict(logs.levels), {"lmatrix.http": "debug"})
        self.assertEqual(logs.file, Path("/srv/lm/l.log"))
        self.assertTrue(logs.json)

    def test_old_signing_keys(self) -> None:
        """A retired key has its public part and its time."""
        key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
        keys = parse(MINIMAL + f"old_signing_keys: {{'ed25519:a_1': {{key: {key}, expired_ts: 5}}}}\n").old_signing_keys
        self.assertEqual(keys["ed25519:a_1"].key, key)
        self.assertEqual(keys["ed25519:a_1"].expired_ts, 5)


class Refusals(SynchronousTestCase):
    def problem(self, content: str) -> str:
        error = self.assertRaises(ConfigError, parse, content)
        self.assertEqual(len(error.problems), 1, str(error))
        return str(error.problems[0])

    def plain_listener(self, **settings: str) -> str:
        lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
        without = MINIMAL.replace('    tls_certificate_path: "tls.crt"\n    tls_private_key_path: "tls.key"\n', "")
        return without.replace("  - port: 8448\n", "  - port: 8448\n    tls: false\n" + lines)

    def test_plain_federation_on_a_public_address(self) -> None:
        """Federation without TLS needs loopback, or a reverse proxy that is named as such."""
        problem = self.problem(self.plain_listener(bind_addresses="['127.0.0.1', '0.0.0.0']"))
        self.assertIn("listeners[0].tls", problem)
        self.assertIn("line 5", problem)
        self.assertIn("reverse proxy", problem)

    def test_plain_federation_on_loopback_or_behind_a_proxy(self) -> None:
        """Both ways of serving plain HTTP that are allowed."""
        for settings in (
            {"bind_addresses": "['127.0.0.1', '::1']"},
            {"bind_addresses": "['0.0.0.0']", "x_forwarded": "true"},
        ):
            (listener,) = parse(self.plain_listener(**settings)).listeners
            self.assertIsNone(listener.tls)

    def test_admin_on_a_public_address(self) -> None:
        """The admin API is served on loopback addresses, or with TLS; that a proxy stands before it is not enough."""

        def plain(**settings: str) -> str:
            return self.plain_listener(**settings).replace("federation, keys", "admin") + "admin_token_path: t\n"

        for settings in ({}, {"x_forwarded": "true"}):
            self.assertIn("listeners[0].resources", self.problem(plain(bind_addresses="['0.0.0.0']", **settings)))
        self.assertEqual(parse(plain()).admin_token_path, Path("/srv/lm/t"))
        public = MINIMAL.replace("[federation, keys]", "[federation, keys, admin]\n    bind_addresses: ['0.0.0.0']")
        self.assertTrue(parse(public + "admin_token_path: t\n").listeners[0].tls)

    def test_admin_without_a_token(self) -> None:
        """Whoever serves the admin API needs a token for it."""
        self.assertIn("admin_token_path", self.problem(MINIMAL.replace("[federation, keys]", "[keys, admin]")))

    def test_certificate_without_tls(self) -> None:
        """A certificate on a plain listener is a mistake, not something to ignore."""
        problem = self.problem(self.plain_listener(tls_certificate_path="x.crt"))
        self.assertIn("`tls` is false", problem)

    def test_tls_without_certificate(self) -> None:
        """TLS needs both files; each one that is missing is named."""
        problem = self.problem(MINIMAL.replace('    tls_certificate_path: "tls.crt"\n', ""))
        self.assertEqual(problem, "line 4: listeners[0].tls_certificate_path: is missing")

    def test_federation_without_keys(self) -> None:
        """Nobody could check the signatures of a server that does not serve its keys."""
        self.assertIn("`keys` is not", self.problem(MINIMAL.replace("[federation, keys]", "[federation]")))

    def test_same_port_twice(self) -> None:
        """Two listeners on one port can only be a mistake."""
        again = "  - {port: 8448, tls: false, resources: [client]}\n"
        self.assertIn("twice", self.problem(MINIMAL.replace("database:", again + "database:")))

    def test_ip_address_as_server_name(self) -> None:
        """An IP literal is refused unless federation allows them."""
        content = MINIMAL.replace('"example.org"', '"127.0.0.1:8448"')
        self.assertIn("allow_ip_literals", self.problem(content))
        allowed = parse(content + "federation: {allow_ip_literals: true}\n")
        self.assertEqual(allowed.server_name, "127.0.0.1:8448")

    def test_notaries(self) -> None:
        """A server is no notary for itself, nor twice; more than can be asked at once are too many."""
        for notaries, expected in (
            ("[example.org]", "names this server itself among its `notaries`"),
            ("[a.example, b.example, a.example]", "name a server twice"),
            (f"[{', '.join(f's{number}.example' for number in range(9))}]", "up to 8 are allowed"),
            ("[a b]", "expected a server name"),
            ("a.example", "expected a list of server names"),
        ):
            self.assertIn(expected, self.problem(f"{MINIMAL}federation: {{notaries: {notaries}}}\n"))

    def test_bad_values(self) -> None:
        """Each value outside its grammar is refused with the line and what was expected."""
        for old, new, expected in [
            ('"example.org"', '"exa mple"', "expected a server name"),
            ("port: 8448", "port: 84480", "expected a port number from 0 to 65535"),
            ("[federation, keys]", "[federaton, keys]", "did you mean federation?"),
            ("    resources", "    bind_addresses: [localhost]\n    resources", "expected an IP address"),
            ("database:", "database:\n  engine: mysql", "expected 'sqlite'"),
            ("database:", "default_room_version: '11'\ndatabase:", "expected one of I.1"),
            ("database:", "log_config: {level: loud}\ndatabase:", "expected one of debug"),
            ("database:", "federation: {peers: {'a b': {}}}\ndatabase:", "expected a server name"),
            ("database:", "federation: {allowed_address_ranges: [x]}\ndatabase:", "expected a range of IP addresses"),
            ("database:", "old_signing_keys: {'ed25519:1': {key: abc, expired_ts: 1}}\ndatabase:", "public key"),
            ("database:", "old_signing_keys: {rsa: {}}\ndatabase:", "expected a key ID"),
            ("database:", "rate_limits: {login: {burst: 0}}\ndatabase:", "expected a whole number from 1"),
        ]:
            self.assertIn(expected, self.problem(MINIMAL.replace(old, new, 1)), new)
