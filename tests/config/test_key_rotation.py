"""Changing signing keys: nothing that ever signed is lost, and nothing is dated after its key's end."""

from __future__ import annotations

import random
from pathlib import Path

from lmatrix.config import Config, load_config
from lmatrix.config.files import FileProblem, OwnKeySet, load_own_keys
from lmatrix.config.key_rotation import CLOCK_ALLOWANCE_MS, record_ends, rotate
from lmatrix.crypto.key_file import new_key_version, read_signing_keys
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.retired_keys import RetiredKey, retired_keys_path
from lmatrix.errors import LMatrixError
from tests.config.test_generate import GenerateTestCase

NOW_MS = 1_700_000_000_000


class RotationTestCase(GenerateTestCase):
    """A generated configuration, with its key."""

    def setUp(self) -> None:
        super().setUp()
        self.output = self.generate().output
        self.config = load_config(self.output)
        self.key_file = self.config.signing_key_path
        self.retired_file = retired_keys_path(self.key_file)
        self.rng = random.Random(3)
        (self.first,) = read_signing_keys(self.key_file)

    def rotate(self, *retire: str) -> SigningKey:
        """Rotate; returns the new key."""
        rotated = rotate(self.config, retire=retire, rng=self.rng)
        key = read_signing_keys(self.key_file)[0]
        self.assertEqual(key.key_id, rotated.new)
        return key

    def keys(self, config: Config | None = None) -> OwnKeySet:
        return load_own_keys(config or self.config)

    def ends(self, keys: OwnKeySet) -> dict[str, int]:
        """The end of every retired key."""
        return {one.verify_key.key_id: one.expired_ts for one in keys.retired}

    def write_key_file(self, *keys: SigningKey) -> None:
        self.key_file.write_text("".join(key.to_line() + "\n" for key in keys))


class RotateTests(RotationTestCase):
    """What the command does."""

    def test_one_key(self) -> None:
        """The new key alone signs; the old one's public part is remembered, without an end as yet; its secret is
        nowhere, and the configuration file is what it was."""
        before = self.output.read_bytes()
        secret = self.key_file.read_text().split()[2]
        new = self.rotate()
        keys = self.keys()
        self.assertEqual([key.key_id for key in keys.active], [new.key_id])
        self.assertEqual(keys.leaving, (self.first.public,))
        self.assertEqual(keys.retired, ())
        self.assertEqual(self.output.read_bytes(), before)
        for file in self.directory.iterdir():
            if file.is_file():
                self.assertNotIn(secret.encode(), file.read_bytes(), file)
        self.assertNotEqual(new.public, self.first.public)

    def test_again_and_again(self) -> None:
        """However often keys are rotated, and whether or not a server has noticed meanwhile, all are remembered."""
        ids = [self.first.key_id]
        for round_number in range(6):
            ids.append(self.rotate().key_id)
            if round_number % 2:
                record_ends(self.config, NOW_MS + round_number)
        keys = self.keys()
        self.assertEqual(keys.key_ids(), set(ids))
        self.assertEqual(self.ends(keys), {
            key_id: NOW_MS + end + CLOCK_ALLOWANCE_MS for key_id, end in zip(ids, (1, 1, 3, 3, 5, 5), strict=False)
        })  # fmt: skip
        self.assertEqual([key.key_id for key in keys.active], ids[-1:])

    def test_one_of_several(self) -> None:
        """Only the keys that are named are retired; the others sign on, after the new one."""
        second = SigningKey.generate("second", b"2" * 32)
        self.write_key_file(self.first, second)
        new = self.rotate(self.first.key_id)
        keys = self.keys()
        self.assertEqual([key.key_id for key in keys.active], [new.key_id, second.key_id])
        self.assertEqual(keys.leaving, (self.first.public,))
        newest = self.rotate()
        keys = self.keys()
        self.assertEqual([key.key_id for key in keys.active], [newest.key_id])
        self.assertEqual(set(keys.leaving), {self.first.public, new.public, second.public})

    def test_unknown_key(self) -> None:
        """A key that does not sign cannot be retired; nothing changes."""
        before = self.key_file.read_bytes()
        error = self.assertRaises(LMatrixError, self.rotate, "ed25519:nobody")
        self.assertIn(self.first.key_id, str(error))
        self.assertEqual(self.key_file.read_bytes(), before)
        self.assertFalse(self.retired_file.exists())

    def test_ids_are_never_used_twice(self) -> None:
        """A new key's ID differs from those of all keys that there ever were."""
        taken = new_key_version(random.Random(3))
        self.write_key_file(SigningKey.generate(taken, b"2" * 32))
        self.assertNotEqual(self.rotate().version, taken)

    def test_interrupted(self) -> None:
        """A rotation that ended before the key file was replaced: the old key signs on, and can be rotated again."""
        before = self.key_file.read_text()
        self.rotate()
        self.key_file.write_text(before)
        keys = self.keys()
        self.assertEqual((keys.active, keys.leaving, keys.retired), ((self.first,), (), ()))
        self.assertEqual(record_ends(self.config, NOW_MS).retired, ())
        new = self.rotate()
        self.assertEqual(self.ends(record_ends(self.config, NOW_MS)), {self.first.key_id: NOW_MS + CLOCK_ALLOWANCE_MS})
        self.assertEqual(self.keys().active, (new,))

    def test_files_that_cannot_be_written(self) -> None:
        """The old key signs on when a step fails, and the message names what is in the way."""
        for file in (self.retired_file, self.key_file):
            obstacle = Path(f"{file}.new")
            obstacle.write_text("")
            error = self.assertRaises(FileProblem, self.rotate)
            self.assertIn(str(obstacle), str(error))
            self.assertEqual(self.keys().active, (self.first,))
            obstacle.unlink()
        self.rotate()


