"""``org.lmatrix.head``: how far a room is held."""

from __future__ import annotations

from lmatrix.errors import NotFound
from tests.federation.resources.api_bench import EVENT, ORIGIN, ROOM, ApiTestCase

HEAD = f"/unstable/org.lmatrix.head/{ROOM}"


class HeadTests(ApiTestCase):
    """What the endpoint asks of the rooms, and answers."""

    def test_told(self) -> None:
        """The rooms' statement is the answer."""
        answer = self.ask("GET", HEAD)
        self.assertEqual((200, {"head": EVENT}), (answer.status, answer.json))
        self.assert_called("tell", ORIGIN, ROOM)

    def test_not_told(self) -> None:
        """Strangers, and who asks about no room, are refused."""
        self.assert_error(self.ask("GET", HEAD, origin=None), 401, "M_FORBIDDEN")
        self.assert_error(self.ask("GET", "/unstable/org.lmatrix.head/nonsense"), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)
        self.rooms.error = NotFound("no")
        self.assert_error(self.ask("GET", HEAD), 404, "M_NOT_FOUND")
