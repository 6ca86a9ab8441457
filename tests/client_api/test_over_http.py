"""The client API behind the real HTTP site: what only shows there."""

from __future__ import annotations

import json

from lmatrix.client_api.routes import client_routes
from lmatrix.http.router import Router
from lmatrix.http.site import ApiSite
from tests.client_api.harness import ClientTestCase, User, enc
from tests.http.memory_http import Wire


class OverHttpTests(ClientTestCase):
    """One connection to the hub."""

    def setUp(self) -> None:
        super().setUp()
        clock = self.network.clock
        self.wire = Wire(ApiSite(Router([client_routes(self.hub.parts)], clock=clock), reactor=clock))
        self.room_id = self.alice.create_room()

    def send(self, user: User, method: str, path: str, body: object = None) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        self.wire.request(method, f"/_matrix/client/v3{path}", raw, f"Authorization: Bearer {user.token}\r\n")

    def test_a_message(self) -> None:
        """Encoded path segments arrive as meant, also with a slash at the end; browsers may read the answer."""
        self.send(self.alice, "PUT", f"/rooms/{enc(self.room_id)}/state/m.room.topic/", {"topic": "é"})
        self.assertEqual(self.wire.answer().status, 200)
        self.send(self.alice, "GET", f"/rooms/{enc(self.room_id)}/state/m.room.topic")
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json), (200, {"topic": "é"}))
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")
        self.send(self.alice, "GET", "/pushrules/")
        self.assertEqual(self.wire.answer().status, 200)

    def test_preflight(self) -> None:
        """A browser may ask first."""
        self.wire.request("OPTIONS", "/_matrix/client/v3/sync")
        self.assertEqual(self.wire.answer().status, 204)

    def test_hanging_up_ends_a_long_poll(self) -> None:
        """A client that goes away while it waits leaves nothing behind."""
        since = self.alice.sync()["next_batch"]
        self.send(self.alice, "GET", f"/sync?timeout=30000&since={since}")
        self.assertEqual((self.wire.answers(), self.hub.notifier.listening), ([], 1))
        self.wire.hang_up()
        self.assertEqual(self.hub.notifier.listening, 0)

    def test_a_long_poll_is_answered(self) -> None:
        """And one that stays gets its answer."""
        since = self.alice.sync()["next_batch"]
        self.send(self.alice, "GET", f"/sync?timeout=30000&since={since}")
        self.alice.say(self.room_id, "news")
        self.assertIn(self.room_id, self.wire.answer().json["rooms"]["join"])

    def test_too_large(self) -> None:
        """A body beyond its endpoint's limit is 413, with the API's own error object."""
        self.wire.request("POST", "/_matrix/client/v3/login", b" " * 200_000)
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json["errcode"]), (413, "M_TOO_LARGE"))
