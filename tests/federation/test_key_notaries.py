"""Keys by way of notaries: when these are asked, whom of them, and what their answers are good for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.errors import PeerMisbehaved
from lmatrix.federation.key_fetching import FIRST_FAILURE_PAUSE_S, KeyFetcher
from lmatrix.federation.key_notaries import MAX_OBJECTS, MIN_PAUSE_S, KeyNotaries
from lmatrix.federation.keyring import MAX_FETCHES_FOR_STRANGERS, ServerKeyring
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
NOTARY_KEY, OTHER_KEY = signing_key("n", 5), signing_key("o", 6)
THEM, NOTARY, OTHER = "them.example:8448", "notary.example", "other.example"


class NotaryTestCase(SynchronousTestCase):
    """A keyring with two notaries."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.client = FakeKeyClient()
        self.store = MemoryKeyStore()
        self.database = MemoryDatabase()
        self.client.answers[NOTARY] = published_keys(NOTARY, [NOTARY_KEY], valid_until_ts=NOW_MS + 7 * DAY_MS)
        self.client.answers[OTHER] = published_keys(OTHER, [OTHER_KEY], valid_until_ts=NOW_MS + 7 * DAY_MS)
        self.restart()

    def restart(self) -> None:
        """A keyring that remembers only what is stored."""
        self.fetcher = KeyFetcher(database=self.database, store=self.store, client=self.client, clock=self.clock)
        self.notaries = KeyNotaries([NOTARY, OTHER], self.fetcher, client=self.client, clock=self.clock)
        us = OwnKeys("us.example", [signing_key("us", 7)], [], clock=self.clock)
        self.keyring = ServerKeyring("us.example", us, self.fetcher, notaries=self.notaries, clock=self.clock)

    def advance_ms(self, milliseconds: int) -> None:
        """Time passes."""
        self.clock.advance(milliseconds / 1000)

    @property
    def now_ms(self) -> int:
        return int(self.clock.seconds() * 1000)

    def published(self, *keys: SigningKey, **changes: Any) -> dict[str, Any]:
        """What the server publishes."""
        changes.setdefault("valid_until_ts", self.now_ms + 12 * HOUR_MS)
        return published_keys(THEM, keys, **changes)

    def show(self, *objects: dict[str, Any], notary: str = NOTARY, key: SigningKey = NOTARY_KEY) -> None:
        """Let a notary show this of the server from now on, signed by it."""
        self.client.shown[notary, THEM] = [sign_object(one, notary, [key]) for one in objects]

    def keys_for(self, *key_ids: str) -> dict[str, int | None]:
        """For events: the ends of those keys that are found."""
        found = self.successResultOf(Deferred.fromCoroutine(self.keyring.keys_for({THEM: set(key_ids)})))
        return {key_id: key.expired_ts for key_id, key in found[THEM].items()}

    def current_keys(self, *key_ids: str) -> set[str]:
        """For requests: those keys that are found."""
        return set(self.successResultOf(Deferred.fromCoroutine(self.keyring.current_keys(THEM, key_ids))))


