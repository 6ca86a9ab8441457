"""Published keys: which are honoured, of those that come from their server and of those that come from a notary."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.crypto.signed_json import sign_object
from lmatrix.errors import PeerMisbehaved
from lmatrix.federation.server_keys import (
    MAX_CURRENT_KEYS,
    MAX_PUBLISHED_KEYS,
    MAX_VALIDITY_MS,
    PublishedKeys,
    ServerKeys,
    read_notarised,
)
from lmatrix.rooms.key_store import StoredKey, StoredServerKeys
from tests.federation.fakes import DAY_MS, HOUR_MS, NOW_MS, old, published_keys, signing_key

A1, A2 = signing_key("1", 1), signing_key("2", 2)
THEM = "them.example"


class ReadPublishedTests(SynchronousTestCase):
    """The checks on an answer."""

    def read(self, answer: dict[str, Any]) -> dict[str, StoredKey]:
        """The keys that an answer is good for, by ID."""
        stored = PublishedKeys.read(THEM, answer, NOW_MS).stored(NOW_MS)
        self.assertEqual(stored.server_name, THEM)
        self.assertEqual(stored.fetched_ts, NOW_MS)
        return {key.key_id: key for key in stored.keys}

    def assert_refused(self, answer: dict[str, Any]) -> None:
        """The whole answer is refused."""
        self.assertRaises(PeerMisbehaved, PublishedKeys.read, THEM, answer, NOW_MS)

    def test_good(self) -> None:
        """Current and old keys, and the answer itself for those who ask us about it."""
        answer = published_keys(THEM, [A1], old=old(A2))
        keys = self.read(answer)
        self.assertEqual(keys["ed25519:1"], StoredKey("ed25519:1", A1.public.to_base64(), NOW_MS + 12 * HOUR_MS, None))
        self.assertEqual(keys["ed25519:2"], StoredKey("ed25519:2", A2.public.to_base64(), 0, NOW_MS - DAY_MS))
        self.assertEqual(PublishedKeys.read(THEM, answer, NOW_MS).response, canonical_json.encode(answer))

    def test_validity_is_capped(self) -> None:
        """A key is valid for seven days at most, whatever the server says."""
        keys = self.read(published_keys(THEM, [A1], valid_until_ts=NOW_MS + 365 * DAY_MS))
        self.assertEqual(keys["ed25519:1"].valid_until_ts, NOW_MS + MAX_VALIDITY_MS)

    def test_another_servers_name(self) -> None:
        """An answer about another server is refused, however well it is signed."""
        self.assert_refused(published_keys("other.example", [A1]))
        self.assert_refused(published_keys(THEM, [A1], server_name="other.example"))
        self.assert_refused(published_keys(THEM, [A1], server_name="THEM.example"))

    def test_each_key_vouches_for_itself(self) -> None:
        """A current key that did not sign the answer does not count; another's is not spoilt by it."""
        self.assertEqual(set(self.read(published_keys(THEM, [A1, A2], signed_by=[A1]))), {"ed25519:1"})

    def test_not_signed(self) -> None:
        """Without a good signature by a current key nothing counts, old keys neither."""
        unsigned = published_keys(THEM, [A1], old=old(A2))
        self.assert_refused({**unsigned, "signatures": {}})
        self.assert_refused({key: value for key, value in unsigned.items() if key != "signatures"})
        self.assert_refused({**unsigned, "signatures": {THEM: {"ed25519:1": 7}}})
        self.assert_refused({**unsigned, "signatures": {"other.example": unsigned["signatures"][THEM]}})
        self.assert_refused({**unsigned, "m.linearized": False})
        self.assert_refused(published_keys(THEM, [A1], old=old(A2), signed_by=[A2]))
        impostor = signing_key("1", 9)
        self.assert_refused(published_keys(THEM, [A1], signed_by=[impostor]))

    def test_no_current_key(self) -> None:
        """A server without a current key has published nothing that could be checked."""
        self.assert_refused(published_keys(THEM, [], old=old(A2), signed_by=[A2]))

    def test_malformed(self) -> None:
        """Wrong types anywhere that matters."""
        for changes in (
            {"valid_until_ts": "soon"},
            {"valid_until_ts": None},
            {"valid_until_ts": True},
            {"verify_keys": []},
            {"verify_keys": None},
            {"old_verify_keys": []},
            {"server_name": None},
        ):
            with self.subTest(str(changes)):
                self.assert_refused(published_keys(THEM, [A1], **{"valid_until_ts": NOW_MS, **changes}))
        self.assert_refused({**published_keys(THEM, [A1]), "signatures": []})

    def test_without_old_keys(self) -> None:
        """``old_verify_keys`` may be left out."""
        answer = published_keys(THEM, [A1])
        del answer["old_verify_keys"], answer["signatures"]
        resigned = {**answer, "signatures": {THEM: {A1.key_id: A1.sign(canonical_json.encode(answer))}}}
        self.assertEqual(set(self.read(resigned)), {"ed25519:1"})

    def test_other_keys_are_passed_over(self) -> None:
        """Keys of other algorithms, malformed keys and old keys without an end do not spoil the rest."""
        bad_old = {
            "curve25519:x": {"key": A2.public.to_base64(), "expired_ts": 1},
            "ed25519:nothing": {"expired_ts": 1},
            "ed25519:short": {"key": "AAAA", "expired_ts": 1},
            "ed25519:no_end": {"key": A2.public.to_base64()},
            "ed25519:bad_end": {"key": A2.public.to_base64(), "expired_ts": "x"},
            "ed25519:no_object": "x",
        }
        answer = published_keys(THEM, [A1], old={**bad_old, **old(A2)})
        self.assertEqual(set(self.read(answer)), {"ed25519:1", "ed25519:2"})
        more = {A1.key_id: {"key": A1.public.to_base64()}, "rsa:1": {"key": "x"}, "ed25519:bad": {"key": 5}}
        self.assertEqual(set(self.read(published_keys(THEM, [A1], verify_keys=more))), {"ed25519:1"})

    def test_key_in_both_lists(self) -> None:
        """It is still in use."""
        self.assertIsNone(self.read(published_keys(THEM, [A1], old=old(A1)))["ed25519:1"].expired_ts)

    def test_unproved_key_is_not_taken_as_an_old_one(self) -> None:
        """A current key that did not sign does not come in by the other list."""
        answer = published_keys(THEM, [A1, A2], old=old(A2), signed_by=[A1])
        self.assertEqual(set(self.read(answer)), {"ed25519:1"})

    def test_too_many(self) -> None:
        """The number of keys in an answer is bounded."""
        many = {
            f"ed25519:{n}": {"key": A2.public.to_base64(), "expired_ts": 1}
            for n in range(100, 100 + MAX_PUBLISHED_KEYS)
        }
        self.assert_refused(published_keys(THEM, [A1], old=many))
        self.assert_refused(published_keys(THEM, [signing_key(f"x{n}", 3) for n in range(MAX_CURRENT_KEYS + 1)]))

    def test_only_its_own_signatures_are_kept(self) -> None:
        """What others have signed on it (or are said to have) is none of our business, and is not passed on."""
        answer = published_keys(THEM, [A1])
        more = sign_object(
            {**answer, "signatures": {**answer["signatures"], "us.example": {"x": 1}}}, "c.example", [A2]
        )
        self.assertEqual(PublishedKeys.read(THEM, more, NOW_MS).response, canonical_json.encode(answer))


