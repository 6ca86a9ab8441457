"""Passwords: hashing and checking them, off the reactor thread.

Owns: :class:`Passwords`. Invariants: argon2id with the library's recommended costs (RFC 9106), each hash with its own
salt; no more than ``concurrency`` hashes at a time (each takes tens of MiB), and a bounded number waiting; a check
against an unknown user costs as much as one against a known user, so that the time taken does not tell which users
exist; a password is never logged and never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from lmatrix.client_api.errors import invalid_param
from lmatrix.errors import Overloaded

MAX_PASSWORD_BYTES = 1024
"""Longer passwords are refused before they are hashed."""

CONCURRENCY = 2
MAX_WAITING = 100
RETRY_AFTER_MS = 2_000


class RunInThread(Protocol):
    """Runs a function elsewhere: ``deferToThreadPool`` with its reactor and pool already given."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]: ...


class Passwords:
    """Hashes and checks passwords.

    Args:
        run_in_thread: runs the costly part off the reactor thread.
        hasher: argon2id with its costs.
        concurrency: hashes at a time.
        max_waiting: calls that may wait beyond those.
    """

    log = Logger()

    def __init__(
        self,
        run_in_thread: RunInThread,
        *,
        hasher: PasswordHasher | None = None,
        concurrency: int = CONCURRENCY,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._run_in_thread = run_in_thread
        self._hasher = hasher or PasswordHasher()
        self._slots = DeferredSemaphore(concurrency)
        self._max_waiting = max_waiting
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """A salted hash, in the PHC string form.

        Raises:
            ClientApiError: the password is empty or too long.
            Overloaded: too many passwords are being hashed.
        """
        secret = _bytes_of(password)
        return str(await self._run(self._hasher.hash, secret))

    async def check(self, password: str, stored_hash: str | None) -> bool:
        """Whether the password is the one of the stored hash.

        Args:
            password: what the client gave.
            stored_hash: ``None`` for a user who does not exist or has no password; costs the same and is ``False``.

        Raises:
            ClientApiError: the password is empty or too long.
            Overloaded: too many passwords are being hashed.
        """
        secret = _bytes_of(password)
        if stored_hash is None:
            if self._decoy is None:
                self._decoy = str(await self._run(self._hasher.hash, b"a password that nobody has"))
            await self._run(_matches, self._hasher, self._decoy, secret)
            return False
        matches = await self._run(_matches, self._hasher, stored_hash, secret)
        if matches is None:
            self.log.error("a stored password hash is not argon2; its user cannot log in with a password")
        return matches is True

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if len(self._slots.waiting) >= self._max_waiting:
            raise Overloaded(RETRY_AFTER_MS, "Too many passwords are being checked. Try again later.")
        return await self._slots.run(self._run_in_thread, function, *args)


def _matches(hasher: PasswordHasher, stored_hash: str, secret: bytes) -> bool | None:
    """Runs in a thread. ``None``: what is stored is no argon2 hash."""
    try:
        return hasher.verify(stored_hash, secret)
    except VerificationError:
        return False
    except InvalidHashError:
        return None


def _bytes_of(password: str) -> bytes:
    secret = password.encode("utf-8")
    if not secret:
        raise invalid_param("password", "must not be empty")
    if len(secret) > MAX_PASSWORD_BYTES:
        raise invalid_param("password", f"longer than {MAX_PASSWORD_BYTES} bytes")
    return secret