class AskingTests(NotaryTestCase):
    """When notaries are asked."""

    def test_server_that_does_not_answer(self) -> None:
        """The server is asked first; then all notaries, side by side; what they say is remembered over a restart."""
        self.show(self.published(A1))
        for _ in range(2):
            self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
            self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
            self.restart()
        self.assertEqual(self.client.asked, [THEM, NOTARY])
        self.assertEqual(self.client.queried, [(NOTARY, THEM), (OTHER, THEM)])

    def test_server_that_answers(self) -> None:
        """Nobody else is asked about a server that answers; what it says of its requests' keys is final."""
        self.client.answers[THEM] = self.published(A1)
        self.show(self.published(A2))
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.assertEqual(self.current_keys("ed25519:2"), set())
        self.assertEqual(self.client.queried, [])

    def test_key_that_its_server_has_forgotten(self) -> None:
        """For an event with an old key that its server does not list any more, notaries are asked all the same."""
        self.client.answers[THEM] = self.published(A2)
        self.show(self.published(A2), self.published(A1, valid_until_ts=NOW_MS - DAY_MS))
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": NOW_MS - DAY_MS})
        self.assertEqual(self.current_keys("ed25519:1"), set())

    def test_validity(self) -> None:
        """Past its validity a key from a notary authenticates nothing, until somebody has confirmed it."""
        self.show(self.published(A1, valid_until_ts=NOW_MS + HOUR_MS))
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
        self.advance_ms(HOUR_MS)
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.advance_ms(HOUR_MS)
        self.show(self.published(A1))
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})

    def test_stale_key_is_confirmed_in_the_background(self) -> None:
        """An event that is signed with a key past its validity makes us ask, first its server and then the notaries."""
        self.show(self.published(A1, valid_until_ts=NOW_MS + HOUR_MS))
        self.keys_for("ed25519:1")
        self.advance_ms(2 * HOUR_MS)
        self.show(self.published(A2))
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.assertEqual(self.client.asked[-1], THEM)
        self.assertEqual(self.keys_for("ed25519:1", "ed25519:2"), {"ed25519:1": NOW_MS + HOUR_MS, "ed25519:2": None})

    def test_pauses(self) -> None:
        """Notaries are not asked about the same server again at once, whatever is wanted of it."""
        for number in range(20):
            self.keys_for(f"ed25519:x{number}")
            self.current_keys(f"ed25519:x{number}")
        self.assertEqual(len(self.client.queried), 2)
        self.show(self.published(A1))
        self.show(self.published(A1), notary=OTHER, key=OTHER_KEY)
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        for number in range(20):
            self.keys_for(f"ed25519:x{number}")
        self.assertEqual(len(self.client.queried), 4)
        self.clock.advance(MIN_PAUSE_S)
        self.keys_for("ed25519:x")
        self.assertEqual(len(self.client.queried), 6)

    def test_dead_notary(self) -> None:
        """A notary that does not answer is left alone for a while, for all servers."""
        self.show(self.published(A1))
        self.client.shown[NOTARY, "b.example"] = []
        self.keys_for("ed25519:1")
        self.successResultOf(Deferred.fromCoroutine(self.notaries.asked("b.example")))
        self.assertEqual(self.client.queried, [(NOTARY, THEM), (OTHER, THEM), (NOTARY, "b.example")])
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.successResultOf(Deferred.fromCoroutine(self.notaries.asked("c.example")))
        self.assertEqual(self.client.queried[3:], [(NOTARY, "c.example"), (OTHER, "c.example")])

    def test_shared_question(self) -> None:
        """Whoever wants keys while notaries are being asked about their server shares the answer."""
        answer: Deferred[Any] = Deferred()
        self.client.shown[NOTARY, THEM] = answer
        asking = [Deferred.fromCoroutine(self.keyring.keys_for({THEM: ["ed25519:1"]})) for _ in range(3)]
        self.assertEqual(len(self.client.queried), 2)
        answer.callback([sign_object(self.published(A1), NOTARY, [NOTARY_KEY])])
        for one in asking:
            self.assertEqual(set(self.successResultOf(one)[THEM]), {"ed25519:1"})

    def test_never_asked_about_itself(self) -> None:
        """A notary does not vouch for itself."""
        self.client.answers[NOTARY] = None
        self.successResultOf(Deferred.fromCoroutine(self.keyring.current_keys(NOTARY, ["ed25519:n"])))
        self.assertEqual(self.client.queried, [(OTHER, NOTARY)])

    def test_strangers(self) -> None:
        """Notaries do not lift the bound on what unauthenticated requests make us do."""
        for number in range(MAX_FETCHES_FOR_STRANGERS):
            self.client.shown[NOTARY, f"s{number}.example"] = Deferred()
            Deferred.fromCoroutine(self.keyring.current_keys(f"s{number}.example", ["ed25519:1"]))
        self.show(self.published(A1))
        self.assertEqual(self.current_keys("ed25519:1"), set())
        self.assertNotIn(THEM, self.client.asked)

    def test_database_failure(self) -> None:
        """That our own database fails is no one else's fault, and is not hidden."""
        answer: Deferred[Any] = Deferred()
        self.client.shown[NOTARY, THEM] = answer
        asking = Deferred.fromCoroutine(self.keyring.keys_for({THEM: ["ed25519:1"]}))
        self.database.failure = ZeroDivisionError()
        answer.callback([sign_object(self.published(A1), NOTARY, [NOTARY_KEY])])
        self.failureResultOf(asking, ZeroDivisionError)


