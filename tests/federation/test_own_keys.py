"""What this server publishes of its keys."""

from __future__ import annotations

import json

from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.federation.key_fetching import MAX_ANSWER
from lmatrix.federation.own_keys import MAX_OLD_KEYS, REMADE_AFTER_MS, VALID_FOR_MS, OwnKeys
from lmatrix.federation.server_keys import PublishedKeys
from tests.federation.fakes import HOUR_MS, NOW_MS, signing_key


class OwnKeysTests(SynchronousTestCase):
    """The signed object."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.active = [signing_key("a", 1), signing_key("b", 2)]
        self.retired = RetiredKey(signing_key("old", 3).public, NOW_MS - HOUR_MS)
        self.keys = OwnKeys("us.example", self.active, [self.retired], clock=self.clock)

    def test_content(self) -> None:
        """The object has all the fields that the I-D lists, about 12 hours of validity, and is canonical JSON."""
        published = self.keys.published()
        answer = json.loads(published)
        self.assertEqual(canonical_json.encode(answer), published)
        self.assertEqual(answer["server_name"], "us.example")
        self.assertEqual(answer["valid_until_ts"], NOW_MS + VALID_FOR_MS)
        self.assertIs(answer["m.linearized"], True)
        self.assertEqual(set(answer["verify_keys"]), {"ed25519:a", "ed25519:b"})
        self.assertEqual(
            answer["old_verify_keys"],
            {"ed25519:old": {"key": self.retired.verify_key.to_base64(), "expired_ts": NOW_MS - HOUR_MS}},
        )

    def test_signed_by_every_active_key(self) -> None:
        """Another implementation of signed JSON verifies the signature of each active key; retired ones do not sign."""
        answer = json.loads(self.keys.published())
        self.assertEqual(set(answer["signatures"]["us.example"]), {"ed25519:a", "ed25519:b"})
        for key in self.active:
            one = dict(answer, signatures={"us.example": {key.key_id: answer["signatures"]["us.example"][key.key_id]}})
            verify_signed_json(one, "us.example", decode_verify_key_bytes(key.key_id, key.public.public))

    def test_our_own_reader_takes_it(self) -> None:
        """What we publish is what we accept from others."""
        read = PublishedKeys.read("us.example", json.loads(self.keys.published()), NOW_MS)
        self.assertEqual(set(read.current), {"ed25519:a", "ed25519:b"})
        self.assertEqual(set(read.retired), {"ed25519:old"})

    def test_many_rotations(self) -> None:
        """However many keys there once were, the object is so small that servers take it; the oldest are left out."""
        many = [RetiredKey(signing_key(f"old{number}", 3).public, NOW_MS + number) for number in range(1000)]
        self.keys.replace(self.active, many)
        published = self.keys.published()
        self.assertLess(len(published), MAX_ANSWER)
        read = PublishedKeys.read("us.example", json.loads(published), NOW_MS)
        self.assertEqual(set(read.retired), {f"ed25519:old{number}" for number in range(1000 - MAX_OLD_KEYS, 1000)})
        self.assertEqual(len(self.keys.known_keys()), 1002)

    def test_replaced(self) -> None:
        """Other keys are shown at once, and known for our own events."""
        before = self.keys.published()
        new = signing_key("new", 5)
        gone = RetiredKey(self.active[0].public, NOW_MS)
        self.keys.replace([new], [self.retired, gone])
        self.assertNotEqual(self.keys.published(), before)
        answer = json.loads(self.keys.published())
        self.assertEqual(set(answer["verify_keys"]), {"ed25519:new"})
        self.assertEqual(answer["old_verify_keys"]["ed25519:a"]["expired_ts"], NOW_MS)
        self.assertEqual(set(answer["signatures"]["us.example"]), {"ed25519:new"})
        self.assertEqual(self.keys.known_keys()["ed25519:a"].expired_ts, NOW_MS)
        self.assertRaises(ValueError, self.keys.replace, [], [])

    def test_remade_long_before_it_expires(self) -> None:
        """The same bytes are handed out for an hour and never with less than 11 hours of validity left."""
        first = self.keys.published()
        self.clock.advance(REMADE_AFTER_MS / 1000 - 1)
        self.assertIs(self.keys.published(), first)
        left = json.loads(first)["valid_until_ts"] - self.clock.seconds() * 1000
        self.assertGreaterEqual(left, 11 * HOUR_MS)
        self.clock.advance(1)
        self.assertEqual(json.loads(self.keys.published())["valid_until_ts"], NOW_MS + REMADE_AFTER_MS + VALID_FOR_MS)

    def test_known_keys(self) -> None:
        """For events we know our active keys without an end, and the retired ones with theirs."""
        known = self.keys.known_keys()
        self.assertEqual(
            {key_id: key.expired_ts for key_id, key in known.items()},
            {
                "ed25519:a": None,
                "ed25519:b": None,
                "ed25519:old": NOW_MS - HOUR_MS,
            },
        )

    def test_needs_distinct_keys(self) -> None:
        """No active key, or two keys with one ID, are mistakes of the configuration."""
        self.assertRaises(ValueError, OwnKeys, "us.example", [], [self.retired], clock=self.clock)
        again = RetiredKey(signing_key("a", 9).public, NOW_MS)
        self.assertRaises(ValueError, OwnKeys, "us.example", self.active, [again], clock=self.clock)
