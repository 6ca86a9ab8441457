"""Other servers' keys: which are honoured, when they are fetched, and what happens when they cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import PeerMisbehaved, PeerUnreachable
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.keyring import (
    FETCH_TIMEOUT_S,
    FIRST_FAILURE_PAUSE_S,
    MAX_FAILURE_PAUSE_S,
    MAX_FETCHES_FOR_STRANGERS,
    MIN_PAUSE_S,
    ServerKeyring,
)
from lmatrix.federation.own_keys import OwnKeys, RetiredKey
from lmatrix.federation.resources.paths import SERVER_KEYS
from lmatrix.federation.server_keys import (
    MAX_KNOWN_KEYS,
    MAX_PUBLISHED_KEYS,
    MAX_VALIDITY_MS,
    merged,
    read_published,
)
from lmatrix.rooms.key_store import StoredKey, StoredServerKeys
from tests.federation.fakes import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    MemoryDatabase,
    MemoryKeyStore,
    published_keys,
    signing_key,
)

A1, A2 = signing_key("1", 1), signing_key("2", 2)
THEM = "them.example"


def old(key: Any, expired_ts: object = NOW_MS - DAY_MS) -> dict[str, Any]:
    """``old_verify_keys`` with one key."""
    return {key.key_id: {"key": key.public.to_base64(), "expired_ts": expired_ts}}


class ReadPublishedTests(SynchronousTestCase):
    """The checks on an answer."""

    def read(self, answer: dict[str, Any]) -> dict[str, StoredKey]:
        """The keys that an answer is good for, by ID."""
        stored = read_published(THEM, answer, NOW_MS)
        self.assertEqual(stored.server_name, THEM)
        self.assertEqual(stored.fetched_ts, NOW_MS)
        return {key.key_id: key for key in stored.keys}

    def assert_refused(self, answer: dict[str, Any]) -> None:
        """The whole answer is refused."""
        self.assertRaises(PeerMisbehaved, read_published, THEM, answer, NOW_MS)

    def test_good(self) -> None:
        """Current and old keys, and the answer itself for those who ask us about it."""
        answer = published_keys(THEM, [A1], old=old(A2))
        keys = self.read(answer)
        self.assertEqual(keys["ed25519:1"], StoredKey("ed25519:1", A1.public.to_base64(), NOW_MS + 12 * HOUR_MS, None))
        self.assertEqual(keys["ed25519:2"], StoredKey("ed25519:2", A2.public.to_base64(), 0, NOW_MS - DAY_MS))
        self.assertEqual(read_published(THEM, answer, NOW_MS).response, canonical_json.encode(answer))

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


class MergedTests(SynchronousTestCase):
    """What a fetch changes in what was known."""

    def test_first(self) -> None:
        """Nothing was known: the answer is all there is."""
        fresh = read_published(THEM, published_keys(THEM, [A1]), NOW_MS)
        self.assertEqual(merged(None, fresh), fresh)

    def test_withdrawn_key_serves_until_it_was_missed(self) -> None:
        """A key that disappears is kept for events up to the moment when it was missed, or the end of its validity."""
        before = read_published(THEM, published_keys(THEM, [A1]), NOW_MS)
        for later, end in ((HOUR_MS, NOW_MS + HOUR_MS), (DAY_MS, NOW_MS + 12 * HOUR_MS)):
            after = merged(before, read_published(THEM, published_keys(THEM, [A2]), NOW_MS + later))
            keys = {key.key_id: key for key in after.keys}
            self.assertEqual(keys["ed25519:1"], StoredKey("ed25519:1", A1.public.to_base64(), 0, end))
            self.assertIsNone(keys["ed25519:2"].expired_ts)

    def test_retired_key(self) -> None:
        """A key that the server itself retires has the end that the server gives it, and keeps it when it is gone."""
        first = read_published(THEM, published_keys(THEM, [A1]), NOW_MS)
        second = merged(first, read_published(THEM, published_keys(THEM, [A2], old=old(A1, NOW_MS + 5)), NOW_MS + 9))
        third = merged(second, read_published(THEM, published_keys(THEM, [A2]), NOW_MS + HOUR_MS))
        for stored in (second, third):
            self.assertEqual({key.key_id: key.expired_ts for key in stored.keys}["ed25519:1"], NOW_MS + 5)

    def test_bounded(self) -> None:
        """A server that shows ever more keys is not followed for ever."""
        keys = tuple(StoredKey(f"ed25519:x{n}", A1.public.to_base64(), 0, 1) for n in range(MAX_KNOWN_KEYS))
        before = StoredServerKeys(THEM, keys, NOW_MS, b"{}")
        fresh = read_published(THEM, published_keys(THEM, [A1]), NOW_MS)
        self.assertRaises(PeerMisbehaved, merged, before, fresh)


class FakeClient:
    """Servers that answer out of a dictionary: an answer, an error, or a Deferred of one."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = 0, max_answer: int = 0
    ) -> dict[str, Any]:
        """The answer of one server."""
        assert path == SERVER_KEYS
        assert timeout_s == FETCH_TIMEOUT_S
        self.asked.append(destination)
        answer = self.answers.get(destination)
        if isinstance(answer, Deferred):
            answer = await answer
        if answer is None:
            raise PeerUnreachable(destination, "refused")
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer


