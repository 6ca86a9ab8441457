"""Which requests are authenticated, and which are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from lmatrix import canonical_json
from lmatrix.crypto.keys import SigningKey, VerifyKey
from lmatrix.errors import Unauthenticated
from lmatrix.federation.authentication import MAX_HEADERS, Authenticator
from lmatrix.federation.xmatrix import XMatrix, format_authorization, signed_request_object
from lmatrix.http.messages import JsonRequest
from tests.federation.fakes import signing_key

URI = "/_matrix/federation/v2/send/a%2Fb?x=%21r%3Aa"
K1, K2 = signing_key("1", 1), signing_key("2", 2)


class FakeKeyring:
    """Knows the current keys of one server."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, VerifyKey]] = {"a.example": {key.key_id: key.public for key in (K1, K2)}}
        self.asked: list[tuple[str, set[str]]] = []

    async def current_keys(self, server: str, key_ids: Iterable[str]) -> Mapping[str, VerifyKey]:
        """Those that it knows."""
        self.asked.append((server, set(key_ids)))
        known = self.keys.get(server, {})
        return {key_id: known[key_id] for key_id in key_ids if key_id in known}


def header(
    key: SigningKey = K1,
    /,
    *,
    method: str = "PUT",
    uri: str = URI,
    origin: str = "a.example",
    destination: str = "us.example",
    content: dict[str, Any] | None = None,
    **said: str,
) -> str:
    """A header with a signature over these things; ``said`` changes what the header itself says."""
    message = canonical_json.encode(signed_request_object(method, uri, origin, destination, content))
    values = {"origin": origin, "destination": destination, "key": key.key_id, "sig": key.sign(message), **said}
    return format_authorization(XMatrix(**values))


CONTENT: dict[str, Any] = {"pdus": [{"b": 1, "a": "é"}], "edus": []}


