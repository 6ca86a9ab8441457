"""The ``database`` section: which engine, and where its data are."""

from __future__ import annotations

from pathlib import Path

import attrs

from lmatrix.config.reading import Section, choice, path


@attrs.frozen(slots=True)
class SqliteConfig:
    """The embedded engine.

    Attributes:
        path: the database file; SQLite puts two more beside it (``-wal``, ``-shm``).
    """

    path: Path


def read_database(section: Section) -> SqliteConfig:
    """Read ``database``. Another engine would be another class, chosen by ``engine``."""
    section.optional("engine", "sqlite", choice("sqlite"))
    return SqliteConfig(path=section.required("path", path))