class KeyringTests(SynchronousTestCase):
    """Looking for keys near and far."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.client = FakeClient()
        self.store = MemoryKeyStore()
        self.database = MemoryDatabase()
        self.us = signing_key("us", 7)
        self.restart()

    def restart(self) -> None:
        """A keyring that remembers only what is stored."""
        retired = RetiredKey(signing_key("gone", 8).public, NOW_MS - DAY_MS)
        self.keyring = ServerKeyring(
            "us.example",
            OwnKeys("us.example", [self.us], [retired], clock=self.clock),
            database=self.database,
            store=self.store,
            client=self.client,
            clock=self.clock,
        )

    def asking_for(self, wanted: Mapping[str, Any]) -> Deferred[Mapping[str, Mapping[str, KnownKey]]]:
        """Keys for events, not waited for."""
        return Deferred.fromCoroutine(self.keyring.keys_for(wanted))

    def keys_for(self, *key_ids: str, server: str = THEM) -> dict[str, int | None]:
        """For events: the ends of those keys that are found."""
        found = self.successResultOf(self.asking_for({server: set(key_ids)}))
        self.assertEqual(set(found), {server})
        return {key_id: key.expired_ts for key_id, key in found[server].items()}

    def asking_current(self, *key_ids: str, server: str = THEM) -> Deferred[Mapping[str, VerifyKey]]:
        """Keys for a request, not waited for."""
        return Deferred.fromCoroutine(self.keyring.current_keys(server, key_ids))

    def current_keys(self, *key_ids: str, server: str = THEM) -> set[str]:
        """For requests: those keys that are found."""
        return set(self.successResultOf(self.asking_current(*key_ids, server=server)))

    def publish(self, *keys: Any, **changes: Any) -> None:
        """Let the other server publish these keys from now on."""
        changes.setdefault("valid_until_ts", int(self.clock.seconds() * 1000) + 12 * HOUR_MS)
        self.client.answers[THEM] = published_keys(THEM, keys, **changes)

    # -- Our own ------------------------------------------------------------------------------------------------------

    def test_own_keys(self) -> None:
        """Our own keys are at hand; the retired one serves for events only."""
        self.assertEqual(
            self.keys_for("ed25519:us", "ed25519:gone", "ed25519:no", server="us.example"),
            {"ed25519:us": None, "ed25519:gone": NOW_MS - DAY_MS},
        )
        self.assertEqual(self.current_keys("ed25519:us", "ed25519:gone", server="us.example"), {"ed25519:us"})
        self.assertEqual(self.client.asked, [])

    # -- Fetching -----------------------------------------------------------------------------------------------------

    def test_fetched_once_and_stored(self) -> None:
        """A key is fetched when it is first wanted, and survives a restart."""
        self.publish(A1)
        for _ in range(2):
            self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
            self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
            self.restart()
        self.assertEqual(self.client.asked, [THEM])

    def test_several_servers(self) -> None:
        """Servers are asked side by side: a slow one holds up the answer, a dead one only leaves its keys out."""
        slow: Deferred[Any] = Deferred()
        self.client.answers["slow.example"] = slow
        self.publish(A1)
        asking = self.asking_for(
            {"slow.example": {"ed25519:1"}, THEM: {"ed25519:1"}, "dead.example": {"ed25519:1"}, "us.example": ["x"]}
        )
        self.assertEqual(sorted(self.client.asked), ["dead.example", "slow.example", THEM])
        self.assertNoResult(asking)
        slow.callback(published_keys("slow.example", [A1]))
        found = self.successResultOf(asking)
        self.assertEqual(
            {server: set(keys) for server, keys in found.items()},
            {"slow.example": {"ed25519:1"}, THEM: {"ed25519:1"}, "dead.example": set(), "us.example": set()},
        )

    def test_one_known_key_is_enough_for_an_event(self) -> None:
        """An event that is also signed with an unknown key causes no request."""
        self.publish(A1)
        self.keys_for("ed25519:1")
        self.clock.advance(HOUR_MS / 1000)
        self.assertEqual(self.keys_for("ed25519:1", "ed25519:unknown"), {"ed25519:1": None})
        self.assertEqual(len(self.client.asked), 1)

    def test_what_is_no_key_id_is_never_asked_for(self) -> None:
        """Signatures by other algorithms, and rubbish, cause no request."""
        self.assertEqual(self.keys_for("rsa:1", "", "ed25519:"), {})
        self.assertEqual(self.current_keys("rsa:1"), set())
        self.assertEqual(self.client.asked, [])

    def test_asked_once_at_a_time(self) -> None:
        """Whoever wants keys while their server is being asked shares the answer."""
        answer: Deferred[Any] = Deferred()
        self.client.answers[THEM] = answer
        first, second = self.asking_for({THEM: ["ed25519:1"]}), self.asking_for({THEM: ["ed25519:2"]})
        third = self.asking_current("ed25519:1")
        self.assertEqual(self.client.asked, [THEM])
        third.addErrback(lambda _: None)
        third.cancel()
        answer.callback(published_keys(THEM, [A1]))
        self.assertEqual(set(self.successResultOf(first)[THEM]), {"ed25519:1"})
        self.assertEqual(set(self.successResultOf(second)[THEM]), set())

    def test_not_asked_again_at_once(self) -> None:
        """Requests with invented key IDs make us ask no more than once in a pause."""
        self.publish(A1)
        for number in range(20):
            self.assertEqual(self.current_keys(f"ed25519:x{number}"), set())
            self.assertEqual(self.keys_for(f"ed25519:x{number}"), {})
        self.assertEqual(len(self.client.asked), 1)
        self.clock.advance(MIN_PAUSE_S)
        self.current_keys("ed25519:x")
        self.assertEqual(len(self.client.asked), 2)

    def test_growing_pauses_after_failures(self) -> None:
        """A server that cannot be reached is asked after pauses that double, up to a bound; an answer starts anew."""
        pause = FIRST_FAILURE_PAUSE_S
        for asked in range(1, 15):
            self.assertEqual(self.current_keys("ed25519:1"), set())
            self.clock.advance(pause * 0.9)
            self.assertEqual(self.keys_for("ed25519:1"), {})
            self.assertEqual(len(self.client.asked), asked)
            self.clock.advance(pause * 0.11)
            pause = min(pause * 2, MAX_FAILURE_PAUSE_S)
        self.publish(A1)
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})

    def test_slow_server(self) -> None:
        """A server that takes its time is asked less often, so that waiting for it stays a small part of ours."""
        answer: Deferred[Any] = Deferred()
        self.client.answers[THEM] = answer
        asking = self.asking_current("ed25519:x")
        self.clock.advance(9)
        answer.callback(published_keys(THEM, [A1]))
        self.successResultOf(asking)
        self.clock.advance(80)
        self.current_keys("ed25519:x")
        self.assertEqual(len(self.client.asked), 1)
        self.clock.advance(10)
        self.client.answers[THEM] = None
        self.current_keys("ed25519:x")
        self.assertEqual(len(self.client.asked), 2)

    def test_lying_server(self) -> None:
        """An answer that does not verify changes nothing, and counts as a failure."""
        self.publish(A1, signed_by=[A2])
        self.assertEqual(self.keys_for("ed25519:1"), {})
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertEqual(self.store.servers, {})
        self.assertEqual(len(self.client.asked), 1)

    def test_strangers_cannot_make_us_ask_everybody(self) -> None:
        """Only so many unknown servers are asked at one time for unauthenticated requests; events are not held back."""
        for number in range(MAX_FETCHES_FOR_STRANGERS):
            self.client.answers[f"s{number}.example"] = Deferred()
            self.asking_current("ed25519:1", server=f"s{number}.example")
        self.publish(A1)
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertNotIn(THEM, self.client.asked)
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})

    def test_database_failure(self) -> None:
        """That our own database fails is no one else's fault, and is not hidden."""
        self.database.failure = ZeroDivisionError()
        self.failureResultOf(self.asking_for({THEM: ["ed25519:1"], "b.example": ["ed25519:1"]}), ZeroDivisionError)
        self.failureResultOf(self.asking_current("ed25519:1"), ZeroDivisionError)

    # -- Validity -----------------------------------------------------------------------------------------------------

    def test_expired_key_is_fetched_again_for_a_request(self) -> None:
        """Past its validity a key authenticates nothing until it has been confirmed."""
        self.publish(A1, valid_until_ts=NOW_MS + HOUR_MS)
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
        self.clock.advance(HOUR_MS / 1000)
        self.client.answers[THEM] = None
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertEqual(len(self.client.asked), 2)
        self.publish(A1)
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})

    def test_answer_that_has_expired_already(self) -> None:
        """Its keys are good for events only."""
        self.publish(A1, valid_until_ts=NOW_MS - 1)
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})

    def test_unreachable_server_keeps_its_keys_for_events(self) -> None:
        """Events of a server that has gone stay checkable, long past the validity and after a restart."""
        self.publish(A1, old=old(A2))
        self.keys_for("ed25519:1")
        self.client.answers[THEM] = None
        self.clock.advance(400 * DAY_MS / 1000)
        for _ in range(2):
            self.assertEqual(self.keys_for("ed25519:1", "ed25519:2"), {"ed25519:1": None, "ed25519:2": NOW_MS - DAY_MS})
            self.restart()

    def test_stale_key_is_confirmed_in_the_background(self) -> None:
        """An event does not wait for that, but the next one sees what came of it."""
        self.publish(A1)
        self.keys_for("ed25519:1")
        self.clock.advance(2 * DAY_MS / 1000)
        answer: Deferred[Any] = Deferred()
        self.client.answers[THEM] = answer
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.assertEqual(len(self.client.asked), 2)
        answer.callback(published_keys(THEM, [A2], old=old(A1), valid_until_ts=NOW_MS + 3 * DAY_MS))
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": NOW_MS - DAY_MS})

    def test_background_failure_is_logged(self) -> None:
        """A failure of our own while nobody waits does not go unseen."""
        self.publish(A1)
        self.keys_for("ed25519:1")
        self.clock.advance(2 * DAY_MS / 1000)
        self.database.failure = ZeroDivisionError()
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_rotation(self) -> None:
        """A new key is found as soon as it is used; the old one then serves for old events and for no request."""
        self.publish(A1)
        self.current_keys("ed25519:1")
        self.clock.advance(MIN_PAUSE_S)
        self.publish(A2, old=old(A1, NOW_MS + 1))
        self.assertEqual(self.current_keys("ed25519:2"), {"ed25519:2"})
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertEqual(self.keys_for("ed25519:1", "ed25519:2"), {"ed25519:1": NOW_MS + 1, "ed25519:2": None})

    def test_silent_rotation(self) -> None:
        """A key that disappears without a word still serves for events before that, for ever."""
        self.publish(A1)
        self.current_keys("ed25519:1")
        self.clock.advance(MIN_PAUSE_S)
        self.publish(A2)
        self.current_keys("ed25519:2")
        self.restart()
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": NOW_MS + int(MIN_PAUSE_S * 1000)})
        self.assertEqual(self.current_keys("ed25519:1"), set())

    def test_published(self) -> None:
        """A server's last answer can be passed on, its signatures included; ours too."""
        self.publish(A1)
        asking = Deferred.fromCoroutine(self.keyring.published(THEM))
        self.assertIsNone(self.successResultOf(asking))
        self.keys_for("ed25519:1")
        published = self.successResultOf(Deferred.fromCoroutine(self.keyring.published(THEM)))
        self.assertEqual(published, canonical_json.encode(self.client.answers[THEM]))
        ours = self.successResultOf(Deferred.fromCoroutine(self.keyring.published("us.example")))
        assert ours is not None
        self.assertIn(b"us.example", ours)
