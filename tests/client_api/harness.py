"""Clients of servers that live in memory.

Owns: :class:`ClientServer`, a server of :mod:`tests.rooms.network` with the client API on top (real stores, real
rooms, the real route table), and :class:`User`, a logged-in client of one. Requests go through the route table and the
error envelope, and bodies through JSON both ways, as on the wire.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import attrs
from argon2 import PasswordHasher
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from lmatrix import canonical_json
from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.client_api.notifier import Notifier
from lmatrix.client_api.passwords import Passwords
from lmatrix.client_api.routes import BesideStores, ClientApiParts, client_routes
from lmatrix.http.errors import error_answer, unrecognised_endpoint, unrecognised_method
from lmatrix.http.messages import JsonAnswer, JsonRequest, parse_query, split_target
from lmatrix.http.routes import Found, RouteTree, WrongMethod
from lmatrix.storage.timeline import SqlTimelineStore
from tests.devices.network import DeviceServer
from tests.directory.network import DirectoryServer
from tests.rooms.network import Network, Server, result_of

CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse"
Result = tuple[int, Any]


class ClientServer:
    """A server with a client API.

    Args:
        network: where it is.
        name: its server name.
        registration_enabled, limits: see :class:`ClientApiParts`.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        *,
        registration_enabled: bool = True,
        limits: Callable[[Network], ClientLimits] = lambda _: ClientLimits(),
    ) -> None:
        self.network = network
        self.server: Server = network.server(name)
        self.notifier = Notifier(network.clock)
        self.server.audience = self.notifier  # type: ignore[assignment]
        self.device_server = DeviceServer(self.server, network.device_servers, self.notifier)
        self.server.floor = self.server.build()
        self.names = DirectoryServer(self.server, network.directory_servers)
        self.timeline = SqlTimelineStore()
        self.parts = ClientApiParts(
            server_name=name,
            database=self.server.database,
            room_store=self.server.rooms,
            timeline_store=self.timeline,
            account_store=self.server.accounts,
            invite_store=self.server.invites,
            rooms=self.server.floor.local_users,
            policies=self.server.policies,
            devices=self.device_server.floor,
            beside=BesideStores(
                devices=self.device_server.stores.devices,
                one_time_keys=self.device_server.stores.one_time_keys,
                to_device=self.device_server.stores.to_device,
                receipts=self.device_server.stores.receipts,
                sharing=self.device_server.stores.sharing,
            ),
            names=self.names.floor,
            notifier=self.notifier,
            passwords=Passwords(maybeDeferred, hasher=CHEAP_HASHER),
            clock=network.clock,
            rng=Random(f"client {name}"),
            registration_enabled=registration_enabled,
            default_room_version="I.1",
            limits=limits(network),
        )
        self.tree = RouteTree([client_routes(self.parts)])

    def restart(self) -> None:
        """Forget everything that is not in the database."""
        devices = self.device_server.build()
        self.server.restart()
        self.parts = attrs.evolve(
            self.parts,
            devices=devices,
            rooms=self.server.floor.local_users,
            names=self.names.build(),
            policies=self.server.policies,
        )
        self.tree = RouteTree([client_routes(self.parts)])

    def start(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        query: Mapping[str, Any] | None = None,
        address: str = "192.0.2.1",
    ) -> Deferred[Result]:
        """Begin a request; its status and answer.

        Args:
            path: below ``/_matrix/client/v3``, or whole when it begins with ``/_matrix``; percent-encoded.
            body: a JSON value, or bytes as they are.
        """
        target = path if path.startswith("/_matrix") else f"/_matrix/client/v3{path}"
        if query:
            target += "?" + urlencode(query, doseq=True)
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        segments, raw_query = split_target(target.encode())
        found = None if segments is None else self.tree.find(method, segments)
        if not isinstance(found, Found):
            refused = unrecognised_method(found.allowed) if isinstance(found, WrongMethod) else unrecognised_endpoint()
            return Deferred.fromCoroutine(_as_it_is(_result(refused)))
        headers = Headers({} if token is None else {"Authorization": [f"Bearer {token}"]})
        request = JsonRequest(
            method=method,
            raw_uri=target.encode(),
            params=found.params,
            query=parse_query(raw_query),
            headers=headers,
            body=raw,
            client_address=address,
        )

        async def handle() -> Any:
            return await found.endpoint.route.handler(request)

        def refuse(failure: Failure) -> JsonAnswer:
            assert failure.value is not None
            return error_answer(failure.value)

        return Deferred.fromCoroutine(handle()).addErrback(refuse).addCallback(_result)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Result:
        """A request that is answered without waiting for time to pass, but perhaps for other servers."""
        running = self.start(method, path, body, **more)
        for _ in range(100):
            if running.called:
                break
            self.network.settle()
            self.network.clock.advance(0)
        return result_of(running)

    def user(self, localpart: str, device_id: str = "FIRST") -> User:
        """Register a user, and log in."""
        body = {
            "auth": {"type": "m.login.dummy"},
            "username": localpart,
            "password": PASSWORD,
            "device_id": device_id,
        }
        status, answer = self.call("POST", "/register", body)
        assert status == 200, answer
        return User(self, answer["user_id"], answer["access_token"], answer["device_id"])


