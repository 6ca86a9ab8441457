"""The endpoints under ``/_matrix/key``."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from lmatrix.canonical_json import MAX_SAFE_INTEGER
from lmatrix.errors import StorageFailed
from lmatrix.federation.notary_choice import KeyQuery
from lmatrix.federation.resources.keys import MAX_SERVERS
from tests.federation.resources.api_bench import JSON_THAT_IS_NO_OBJECT, NOT_JSON, UNSAFE_JSON, ApiTestCase

PATH = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
NAME = "them.example"


class KeysTests(ApiTestCase):
    """Our keys."""

    def test_anybody(self) -> None:
        """Whoever asks gets the signed object, without saying who it is, however often."""
        for _ in range(100):
            answer = self.ask("GET", PATH, origin=None)
            self.assertEqual((200, b'{"server_name":"hub.example"}'), (answer.status, answer.body))

    def test_other_methods_and_paths(self) -> None:
        """Nothing else is there."""
        self.assert_error(self.ask("POST", PATH, b"{}", origin=None), 405, "M_UNRECOGNIZED")
        self.assert_error(self.ask("GET", PATH + "/", origin=None), 404, "M_UNRECOGNIZED")


class QueryOneTests(ApiTestCase):
    """One server's keys."""

    def test_good(self) -> None:
        """Name and time arrive as they were meant; nobody has to say who it is, and what they say is ignored."""
        for target, expected in (
            (NAME, KeyQuery(NAME)),
            ("them.example:8449", KeyQuery("them.example:8449")),
            ("them.example%3A8449", KeyQuery("them.example:8449")),
            ("%5B%3A%3A1%5D", KeyQuery("[::1]")),
            (f"{NAME}?minimum_valid_until_ts=0", KeyQuery(NAME, minimum=0)),
            (f"{NAME}?minimum_valid_until_ts=1700000000000", KeyQuery(NAME, minimum=1_700_000_000_000)),
            (f"{NAME}?minimum_valid_until_ts={MAX_SAFE_INTEGER}", KeyQuery(NAME, minimum=MAX_SAFE_INTEGER)),
            (f"{NAME}?something=else", KeyQuery(NAME)),
        ):
            for origin in (None, "X-Matrix nonsense"):
                answer = self.ask("GET", f"{QUERY}/{target}", origin=origin)
                self.assertEqual((200, b'{"server_keys":[]}'), (answer.status, answer.body))
                self.assert_called("query", expected)

    def test_bad(self) -> None:
        """What is no server name, or no time, is told so."""
        for target in (
            "them_example",
            "%40them.example",
            "them.example%3A",
            "them.example:99999",
            quote("thém.example"),
            "a" * 300,
            f"{NAME}?minimum_valid_until_ts=",
            f"{NAME}?minimum_valid_until_ts=soon",
            f"{NAME}?minimum_valid_until_ts=-1",
            f"{NAME}?minimum_valid_until_ts=1.5",
            f"{NAME}?minimum_valid_until_ts=1e3",
            f"{NAME}?minimum_valid_until_ts={'9' * 40}",
            f"{NAME}?minimum_valid_until_ts=1&minimum_valid_until_ts=2",
        ):
            with self.subTest(target):
                self.assert_error(self.ask("GET", f"{QUERY}/{target}", origin=None), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)

    def test_other_methods_and_paths(self) -> None:
        """A name is one segment, and not empty."""
        self.assert_error(self.ask("GET", f"{QUERY}/", origin=None), 404, "M_UNRECOGNIZED")
        self.assert_error(self.ask("GET", f"{QUERY}/a/b", origin=None), 404, "M_UNRECOGNIZED")
        self.assert_error(self.ask("PUT", f"{QUERY}/{NAME}", origin=None), 405, "M_UNRECOGNIZED")
        self.assert_error(self.ask("GET", QUERY, origin=None), 405, "M_UNRECOGNIZED")

    def test_our_fault(self) -> None:
        """That our database fails is 500, and says nothing of it."""
        self.rooms.error = StorageFailed("the disk is full")
        answer = self.ask("GET", f"{QUERY}/{NAME}", origin=None)
        self.assert_error(answer, 500, "M_UNKNOWN")
        self.assertNotIn(b"disk", answer.body)


