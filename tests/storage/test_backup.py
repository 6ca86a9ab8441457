"""A backup holds what was committed, is whole, and never replaces anything."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from threading import Event, Thread

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import StorageFailed
from lmatrix.storage.backup import INCOMPLETE, backup
from lmatrix.storage.beside import reading
from lmatrix.storage.group_commit import Writer
from lmatrix.storage.migrations import schema_steps
from lmatrix.storage.restoration import SqlRestorationStore, mark_in_place
from lmatrix.storage.sqlite_engine import SqliteEngine

NOW = 1_700_000_000_000
INSERT = "INSERT INTO users (user_id, password_hash, created_ts) VALUES (?, 'x', 0)"


class BackupTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.source = self.directory / "server.db"
        self.target = self.directory / "copy.db"
        self.writer = Writer(SqliteEngine(self.source, durable=False))
        self.writer.open(schema_steps())
        self.addCleanup(self.writer.close)

    def add(self, user_id: str) -> None:
        """Commit something."""
        self.writer.run([lambda tx: tx.execute(INSERT, (user_id,))])

    def users(self, file: Path) -> list[str]:
        with reading(file) as database:
            return [user for (user,) in database.read(lambda tx: tx.rows("SELECT user_id FROM users ORDER BY user_id"))]


class Backup(BackupTestCase):
    def test_while_the_server_has_it_open(self) -> None:
        """The copy has what was committed, in one file that only its owner can read, and a server starts from it."""
        self.add("@a:x")
        self.assertTrue(Path(f"{self.source}-wal").stat().st_size)
        size = backup(self.source, self.target, NOW).size
        self.add("@b:x")
        self.assertEqual(["@a:x"], self.users(self.target))
        self.assertEqual(0o600, stat.S_IMODE(self.target.stat().st_mode))
        self.assertEqual(size, self.target.stat().st_size)
        self.assertEqual({"copy.db", "server.db", "server.db-wal", "server.db-shm"}, self.files())
        restored = Writer(SqliteEngine(self.target, durable=False))
        self.assertEqual((), tuple(restored.open(schema_steps())))
        restored.close()

    def test_the_mark(self) -> None:
        """The copy says that it is one, and since when; the original does not; one of an earlier version cannot."""
        made = backup(self.source, self.target, NOW)
        self.assertTrue(made.marked)
        copied_ts = SqlRestorationStore().copied_ts
        for file, expected in ((self.target, NOW), (self.source, None)):
            with reading(file) as database:
                self.assertEqual(expected, database.read(copied_ts))
        mark_in_place(self.source, NOW + 1)
        mark_in_place(self.source, NOW + 2)
        with reading(self.source) as database:
            self.assertEqual(NOW + 2, database.read(copied_ts))
        self.assertRaises(StorageFailed, mark_in_place, self.directory / "nowhere.db", NOW)
        self.writer.run([lambda tx: tx.execute("DROP TABLE copied")])
        self.assertFalse(backup(self.source, self.directory / "old.db", NOW).marked)

    def test_of_a_stopped_server(self) -> None:
        """Nothing needs to run."""
        self.add("@a:x")
        self.writer.close()
        backup(self.source, self.target, NOW)
        self.assertEqual(["@a:x"], self.users(self.target))

    def test_under_load(self) -> None:
        """While another thread commits all the time, a copy comes to its end, and holds a moment: no hole in what was
        committed one after the other.
        """
        over = Event()

        def commit() -> None:
            writer = Writer(SqliteEngine(self.source, durable=False))
            writer.open(schema_steps())
            number = 0
            while not over.is_set():
                number += 1
                writer.run([lambda tx, number=number: tx.execute(INSERT, (f"@{number:09}:x",))])
            writer.close()

        thread = Thread(target=commit)
        thread.start()
        try:
            for copy in range(5):
                backup(self.source, self.directory / f"{copy}.db", NOW)
        finally:
            over.set()
            thread.join()
        for copy in range(5):
            users = self.users(self.directory / f"{copy}.db")
            self.assertEqual([f"@{number:09}:x" for number in range(1, len(users) + 1)], users)

    def test_nothing_is_overwritten(self) -> None:
        """Neither a file of that name, nor a link, nor another backup that is under way."""
        self.target.write_text("precious")
        self.assertRaises(FileExistsError, backup, self.source, self.target, NOW)
        self.assertEqual("precious", self.target.read_text())
        link = self.directory / "link.db"
        link.symlink_to(self.directory / "nowhere")
        self.assertRaises(FileExistsError, backup, self.source, link, NOW)
        other = self.directory / "other.db"
        other.with_name(other.name + INCOMPLETE).write_text("under way")
        self.assertRaises(FileExistsError, backup, self.source, other, NOW)
        self.assertFalse(other.exists())

    def test_a_damaged_database(self) -> None:
        """No backup is made of what is not sound: the older ones are better."""
        for number in range(500):
            self.add(f"@{number}:x")
        self.writer.close()
        with self.source.open("r+b") as file:
            file.seek(self.source.stat().st_size // 2)
            file.write(b"\xff" * 20_000)
        error = self.assertRaises(StorageFailed, backup, self.source, self.target, NOW)
        self.assertIn(str(self.source), error.reason)
        self.assertFalse([name for name in self.files() if not name.startswith("server.db")])

    def test_what_is_no_database_of_ours(self) -> None:
        """A missing file, another program's database, and what is no database."""
        other = self.directory / "other"
        self.assertRaises(StorageFailed, backup, other, self.target, NOW)
        self.assertFalse(other.exists())
        sqlite3.connect(other).close()
        self.assertRaises(StorageFailed, backup, other, self.target, NOW)
        other.write_bytes(b"not a database" * 1000)
        self.assertRaises(StorageFailed, backup, other, self.target, NOW)
        self.assertFalse(self.target.exists())

    def files(self) -> set[str]:
        return {file.name for file in self.directory.iterdir()}


class Beside(BackupTestCase):
    def test_one_moment(self) -> None:
        """What is read within one work does not change while the server commits."""

        def work(tx: object) -> tuple[int, int]:
            counts = []
            for _ in range(2):
                counts.append(tx.rows("SELECT COUNT(*) FROM users")[0][0])  # type: ignore[attr-defined]
                self.add("@later:x")
            return counts[0], counts[1]

        with reading(self.source) as database:
            self.assertEqual((0, 0), database.read(work))
            self.assertEqual([], database.integrity_problems())

    def test_nothing_is_written(self) -> None:
        """A work that tries to change something fails."""
        with reading(self.source) as database:
            self.assertRaises(StorageFailed, database.read, lambda tx: tx.execute("DELETE FROM users"))

    def test_older_and_newer_versions(self) -> None:
        """A schema of an older version is copied, but not read; one of a newer version is neither."""
        self.writer.run([lambda tx: tx.execute("DELETE FROM schema_steps WHERE number > 1")])
        self.assertRaises(StorageFailed, self.users, self.source)
        backup(self.source, self.target, NOW)
        self.writer.run([lambda tx: tx.execute("INSERT INTO schema_steps VALUES (2, 'from_the_future', '')")])
        self.assertRaises(StorageFailed, backup, self.source, self.directory / "another.db", NOW)

    def test_orphans(self) -> None:
        """A row that refers to nothing is found."""
        self.writer.connection.execute("PRAGMA foreign_keys = OFF")
        statement = "INSERT INTO devices (user_id, device_id, created_ts) VALUES ('@ghost:x', 'D', 0)"
        self.writer.run([lambda tx: tx.execute(statement)])
        with reading(self.source) as database:
            self.assertEqual(1, len(database.integrity_problems()))