class AnswerTests(NotaryTestCase):
    """What is taken of a notary's answer."""

    def assert_nothing(self) -> None:
        """No key of the server is found, and none was stored."""
        self.assertEqual(self.keys_for("ed25519:1", "ed25519:2"), {})
        self.assertNotIn(THEM, self.store.servers)

    def test_malformed_answers(self) -> None:
        """Whatever is not a list of objects is no answer; what is too much of a good thing is cut short."""
        answers: tuple[Any, ...] = (
            {},
            {"server_keys": None},
            {"server_keys": {}},
            {"server_keys": "x"},
            [5],
            [self.published(A1), None],
            PeerMisbehaved(NOTARY, "too long"),
        )
        for answer in answers:
            with self.subTest(str(answer)):
                self.restart()
                self.client.shown[NOTARY, THEM] = answer
                self.assert_nothing()
        self.restart()
        self.show(*[{}] * MAX_OBJECTS, self.published(A1))
        self.assert_nothing()

    def test_bad_objects(self) -> None:
        """An object that does not stand up to the checks is left out; the good ones beside it count."""
        good = self.published(A1)
        self.show(self.published(A2, signed_by=[A1]), {**good, "server_name": "else.example"}, {"a": 1}, good)
        self.assertEqual(self.keys_for("ed25519:1", "ed25519:2"), {"ed25519:1": None})

    def test_not_signed_by_the_notary(self) -> None:
        """An object that only its server signed, or that somebody else than the notary signed, does not count."""
        good = self.published(A1)
        for shown in (good, sign_object(good, NOTARY, [OTHER_KEY]), sign_object(good, OTHER, [OTHER_KEY])):
            self.restart()
            self.client.shown[NOTARY, THEM] = [shown]
            self.assert_nothing()

    def test_notary_whose_keys_cannot_be_had(self) -> None:
        """A notary that does not show us its keys cannot vouch for anybody; a notary's keys are not taken from another
        notary either."""
        self.show(self.published(A1))
        self.client.answers[NOTARY] = None
        self.client.shown[OTHER, NOTARY] = [
            sign_object(published_keys(NOTARY, [NOTARY_KEY], valid_until_ts=NOW_MS + DAY_MS), OTHER, [OTHER_KEY])
        ]
        self.successResultOf(Deferred.fromCoroutine(self.keyring.current_keys(NOTARY, ["ed25519:n"])))
        self.assertIn(NOTARY, self.store.servers)
        self.assert_nothing()

    def test_notary_with_expired_or_new_keys(self) -> None:
        """A notary's signature counts only with a key that it uses now; a new one is asked for."""
        self.client.answers[NOTARY] = published_keys(NOTARY, [NOTARY_KEY], valid_until_ts=NOW_MS + HOUR_MS)
        self.show(self.published(A1))
        self.keys_for("ed25519:1")
        self.advance_ms(2 * HOUR_MS)
        new = signing_key("new", 8)
        self.client.answers[NOTARY] = published_keys(
            NOTARY, [new], old=old(NOTARY_KEY, NOW_MS), valid_until_ts=self.now_ms + HOUR_MS
        )
        self.show(self.published(A1, A2))
        self.assertEqual(self.current_keys("ed25519:2"), set())
        self.advance_ms(HOUR_MS)
        self.client.answers[NOTARY] = published_keys(NOTARY, [new], valid_until_ts=self.now_ms + HOUR_MS)
        self.show(self.published(A1, A2), key=new)
        self.assertEqual(self.current_keys("ed25519:2"), {"ed25519:2"})

    def test_what_a_server_has_shown_itself_stands(self) -> None:
        """A notary that shows another key under a known ID, or keys that no known one has signed, gives nobody the
        power to make requests, and takes none."""
        self.client.answers[THEM] = self.published(A1, valid_until_ts=NOW_MS + DAY_MS)
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
        self.client.answers[THEM] = None
        self.advance_ms(HOUR_MS)
        evil = signing_key("1", 66)
        self.show(self.published(evil, A2, old=old(A1, 5)))
        self.assertEqual(self.current_keys("ed25519:1", "ed25519:2"), {"ed25519:1"})
        self.assertEqual(self.store.servers[THEM].keys[0].public, A1.public.to_base64())
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})

    def test_the_servers_word_by_way_of_a_notary(self) -> None:
        """A server that only the notary reaches: what its known key has signed counts, a new key beside it too."""
        self.client.answers[THEM] = self.published(A1)
        self.assertEqual(self.current_keys("ed25519:1"), {"ed25519:1"})
        self.client.answers[THEM] = None
        self.advance_ms(DAY_MS)
        self.show(self.published(A1, A2))
        self.assertEqual(self.current_keys("ed25519:1", "ed25519:2"), {"ed25519:1", "ed25519:2"})

    def test_too_many_keys(self) -> None:
        """A notary that shows ever more keys of a server is not followed for ever; others still are."""
        many = [
            self.published(A1, old={f"ed25519:x{part}_{n}": next(iter(old(A2, 1).values())) for n in range(499)})
            for part in range(3)
        ]
        self.show(*many)
        self.show(self.published(A1), notary=OTHER, key=OTHER_KEY)
        self.assertEqual(self.keys_for("ed25519:1"), {"ed25519:1": None})
        self.assertEqual(len(self.store.servers[THEM].keys), 1)
