"""Logging in and out (Client-Server API v1.11, "Login", "Logging out", "Current account information").

Owns: ``/login``, ``/logout``, ``/logout/all`` and ``/account/whoami``. Invariants: a wrong password and an unknown user
get the same answer after the same work; attempts are limited both by address and by account.
"""

from __future__ import annotations

import random

from twisted.internet.interfaces import IReactorTime

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.devices import NewLogin
from lmatrix.client_api.endpoints import Answer, Endpoint, OpenEndpoint
from lmatrix.client_api.errors import unknown
from lmatrix.client_api.fields import optional_object, required_string
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.client_api.passwords import Passwords
from lmatrix.devices.local_devices import LocalDevices
from lmatrix.errors import Forbidden, InvalidIdentifier
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database


class Login:
    """The endpoints of logging in and out.

    Args:
        server_name: ours.
        database, accounts: where accounts are kept.
        passwords: checks them.
        devices: removes those that log out.
        clock: for the time of the login.
        rng: a cryptographically secure source.
        limiter: by address and by account; ``None`` for no limit.
    """

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        accounts: AccountStore,
        passwords: Passwords,
        devices: LocalDevices,
        clock: IReactorTime,
        rng: random.Random,
        limiter: RateLimiter | None,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._accounts = accounts
        self._passwords = passwords
        self._devices = devices
        self._clock = clock
        self._rng = rng
        self._limiter = limiter

    def endpoints(self) -> tuple[Endpoint | OpenEndpoint, ...]:
        """What it answers."""
        return (
            OpenEndpoint("GET", "/login", self._flows, "login_flows"),
            OpenEndpoint("POST", "/login", self._login, "login"),
            Endpoint("POST", "/logout", self._logout, "logout"),
            Endpoint("POST", "/logout/all", self._logout_all, "logout_all"),
            Endpoint("GET", "/account/whoami", self._whoami, "whoami"),
        )

    async def _flows(self, request: JsonRequest) -> Answer:
        return {"flows": [{"type": "m.login.password"}]}

    async def _login(self, request: JsonRequest) -> Answer:
        body = request.json()
        if required_string(body, "type") != "m.login.password":
            raise unknown("The only way to log in here is m.login.password")
        user_id = self._user_named(body)
        password = required_string(body, "password")
        self._limit("address", request.client_address)
        if user_id is not None:
            self._limit("account", user_id)
        stored_hash = await self._database.read(
            lambda tx: None if user_id is None else self._accounts.password_hash(tx, user_id)
        )
        correct = await self._passwords.check(password, stored_hash)
        if not correct or user_id is None:
            raise Forbidden("Wrong username or password")
        login = NewLogin.of(user_id, body, self._rng)
        now_ms = int(self._clock.seconds() * 1000)
        await self._database.write(lambda tx: login.store(tx, self._accounts, now_ms))
        request.origin = user_id
        return login.answer()

    async def _logout(self, request: JsonRequest, requester: Requester) -> Answer:
        await self._devices.remove(requester.user_id, [requester.device_id])
        return {}

    async def _logout_all(self, request: JsonRequest, requester: Requester) -> Answer:
        await self._devices.remove(requester.user_id)
        return {}

    async def _whoami(self, request: JsonRequest, requester: Requester) -> Answer:
        return {"user_id": requester.user_id, "device_id": requester.device_id, "is_guest": False}

    def _user_named(self, body: JsonObject) -> str | None:
        """The local user whom the request names, whether or not there is one; ``None`` when there cannot be.

        Raises:
            ClientApiError: it names nobody, or by something else than a user name.
        """
        identifier = optional_object(body, "identifier")
        if identifier is None:
            name = required_string(body, "user")  # deprecated, and what clients of /r0 send
        else:
            kind = required_string(identifier, "type")
            if kind != "m.id.user":
                raise unknown(f"Users are known here by name only, not by {kind[:64]}")
            name = required_string(identifier, "user")
        try:
            user_id = ids.user_id(name if name.startswith("@") else f"@{name}:{self._server_name}")
        except InvalidIdentifier:
            return None
        return user_id if ids.server_of(user_id) == self._server_name else None

    def _limit(self, kind: str, key: str) -> None:
        if self._limiter is not None:
            self._limiter.take(f"{kind} {key}")
