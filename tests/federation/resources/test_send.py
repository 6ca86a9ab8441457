"""``PUT /send/:txnId``: what the endpoint passes on."""

from __future__ import annotations

from tests.federation.resources.api_bench import ORIGIN, ApiTestCase


class SendTests(ApiTestCase):
    """Transactions."""

    def test_passed_on(self) -> None:
        """The origin, the decoded transaction ID and the body reach the rooms; their answer goes back byte for byte."""
        answer = self.ask("PUT", "/v2/send/a%2Fb%20c", b'{"edus":[{"type":"x"}], "pdus":[{"a":1}]}')
        self.assert_called("receive", ORIGIN, "a/b c", {"edus": [{"type": "x"}], "pdus": [{"a": 1}]})
        self.assertEqual((200, b'{"failed_pdus":{}}'), (answer.status, answer.body))
        self.assertEqual("application/json", answer.headers["content-type"])

    def test_content_type_is_not_asked_for(self) -> None:
        """A body is JSON whatever its ``Content-Type`` says."""
        answer = self.ask("PUT", "/v2/send/t", b'{"pdus":[]}', headers="Content-Type: text/plain\r\n")
        self.assertEqual(200, answer.status)
