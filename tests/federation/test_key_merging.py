"""What newly learnt keys change in what was known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import PeerMisbehaved
from lmatrix.federation.key_merging import (
    MAX_KNOWN_KEYS,
    MAX_PAST_BYTES,
    MAX_PAST_RESPONSES,
    kept_responses,
    merged,
    merged_from_notary,
)
from lmatrix.federation.server_keys import PublishedKeys, ServerKeys
from lmatrix.rooms.key_store import StoredKey, StoredResponse, StoredServerKeys
from tests.federation.fakes import DAY_MS, HOUR_MS, NOW_MS, old, published_keys, signing_key

A1, A2, A3 = signing_key("1", 1), signing_key("2", 2), signing_key("3", 3)
EVIL = signing_key("1", 66)
THEM, NOTARY = "them.example", "notary.example"
LATER = NOW_MS + 3 * DAY_MS


def published(keys: Iterable[SigningKey], now_ms: int = NOW_MS, **changes: Any) -> PublishedKeys:
    """An answer, checked."""
    changes.setdefault("valid_until_ts", now_ms + 12 * HOUR_MS)
    return PublishedKeys.read(THEM, published_keys(THEM, keys, **changes), now_ms)


def fetched(keys: Iterable[SigningKey], now_ms: int = NOW_MS, **changes: Any) -> StoredServerKeys:
    """What a fetch brings."""
    return published(keys, now_ms, **{"valid_until_ts": NOW_MS + 12 * HOUR_MS, **changes}).stored(now_ms)


def by_id(stored: StoredServerKeys | None) -> dict[str, StoredKey]:
    """The keys by version."""
    assert stored is not None
    return {key.key_id.partition(":")[2]: key for key in stored.keys}


class MergedTests(SynchronousTestCase):
    """What a fetch changes in what was known."""

    def test_first(self) -> None:
        """Nothing was known: the answer is all there is."""
        fresh = fetched([A1])
        self.assertEqual(merged(None, fresh), fresh)

    def test_withdrawn_key_serves_until_it_was_missed(self) -> None:
        """A key that disappears is kept for events up to the moment when it was missed, or the end of its validity."""
        before = fetched([A1])
        for later, end in ((HOUR_MS, NOW_MS + HOUR_MS), (DAY_MS, NOW_MS + 12 * HOUR_MS)):
            after = merged(before, fetched([A2], NOW_MS + later))
            keys = {key.key_id: key for key in after.keys}
            self.assertEqual(keys["ed25519:1"], StoredKey("ed25519:1", A1.public.to_base64(), 0, end))
            self.assertIsNone(keys["ed25519:2"].expired_ts)

    def test_retired_key(self) -> None:
        """A key that the server itself retires has the end that the server gives it, and keeps it when it is gone."""
        first = fetched([A1])
        second = merged(first, fetched([A2], NOW_MS + 9, old=old(A1, NOW_MS + 5)))
        third = merged(second, fetched([A2], NOW_MS + HOUR_MS))
        for stored in (second, third):
            self.assertEqual({key.key_id: key.expired_ts for key in stored.keys}["ed25519:1"], NOW_MS + 5)

    def test_bounded(self) -> None:
        """A server that shows ever more keys is not followed for ever."""
        keys = tuple(StoredKey(f"ed25519:x{n}", A1.public.to_base64(), 0, 1) for n in range(MAX_KNOWN_KEYS))
        before = StoredServerKeys(THEM, keys, NOW_MS, b"{}")
        fresh = fetched([A1])
        self.assertRaises(PeerMisbehaved, merged, before, fresh)


class FromNotaryTests(SynchronousTestCase):
    """What a notary's word changes in what was known."""

    def told(self, before: StoredServerKeys | None, *shown: PublishedKeys, now_ms: int = LATER) -> StoredServerKeys:
        """What is known after a notary has shown this."""
        after = merged_from_notary(before, shown, NOTARY, now_ms)
        assert after is not None
        return after

    def usable(self, stored: StoredServerKeys, now_ms: int = LATER) -> set[str]:
        """Versions of the keys that authenticate requests."""
        keys = ServerKeys.of(stored)
        return {key_id.partition(":")[2] for key_id in keys.usable(keys.known, now_ms)}

    def test_nothing(self) -> None:
        """A notary without an answer changes nothing."""
        self.assertIsNone(merged_from_notary(None, [], NOTARY, LATER))
        before = fetched([A1])
        self.assertEqual(merged_from_notary(before, [], NOTARY, LATER), before)

    def test_server_that_never_answered(self) -> None:
        """The notary's word is all there is: its keys serve for events, and for requests as long as they are valid.

        It is no response that we got ourselves.
        """
        stored = self.told(None, published([A1], LATER, old=old(A2, 5)))
        self.assertEqual((stored.fetched_ts, stored.response), (0, None))
        self.assertEqual(
            by_id(stored),
            {
                "1": StoredKey("ed25519:1", A1.public.to_base64(), LATER + 12 * HOUR_MS, None, NOTARY),
                "2": StoredKey("ed25519:2", A2.public.to_base64(), 0, 5, NOTARY),
            },
        )
        self.assertEqual(self.usable(stored), {"1"})
        self.assertEqual(self.usable(stored, LATER + DAY_MS), set())

    def test_several_responses(self) -> None:
        """Of several objects the youngest says what is in use, in whichever order they come; a key of an older one
        serves for events up to that one's end."""
        shown = [published([A1, A2]), published([A2, A3], LATER)]
        for order in (shown, shown[::-1]):
            keys = by_id(self.told(None, *order))
            self.assertEqual({version: key.expired_ts for version, key in keys.items()}, {
                "1": NOW_MS + 12 * HOUR_MS, "2": None, "3": None,
            })  # fmt: skip

    def test_older_word_of_another_notary(self) -> None:
        """What a second notary shows of earlier times brings no key back, but serves for events of those times."""
        first = self.told(None, published([A2], LATER))
        second = self.told(first, published([A1]))
        self.assertEqual(by_id(second)["2"], by_id(first)["2"])
        self.assertEqual(by_id(second)["1"].expired_ts, NOW_MS + 12 * HOUR_MS)
        self.assertEqual(self.usable(second), {"2"})

    def test_the_servers_own_word_by_another_way(self) -> None:
        """An object that a key signed which the server has shown us is as good as its answer: validity grows, other
        keys come and go, and none of it is the notary's word."""
        before = fetched([A1, A2])
        after = self.told(before, published([A1, A3], LATER, old=old(A2, NOW_MS + 7)))
        keys = by_id(after)
        self.assertEqual({version: key.expired_ts for version, key in keys.items()}, {
            "1": None, "2": NOW_MS + 7, "3": None,
        })  # fmt: skip
        self.assertEqual({key.notary for key in keys.values()}, {None})
        self.assertEqual(self.usable(after), {"1", "3"})
        # What is missing may be younger than the object.
        self.assertEqual(by_id(self.told(before, published([A1], LATER)))["2"], by_id(before)["2"])
        self.assertEqual((after.fetched_ts, after.response), (before.fetched_ts, before.response))

    def test_replayed(self) -> None:
        """An older object of the server's own gives no power back, however the notary shows it."""
        old_word = published([A1, A2], valid_until_ts=NOW_MS + 5 * DAY_MS)
        now = merged(old_word.stored(NOW_MS), fetched([A2], LATER, valid_until_ts=LATER + 3 * DAY_MS, old=old(A1, 5)))
        after = self.told(now, old_word, now_ms=LATER)
        self.assertEqual(by_id(after), by_id(now))
        # Even if it claims to be younger than anything else.
        longest = published([A1, A2], valid_until_ts=NOW_MS + 7 * DAY_MS)
        after = self.told(now, longest, now_ms=LATER)
        self.assertEqual(by_id(after)["1"].expired_ts, 5)
        self.assertEqual(self.usable(after), {"2"})

    def test_a_lie_about_a_server_that_we_know(self) -> None:
        """A key that none of the server's keys has signed authenticates nothing, replaces none, and ends none."""
        before = fetched([A1], LATER, valid_until_ts=LATER + HOUR_MS)
        for lie in (
            published([EVIL], LATER),
            published([EVIL, A3], LATER, old=old(A2)),
            published([A3], LATER, old=old(A1, 5)),
            published([A3], LATER, old=old(EVIL, 5)),
        ):
            after = self.told(before, lie)
            self.assertEqual(by_id(after)["1"], by_id(before)["1"])
            self.assertEqual(self.usable(after), {"1"})
            for version, key in by_id(after).items():
                if version != "1":
                    self.assertEqual(key.notary, NOTARY)
                    self.assertIsNotNone(key.expired_ts)

    def test_unconnected_keys_serve_for_events(self) -> None:
        """A server that has changed its keys and is gone: events up to the end of what the notary has can be checked,
        and that end moves as the notary learns more."""
        first = self.told(fetched([A1]), published([A2]))
        self.assertEqual(by_id(first)["2"].expired_ts, NOW_MS + 12 * HOUR_MS)
        second = self.told(first, published([A2], LATER))
        self.assertEqual(by_id(second)["2"].expired_ts, LATER + 12 * HOUR_MS)
        self.assertEqual(by_id(self.told(second, published([A2])))["2"], by_id(second)["2"])
        self.assertEqual(by_id(self.told(second, published([signing_key("2", 9)], LATER)))["2"], by_id(second)["2"])

    def test_the_server_speaks_again(self) -> None:
        """Its own answer stands over what a notary said; old events stay checkable."""
        told = self.told(None, published([A1, A2], LATER))
        after = merged(told, fetched([A2], LATER + 5, valid_until_ts=LATER + HOUR_MS))
        self.assertEqual(by_id(after)["2"].notary, None)
        self.assertEqual(by_id(after)["1"].expired_ts, LATER + 5)

    def test_bounded(self) -> None:
        """A notary cannot fill the database either."""
        keys = tuple(StoredKey(f"ed25519:x{n}", A1.public.to_base64(), 0, 1) for n in range(MAX_KNOWN_KEYS))
        before = StoredServerKeys(THEM, keys, NOW_MS, b"{}")
        self.assertRaises(PeerMisbehaved, merged_from_notary, before, [published([A1])], NOTARY, LATER)


