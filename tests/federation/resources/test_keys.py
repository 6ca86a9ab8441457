"""``GET /_matrix/key/v2/server``."""

from __future__ import annotations

from tests.federation.resources.api_bench import ApiTestCase

PATH = "/_matrix/key/v2/server"


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
