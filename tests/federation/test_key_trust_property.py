"""Whatever a lying server or a lying notary answers, no key is honoured that its owner did not sign for.

The oracle is another implementation of signed JSON, and the list of all answers that were ever given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import SignatureVerifyException, verify_signed_json
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.digest import decode_base64
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.key_fetching import KeyFetcher
from lmatrix.federation.key_notaries import KeyNotaries
from lmatrix.federation.keyring import ServerKeyring
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.server_keys import MAX_VALIDITY_MS
from tests.federation.fakes import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    FakeKeyClient,
    MemoryDatabase,
    MemoryKeyStore,
    published_keys,
    signing_key,
)

THEM, NOTARY = "them.example", "notary.example"
OWN = [signing_key("1", 1), signing_key("2", 2), signing_key("3", 3)]
EVIL = [signing_key("1", 61), signing_key("2", 62), signing_key("4", 64)]
NOTARY_KEY = signing_key("n", 5)
KEY_IDS = ["ed25519:1", "ed25519:2", "ed25519:3", "ed25519:4"]
PAUSE_S = 15 * 60.0


def subset(keys: Iterable[SigningKey]) -> st.SearchStrategy[list[SigningKey]]:
    """Some of the keys."""
    return st.lists(st.sampled_from(list(keys)), max_size=3, unique=True)


@st.composite
def objects(draw: st.DrawFn, listed: list[SigningKey], signing: list[SigningKey]) -> dict[str, Any]:
    """Something that looks like published keys: with keys out of ``listed``, signed with keys out of ``signing``."""
    current = draw(subset(listed))
    old = {
        key.key_id: {"key": key.public.to_base64(), "expired_ts": NOW_MS + draw(st.integers(-9, 9)) * HOUR_MS}
        for key in draw(subset(listed))
    }
    # Often those that ought to sign do.
    signers = draw(st.one_of(st.just([key for key in current if key in signing]), subset(signing)))
    answer = published_keys(
        draw(st.sampled_from([THEM, THEM, THEM, "else.example"])),
        current,
        old=old,
        valid_until_ts=NOW_MS + draw(st.integers(-3, 400)) * DAY_MS // 4,
        signed_by=[],
    )
    answer = sign_object(answer, draw(st.sampled_from([THEM, THEM, THEM, "else.example"])), signers)
    if draw(st.integers(0, 9)) == 0:
        answer["m.linearized"] = False
    return answer


def countersigned(answer: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """With a notary's signature, most often a good one."""
    signers = st.sampled_from([[NOTARY_KEY], [NOTARY_KEY], [signing_key("n", 99)], []])
    return st.builds(lambda one, keys: sign_object(one, NOTARY, keys), answer, signers)


@attrs.frozen
class Given:
    """An answer that somebody gave about the server's keys, and when."""

    answer: dict[str, Any]
    by_notary: bool
    at_ms: int

    def honours(self, key: KnownKey) -> bool:
        """Whether a key may be honoured for events because of it."""
        if self.answer["server_name"] != THEM or (
            self.by_notary and not signed(self.answer, NOTARY, NOTARY_KEY.public)
        ):
            return False
        current = [listed(self.answer, "verify_keys", key_id) for key_id in self.answer["verify_keys"]]
        good = [one for one in current if signed(self.answer, THEM, one)]
        return key.verify_key in good or (
            bool(good) and listed(self.answer, "old_verify_keys", key.key_id) == key.verify_key
        )

    def admits(self, key: Any, now_ms: int) -> bool:
        """Whether a key may authenticate requests now because of it."""
        if not self.honours(KnownKey(key.key_id, key)) or listed(self.answer, "verify_keys", key.key_id) != key:
            return False
        return bool(min(self.answer["valid_until_ts"], self.at_ms + MAX_VALIDITY_MS) > now_ms)


def listed(answer: dict[str, Any], where: str, key_id: str) -> Any:
    """The verify key that an answer lists."""
    entry = answer[where].get(key_id)
    if entry is None:
        return None
    (key,) = (one.public for one in (*OWN, *EVIL) if one.public.public == decode_base64(entry["key"]))
    return key


def signed(answer: dict[str, Any], server: str, key: Any) -> bool:
    """Whether a key signed an answer in a server's name, by another implementation's word."""
    signature = answer["signatures"].get(server, {}).get(key.key_id)
    if signature is None:
        return False
    one = {**answer, "signatures": {server: {key.key_id: signature}}}
    try:
        verify_signed_json(one, server, decode_verify_key_bytes(key.key_id, key.public))
    except SignatureVerifyException:
        return False
    return True


