"""``org.lmatrix.hub``: offers and requests."""

from __future__ import annotations

from lmatrix.canonical_json import encode
from lmatrix.errors import Forbidden, WrongServer
from tests.federation.resources.api_bench import BOB, EVENT, ORIGIN, ROOM, ApiTestCase

OFFER = "/unstable/org.lmatrix.hub/offer/t1"
REQUEST = "/unstable/org.lmatrix.hub/request/t1"


class HubTransferTests(ApiTestCase):
    """What the two endpoints ask of the rooms, and answer."""

    def test_offer(self) -> None:
        """An offer is answered with the LPDU that the candidate signed."""
        offer = {"room_id": ROOM, "room_version": "I.1", "head": EVENT, "valid_until_ts": 5}
        answer = self.ask("POST", OFFER, encode(offer))
        self.assertEqual(200, answer.status)
        self.assertEqual(("m.room.hub", BOB), (answer.json["event"]["type"], answer.json["event"]["sender"]))
        self.assertEqual([("offered", ORIGIN, offer)], self.rooms.calls)

    def test_request(self) -> None:
        """A request is answered with the event that moved the room."""
        answer = self.ask("POST", REQUEST, encode({"room_id": ROOM, "user_id": BOB}))
        self.assertEqual((200, {"event_id": EVENT}), (answer.status, answer.json))
        self.assertEqual([("requested", ORIGIN, ROOM, BOB)], self.rooms.calls)

    def test_what_is_wrong_is_told(self) -> None:
        """Refusals have the I-D's codes; what has not the right shape asks nothing of the rooms."""
        for body in (b"{}", b'{"room_id":1,"user_id":"x"}'):
            answer = self.ask("POST", REQUEST, body)
            self.assertEqual((400, "M_BAD_JSON"), (answer.status, answer.json["errcode"]))
        for path in (OFFER, REQUEST):
            self.assertEqual(401, self.ask("POST", path, b"{}", origin=None).status)
            self.assertEqual(405, self.ask("PUT", path, b"{}").status)
        self.assertEqual([], self.rooms.calls)
        body = encode({"room_id": ROOM, "user_id": BOB})
        for error, status, errcode in (
            (Forbidden("no"), 403, "M_FORBIDDEN"),
            (WrongServer(ROOM, "x"), 400, "M_WRONG_SERVER"),
        ):
            self.rooms.error = error
            for path in (OFFER, REQUEST):
                answer = self.ask("POST", path, body)
                self.assertEqual((status, errcode), (answer.status, answer.json["errcode"]))
