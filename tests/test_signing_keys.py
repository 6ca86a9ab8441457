"""A running server's signing keys: who sees a change, and what happens when the files cannot be used."""

from __future__ import annotations

import json
import random
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from lmatrix.config import load_config
from lmatrix.config.files import FileProblem
from lmatrix.config.key_rotation import CLOCK_ALLOWANCE_MS, rotate
from lmatrix.crypto.retired_keys import retired_keys_path
from lmatrix.signing_keys import OwnSigningKeys
from tests.config.test_generate import GenerateTestCase

NOW_MS = 1_700_000_000_000


class OwnSigningKeysTests(GenerateTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.config = load_config(self.generate().output)
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.keys = OwnSigningKeys(self.config, self.clock)
        (self.first,) = self.keys.key_ids
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def rotate(self) -> str:
        return rotate(self.config, rng=random.Random(5)).new

    def said(self) -> list[tuple[str, str]]:
        """Level and text of what was logged."""
        return [(event["log_level"].name, str(event["log_format"]).format(**event)) for event in self.logged]

    def shown(self) -> tuple[set[str], dict[str, int]]:
        """The keys that are published: the current ones, and the ends of the old ones."""
        answer = json.loads(self.keys.published.published())
        self.assertEqual(set(answer["signatures"][self.config.server_name]), set(answer["verify_keys"]))
        return set(answer["verify_keys"]), {
            key_id: old["expired_ts"] for key_id, old in answer["old_verify_keys"].items()
        }

    def test_until_it_is_told(self) -> None:
        """A rotation changes nothing for a running server until it reads the files again; from then on the new key
        signs, and the old one has ended then, and not before."""
        new = self.rotate()
        self.clock.advance(3600)
        self.assertEqual(self.shown(), ({self.first}, {}))
        self.keys.reload()
        end = NOW_MS + 3_600_000 + CLOCK_ALLOWANCE_MS
        self.assertEqual([key.key_id for key in self.keys.identity.keys], [new])
        self.assertEqual(self.shown(), ({new}, {self.first: end}))
        self.assertEqual(self.keys.published.known_keys()[self.first].expired_ts, end)
        self.assertIn(("info", f"signing with {new} from now on"), self.said())

    def test_restart(self) -> None:
        """A server that is started after a rotation signs with the new key, and records the end when it is really
        there, because until then the old process may have signed."""
        new = self.rotate()
        started = OwnSigningKeys(self.config, self.clock)
        self.assertIn(" - ", retired_keys_path(self.config.signing_key_path).read_text())
        self.clock.advance(10)
        started.renew()
        self.keys = started
        end = NOW_MS + 10_000 + CLOCK_ALLOWANCE_MS
        self.assertEqual(self.shown(), ({new}, {self.first: end}))
        self.clock.advance(10)
        self.keys = OwnSigningKeys(self.config, self.clock)
        self.assertEqual(self.shown(), ({new}, {self.first: end}))

    def test_nothing_new(self) -> None:
        """Reading the files again without a change says nothing."""
        self.keys.reload()
        self.assertEqual(self.shown(), ({self.first}, {}))
        self.assertEqual(self.said(), [])

    def test_unusable_files(self) -> None:
        """While it runs, the keys stay as they were, and that is an error in the log; at the start it is the end."""
        self.config.signing_key_path.chmod(0o644)
        self.keys.reload()
        self.assertEqual(self.shown(), ({self.first}, {}))
        (said,) = self.said()
        self.assertEqual(said[0], "error")
        self.assertIn("chmod 600", said[1])
        self.assertRaises(FileProblem, OwnSigningKeys, self.config, self.clock)

    def test_end_that_cannot_be_recorded(self) -> None:
        """A server that cannot write the end down goes on signing with the old key."""
        self.rotate()
        Path(f"{retired_keys_path(self.config.signing_key_path)}.new").write_text("")
        self.keys.reload()
        self.assertEqual(self.shown(), ({self.first}, {}))
        self.assertEqual([level for level, _ in self.said()], ["error"])

    def test_key_that_was_thrown_away(self) -> None:
        """A key that somebody took out of the file by hand is warned of."""
        self.config.signing_key_path.write_text("ed25519 new AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
        self.keys.reload()
        self.assertEqual(self.shown(), ({"ed25519:new"}, {}))
        self.assertIn(self.first, next(text for level, text in self.said() if level == "warn"))
