"""Replacing a file: as a whole or not at all, and still its owner's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.whole_file import replace_file


class ReplaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "file"

    def test_new_and_existing(self) -> None:
        """It holds the new text, with the permissions that were asked for, whatever the process's mask; nothing else is
        left behind."""
        mask = os.umask(0)
        self.addCleanup(os.umask, mask)
        for text, mode in (("one\n", 0o600), ("two, longer\n", 0o644), ("", 0o600)):
            replace_file(self.path, text, mode)
            self.assertEqual(self.path.read_text(), text)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), mode)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_link(self) -> None:
        """A symbolic link stays one; what it points to is replaced."""
        self.path.write_text("before")
        link = self.directory / "link"
        link.symlink_to("file")
        replace_file(link, "after", 0o600, owner_of=link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.path.read_text(), "after")

    def test_owner(self) -> None:
        """It belongs to whom the other file belongs to, so that who could read it still can."""
        if os.getuid() != 0:
            self.skipTest("only root can give files away")
        self.path.write_text("before")
        os.chown(self.path, 12345, 54321)
        replace_file(self.path, "after", 0o600, owner_of=self.path)
        status = self.path.stat()
        self.assertEqual((status.st_uid, status.st_gid), (12345, 54321))

    def test_somebody_else_is_at_it(self) -> None:
        """Two at once do not mix; the file stays what it was, and so does the other's work."""
        self.path.write_text("before")
        other = self.directory / "file.new"
        other.write_text("theirs")
        self.assertRaises(FileExistsError, replace_file, self.path, "after", 0o600)
        self.assertEqual((self.path.read_text(), other.read_text()), ("before", "theirs"))

    def test_failure(self) -> None:
        """What cannot be written leaves nothing behind, and everything as it was."""
        self.path.write_text("before")
        self.assertRaises(UnicodeEncodeError, replace_file, self.path, "é", 0o600)
        self.assertEqual(self.path.read_text(), "before")
        self.assertEqual(list(self.directory.iterdir()), [self.path])
        gone = self.directory / "gone"
        self.assertRaises(FileNotFoundError, replace_file, self.path, "after", 0o600, owner_of=gone)
        self.assertEqual(list(self.directory.iterdir()), [self.path])
