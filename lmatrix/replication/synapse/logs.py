"""Our log lines among Synapse's.

Owns: handing what lmatrix logs (with Twisted's logger) to the standard library's, under our own logger names, so that
Synapse's log configuration rules them like any other: ``loggers: {lmatrix: {level: DEBUG}}``. Synapse itself sends
everything of Twisted's to the one logger ``twisted``; our lines are kept out of there, or they would appear twice.
"""

from __future__ import annotations

import logging

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

_OURS = "lmatrix"

_LEVELS = {
    LogLevel.debug: logging.DEBUG,
    LogLevel.info: logging.INFO,
    LogLevel.warn: logging.WARNING,
    LogLevel.error: logging.ERROR,
    LogLevel.critical: logging.CRITICAL,
}


def install() -> None:
    """Begin; a second time changes nothing."""
    uninstall()
    globalLogPublisher.addObserver(_observer)
    logging.getLogger("twisted").addFilter(is_not_ours)


def uninstall() -> None:
    """End it, if it was begun."""
    globalLogPublisher.removeObserver(_observer)
    logging.getLogger("twisted").removeFilter(is_not_ours)


@implementer(ILogObserver)
class ToStandardLibrary:
    """Hands on what is ours."""

    def __call__(self, event: LogEvent) -> None:
        """Called with each event that Twisted's logger is given."""
        namespace = str(event.get("log_namespace", ""))
        if not _is_ours(namespace):
            return
        level = _LEVELS.get(event.get("log_level", LogLevel.info), logging.INFO)
        logger = logging.getLogger(namespace)
        if not logger.isEnabledFor(level):
            return
        failure = event.get("log_failure")
        traceback = None if failure is None else (failure.type, failure.value, failure.getTracebackObject())
        logger.log(level, "%s", formatEvent(event), exc_info=traceback)


def is_not_ours(record: logging.LogRecord) -> bool:
    """A filter for the logger ``twisted``."""
    event = getattr(record.msg, "event", None)
    return not (isinstance(event, dict) and _is_ours(str(event.get("log_namespace", ""))))


def _is_ours(namespace: str) -> bool:
    return namespace == _OURS or namespace.startswith(_OURS + ".")


_observer = ToStandardLibrary()