class World:
    """A keyring, a server that says what it is told to say, and a notary that does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_MS / 1000)
        self.client = FakeKeyClient()
        self.store = MemoryKeyStore()
        self.given: list[Given] = []
        self.restart()

    @property
    def now_ms(self) -> int:
        return int(self.clock.seconds() * 1000)

    def restart(self) -> None:
        """Only what is stored is remembered."""
        fetcher = KeyFetcher(database=MemoryDatabase(), store=self.store, client=self.client, clock=self.clock)
        notaries = KeyNotaries([NOTARY], fetcher, client=self.client, clock=self.clock)
        us = OwnKeys("us.example", [signing_key("us", 7)], [], clock=self.clock)
        self.keyring = ServerKeyring("us.example", us, fetcher, notaries=notaries, clock=self.clock)

    def say(self, by_server: dict[str, Any] | None, by_notary: list[dict[str, Any]]) -> None:
        """What the two answer from now on, when all pauses are over."""
        self.clock.advance(PAUSE_S)
        self.client.answers[NOTARY] = published_keys(NOTARY, [NOTARY_KEY], valid_until_ts=self.now_ms + DAY_MS)
        self.client.answers[THEM] = by_server
        self.client.shown[NOTARY, THEM] = by_notary
        if by_server is not None:
            self.given.append(Given(by_server, False, self.now_ms))
        self.given.extend(Given(one, True, self.now_ms) for one in by_notary)

    def honoured(self) -> list[KnownKey]:
        """The keys that are honoured for events."""
        asking = [Deferred.fromCoroutine(self.keyring.keys_for({THEM: [key_id]})) for key_id in KEY_IDS]
        return [key for one in asking for key in result_of(one)[THEM].values()]

    def admitted(self) -> list[Any]:
        """The keys that authenticate requests."""
        asking = [Deferred.fromCoroutine(self.keyring.current_keys(THEM, [key_id])) for key_id in KEY_IDS]
        return [key for one in asking for key in result_of(one).values()]


def result_of(asking: Deferred[Any]) -> Any:
    """The result of what does not wait."""
    results: list[Any] = []
    asking.addCallback(results.append)
    (result,) = results
    return result


ANYTHING = objects([*OWN, *EVIL], [*OWN, *EVIL])
LIES = st.lists(countersigned(objects([*OWN, *EVIL], EVIL)), max_size=3)
TRUTH = objects(OWN, OWN)


class KeyTrustTests(SynchronousTestCase):
    """Servers and notaries that say anything."""

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(st.one_of(st.none(), ANYTHING), st.lists(countersigned(ANYTHING), max_size=3), st.booleans()),
            min_size=1,
            max_size=5,
        )
    )
    def test_every_honoured_key_was_signed_for(self, steps: list[tuple[Any, list[Any], bool]]) -> None:
        """Whatever the two answer, each key that is honoured is one that somebody has shown in an object about this
        server which the key itself (or, for an old key, a current one) has signed, and the notary as well if it came
        from there; for requests, one that is still valid."""
        world = World()
        for by_server, by_notary, restart in steps:
            world.say(by_server, by_notary)
            for key in world.admitted():
                self.assertTrue(any(one.admits(key, world.now_ms) for one in world.given), key)
            for known in world.honoured():
                self.assertTrue(any(one.honours(known) for one in world.given), known)
            if restart:
                world.restart()

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(LIES, st.lists(countersigned(TRUTH), max_size=1), st.booleans()), min_size=1, max_size=5))
    def test_a_notary_cannot_speak_for_a_server_that_is_known(self, steps: list[tuple[Any, Any, bool]]) -> None:
        """Once a server has shown its keys, a notary that has every secret but its, and everything that it ever signed,
        gets no key admitted to requests that is not the server's; and each key that the server has shown stays."""
        world = World()
        world.say(published_keys(THEM, OWN[:1], valid_until_ts=NOW_MS + DAY_MS), [])
        self.assertEqual(world.admitted(), [OWN[0].public])
        ours = {key.public for key in OWN}
        for lies, replayed, restart in steps:
            world.say(None, [*lies, *replayed])
            self.assertLessEqual(set(world.admitted()), ours)
            self.assertIn(OWN[0].public, {known.verify_key for known in world.honoured()})
            if restart:
                world.restart()