class User:
    """A user, logged in on one device."""

    def __init__(self, server: ClientServer, user_id: str, token: str, device_id: str) -> None:
        self.server = server
        self.user_id = user_id
        self.token = token
        self.device_id = device_id

    def start(self, method: str, path: str, body: Any = None, **query: Any) -> Deferred[Result]:
        """Begin a request."""
        return self.server.start(method, path, body, token=self.token, query=query)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Result:
        """A request and its answer, whatever it is."""
        return self.server.call(method, path, body, token=self.token, query=query)

    def ok(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request that must succeed; its answer."""
        status, answer = self.call(method, path, body, **query)
        if status != 200:
            raise AssertionError(f"{method} {path}: {status} {answer}")
        return answer

    def log_in_again(self, device_id: str) -> User:
        """The same user on another device."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": PASSWORD,
            "device_id": device_id,
        }
        status, answer = self.server.call("POST", "/login", body)
        assert status == 200, answer
        return User(self.server, self.user_id, answer["access_token"], answer["device_id"])

    # -- What tests do most --

    def create_room(self, **body: Any) -> str:
        return str(self.ok("POST", "/createRoom", {"preset": "public_chat", **body})["room_id"])

    def join(self, room_id: str, *via: str) -> None:
        self.ok("POST", f"/join/{enc(room_id)}", {}, via=list(via))

    def leave(self, room_id: str) -> None:
        self.ok("POST", f"/rooms/{enc(room_id)}/leave", {})

    def say(self, room_id: str, text: str, txn_id: str | None = None) -> str:
        txn_id = txn_id or f"txn {text}"
        path = f"/rooms/{enc(room_id)}/send/m.room.message/{enc(txn_id)}"
        return str(self.ok("PUT", path, {"msgtype": "m.text", "body": text})["event_id"])

    def set_state(self, room_id: str, event_type: str, content: Any, state_key: str = "") -> str:
        path = f"/rooms/{enc(room_id)}/state/{event_type}/{enc(state_key)}"
        return str(self.ok("PUT", path, content)["event_id"])

    def sync(self, since: str | None = None, limit: int = 20, **query: Any) -> Any:
        """One sync without waiting."""
        query.setdefault("filter", json.dumps({"room": {"timeline": {"limit": limit}}}))
        if since is not None:
            query["since"] = since
        return self.ok("GET", "/sync", **query)

    def messages(self, room_id: str, direction: str = "b", **query: Any) -> Any:
        return self.ok("GET", f"/rooms/{enc(room_id)}/messages", dir=direction, **query)


class ClientTestCase(SynchronousTestCase):
    """A hub with two users, Alice and Anna, and a participant with one, Bob."""

    def setUp(self) -> None:
        self.network = Network()
        self.hub = ClientServer(self.network, "hub.example")
        self.north = ClientServer(self.network, "north.example")
        self.alice = self.hub.user("alice")
        self.anna = self.hub.user("anna")
        self.bob = self.north.user("bob")

    def assert_refused(self, result: Result, status: int, errcode: str) -> str:
        """A request was refused so; its message."""
        self.assertEqual((result[0], result[1].get("errcode")), (status, errcode), result[1])
        self.assertIsInstance(result[1]["error"], str)
        return str(result[1]["error"])


def enc(segment: str) -> str:
    """Percent-encode one path segment."""
    return quote(segment, safe="")


def bodies(events: list[Any]) -> list[str]:
    """The texts among events."""
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


def _result(answer: Any) -> Result:
    if not isinstance(answer, JsonAnswer):
        answer = JsonAnswer(200, answer)
    return answer.status, canonical_json.parse(answer.encoded())


async def _as_it_is(value: Result) -> Result:
    return value
