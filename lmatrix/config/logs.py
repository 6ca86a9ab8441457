"""The ``log_config`` section: how much is logged, where to, and in which form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from twisted.logger import LogLevel

from lmatrix.config.reading import Section, Value, choice, mapping_of, path, text

_LEVELS = tuple(level.name for level in LogLevel.iterconstants())


@attrs.frozen(slots=True)
class LogConfig:
    """Logging.

    Attributes:
        level: the least level that is logged: ``debug``, ``info``, ``warn``, ``error`` or ``critical``.
        levels: other levels for some namespaces and all below them: ``{"lmatrix.federation": "debug"}``.
        file: appended to; ``None`` for standard output.
        json: one JSON object a line, instead of text.
    """

    level: str
    levels: Mapping[str, str]
    file: Path | None
    json: bool


def _namespace(value: Value) -> str:
    return text(value)


def read_log_config(section: Section) -> LogConfig:
    """Read ``log_config``."""
    level = choice(*_LEVELS)
    return LogConfig(
        level=section.optional("level", "info", level),
        levels=section.optional("levels", {}, mapping_of(_namespace, level, "namespaces, each with its level")),
        file=section.optional("file", None, path),
        json=section.optional("format", "text", choice("text", "json")) == "json",
    )
