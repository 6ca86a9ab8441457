"""The file of retired keys: format, permissions, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import signedjson.key
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.key_file import KeyFileError
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.retired_keys import (
    RetiredKey,
    RetiredKeys,
    read_retired_keys,
    retired_keys_path,
    write_retired_keys,
)

ONE, TWO = (SigningKey.generate(version, version.encode()[:1] * 32).public for version in ("one", "two"))
GOOD = f"ed25519 one 5 {ONE.to_base64()}\n"


class RetiredKeysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.signing = Path(self.mktemp()).absolute()
        self.signing.write_text("")
        self.path = retired_keys_path(self.signing)

    def test_place(self) -> None:
        """Beside the signing keys, by its name."""
        self.assertEqual(retired_keys_path(Path("/x/a.signing.key")), Path("/x/a.signing.key.retired"))

    def test_written_and_read(self) -> None:
        """What was written is read, in its order."""
        self.assertEqual(read_retired_keys(self.path), RetiredKeys())
        for keys in (
            RetiredKeys((RetiredKey(TWO, 7), RetiredKey(ONE, 0))),
            RetiredKeys((RetiredKey(TWO, 1_700_000_000_000),), (ONE,)),
            RetiredKeys(),
        ):
            write_retired_keys(self.path, keys, owner_of=self.signing)
            self.assertEqual(read_retired_keys(self.path), keys)

    def test_others_read_it(self) -> None:
        """``signedjson`` reads what we write, once every key's end is known."""
        write_retired_keys(self.path, RetiredKeys((RetiredKey(ONE, 7),)), owner_of=self.signing)
        with self.path.open() as file:
            (theirs,) = signedjson.key.read_old_signing_keys(file)
        self.assertEqual((theirs.version, theirs.expired), ("one", 7))
        self.assertEqual(signedjson.key.encode_verify_key_base64(theirs), ONE.to_base64())

    def test_malformed(self) -> None:
        """Each line that is no key is refused with its number."""
        for line in (
            "x",
            "ed25519 two 5",
            f"rsa two 5 {TWO.to_base64()}",
            f"ed25519 t-wo 5 {TWO.to_base64()}",
            f"ed25519 two soon {TWO.to_base64()}",
            f"ed25519 two -5 {TWO.to_base64()}",
            f"ed25519 two ٥ {TWO.to_base64()}",
            f"ed25519 two {'9' * 16} {TWO.to_base64()}",
            "ed25519 two 5 AAAA",
            f"ed25519 two 5 {TWO.to_base64()} more",
            GOOD,
            f"ed25519 one - {TWO.to_base64()}",
        ):
            with self.subTest(line):
                self.path.write_text(f"{GOOD}\n{line}\n")
                error = self.assertRaises(KeyFileError, read_retired_keys, self.path)
                if line.isascii():
                    self.assertIn("line 3", error.reason)

    def test_permissions(self) -> None:
        """Others may read the file; who else could write to it could make keys of ours."""
        self.path.write_text(GOOD)
        for mode in (0o644, 0o600, 0o444):
            self.path.chmod(mode)
            self.assertEqual(len(read_retired_keys(self.path).retired), 1)
        for mode in (0o664, 0o646, 0o666):
            self.path.chmod(mode)
            error = self.assertRaises(KeyFileError, read_retired_keys, self.path)
            self.assertIn("chmod go-w", error.reason)

    def test_not_such_a_file(self) -> None:
        """Other kinds of file, other bytes, and one that is far too long are refused."""
        os.mkfifo(self.path, 0o600)
        self.assertRaises(KeyFileError, read_retired_keys, self.path)
        self.path.unlink()
        for data in (b"\xff\xfe", b"\n" * 300_000):
            self.path.write_bytes(data)
            self.assertRaises(KeyFileError, read_retired_keys, self.path)
