"""Asking for the password again (Client-Server API v1.11, "User-Interactive Authentication API").

Owns: :class:`PasswordAgain`, for what whoever holds a stolen access token must not do. There is one stage, so that a
session has nothing to remember: its ID is random and is not kept. Attempts are limited as those to log in are.
"""

from __future__ import annotations

import random

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.fields import optional_object, optional_string
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.client_api.passwords import Passwords
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonAnswer, JsonObject
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database

STAGE = "m.login.password"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@attrs.frozen(slots=True)
class PasswordAgain:
    """Checks it.

    Attributes:
        database, accounts, passwords: what to check against.
        rng: for the ID of the session.
        limiter: by account; ``None`` for no limit.
    """

    database: Database
    accounts: AccountStore
    passwords: Passwords
    rng: random.Random
    limiter: RateLimiter | None

    async def missing(self, body: JsonObject, requester: Requester) -> JsonAnswer | None:
        """What to answer as long as the request lacks the requester's password; ``None`` when it has it.

        Raises:
            ClientApiError: ``auth`` is malformed.
            Overloaded: too many attempts.
        """
        auth = optional_object(body, "auth")
        if auth is None or auth.get("type") is None:
            return self._ask(auth)
        if auth["type"] != STAGE:
            return self._ask(auth, errcode="M_UNRECOGNIZED", error=f"The only stage is {STAGE}")
        password = optional_string(auth, "password") or ""
        if self.limiter is not None:
            self.limiter.take(f"account {requester.user_id}")
        stored = await self.database.read(lambda tx: self.accounts.password_hash(tx, requester.user_id))
        if password and await self.passwords.check(password, stored) and _names(auth, requester.user_id):
            return None
        return self._ask(auth, errcode="M_FORBIDDEN", error="Wrong username or password")

    def _ask(self, auth: JsonObject | None, **error: str) -> JsonAnswer:
        session = auth.get("session") if auth else None
        if not isinstance(session, str) or len(session) > 255:
            session = "".join(self.rng.choice(_LETTERS) for _ in range(16))
        return JsonAnswer(401, {"flows": [{"stages": [STAGE]}], "params": {}, "session": session, **error})


def _names(auth: JsonObject, user_id: str) -> bool:
    """Whether the user that is named, if one is, is this one."""
    identifier = optional_object(auth, "identifier") or auth
    name = optional_string(identifier, "user")
    if name is None:
        return True
    return user_id == (name if name.startswith("@") else f"@{name}:{server_of(user_id)}")
