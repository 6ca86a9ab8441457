"""Other servers' keys: which are honoured, when they are fetched, and what happens when they cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import VerifyKey
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.errors import PeerUnreachable
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.key_fetching import (
    FETCH_TIMEOUT_S,
    FIRST_FAILURE_PAUSE_S,
    MAX_FAILURE_PAUSE_S,
    MIN_PAUSE_S,
    SLOWNESS_FACTOR,
    KeyFetcher,
)
from lmatrix.federation.keyring import MAX_FETCHES_FOR_STRANGERS, MAX_LOOKED_FOR_AT_ONCE, ServerKeyring
from lmatrix.federation.own_keys import OwnKeys
from tests.federation.fakes import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    FakeKeyClient,
    MemoryDatabase,
    MemoryKeyStore,
    old,
    published_keys,
    signing_key,
)

A1, A2 = signing_key("1", 1), signing_key("2", 2)
THEM = "them.example"


class KeyringTests(SynchronousTestCase):
    """Looking for keys near and far."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.client = FakeKeyClient()
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
            KeyFetcher(database=self.database, store=self.store, client=self.client, clock=self.clock),
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

    def test_many_servers_are_asked_some_at_a_time(self) -> None:
        """The state of a room may name thousands of servers: they are asked in turn, and all of them are."""
        servers = [f"s{number}.example" for number in range(2 * MAX_LOOKED_FOR_AT_ONCE + 10)]
        for server in servers:
            self.client.answers[server] = Deferred()
        asking = self.asking_for({server: {"ed25519:1"} for server in servers})
        self.assertEqual(self.client.asked, servers[:MAX_LOOKED_FOR_AT_ONCE])
        for number, server in enumerate(servers):
            self.assertNoResult(asking)
            self.client.answers[server].errback(PeerUnreachable(server, "gone"))
            expected = min(len(servers), MAX_LOOKED_FOR_AT_ONCE + number + 1)
            self.assertEqual(self.client.asked, servers[:expected])
        self.assertEqual(self.successResultOf(asking), {server: {} for server in servers})

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

    def test_who_has_spoken(self) -> None:
        """A key that a server did not name does not exist, from when it was asked; what failed says nothing."""
        self.keys_for("ed25519:1")
        self.assertFalse(self.keyring.has_spoken(THEM, 0.0))
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.publish(A1)
        asked = self.clock.seconds()
        self.keys_for("ed25519:x")
        self.assertTrue(self.keyring.has_spoken(THEM, asked))
        self.clock.advance(1)
        self.keys_for("ed25519:x")
        self.assertFalse(self.keyring.has_spoken(THEM, asked + 1))
        self.assertTrue(self.keyring.has_spoken(THEM, asked))
        self.assertTrue(self.keyring.has_spoken("us.example", asked + 1))
        self.clock.advance(MIN_PAUSE_S)
        self.client.answers.clear()
        self.keys_for("ed25519:x")
        self.assertFalse(self.keyring.has_spoken(THEM, asked))

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

    def test_a_clock_that_is_set(self) -> None:
        """A clock that jumps makes nobody slow, and no pause longer; what was known in a time that is to come again
        does not count.
        """
        answer: Deferred[Any] = Deferred()
        self.client.answers[THEM] = answer
        asking = self.asking_current("ed25519:x")
        self.clock.rightNow += 50_000
        answer.callback(published_keys(THEM, [A1]))
        self.successResultOf(asking)
        self.clock.advance(SLOWNESS_FACTOR * FETCH_TIMEOUT_S)
        self.publish(A1)
        self.current_keys("ed25519:x")
        self.assertEqual(len(self.client.asked), 2)
        self.clock.rightNow -= 50_000
        self.assertFalse(self.keyring.has_spoken(THEM, self.clock.seconds()))
        self.current_keys("ed25519:x")
        self.assertEqual(len(self.client.asked), 3)

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
