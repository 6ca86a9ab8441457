"""Bringing a database's schema up to date.

Owns: the numbered schema files in ``schema/`` and the table that records which of them were applied. Invariants: a
schema is only ever made by applying the files in order, so that an upgraded one equals a fresh one; a file that has
been applied anywhere is never edited (its digest is recorded, and a database made by another text is refused); each
file is one transaction together with its record; a database made by a newer version of the program is refused,
untouched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from string import Template

import attrs

from lmatrix.errors import StorageFailed
from lmatrix.storage.engine import Connection, Engine

_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
_RECORDS = (
    "CREATE TABLE IF NOT EXISTS schema_steps"
    " (number $INT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL) $TABLE"
)


@attrs.frozen(slots=True)
class SchemaStep:
    """One numbered schema file.

    Attributes:
        number: its place in the order; they begin with 1 and have no gaps.
        name: the file's name.
        text: SQL statements, each ended by a semicolon at the end of a line.
    """

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self, engine: Engine) -> list[str]:
        """The statements in an engine's own words, without comments."""
        text = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("--"))
        filled = Template(text).substitute(engine.schema_words)
        return [statement.strip() for statement in re.split(r";[ \t]*(?:\n|$)", filled) if statement.strip()]


def schema_steps() -> tuple[SchemaStep, ...]:
    """The files that come with this version, in order."""
    folder = resources.files("lmatrix.storage") / "schema"
    steps = []
    for entry in folder.iterdir():
        match = _NAME.fullmatch(entry.name)
        if match:
            steps.append(SchemaStep(int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    return tuple(sorted(steps, key=lambda step: step.number))


def migrate(connection: Connection, engine: Engine, steps: Sequence[SchemaStep]) -> Sequence[SchemaStep]:
    """Apply what is missing; returns the steps that were applied now.

    Args:
        connection: the writer's, with no transaction open.
        steps: all steps of this version, in order.

    Raises:
        StorageFailed: the database comes from a newer or a foreign version, or a step failed; the steps before it stay
            applied.
    """
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        raise ValueError("schema files must be numbered from 1 on, without gaps")
    try:
        connection.execute(Template(_RECORDS).substitute(engine.schema_words))
        recorded = connection.execute("SELECT number, name, digest FROM schema_steps ORDER BY number").fetchall()
        _check(recorded, steps)
        for step in steps[len(recorded) :]:
            _apply(connection, engine, step)
    except Exception as error:
        failure = engine.failure_of(error)
        if failure is None or failure is error:
            raise
        raise failure from error
    return steps[len(recorded) :]


def missing_steps(connection: Connection, engine: Engine, steps: Sequence[SchemaStep]) -> Sequence[SchemaStep]:
    """What :func:`migrate` would apply; changes nothing.

    Raises:
        StorageFailed: it is no database of lmatrix, or comes from a newer or a foreign version.
    """
    try:
        recorded = connection.execute("SELECT number, name, digest FROM schema_steps ORDER BY number").fetchall()
    except Exception as error:
        failure = engine.failure_of(error)
        if failure is None:
            raise
        raise StorageFailed(f"it is not a database of lmatrix: {failure.reason}") from error
    _check(recorded, steps)
    return steps[len(recorded) :]


def _check(recorded: Sequence[tuple[int, str, str]], steps: Sequence[SchemaStep]) -> None:
    if len(recorded) > len(steps):
        name = recorded[len(steps)][1]
        raise StorageFailed(f"the database was made by a newer version of lmatrix (its schema has {name})")
    for (number, name, digest), step in zip(recorded, steps, strict=False):
        if (number, digest) != (step.number, step.digest):
            raise StorageFailed(f"the database's schema step {name} is not the one that this version knows")


def _apply(connection: Connection, engine: Engine, step: SchemaStep) -> None:
    connection.execute(engine.begin_write)
    try:
        for statement in step.statements(engine):
            connection.execute(statement)
        connection.execute(
            engine.translate("INSERT INTO schema_steps (number, name, digest) VALUES (?, ?, ?)"),
            (step.number, step.name, step.digest),
        )
        connection.execute("COMMIT")
    except BaseException:
        if engine.in_transaction(connection):
            connection.execute("ROLLBACK")
        raise
