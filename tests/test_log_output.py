"""Log lines: what is filtered, and that one event is one line."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config.logs import LogConfig
from lmatrix.log_output import log_observer


class Output(SynchronousTestCase):
    def logger(
        self, namespace: str, *, as_json: bool, level: str = "info", levels: Mapping[str, str] | None = None
    ) -> Logger:
        """A logger that writes to ``self.stream`` only."""
        self.stream = io.StringIO()
        config = LogConfig(level=level, levels=levels or {}, file=None, json=as_json)
        return Logger(namespace=namespace, observer=log_observer(config, self.stream))

    def test_levels(self) -> None:
        """An event below its namespace's level is not written; the nearest namespace decides."""
        for namespace, shown in [("lmatrix.federation.client", True), ("lmatrix.http", False), ("other", False)]:
            logger = self.logger(namespace, as_json=False, levels={"lmatrix.federation": "debug", "lmatrix": "warn"})
            logger.debug("a detail")
            self.assertEqual("a detail" in self.stream.getvalue(), shown, namespace)

    def test_text_is_one_entry(self) -> None:
        """Whatever a peer puts into a field, it cannot look like an entry of its own."""
        self.logger("lmatrix", as_json=False).info(
            "{name} says hello", name="evil\n2026-01-01T00:00:00+0000 [x#info] fake"
        )
        first, second = self.stream.getvalue().splitlines()
        self.assertIn("evil", first)
        self.assertTrue(second.startswith("\t"))

    def test_json(self) -> None:
        """One object a line, with level, namespace, time and the formatted message."""
        self.logger("lmatrix.x", as_json=True).warn("{name}\nsays hello", name="evil\n")
        (line,) = self.stream.getvalue().splitlines()
        entry = json.loads(line)
        self.assertEqual(
            (entry["level"], entry["namespace"], entry["message"]), ("warn", "lmatrix.x", "evil\n\nsays hello")
        )
        self.assertRegex(entry["time"], r"^\d{4}-\d\d-\d\dT.*\+00:00$")

    def test_json_failure(self) -> None:
        """A failure's traceback is part of its entry."""
        logger = self.logger("lmatrix.x", as_json=True)
        try:
            raise ValueError("the reason")
        except ValueError:
            logger.failure("something broke")
        (line,) = self.stream.getvalue().splitlines()
        self.assertIn("ValueError: the reason", json.loads(line)["traceback"])
