"""The file of signing keys: format, permissions, and what is refused."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import signedjson.key
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.digest import encode_base64
from lmatrix.crypto.key_file import KeyFileError, new_key_version, read_signing_keys, write_new_signing_key
from lmatrix.crypto.keys import InvalidKey, SigningKey

ONE = SigningKey.generate("one", b"1" * 32)
TWO = SigningKey.generate("two", b"2" * 32)


class WriteTests(SynchronousTestCase):
    """Making a new key file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_written_and_read(self) -> None:
        """The key that was written is the key that is read, by ``signedjson`` too."""
        key = write_new_signing_key(self.path, "a_1")
        self.assertEqual(read_signing_keys(self.path), (key,))
        self.assertEqual(read_signing_keys(str(self.path)), (key,))
        with self.path.open() as file:
            (theirs,) = signedjson.key.read_signing_keys(file)
        self.assertEqual(signedjson.key.encode_verify_key_base64(theirs.verify_key), key.public.to_base64())

    def test_private(self) -> None:
        """Only the owner may read the file, even where the process would let everybody."""
        mask = os.umask(0)
        self.addCleanup(os.umask, mask)
        write_new_signing_key(self.path, "a_1")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_not_overwritten(self) -> None:
        """An existing file, or a symbolic link, is left as it is."""
        self.path.write_text("precious")
        link = Path(self.mktemp())
        link.symlink_to(self.path.absolute().with_name("elsewhere"))
        for path in (self.path, link):
            error = self.assertRaises(KeyFileError, write_new_signing_key, path, "a_1")
            self.assertEqual(error.path, path)
        self.assertEqual(self.path.read_text(), "precious")
        self.assertFalse(link.exists())

    def test_bad_version(self) -> None:
        """A malformed version leaves no file behind."""
        self.assertRaises(InvalidKey, write_new_signing_key, self.path, "a-b")
        self.assertFalse(self.path.exists())

    def test_no_directory(self) -> None:
        """A missing directory is the operating system's error."""
        self.assertRaises(FileNotFoundError, write_new_signing_key, self.path / "key", "a_1")

    def test_randomness(self) -> None:
        """Keys differ, unless a generator is given that makes them equal."""
        self.assertNotEqual(*(write_new_signing_key(self.mktemp(), "a_1").public for _ in range(2)))
        self.assertEqual(*(write_new_signing_key(self.mktemp(), "a_1", random.Random(1)) for _ in range(2)))

    def test_new_version(self) -> None:
        """A new version is a good one and not always the same."""
        versions = {new_key_version(random.Random(seed)) for seed in range(20)}
        self.assertGreater(len(versions), 15)
        for version in versions:
            self.assertEqual(SigningKey.generate(version).version, version)


class ReadTests(SynchronousTestCase):
    """Reading key files."""

    def key_file(self, text: str | bytes, mode: int = 0o600) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    def test_several_keys(self) -> None:
        """All keys are read, in the order of the file; empty lines and ends of line do not matter."""
        path = self.key_file(f"\n{TWO.to_line()}\r\n\n  \n{ONE.to_line()}")
        self.assertEqual(read_signing_keys(path), (TWO, ONE))

    def test_signedjson_writes(self) -> None:
        """A file that ``signedjson`` wrote is read."""
        path = self.key_file("")
        theirs = signedjson.key.generate_signing_key("a_xyz")
        with path.open("w") as file:
            signedjson.key.write_signing_keys(file, [theirs])
        (ours,) = read_signing_keys(path)
        self.assertEqual(ours.key_id, "ed25519:a_xyz")
        self.assertEqual(ours.public.to_base64(), signedjson.key.encode_verify_key_base64(theirs.verify_key))

    def test_access_by_others(self) -> None:
        """Any access of the group or of others is refused, with the command that mends it."""
        for mode in (0o640, 0o604, 0o660, 0o644, 0o620, 0o601, 0o610, 0o777):
            with self.subTest(oct(mode)):
                path = self.key_file(ONE.to_line(), mode)
                error = self.assertRaises(KeyFileError, read_signing_keys, path)
                self.assertIn(f"{mode:04o}", str(error))
                self.assertIn(f"chmod 600 {path}", str(error))
        for mode in (0o600, 0o400):
            self.assertEqual(read_signing_keys(self.key_file(ONE.to_line(), mode)), (ONE,))

    def test_malformed(self) -> None:
        """A malformed file is refused with the line's number, and without the line, which may be a secret."""
        seed = encode_base64(b"1" * 32)
        for text in (f"ed25519 one {seed}x", f"ed25519 one {seed} two", f"rsa one {seed}", f"ed25519 o-e {seed}"):
            path = self.key_file(f"{TWO.to_line()}\n{text}\n")
            error = self.assertRaises(KeyFileError, read_signing_keys, path)
            self.assertIn("line 2", str(error))
            self.assertNotIn(seed[:10], str(error))

    def test_not_a_key_file(self) -> None:
        """An empty file, one of other bytes, and one that is far too long are refused."""
        for data in (b"", b"\n \n", b"\xff\xfe\x00", b"ed25519 one \xc3\xa9", b"\n" * 100_000):
            self.assertRaises(KeyFileError, read_signing_keys, self.key_file(data))

    def test_key_id_twice(self) -> None:
        """Two keys with one ID are refused: nobody could tell which of them signed."""
        again = SigningKey.generate("one", b"3" * 32)
        path = self.key_file(f"{ONE.to_line()}\n{again.to_line()}\n")
        self.assertIn("ed25519:one", str(self.assertRaises(KeyFileError, read_signing_keys, path)))

    def test_other_kinds_of_file(self) -> None:
        """A directory or a FIFO is refused, and does not make the reader wait."""
        path = Path(self.mktemp())
        os.mkfifo(path, 0o600)
        self.assertRaises(KeyFileError, read_signing_keys, path)
        self.assertRaises((KeyFileError, OSError), read_signing_keys, path.parent)

    def test_missing(self) -> None:
        """A missing file is the operating system's error."""
        self.assertRaises(FileNotFoundError, read_signing_keys, self.mktemp())
