"""Making accounts (Client-Server API v1.11, "Account registration", "User-Interactive Authentication API").

Owns: ``/register`` and ``/register/available``. The one stage that is asked for is ``m.login.dummy``, so that a UIA
session has nothing to remember: its ID is random and is not kept. Invariants: nothing is stored unless registration is
switched on, a username is taken once (checked in the transaction that takes it), and a hash is computed only within
the rate limit.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.interfaces import IReactorTime

from lmatrix import ids
from lmatrix.client_api.devices import NewLogin
from lmatrix.client_api.endpoints import Answer, OpenEndpoint
from lmatrix.client_api.errors import ClientApiError, invalid_param, missing_param
from lmatrix.client_api.fields import optional_flag, optional_object, optional_string
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.client_api.passwords import Passwords
from lmatrix.errors import Forbidden, InvalidIdentifier
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_GENERATED_CHARACTERS = 16
_LOOK_UP_COST = 0.2
"""Asking whether a name is free costs less of the rate limit than making an account."""


class Registration:
    """The registration endpoints.

    Args:
        server_name: ours.
        enabled: whether anybody may register.
        database, accounts: where accounts are kept.
        passwords: hashes them.
        clock: for the time of creation.
        rng: a cryptographically secure source.
        limiter: by client address; ``None`` for no limit.
    """

    def __init__(
        self,
        server_name: str,
        *,
        enabled: bool,
        database: Database,
        accounts: AccountStore,
        passwords: Passwords,
        clock: IReactorTime,
        rng: random.Random,
        limiter: RateLimiter | None,
    ) -> None:
        self._server_name = server_name
        self._enabled = enabled
        self._database = database
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock
        self._rng = rng
        self._limiter = limiter

    def endpoints(self) -> tuple[OpenEndpoint, ...]:
        """What it answers."""
        return (
            OpenEndpoint("POST", "/register", self._register, "register"),
            OpenEndpoint("GET", "/register/available", self._available, "register_available"),
        )

    async def _available(self, request: JsonRequest) -> Answer:
        self._must_be_enabled()
        username = request.query_one("username")
        if username is None:
            raise missing_param("username")
        user_id = self._user_id(username)
        self._limit(request, _LOOK_UP_COST)
        await self._must_be_free(user_id)
        return {"available": True}

    async def _register(self, request: JsonRequest) -> Answer:
        self._must_be_enabled()
        kind = request.query_one("kind")
        if kind == "guest":
            raise Forbidden("This server has no guest accounts")
        if kind not in (None, "user"):
            raise invalid_param("kind", 'must be "user"')
        body = request.json_or_empty()
        auth = optional_object(body, "auth")
        username = optional_string(body, "username")
        password = optional_string(body, "password")
        user_id = self._generated_user_id() if username is None else self._user_id(username)
        self._limit(request, _LOOK_UP_COST if auth is None else 1)
        if username is not None:
            await self._must_be_free(user_id)
        if auth is None or auth.get("type") != "m.login.dummy":
            return self._ask_for_stage(auth)
        if password is None:
            raise missing_param("password")
        return await self._create(user_id, password, body)

    async def _create(self, user_id: str, password: str, body: JsonObject) -> Answer:
        inhibit_login = optional_flag(body, "inhibit_login")
        login = NewLogin.of(user_id, body, self._rng)
        password_hash = await self._passwords.hash(password)
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> None:
            # Checked here again: somebody may have taken the name while the password was hashed.
            if self._accounts.user_exists(tx, user_id):
                raise _user_in_use()
            self._accounts.create_user(tx, user_id, password_hash, now_ms)
            if not inhibit_login:
                login.store(tx, self._accounts, now_ms)

        await self._database.write(work)
        if inhibit_login:
            return {"user_id": user_id, "home_server": self._server_name}
        return login.answer()

    def _ask_for_stage(self, auth: JsonObject | None) -> JsonAnswer:
        session = auth.get("session") if auth else None
        if not isinstance(session, str) or len(session) > ids.MAX_ID_BYTES:
            session = "".join(self._rng.choice(_LETTERS) for _ in range(_GENERATED_CHARACTERS))
        body: JsonObject = {"flows": [{"stages": ["m.login.dummy"]}], "params": {}, "session": session}
        if auth is not None and "type" in auth:
            body["errcode"] = "M_UNRECOGNIZED"
            body["error"] = "The only stage of registration is m.login.dummy"
        return JsonAnswer(401, body)

    async def _must_be_free(self, user_id: str) -> None:
        if await self._database.read(lambda tx: self._accounts.user_exists(tx, user_id)):
            raise _user_in_use()

    def _must_be_enabled(self) -> None:
        if not self._enabled:
            raise Forbidden("Registration is switched off on this server")

    def _limit(self, request: JsonRequest, cost: float) -> None:
        if self._limiter is not None:
            self._limiter.take(request.client_address, cost)

    def _user_id(self, username: str) -> str:
        try:
            return ids.user_id(f"@{username}:{self._server_name}")
        except InvalidIdentifier as problem:
            raise ClientApiError(400, "M_INVALID_USERNAME", str(problem)) from problem

    def _generated_user_id(self) -> str:
        # 16 random characters do not collide; if ever they do, the account's own transaction says so.
        localpart = "".join(self._rng.choice(_LETTERS) for _ in range(_GENERATED_CHARACTERS))
        return f"@{localpart}:{self._server_name}"


def _user_in_use() -> ClientApiError:
    return ClientApiError(400, "M_USER_IN_USE", "This username is already taken")