class AuthenticatorTests(SynchronousTestCase):
    """Every rule of request authentication."""

    def setUp(self) -> None:
        self.keyring = FakeKeyring()
        self.heard: list[str] = []
        self.authenticator = Authenticator("us.example", self.keyring, on_heard=self.heard.append)

    def authenticating(
        self, *headers: str, content: dict[str, Any] | None = CONTENT, body: bytes | None = None, **changes: Any
    ) -> Deferred[str]:
        """Authenticate a request with these headers."""
        if body is None:
            body = b"" if content is None else canonical_json.encode(content)
        what = {"method": "PUT", "raw_uri": URI.encode(), "body": body, **changes}
        self.request = JsonRequest(headers=Headers({"Authorization": list(headers)}), **what)
        return Deferred.fromCoroutine(self.authenticator.authenticate(self.request, content))

    def assert_good(self, *headers: str, **request: Any) -> None:
        """It is authenticated as a.example; the request and the callback say so."""
        self.assertEqual(self.successResultOf(self.authenticating(*headers, **request)), "a.example")
        self.assertEqual(self.request.origin, "a.example")
        self.assertEqual(self.heard.pop(), "a.example")

    def assert_refused(self, *headers: str, **request: Any) -> str:
        """It is not, and nobody is told that the origin lives; returns why."""
        failure = self.failureResultOf(self.authenticating(*headers, **request), Unauthenticated)
        self.assertIsNone(self.request.origin)
        self.assertEqual(self.heard, [])
        return str(failure.value)

    # -- Good ---------------------------------------------------------------------------------------------------------

    def test_body(self) -> None:
        """A request with a body, whatever white space and order of keys it came with."""
        self.assert_good(header(content=CONTENT))
        self.assert_good(header(content=CONTENT), body=b'{"edus": [],\n "pdus": [{"b": 1.0, "a": "\\u00e9"}]}')

    def test_empty_body(self) -> None:
        """An empty object as the body is signed like any other."""
        self.assert_good(header(content={}), content={})

    def test_no_body(self) -> None:
        """A request without a body may be signed with an empty content or without content."""
        for content in ({}, None):
            self.assert_good(header(method="GET", content=content), content=None, method="GET")

    def test_several_keys(self) -> None:
        """One header for each key of the origin; the keys are asked for together."""
        self.assert_good(header(K1, content=CONTENT), header(K2, content=CONTENT))
        self.assertEqual(self.keyring.asked, [("a.example", {"ed25519:1", "ed25519:2"})])
        # Two headers may even be signed in the two different forms.
        self.assert_good(header(K1, method="GET", content={}), header(K2, method="GET"), content=None, method="GET")

    # -- Headers ------------------------------------------------------------------------------------------------------

    def test_no_header(self) -> None:
        """At least one has to be there."""
        self.assert_refused()

    def test_every_header_counts(self) -> None:
        """One bad header among good ones spoils the request, in whichever order they are."""
        good = header(K1, content=CONTENT)
        for bad in (
            "Bearer token",
            "X-Matrix",
            header(K2, content={}),
            header(signing_key("unknown", 3), content=CONTENT),
            header(K2, content=CONTENT, destination="them.example"),
            header(K2, content=CONTENT, origin="b.example"),
            good,
        ):
            with self.subTest(bad):
                self.assert_refused(good, bad)
                self.assert_refused(bad, good)

    def test_too_many_headers(self) -> None:
        """Their number is bounded before anything is done about them."""
        keys = [signing_key(f"n{number}", number) for number in range(20, 20 + MAX_HEADERS + 1)]
        self.keyring.keys["a.example"] = {key.key_id: key.public for key in keys}
        self.assert_good(*(header(key, content=CONTENT) for key in keys[:MAX_HEADERS]))
        self.assert_refused(*(header(key, content=CONTENT) for key in keys))

    def test_destination(self) -> None:
        """A request for another server is refused, though its signature may be good, and without asking for keys."""
        for destination in ("them.example", "US.example", "us.example:8448"):
            self.assert_refused(header(content=CONTENT, destination=destination))
        self.assert_refused(header(content=CONTENT).replace('destination="us.example",', ""))
        self.assertEqual(self.keyring.asked, [])

    def test_origin(self) -> None:
        """The origin must be a server's name, and no address; keys are not even asked for otherwise."""
        for origin in ("a b", "a.example/x", "127.0.0.1", "[::1]:8448", "127.1", "@u:a.example"):
            self.keyring.keys[origin] = {K1.key_id: K1.public}
            self.assert_refused(header(content=CONTENT, origin=origin))
        self.assertEqual(self.keyring.asked, [])

    def test_ip_literals_where_allowed(self) -> None:
        """In development a server may be named by its address."""
        self.authenticator = Authenticator("us.example", self.keyring, allow_ip_literals=True)
        self.keyring.keys["127.0.0.1:1"] = {K1.key_id: K1.public}
        authenticating = self.authenticating(header(content=CONTENT, origin="127.0.0.1:1"))
        self.assertEqual(self.successResultOf(authenticating), "127.0.0.1:1")

    def test_key_id(self) -> None:
        """Other algorithms and malformed key IDs are refused without asking for keys."""
        for key in ("rsa:1", "1", "ed25519:", "ed25519:a b"):
            self.assert_refused(header(content=CONTENT, key=key))
        self.assertEqual(self.keyring.asked, [])

    # -- Signatures ---------------------------------------------------------------------------------------------------

    def test_unknown_key(self) -> None:
        """A key that cannot be had authenticates nothing, and the refusal says which one it is."""
        reason = self.assert_refused(header(signing_key("other", 3), content=CONTENT))
        self.assertIn("ed25519:other", reason)
        self.keyring.keys.clear()
        self.assert_refused(header(content=CONTENT))

    def test_everything_is_signed(self) -> None:
        """A signature over another method, target, origin, destination or body does not verify."""
        self.assert_refused(header(content=CONTENT, method="POST"))
        self.assert_refused(header(content=CONTENT, uri="/_matrix/federation/v2/send/a/b?x=!r:a"))
        self.assert_refused(header(content=CONTENT, uri=URI.partition("?")[0]))
        self.assert_refused(header(content=CONTENT, uri=URI.replace("%3A", "%3a")))
        self.assert_refused(header(content={**CONTENT, "more": 1}))
        self.assert_refused(header(content={}))
        self.assert_refused(header(content=None))
        self.keyring.keys["b.example"] = self.keyring.keys["a.example"]
        self.assert_refused(header(content=CONTENT, origin="a.example").replace("a.example", "b.example"))

    def test_bad_signatures(self) -> None:
        """Another key's signature, and what is none at all."""
        self.assert_refused(header(K2, content=CONTENT, key=K1.key_id))
        for sig in ("AAAA", "!", "=", "A" * 86):
            self.assert_refused(header(content=CONTENT, sig=sig))

    def test_no_body_is_not_any_body(self) -> None:
        """For a request without a body, a signature over a body that is not empty is none."""
        self.assert_refused(header(method="GET", content={"x": 1}), content=None, method="GET")

    def test_target_that_is_no_text(self) -> None:
        """A target that cannot stand in JSON cannot have been signed."""
        self.assert_refused(header(content=CONTENT), raw_uri=b"/\xff")
