"""Identifiers: the I-D's grammars, limits, and taking identifiers apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier

VECTORS = json.loads((Path(__file__).parent / "vectors" / "identifiers.json").read_text(encoding="utf-8"))

CHECKS: dict[str, Callable[[object], str]] = {
    "server_name": ids.server_name,
    "user_id": ids.user_id,
    "room_id": ids.room_id,
    "room_alias": ids.room_alias,
    "event_id": ids.event_id,
    "room_version_id": ids.room_version_id,
    "device_id": ids.device_id,
    "key_id": ids.key_id,
}

LABELS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,6}[A-Za-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)
LOCALPARTS = st.from_regex(r"[0-9a-z._=/+-]{1,20}", fullmatch=True)


class GrammarTests(SynchronousTestCase):
    """Every kind of identifier against the lists of good and bad ones."""

    def test_valid(self) -> None:
        """A good identifier comes back as it is."""
        for kind, check in CHECKS.items():
            for value in VECTORS[kind]["valid"]:
                with self.subTest(kind=kind, value=value):
                    self.assertEqual(check(value), value)

    def test_invalid(self) -> None:
        """A bad identifier is refused, and the error says what was refused and as what."""
        for kind, check in CHECKS.items():
            for value in VECTORS[kind]["invalid"]:
                with self.subTest(kind=kind, value=value):
                    error = self.assertRaises(InvalidIdentifier, check, value)
                    self.assertIsInstance(error.kind, str)
                    self.assertLess(len(str(error)), 300)

    def test_not_a_string(self) -> None:
        """Anything that is no string is refused as such."""
        for check in CHECKS.values():
            for value in (None, 1, True, b"@a:b", ["@a:b"], {"a": 1}):
                error = self.assertRaises(InvalidIdentifier, check, value)
                self.assertEqual((error.value, error.reason), (value, "not a string"))

    def test_hostname_limit(self) -> None:
        """A host name has up to 255 bytes; the port does not count."""
        host = ".".join(["a" * 63] * 4)
        self.assertEqual(len(host), 255)
        self.assertEqual(ids.server_name(host), host)
        self.assertEqual(ids.server_name(host + ":8448"), host + ":8448")
        for longer in (host + ".a", "a." + host + ":8448"):
            self.assertRaises(InvalidIdentifier, ids.server_name, longer)

    def test_hostile_length(self) -> None:
        """Very long input is refused at once: no pattern takes more than linear time."""
        for text in (
            "a" * 500_000,
            "a." * 250_000,
            "a-" * 250_000,
            "@" + "a" * 500_000,
            "!a:" + "a-" * 250_000,
            "[" * 500_000,
        ):
            for check in CHECKS.values():
                self.assertRaises(InvalidIdentifier, check, text)


class PartsTests(SynchronousTestCase):
    """Taking checked identifiers apart."""

    def test_ip_literal(self) -> None:
        """IP addresses, and host names that resolvers read as such, are told from other host names."""
        for name in VECTORS["ip_literal"]["valid"]:
            with self.subTest(name):
                self.assertTrue(ids.is_ip_literal(ids.server_name(name)))
        for name in VECTORS["ip_literal"]["invalid"]:
            with self.subTest(name):
                self.assertFalse(ids.is_ip_literal(ids.server_name(name)))

    def test_split_ipv6(self) -> None:
        """An IPv6 literal loses its brackets, and its own colons are no port."""
        self.assertEqual(ids.split_host_port("[2001:db8::7]"), ("2001:db8::7", None))
        self.assertEqual(ids.split_host_port("[2001:db8::7]:443"), ("2001:db8::7", 443))

    def test_no_parts(self) -> None:
        """What has no server or no localpart is refused, and not guessed at."""
        self.assertRaises(InvalidIdentifier, ids.server_of, "$abc")
        for value in ("!abc:example.org", "@abc", ""):
            self.assertRaises(InvalidIdentifier, ids.localpart_of, value)

    @settings(max_examples=100, deadline=None)
    @given(LOCALPARTS, HOSTS, st.none() | PORTS)
    def test_put_together_and_taken_apart(self, localpart: str, host: str, port: int | None) -> None:
        """Whatever is put together by the grammar is accepted and comes apart into the same parts."""
        name = host if port is None else f"{host}:{port}"
        user = ids.user_id(f"@{localpart}:{ids.server_name(name)}")
        self.assertEqual((ids.localpart_of(user), ids.server_of(user)), (localpart, name))
        self.assertEqual(ids.split_host_port(name), (host, port))
        self.assertEqual(ids.server_of(ids.room_id(f"!abc:{name}")), name)

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.one_of(st.sampled_from("@!$:.[]-_/ azAZ09\n"), st.characters()), max_size=20))
    def test_any_text(self, text: str) -> None:
        """Any text at all is either returned or refused with our error, and what is accepted is short ASCII."""
        for check in CHECKS.values():
            try:
                self.assertTrue(check(text).isascii())
            except InvalidIdentifier:
                continue