class RecordEndsTests(RotationTestCase):
    """What the server does."""

    def test_recorded_once(self) -> None:
        """A key ends when the server first knows that it does not sign with it any more, and that does not change."""
        self.rotate()
        for later in (0, 5):
            keys = record_ends(self.config, NOW_MS + later)
            self.assertEqual(self.ends(keys), {self.first.key_id: NOW_MS + CLOCK_ALLOWANCE_MS})
            self.assertEqual(keys.leaving, ())
            self.assertEqual(self.ends(self.keys()), self.ends(keys))

    def test_nothing_to_record(self) -> None:
        """Without a rotation no file is made."""
        self.assertEqual(record_ends(self.config, NOW_MS), self.keys())
        self.assertFalse(self.retired_file.exists())

    def test_in_the_middle_of_a_rotation(self) -> None:
        """A server that reads the files between the two steps of a rotation does not lose what the first one noted."""
        before = self.key_file.read_text()
        self.rotate()
        after = self.key_file.read_text()
        self.key_file.write_text(before)
        record_ends(self.config, NOW_MS)
        self.key_file.write_text(after)
        self.assertEqual(self.ends(record_ends(self.config, NOW_MS + 1)), {
            self.first.key_id: NOW_MS + 1 + CLOCK_ALLOWANCE_MS
        })  # fmt: skip

    def test_cannot_be_recorded(self) -> None:
        """A server that cannot write the end down says so."""
        self.rotate()
        Path(f"{self.retired_file}.new").write_text("")
        error = self.assertRaises(FileProblem, record_ends, self.config, NOW_MS)
        self.assertIn(str(self.retired_file), str(error))


class LoadTests(RotationTestCase):
    """All keys together."""

    def with_old(self, key_id: str, key: str, expired_ts: int) -> Config:
        """The configuration with an old key in it."""
        old = f"old_signing_keys: {{'{key_id}': {{key: {key}, expired_ts: {expired_ts}}}}}"
        self.output.write_text(self.output.read_text().replace("old_signing_keys: {}", old))
        return load_config(self.output)

    def test_configured_old_keys(self) -> None:
        """Those of the configuration count as before, beside those of the file; for a key in both the configuration's
        word stands."""
        config = self.with_old(self.first.key_id, self.first.public.to_base64(), 77)
        self.assertRaises(FileProblem, self.keys, config)
        self.rotate()
        for keys in (self.keys(config), record_ends(config, NOW_MS), self.keys(config)):
            self.assertEqual(keys.retired, (RetiredKey(self.first.public, 77),))
            self.assertEqual(keys.leaving, ())
        self.config = config
        second = self.keys().active[0]
        self.rotate()
        self.assertEqual(self.ends(record_ends(config, NOW_MS + 9)), {
            self.first.key_id: 77, second.key_id: NOW_MS + 9 + CLOCK_ALLOWANCE_MS,
        })  # fmt: skip

    def test_contradictions(self) -> None:
        """An ID that belongs to two keys, or a key that is retired and signs, is a mistake that only a person can
        mend."""
        other = SigningKey.generate(self.first.version, b"9" * 32)
        self.retired_file.write_text(f"ed25519 {self.first.version} - {other.public.to_base64()}\n")
        self.assertIn("another key", str(self.assertRaises(FileProblem, self.keys)))
        self.retired_file.write_text(f"ed25519 {self.first.version} 5 {self.first.public.to_base64()}\n")
        self.assertIn("is retired by", str(self.assertRaises(FileProblem, self.keys)))

    def test_bad_file(self) -> None:
        """A malformed file of retired keys is named, and so is one that cannot be read."""
        self.retired_file.write_text("nonsense\n")
        self.assertIn(f"{self.retired_file}: line 1", str(self.assertRaises(FileProblem, self.keys)))
        self.retired_file.unlink()
        self.retired_file.mkdir()
        self.assertIn(str(self.retired_file), str(self.assertRaises(FileProblem, self.keys)))
