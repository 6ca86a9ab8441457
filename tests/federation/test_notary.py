"""This server as a notary: what its answers are worth, and what queries can make it do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.crypto.keys import SigningKey
from lmatrix.federation.key_fetching import FIRST_FAILURE_PAUSE_S, KeyFetcher
from lmatrix.federation.notary import (
    MAX_ANSWER,
    MAX_FETCHES,
    MAX_FETCHES_WAITING,
    MAX_QUERIES_WAITING,
    PATIENCE_S,
    Notary,
)
from lmatrix.federation.notary_choice import MIN_AGE_MS, KeyQuery
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.http.limits import RateLimiter
from lmatrix.rooms.identity import ServerIdentity
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
US, THEM = "us.example", "them.example"
ADDRESS = "192.0.2.1"


class NotaryTests(SynchronousTestCase):
    """Queries and answers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.client = FakeKeyClient()
        self.store = MemoryKeyStore()
        self.database = MemoryDatabase()
        self.ours: tuple[SigningKey, ...] = (signing_key("us1", 7), signing_key("us2", 8))
        self.identity = ServerIdentity(US, self.ours)
        self.limiter: RateLimiter | None = None
        self.restart()

    def restart(self) -> None:
        """A notary that remembers only what is stored."""
        self.fetcher = KeyFetcher(database=self.database, store=self.store, client=self.client, clock=self.clock)
        self.notary = Notary(
            self.identity,
            OwnKeys(US, self.ours, [], clock=self.clock),
            self.fetcher,
            database=self.database,
            store=self.store,
            limiter=self.limiter,
            clock=self.clock,
        )

    def publish(self, *keys: SigningKey, server: str = THEM, **changes: Any) -> dict[str, Any]:
        """Let a server publish these keys from now on."""
        changes.setdefault("valid_until_ts", int(self.clock.seconds() * 1000) + 12 * HOUR_MS)
        self.client.answers[server] = published_keys(server, keys, **changes)
        answer: dict[str, Any] = self.client.answers[server]
        return answer

    def asking(self, *queries: KeyQuery, address: str = ADDRESS) -> Deferred[bytes]:
        """A query, not waited for."""
        return Deferred.fromCoroutine(self.notary.query(queries, address))

    def ask(self, *queries: KeyQuery, address: str = ADDRESS) -> list[dict[str, Any]]:
        """The objects in the answer, each without the signatures of ours, which have been verified."""
        return self.checked(self.successResultOf(self.asking(*queries, address=address)))

    def checked(self, answer: bytes) -> list[dict[str, Any]]:
        """The objects in an answer, each without the signatures of ours, which have been verified."""
        parsed = json.loads(answer)
        self.assertEqual(canonical_json.encode(parsed), answer)
        self.assertEqual(set(parsed), {"server_keys"})
        return [self.without_ours(shown) for shown in parsed["server_keys"]]

    def without_ours(self, shown: dict[str, Any]) -> dict[str, Any]:
        ours = shown["signatures"][US]
        self.assertEqual(set(ours), {key.key_id for key in self.ours})
        for key in self.ours:
            one = {**shown, "signatures": {US: {key.key_id: ours[key.key_id]}}}
            verify_signed_json(one, US, decode_verify_key_bytes(key.key_id, key.public.public))
        if shown["server_name"] == US:
            return shown
        return {**shown, "signatures": {name: by for name, by in shown["signatures"].items() if name != US}}

    # -- What is shown ------------------------------------------------------------------------------------------------

    def test_signed_by_both(self) -> None:
        """The server's own object, as it signed it, with a signature by each of our keys (checked by another
        implementation)."""
        published = self.publish(A1, old=old(A2))
        self.assertEqual(self.ask(KeyQuery(THEM)), [published])
        verify_signed_json(published, THEM, decode_verify_key_bytes(A1.key_id, A1.public.public))

    def test_ourselves(self) -> None:
        """Our own keys are at hand, and kept out like others' when they do not meet the query."""
        (shown,) = self.ask(KeyQuery(US))
        self.assertEqual(set(shown["verify_keys"]), {key.key_id for key in self.ours})
        self.assertEqual(len(self.ask(KeyQuery(US, {"ed25519:us1": NOW_MS}))), 1)
        self.assertEqual(self.ask(KeyQuery(US, {"ed25519:nobody": None})), [])
        self.assertEqual(self.ask(KeyQuery(US, minimum=NOW_MS + DAY_MS)), [])
        self.assertEqual(self.client.asked, [])

    def test_unreachable(self) -> None:
        """A server that never answered has no keys; the others in the query have theirs."""
        published = self.publish(A1)
        found = self.ask(KeyQuery("dead.example"), KeyQuery(THEM), KeyQuery("[::1]"))
        self.assertEqual(found, [published])

    def test_nobody(self) -> None:
        """A query about no server has an empty answer."""
        self.assertEqual(self.ask(), [])

    def test_lying_server(self) -> None:
        """What is not properly signed is not shown, and does not replace what is."""
        self.publish(A1, signed_by=[A2])
        self.assertEqual(self.ask(KeyQuery(THEM)), [])
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        good = self.publish(A1)
        self.assertEqual(self.ask(KeyQuery(THEM)), [good])
        self.clock.advance(10 * HOUR_MS / 1000)
        self.publish(A1, signed_by=[A2])
        self.assertEqual(self.ask(KeyQuery(THEM)), [good])

    def test_our_signature_in_their_answer(self) -> None:
        """What a server says that we or others have signed is not passed on."""
        published = self.publish(A1)
        forged = {**published["signatures"], US: {"ed25519:forged": "x"}, "c.example": {"ed25519:1": "x"}}
        self.client.answers[THEM] = {**published, "signatures": forged}
        self.assertEqual(self.ask(KeyQuery(THEM)), [published])

    def test_minimum(self) -> None:
        """What is not valid for as long as it is needed is left out."""
        published = self.publish(A1)
        for minimum, expected in ((NOW_MS + 12 * HOUR_MS, [published]), (NOW_MS + 12 * HOUR_MS + 1, [])):
            self.assertEqual(self.ask(KeyQuery(THEM, minimum=minimum)), expected)
            self.assertEqual(self.ask(KeyQuery(THEM, {"ed25519:1": minimum})), expected)

    def test_distinct_keys_are_kept(self) -> None:
        """A server that changes its keys without a word: the old response can still be had, also after a restart."""
        first = self.publish(A1)
        self.ask(KeyQuery(THEM))
        self.clock.advance(DAY_MS / 1000)
        second = self.publish(A2)
        self.assertEqual(self.ask(KeyQuery(THEM)), [second])
        self.restart()
        self.assertEqual(self.ask(KeyQuery(THEM, minimum=1)), [second, first])
        self.assertEqual(self.ask(KeyQuery(THEM, {"ed25519:1": NOW_MS})), [first])
        self.assertEqual(self.ask(KeyQuery(THEM, {"ed25519:2": NOW_MS})), [second])
        self.client.answers.clear()
        self.clock.advance(100 * DAY_MS / 1000)
        self.assertEqual(self.ask(KeyQuery(THEM)), [second, first])

    # -- When servers are asked ---------------------------------------------------------------------------------------

    def test_cached_for_half_the_lifetime(self) -> None:
        """A response is shown for half of its lifetime before its server is asked again."""
        first = self.publish(A1)
        self.ask(KeyQuery(THEM))
        self.clock.advance(6 * HOUR_MS / 1000 - 1)
        second = self.publish(A1)
        self.assertEqual(self.ask(KeyQuery(THEM)), [first])
        self.clock.advance(1)
        self.assertEqual(self.ask(KeyQuery(THEM)), [second])
        self.assertEqual(len(self.client.asked), 2)

    def test_asked_earlier_when_that_helps(self) -> None:
        """A longer validity, or a key that is not known, is worth a question; but not at once, and not for ever."""
        self.publish(A1)
        self.ask(KeyQuery(THEM))
        longer = KeyQuery(THEM, minimum=NOW_MS + 12 * HOUR_MS + 1000)
        self.assertEqual(self.ask(longer), [])
        self.assertEqual(len(self.client.asked), 1)
        self.clock.advance(MIN_AGE_MS / 1000)
        published = self.publish(A1)
        self.assertEqual(self.ask(longer), [published])
        other = KeyQuery(THEM, {"ed25519:2": None})
        self.assertEqual(self.ask(other), [])
        self.assertEqual(len(self.client.asked), 2)
        self.clock.advance(MIN_AGE_MS / 1000)
        published = self.publish(A1, A2)
        self.assertEqual(self.ask(other), [published])
        self.assertEqual(len(self.client.asked), 3)

    def test_last_response_of_a_dead_server(self) -> None:
        """When the server does not answer any more, its last response is shown, valid or not; not to those who need
        a validity that it does not have."""
        published = self.publish(A1)
        self.ask(KeyQuery(THEM))
        self.client.answers.clear()
        self.clock.advance(400 * DAY_MS / 1000)
        for _ in range(2):
            self.assertEqual(self.ask(KeyQuery(THEM)), [published])
            self.assertEqual(self.ask(KeyQuery(THEM, {"ed25519:1": None})), [published])
            self.assertEqual(self.ask(KeyQuery(THEM, minimum=NOW_MS)), [published])
            self.assertEqual(self.ask(KeyQuery(THEM, minimum=int(self.clock.seconds() * 1000))), [])
            self.restart()

    def test_asked_once_at_a_time(self) -> None:
        """Queries for the same server share one question; the keyring's too."""
        answer: Deferred[Any] = Deferred()
        self.client.answers[THEM] = answer
        fetching = Deferred.fromCoroutine(self.fetcher.asked(THEM))
        asking = [self.asking(KeyQuery(THEM)) for _ in range(50)]
        self.assertEqual(self.client.asked, [THEM])
        published = published_keys(THEM, [A1])
        answer.callback(published)
        self.successResultOf(fetching)
        for one in asking:
            self.assertEqual(self.checked(self.successResultOf(one)), [published])

    def test_not_asked_again_at_once(self) -> None:
        """However often and for whatever it is queried, a server is left alone between questions: one that answers, and
        one that does not."""
        self.publish(A1, valid_until_ts=NOW_MS - 1)
        for number in range(20):
            self.ask(KeyQuery(THEM, {f"ed25519:x{number}": NOW_MS + number}), KeyQuery("dead.example", minimum=number))
        self.assertEqual(sorted(self.client.asked), ["dead.example", THEM])

    # -- Bounds -------------------------------------------------------------------------------------------------------

    def test_slow_server(self) -> None:
        """A query waits so long and no longer; what comes later is known to the next one."""
        answer: Deferred[Any] = Deferred()
        self.client.answers["slow.example"] = answer
        published = self.publish(A1)
        asking = self.asking(KeyQuery("slow.example"), KeyQuery(THEM))
        self.clock.advance(PATIENCE_S - 1)
        self.assertNoResult(asking)
        self.clock.advance(1)
        self.assertEqual(self.checked(self.successResultOf(asking)), [published])
        late = published_keys("slow.example", [A2])
        answer.callback(late)
        self.assertEqual(self.ask(KeyQuery("slow.example")), [late])
        self.assertEqual(self.client.asked, ["slow.example", THEM])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def hang(self, names: Iterable[str]) -> list[Deferred[Any]]:
        """Let servers take their time."""
        hanging: list[Deferred[Any]] = []
        for name in names:
            answer: Deferred[Any] = Deferred()
            self.client.answers[name] = answer
            hanging.append(answer)
        return hanging

    def test_many_servers(self) -> None:
        """Only so many servers are asked at one time, others wait in line, and the rest are not asked."""
        names = [f"s{number}.example" for number in range(MAX_FETCHES + MAX_FETCHES_WAITING + 10)]
        hanging = self.hang(names)
        asking = self.asking(*map(KeyQuery, names))
        self.assertEqual(self.client.asked, names[:MAX_FETCHES])
        for number, answer in enumerate(hanging):
            if answer.called or names[number] not in self.client.asked:
                continue
            answer.callback(published_keys(names[number], [A1]))
        shown = self.checked(self.successResultOf(asking))
        reached = names[: MAX_FETCHES + MAX_FETCHES_WAITING]
        self.assertEqual(self.client.asked, reached)
        self.assertEqual([one["server_name"] for one in shown], reached)

    def test_many_queries(self) -> None:
        """Only so many queries wait; the others are told what is at hand."""
        self.hang(["slow.example"])
        known = self.publish(A1)
        self.ask(KeyQuery(THEM))
        waiting = [self.asking(KeyQuery("slow.example")) for _ in range(MAX_QUERIES_WAITING)]
        self.assertEqual(self.ask(KeyQuery("slow.example"), KeyQuery(THEM)), [known])
        self.clock.advance(PATIENCE_S)
        for one in waiting:
            self.assertEqual(self.checked(self.successResultOf(one)), [])
        self.assertNoResult(self.asking(KeyQuery("slow.example")))

    def test_one_address_among_many(self) -> None:
        """One address can have so many servers asked and no more; what is at hand it gets all the same, and others are
        not concerned."""
        self.limiter = RateLimiter(1, 3, self.clock)
        self.restart()
        for number in range(5):
            self.publish(A1, server=f"s{number}.example")
            self.assertEqual(len(self.ask(KeyQuery(f"s{number}.example"))), number < 3)
        self.assertEqual(len(self.ask(KeyQuery("s0.example"))), 1)
        self.assertEqual(len(self.ask(KeyQuery("s4.example"), address="192.0.2.2")), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.ask(KeyQuery("s3.example"))), 1)

    def test_long_answers(self) -> None:
        """An answer is cut short when it becomes too long: each server's youngest response goes before its others."""
        names = [f"s{number}.example" for number in range(100)]
        padding = "x" * (MAX_ANSWER // 8)
        for name in names:
            self.publish(A1, server=name, padding=padding)
        shown = self.ask(*map(KeyQuery, names))
        self.assertEqual([one["server_name"] for one in shown], names[:7])

    def test_long_history(self) -> None:
        """A server with many past responses does not push out what was asked of others."""
        for number in range(30):
            self.publish(signing_key(f"x{number}", 3), padding="x" * 10_000)
            self.ask(KeyQuery(THEM))
            self.clock.advance(DAY_MS / 1000)
        self.publish(A1)
        other = self.publish(A2, server="other.example")
        shown = self.ask(KeyQuery(THEM, minimum=1), KeyQuery("other.example", minimum=1))
        self.assertEqual(shown[1], other)
        self.assertGreater(len(shown), 10)
        self.assertLess(len(canonical_json.encode({"": shown})), MAX_ANSWER)

    def test_database_failure(self) -> None:
        """That our own database fails is not hidden from who asks; while a server is asked, it is logged."""
        self.database.failure = ZeroDivisionError()
        self.failureResultOf(self.asking(KeyQuery(THEM)), ZeroDivisionError)
        self.database.failure = None
        (answer,) = self.hang([THEM])
        asking = self.asking(KeyQuery(THEM))
        self.database.failure = ZeroDivisionError()
        answer.callback(published_keys(THEM, [A1]))
        self.failureResultOf(asking, ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_our_keys_change(self) -> None:
        """After a change of our keys the new ones sign."""
        self.publish(A1)
        self.ask(KeyQuery(THEM))
        self.ours = (signing_key("us3", 9),)
        self.identity.keys = self.ours
        self.assertEqual(len(self.ask(KeyQuery(THEM))), 1)
