"""Schema steps: applied once, in order, each whole; an upgraded database equals a fresh one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import StorageFailed
from lmatrix.storage.engine import Connection
from lmatrix.storage.migrations import SchemaStep, migrate, schema_steps
from lmatrix.storage.sqlite_engine import SqliteEngine

ONE = SchemaStep(1, "001_one.sql", "-- comment\nCREATE TABLE a (\n    x $INT NOT NULL -- why; not\n) $TABLE;\n")
TWO = SchemaStep(2, "002_two.sql", "CREATE TABLE b (y TEXT) $TABLE;\nINSERT INTO b SELECT 'number ' || x FROM a;\n")
BROKEN = SchemaStep(3, "003_broken.sql", "CREATE TABLE c (z $INT) $TABLE;\nINSERT INTO nowhere VALUES (1);\n")


def schema(connection: Connection) -> list[tuple[str, str, str]]:
    """Everything that makes up the schema."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    return cast(list[tuple[str, str, str]], rows)


class MigrationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = SqliteEngine(Path(self.mktemp()), durable=False)

    def connect(self, path: Path | None = None) -> Connection:
        engine = self.engine if path is None else SqliteEngine(path, durable=False)
        connection = engine.connect(read_only=False)
        self.addCleanup(connection.close)
        return connection

    def test_the_real_steps(self) -> None:
        """From every earlier version the upgraded schema equals the fresh one; applying again does nothing."""
        steps = schema_steps()
        fresh = self.connect(Path(self.mktemp()))
        self.assertEqual(list(migrate(fresh, self.engine, steps)), list(steps))
        self.assertEqual(list(migrate(fresh, self.engine, steps)), [])
        for version in range(1, len(steps) + 1):
            old = self.connect(Path(self.mktemp()))
            migrate(old, self.engine, steps[:version])
            self.assertEqual(list(migrate(old, self.engine, steps)), list(steps[version:]))
            self.assertEqual(schema(old), schema(fresh))

    def test_every_table_is_strict(self) -> None:
        """No table takes a value of another type than its column's."""
        connection = self.connect()
        migrate(connection, self.engine, schema_steps())
        for kind, name, sql in schema(connection):
            if kind == "table" and not name.startswith("sqlite_"):
                self.assertIn("STRICT", sql, name)

    def test_data_is_carried_over(self) -> None:
        """A later step finds the data that were written under the earlier schema."""
        connection = self.connect()
        migrate(connection, self.engine, [ONE])
        connection.execute("INSERT INTO a VALUES (7)")
        self.assertEqual(list(migrate(connection, self.engine, [ONE, TWO])), [TWO])
        self.assertEqual(connection.execute("SELECT y FROM b").fetchall(), [("number 7",)])

    def test_a_step_is_applied_whole_or_not_at_all(self) -> None:
        """A step that fails leaves nothing behind, and the steps before it in force."""
        connection = self.connect()
        self.assertRaises(StorageFailed, migrate, connection, self.engine, [ONE, TWO, BROKEN])
        self.assertEqual([name for kind, name, _ in schema(connection) if kind == "table"], ["a", "b", "schema_steps"])
        recorded = connection.execute("SELECT number FROM schema_steps").fetchall()
        self.assertEqual(recorded, [(1,), (2,)])

    def test_a_newer_database(self) -> None:
        """A database of a newer version is refused, and not touched."""
        connection = self.connect()
        migrate(connection, self.engine, [ONE, TWO])
        before = schema(connection)
        error = self.assertRaises(StorageFailed, migrate, connection, self.engine, [ONE])
        self.assertIn("newer", error.reason)
        self.assertEqual(schema(connection), before)

    def test_a_step_that_was_edited(self) -> None:
        """A database made by another text of the same step is refused."""
        connection = self.connect()
        migrate(connection, self.engine, [ONE])
        edited = SchemaStep(1, ONE.name, ONE.text + "CREATE TABLE d (x $INT) $TABLE;\n")
        error = self.assertRaises(StorageFailed, migrate, connection, self.engine, [edited, TWO])
        self.assertIn("001_one.sql", error.reason)

    def test_gaps(self) -> None:
        """Steps with a gap in their numbers are a mistake of ours."""
        self.assertRaises(ValueError, migrate, self.connect(), self.engine, [TWO])

    def test_not_a_database(self) -> None:
        """A file that is no database is refused with a typed error."""
        path = Path(self.mktemp())
        path.write_bytes(b"This is a letter to my aunt. " * 500)
        engine = SqliteEngine(path)
        self.assertRaises(StorageFailed, engine.connect, read_only=False)

    def test_foreign_keys_are_enforced(self) -> None:
        """A row that refers to nothing is refused."""
        connection = self.connect()
        migrate(connection, self.engine, schema_steps())
        with self.assertRaises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO delivery_cursors (destination, room_nid, position) VALUES ('s', 99, 0)")
