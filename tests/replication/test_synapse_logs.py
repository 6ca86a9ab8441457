"""Our log lines among those of a program that uses the standard library's logging."""

from __future__ import annotations

import logging

from twisted.logger import Logger, STDLibLogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.replication.synapse import logs


class LogsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[method-assign]
        root = logging.getLogger()
        root.addHandler(handler)
        self.addCleanup(root.removeHandler, handler)
        level = root.level
        root.setLevel(logging.INFO)
        self.addCleanup(root.setLevel, level)
        synapses = STDLibLogObserver()
        globalLogPublisher.addObserver(synapses)
        self.addCleanup(globalLogPublisher.removeObserver, synapses)
        self.addCleanup(logs.uninstall)
        logs.install()
        logs.install()

    def lines(self) -> list[tuple[str, int, str]]:
        return [(record.name, record.levelno, record.getMessage()) for record in self.records]

    def test_ours_once_under_our_name(self) -> None:
        """A line of ours appears once, under its own logger; the others stay where they were."""
        Logger("lmatrix.rooms").warn("{room_id}: 100% {what}", room_id="!r", what="odd")
        Logger("twisted.web").info("somebody else's")
        Logger("lmatrixish").info("not ours either")
        self.assertEqual(
            [
                ("lmatrix.rooms", logging.WARNING, "!r: 100% odd"),
                ("twisted", logging.INFO, "somebody else's"),
                ("twisted", logging.INFO, "not ours either"),
            ],
            self.lines(),
        )

    def test_levels(self) -> None:
        """The level of our loggers is the log configuration's to choose."""
        log = Logger("lmatrix.federation")
        log.debug("too much")
        logger = logging.getLogger("lmatrix.federation")
        logger.setLevel(logging.DEBUG)
        self.addCleanup(logger.setLevel, logging.NOTSET)
        log.debug("wanted")
        self.assertEqual([("lmatrix.federation", logging.DEBUG, "wanted")], self.lines())

    def test_failures(self) -> None:
        """A failure comes with its traceback."""
        try:
            raise KeyError("x")
        except KeyError:
            Logger("lmatrix.rooms").failure("it broke", failure=Failure())
        self.assertEqual([("lmatrix.rooms", logging.CRITICAL, "it broke")], self.lines())
        self.assertIs(KeyError, self.records[0].exc_info[0])  # type: ignore[index]
        self.flushLoggedErrors(KeyError)
