"""``POST /invite/:txnId``: what the endpoint passes on."""

from __future__ import annotations

from tests.federation.resources.api_bench import ORIGIN, ApiTestCase


class InviteTests(ApiTestCase):
    """Invites."""

    def test_passed_on(self) -> None:
        """The origin, the transaction ID and the body reach the rooms; their answer goes back."""
        body = b'{"event":{"type":"m.room.member"},"invite_room_state":[],"room_version":"I.1"}'
        answer = self.ask("POST", "/v3/invite/t1", body)
        event = {"event": {"type": "m.room.member"}, "invite_room_state": [], "room_version": "I.1"}
        self.assert_called("invite", ORIGIN, "t1", event)
        self.assertEqual(b'{"pdu":{}}', answer.body)