class QueryManyTests(ApiTestCase):
    """Many servers' keys."""

    def post(self, server_keys: object) -> Any:
        return self.ask("POST", QUERY, json.dumps({"server_keys": server_keys}).encode(), origin=None)

    def test_good(self) -> None:
        """Servers, keys and times arrive as they were meant; what is not known is ignored."""
        time = {"minimum_valid_until_ts": 5}
        for asked, expected in (
            ({}, []),
            ({NAME: {}}, [KeyQuery(NAME)]),
            ({NAME: {"ed25519:0": {}}}, [KeyQuery(NAME, {"ed25519:0": None})]),
            ({NAME: {"ed25519:0": time}}, [KeyQuery(NAME, {"ed25519:0": 5})]),
            (
                {NAME: {"ed25519:0": time, "ed25519:1": {"x": 1}}, "b.example:1": {"rsa:x": {}}},
                [KeyQuery(NAME, {"ed25519:0": 5, "ed25519:1": None}), KeyQuery("b.example:1", {"rsa:x": None})],
            ),
            ({f"s{number}.example": {} for number in range(MAX_SERVERS)}, None),
        ):
            with self.subTest(str(asked)[:80]):
                answer = self.post(asked)
                self.assertEqual((200, b'{"server_keys":[]}'), (answer.status, answer.body))
                if expected is None:
                    self.assertEqual(len(self.rooms.calls.pop()), 1 + MAX_SERVERS)
                else:
                    self.assert_called("query", *expected)

    def test_bad(self) -> None:
        """Everything of the wrong type, malformed, or too many is told so, and nobody is asked."""
        bad: tuple[Any, ...] = (
            None,
            [],
            "x",
            5,
            {NAME: None},
            {NAME: []},
            {NAME: "ed25519:0"},
            {NAME: {"ed25519:0": None}},
            {NAME: {"ed25519:0": 5}},
            {NAME: {"ed25519:0": []}},
            {NAME: {"ed25519": {}}},
            {NAME: {":0": {}}},
            {NAME: {"ed25519:": {}}},
            {NAME: {"": {}}},
            {NAME: {"ed25519:" + "x" * 300: {}}},
            {NAME: {"ed25519:0": {"minimum_valid_until_ts": "5"}}},
            {NAME: {"ed25519:0": {"minimum_valid_until_ts": -1}}},
            {NAME: {"ed25519:0": {"minimum_valid_until_ts": 1.5}}},
            {NAME: {"ed25519:0": {"minimum_valid_until_ts": True}}},
            {NAME: {"ed25519:0": {"minimum_valid_until_ts": None}}},
            {"not a name": {}},
            {"": {}},
            {"them.example:0": {}},
            {f"s{number}.example": {} for number in range(MAX_SERVERS + 1)},
        )
        for asked in bad:
            with self.subTest(str(asked)[:80]):
                self.assert_error(self.post(asked), 400, "M_BAD_JSON")
        self.assert_error(self.ask("POST", QUERY, b"{}", origin=None), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)

    def test_bodies(self) -> None:
        """What is not JSON, not safe, no object, or too long is refused as such."""
        for body in NOT_JSON:
            self.assert_error(self.ask("POST", QUERY, body, origin=None), 400, "M_NOT_JSON")
        for body in (*JSON_THAT_IS_NO_OBJECT, *UNSAFE_JSON):
            self.assert_error(self.ask("POST", QUERY, body, origin=None), 400, "M_BAD_JSON")
        long = b'{"server_keys":{},"x":"' + b"x" * 100_000 + b'"}'
        self.assert_error(self.ask("POST", QUERY, long, origin=None), 413, "M_TOO_LARGE")
        self.assertEqual([], self.rooms.calls)

    def test_other_paths(self) -> None:
        """There is one place for it."""
        self.assert_error(self.ask("POST", f"{QUERY}/{NAME}", b"{}", origin=None), 405, "M_UNRECOGNIZED")
        self.assert_error(self.ask("POST", f"{QUERY}/", b"{}", origin=None), 404, "M_UNRECOGNIZED")
