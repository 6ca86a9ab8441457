"""Passwords: checked rightly, off the reactor thread, within bounds, and without telling who exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.errors import ClientApiError
from lmatrix.client_api.passwords import MAX_PASSWORD_BYTES, Passwords
from lmatrix.errors import Overloaded

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Threads:
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.queued: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.done: list[str] = []

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.queued.append((answer, function, args))
        return answer

    def work(self) -> None:
        while self.queued:
            answer, function, args = self.queued.pop(0)
            self.done.append(function.__name__)
            answer.callback(function(*args))


class PasswordTests(SynchronousTestCase):
    """:class:`Passwords`, with threads that run when told."""

    def setUp(self) -> None:
        self.threads = Threads()
        self.passwords = Passwords(self.threads.run, hasher=CHEAP, concurrency=2, max_waiting=2)

    def hashed(self, password: str) -> str:
        hashing = Deferred.fromCoroutine(self.passwords.hash(password))
        self.threads.work()
        return self.successResultOf(hashing)

    def checked(self, password: str, stored_hash: str | None) -> bool:
        checking = Deferred.fromCoroutine(self.passwords.check(password, stored_hash))
        self.threads.work()
        return self.successResultOf(checking)

    def test_right_and_wrong(self) -> None:
        """The right password matches its argon2id hash, a wrong one does not, and two hashes of one password differ."""
        stored = self.hashed("correct horse")
        self.assertTrue(stored.startswith("$argon2id$"))
        self.assertNotEqual(stored, self.hashed("correct horse"))
        self.assertTrue(self.checked("correct horse", stored))
        self.assertFalse(self.checked("incorrect horse", stored))

    def test_unknown_user_costs_the_same(self) -> None:
        """For a user who does not exist a hash is verified too (once a decoy has been made)."""
        self.assertFalse(self.checked("anything", None))
        self.threads.done.clear()
        self.assertFalse(self.checked("anything", None))
        for_unknown, self.threads.done = self.threads.done, []
        self.checked("anything", self.hashed("another"))
        self.assertEqual(for_unknown, self.threads.done[1:])

    def test_a_stored_hash_that_is_none(self) -> None:
        """Something that is no argon2 hash lets nobody in, and is logged."""
        self.assertFalse(self.checked("anything", "plaintext"))
        self.assertFalse(self.checked("plaintext", "plaintext"))

    def test_never_in_the_reactor_thread(self) -> None:
        """Nothing is hashed before a thread does it."""
        hashing = Deferred.fromCoroutine(self.passwords.hash("secret"))
        self.assertNoResult(hashing)
        self.threads.work()
        self.successResultOf(hashing)

    def test_bounded_concurrency(self) -> None:
        """Two at a time run, two more wait, the next is told to come back; all that were taken end well."""
        taken = [Deferred.fromCoroutine(self.passwords.hash(f"secret {n}")) for n in range(4)]
        self.assertEqual(len(self.threads.queued), 2)
        self.failureResultOf(Deferred.fromCoroutine(self.passwords.hash("one too many")), Overloaded)
        self.threads.work()
        for hashing in taken:
            self.successResultOf(hashing)

    def test_bad_passwords(self) -> None:
        """Empty and overlong passwords are refused before any work is done."""
        for password in ("", "x" * (MAX_PASSWORD_BYTES + 1)):
            failure = self.failureResultOf(Deferred.fromCoroutine(self.passwords.hash(password)), ClientApiError)
            self.assertEqual(failure.value.errcode, "M_INVALID_PARAM")
        self.assertEqual(self.threads.queued, [])
