"""Where log events go: a stream of lines, filtered by level for each namespace.

Owns: the observer made from :class:`~lmatrix.config.logs.LogConfig`. A line never holds more than one event, whatever a
peer put into the fields of a message: text continues after a tab, JSON escapes.
"""

from __future__ import annotations

import datetime
import json
from typing import TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    textFileLogObserver,
)

from lmatrix.config.logs import LogConfig

_CHATTY = {"twisted.web.client._HTTP11ClientFactory": "warn"}
"""Parts of Twisted that log every connection; shown when the configuration names them."""


def log_observer(config: LogConfig, stream: TextIO) -> ILogObserver:
    """The observer that writes what ``config`` wants logged to ``stream``."""
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(config.level))
    for namespace, level in {**_CHATTY, **config.levels}.items():
        levels.setLogLevelForNamespace(namespace, LogLevel.levelWithName(level))
    writer = FileLogObserver(stream, event_as_json) if config.json else textFileLogObserver(stream)
    return FilteringLogObserver(writer, [levels])


def event_as_json(event: LogEvent) -> str:
    """One event as a line of JSON: ``time``, ``level``, ``namespace``, ``message`` and, for failures, ``traceback``."""
    level = event.get("log_level", LogLevel.info)
    line = {
        "time": _time(event.get("log_time")),
        "level": level.name,
        "namespace": str(event.get("log_namespace", "")),
        "message": eventAsText(event, includeTraceback=False, includeTimestamp=False, includeSystem=False),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    return json.dumps(line, ensure_ascii=False) + "\n"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
