"""Work that nobody waits for, and what is heard of it when it fails."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.devices.background import in_background
from lmatrix.errors import ShuttingDown, StorageFailed


class BackgroundTests(SynchronousTestCase):
    def run_and_log(self, error: Exception | None) -> list[tuple[LogLevel, str]]:
        """What is logged of a work that ends so."""
        events: list[tuple[LogLevel, str]] = []
        log = Logger(observer=lambda event: events.append((event["log_level"], event["otherwise"])))
        turn: Deferred[None] = Deferred()

        async def work() -> None:
            await turn
            if error is not None:
                raise error

        in_background(work(), log, "nothing comes of it")
        self.assertEqual(events, [])
        turn.callback(None)
        return events

    def test_what_is_told(self) -> None:
        """Success and the server's own end are not told; an expected failure is a warning, any other a traceback."""
        self.assertEqual(self.run_and_log(None), [])
        self.assertEqual(self.run_and_log(ShuttingDown("x")), [])
        self.assertEqual(self.run_and_log(StorageFailed("x")), [(LogLevel.warn, "nothing comes of it")])
        self.assertEqual(self.run_and_log(ZeroDivisionError()), [(LogLevel.critical, "nothing comes of it")])
