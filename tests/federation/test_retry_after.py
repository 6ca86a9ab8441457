"""How long a peer asks to be left alone."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from lmatrix.federation.retry_after import retry_after_ms

NOW = 1_700_000_000.0
"""Tue, 14 Nov 2023 22:13:20 GMT."""


class RetryAfterTests(SynchronousTestCase):
    """Both forms of RFC 9110, and what is neither."""

    def test_seconds_and_dates(self) -> None:
        """Seconds count from now; so does a date, which may be past."""
        for said, expected in (
            ("0", 0),
            ("120", 120_000),
            (" 7 ", 7_000),
            ("Tue, 14 Nov 2023 22:14:20 GMT", 60_000),
            ("Tue, 14 Nov 2023 22:14:20 -0000", 60_000),
            ("Tue, 14 Nov 2023 22:12:20 GMT", 0),
        ):
            self.assertEqual(retry_after_ms(Headers({"Retry-After": [said]}), NOW), expected, said)

    def test_what_makes_no_sense_says_nothing(self) -> None:
        """Then the error object may say it."""
        for said in ("", "soon", "-1", "1.5", "9" * 10, "\u0663"):
            self.assertIsNone(retry_after_ms(Headers({"Retry-After": [said]}), NOW), said)
        self.assertIsNone(retry_after_ms(Headers(), NOW))