class KeptResponsesTests(SynchronousTestCase):
    """Which earlier responses a notary keeps."""

    def response(self, *keys: SigningKey, **changes: Any) -> StoredResponse:
        return StoredResponse(NOW_MS, published(keys, **changes).response)

    def kept(self, *past: StoredResponse, current: Iterable[SigningKey] = (A2,)) -> list[StoredResponse]:
        """Of ``past``, the last one first, what is kept beside a response with ``current``."""
        return kept_responses([key.key_id for key in current], past[0] if past else None, past[1:])

    def test_distinct_keys(self) -> None:
        """A response is kept as long as it has a key that no later one has."""
        one, both, three = self.response(A1), self.response(A1, A2), self.response(A3)
        self.assertEqual(self.kept(), [])
        self.assertEqual(self.kept(self.response(A2)), [])
        self.assertEqual(self.kept(one), [one])
        self.assertEqual(self.kept(both), [both])
        self.assertEqual(self.kept(both, one), [both])
        self.assertEqual(self.kept(three, both, one), [three, both])
        self.assertEqual(self.kept(three, both, current=(A1, A2)), [three])

    def test_bounded(self) -> None:
        """In number and in bytes; the oldest give way."""
        many = [self.response(signing_key(f"x{n}", 3)) for n in range(MAX_PAST_RESPONSES + 5)]
        self.assertEqual(self.kept(*many), many[:MAX_PAST_RESPONSES])
        long = [self.response(signing_key(f"x{n}", 3), padding="x" * (MAX_PAST_BYTES // 3)) for n in range(5)]
        self.assertEqual(self.kept(*long), long[:2])
