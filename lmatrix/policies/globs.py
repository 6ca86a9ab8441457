"""Patterns for names: ``*`` stands for anything, ``?`` for one character, everything else for itself.

Owns: :class:`Globs`. Upper and lower case are the same, as they are in host names. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lmatrix.errors import BadRequest

MAX_PATTERN = 255
"""Characters of one pattern."""


def check_glob(pattern: str) -> None:
    """Raises :class:`~lmatrix.errors.BadRequest` unless the text can be a pattern for names."""
    if not 0 < len(pattern) <= MAX_PATTERN:
        raise BadRequest(f"a pattern has 1 to {MAX_PATTERN} characters")
    if any(character.isspace() for character in pattern):
        raise BadRequest("a pattern has no spaces")


class Globs:
    """Some patterns.

    Args:
        patterns: each matches whole names.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        # Several stars in a row mean the same as one, and would make matching slow.
        alternatives = [_translated(re.sub(r"\*+", "*", pattern)) for pattern in patterns]
        self._regex = re.compile("|".join(alternatives), re.IGNORECASE | re.DOTALL) if alternatives else None

    def __bool__(self) -> bool:
        return self._regex is not None

    def match(self, name: str) -> bool:
        """Whether one of the patterns matches the whole name."""
        return self._regex is not None and self._regex.fullmatch(name) is not None


def _translated(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