class ReadNotarisedTests(SynchronousTestCase):
    """The checks on what a notary shows."""

    def setUp(self) -> None:
        self.notary_key = signing_key("n", 5)
        self.keys = {self.notary_key.key_id: self.notary_key.public}
        self.shown = sign_object(published_keys(THEM, [A1], old=old(A2)), "notary.example", [self.notary_key])

    def read(self, shown: dict[str, Any]) -> PublishedKeys:
        return read_notarised(THEM, shown, "notary.example", self.keys, NOW_MS)

    def assert_refused(self, shown: dict[str, Any]) -> None:
        """The object is refused."""
        self.assertRaises(PeerMisbehaved, self.read, shown)

    def changed(self, server: str, key_id: str, signature: object) -> dict[str, Any]:
        """The object with one signature more, or another one."""
        signatures = self.shown["signatures"]
        return {
            **self.shown,
            "signatures": {**signatures, server: {**signatures.get(server, {}), key_id: signature}},
        }

    def test_good(self) -> None:
        """Signed by both: as if it had come from the server; the notary's signature is not kept."""
        read = self.read(self.shown)
        self.assertEqual((set(read.current), set(read.retired)), ({"ed25519:1"}, {"ed25519:2"}))
        self.assertEqual(read.response, canonical_json.encode(published_keys(THEM, [A1], old=old(A2))))

    def test_signatures(self) -> None:
        """Each signature that is wanting or bad spoils the object, of the server and of the notary, old keys' too."""
        bad = signing_key("n", 9).sign(b"something else")
        without = {name: by for name, by in self.shown["signatures"].items() if name != "notary.example"}
        for name, shown in {
            "not by the notary": {**self.shown, "signatures": without},
            "not by the server": sign_object({**self.shown, "signatures": {}}, "notary.example", [self.notary_key]),
            "not at all": {**self.shown, "signatures": {}},
            "bad by the notary": self.changed("notary.example", "ed25519:n", bad),
            "no text by the notary": self.changed("notary.example", "ed25519:n", 1),
            "bad by the server": self.changed(THEM, "ed25519:1", bad),
            "bad by an old key": self.changed(THEM, "ed25519:2", bad),
            "changed": {**self.shown, "m.linearized": False},
            "another server's": sign_object(published_keys("other.example", [A1]), "notary.example", [self.notary_key]),
            "another notary's": sign_object(published_keys(THEM, [A1]), "other.example", [self.notary_key]),
        }.items():
            with self.subTest(name):
                self.assert_refused(shown)
        two = published_keys(THEM, [A1, signing_key("3", 3)])
        two["signatures"][THEM]["ed25519:3"] = bad
        self.assert_refused(sign_object(two, "notary.example", [self.notary_key]))

    def test_what_cannot_be_checked(self) -> None:
        """Signatures with unknown keys say nothing, for or against; one good one is needed all the same."""
        self.read(self.changed("notary.example", "ed25519:new", "x"))
        self.read(self.changed(THEM, "rsa:1", "x"))
        self.read(self.changed("other.example", "ed25519:1", "x"))
        self.keys = {}
        self.assert_refused(self.shown)

    def test_validity_is_capped(self) -> None:
        """Seven days from now, whatever the notary shows."""
        shown = sign_object(
            published_keys(THEM, [A1], valid_until_ts=NOW_MS + 99 * DAY_MS), "notary.example", [self.notary_key]
        )
        self.assertEqual(self.read(shown).valid_until_ts, NOW_MS + MAX_VALIDITY_MS)


class ServerKeysTests(SynchronousTestCase):
    """The form in which the keyring uses them."""

    def test_what_is_usable_and_what_is_stale(self) -> None:
        """Only keys in use authenticate requests; a key is stale past its validity, or past the end that a notary gave
        it."""
        public = A1.public.to_base64()
        keys = ServerKeys.of(
            StoredServerKeys(
                THEM,
                (
                    StoredKey("ed25519:valid", public, 100, None),
                    StoredKey("ed25519:past", public, 10, None),
                    StoredKey("ed25519:retired", public, 0, 10),
                    StoredKey("ed25519:said", public, 100, None, "notary.example"),
                    StoredKey("ed25519:told", public, 0, 10, "notary.example"),
                    StoredKey("ed25519:broken", "x", 100, None),
                ),
                1,
                None,
            )
        )
        self.assertEqual(len(keys.known), 5)
        self.assertEqual(set(keys.usable(keys.known, 50)), {"ed25519:valid", "ed25519:said"})
        self.assertEqual(
            {key_id for key_id in keys.known if keys.is_stale([key_id], 50)}, {"ed25519:past", "ed25519:told"}
        )
        self.assertEqual(keys.hearsay, {"ed25519:said", "ed25519:told"})
