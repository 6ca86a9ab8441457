"""``version``."""

from __future__ import annotations

from lmatrix import __version__
from lmatrix.http.limits import RateLimiter
from tests.federation.resources.api_bench import ApiTestCase


class VersionTests(ApiTestCase):
    def test_for_everybody(self) -> None:
        """Whoever asks, signed or not, is told the program and its version, as often as it likes."""
        self.build(limiter=RateLimiter(1, 1, self.clock))
        for origin in (None, "north.example", None):
            answer = self.ask("GET", "/v1/version", origin=origin)
            self.assertEqual({"server": {"name": "lmatrix", "version": __version__}}, answer.json)
        self.assert_error(self.ask("POST", "/v1/version", b"{}"), 405, "M_UNRECOGNIZED")
