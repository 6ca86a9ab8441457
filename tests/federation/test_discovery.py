"""The steps from a server name to a route: each outcome of the I-D's "Resolving Server Names"."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerUnreachable
from lmatrix.federation.discovery import (
    AskService,
    AskWellKnown,
    Resolved,
    Route,
    ServiceRecord,
    Target,
    after_service,
    after_well_known,
    begin,
    plaintext_route,
)


def asked(host: str = "example.org") -> AskWellKnown:
    """The step that asks for a host's delegation."""
    step = begin(host, allow_ip_literals=False)
    assert isinstance(step, AskWellKnown)
    return step


def asked_service(host: str, delegated: str | None = None) -> AskService:
    """The step that asks for SRV records."""
    step = after_well_known(asked(host), delegated)
    assert isinstance(step, AskService)
    return step


class StepTests(SynchronousTestCase):
    """Every edge of the machine."""

    def test_1_explicit_port(self) -> None:
        """1: host and port as they are; the certificate is without the port, the Host header with it."""
        self.assertEqual(
            begin("example.org:1234", allow_ip_literals=False),
            Resolved(Route("example.org", "example.org:1234", (Target("example.org", 1234),))),
        )

    def test_2_asks_for_well_known(self) -> None:
        """2: a name without a port is first looked up in well-known."""
        self.assertEqual(
            begin("example.org", allow_ip_literals=False), AskWellKnown("example.org", "example.org", False)
        )

    def test_2_1_delegated_with_port(self) -> None:
        """2.1: everything is the delegated name's."""
        self.assertEqual(
            after_well_known(asked(), "lm.example.com:444"),
            Resolved(Route("lm.example.com", "lm.example.com:444", (Target("lm.example.com", 444),))),
        )

    def test_2_3_delegated_with_srv(self) -> None:
        """2.3: connect where the records say, with certificate and Host header of the delegated name."""
        step = asked_service("example.org", "lm.example.com")
        self.assertEqual(step.service_name, "_matrix._tcp.lm.example.com")
        records = [ServiceRecord(0, 0, 5000, "one.example.net"), ServiceRecord(1, 0, 5001, "two.example.net")]
        targets = (Target("one.example.net", 5000), Target("two.example.net", 5001))
        self.assertEqual(after_service(step, records), Resolved(Route("lm.example.com", "lm.example.com", targets)))

    def test_2_4_delegated_without_srv(self) -> None:
        """2.4: the delegated name at port 8448."""
        self.assertEqual(
            after_service(asked_service("example.org", "lm.example.com"), []),
            Resolved(Route("lm.example.com", "lm.example.com", (Target("lm.example.com", 8448),))),
        )

    def test_3_srv(self) -> None:
        """3: without delegation, connect where the records say, with certificate and Host header of the name itself."""
        step = asked_service("example.org")
        self.assertEqual(step.service_name, "_matrix._tcp.example.org")
        self.assertEqual(
            after_service(step, [ServiceRecord(0, 0, 443, "h.example.net")]),
            Resolved(Route("example.org", "example.org", (Target("h.example.net", 443),))),
        )

    def test_4_nothing_at_all(self) -> None:
        """4: the name itself at port 8448."""
        self.assertEqual(
            after_service(asked_service("example.org"), []),
            Resolved(Route("example.org", "example.org", (Target("example.org", 8448),))),
        )

    def test_delegation_to_an_improper_name_is_no_delegation(self) -> None:
        """Names outside the grammar and IP literals in ``m.server`` count as an invalid answer."""
        for delegated in ("", "exa mple.org", "example.org:99999", "127.0.0.1", "10.0.0.1:8448", "[::1]:8448", "a/b"):
            self.assertEqual(
                asked_service("example.org", delegated), AskService("example.org", "example.org"), delegated
            )

    def test_service_that_is_not_offered(self) -> None:
        """A single record with the root as its target says that there is no such service (RFC 2782)."""
        self.assertRaises(PeerUnreachable, after_service, asked_service("example.org"), [ServiceRecord(0, 0, 0, "")])

    def test_unusable_records_are_passed_over(self) -> None:
        """An SRV target is a name, never an address, and no name with a port; port 0 does not exist."""
        step = asked_service("example.org")
        bad = [
            ServiceRecord(0, 0, 8448, "127.0.0.1"),
            ServiceRecord(0, 0, 8448, "a.example:1"),
            ServiceRecord(0, 0, 0, "a.example"),
            ServiceRecord(0, 0, 8448, "not a name"),
        ]
        resolved = after_service(step, [*bad, ServiceRecord(1, 0, 8448, "good.example")])
        self.assertEqual(resolved.route.targets, (Target("good.example", 8448),))
        self.assertRaises(PeerUnreachable, after_service, step, bad)


class NameTests(SynchronousTestCase):
    """Names that are not to be contacted."""

    def test_improper_names(self) -> None:
        """A name outside the grammar is uncontactable."""
        for name in (
            "",
            ":8448",
            "exa mple.org",
            "example.org:0",
            "example.org:",
            "-a.example",
            "a/b",
            "user@a.example",
        ):
            with self.subTest(name):
                self.assertRaises(PeerUnreachable, begin, name, allow_ip_literals=True)

    def test_ip_literals_are_refused(self) -> None:
        """Addresses in all the spellings that resolvers understand, with and without a port."""
        for name in ("127.0.0.1", "127.0.0.1:8448", "[::1]", "[::1]:8448", "127.1", "0x7f.1", "2130706433"):
            with self.subTest(name):
                self.assertRaises(PeerUnreachable, begin, name, allow_ip_literals=False)

    def test_ip_literals_where_allowed(self) -> None:
        """They need no look-up: the port is theirs or 8448, the certificate is for the bare address."""
        self.assertEqual(
            begin("127.0.0.1", allow_ip_literals=True),
            Resolved(Route("127.0.0.1", "127.0.0.1", (Target("127.0.0.1", 8448),))),
        )
        self.assertEqual(
            begin("[::1]:99", allow_ip_literals=True), Resolved(Route("::1", "[::1]:99", (Target("::1", 99),)))
        )

    def test_plaintext(self) -> None:
        """A peer without TLS is its own address, and improper names are refused for it too."""
        self.assertEqual(
            plaintext_route("hub.internal", allow_ip_literals=False),
            Route("hub.internal", "hub.internal", (Target("hub.internal", 8448),), plaintext=True),
        )
        self.assertRaises(PeerUnreachable, plaintext_route, "127.0.0.1:80", allow_ip_literals=False)
