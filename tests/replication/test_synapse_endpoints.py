"""Whose answer a request on one of Synapse's ports gets, without a Synapse."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.messages import JsonAnswer
from lmatrix.http.routes import Route, RouteTable
from lmatrix.replication.synapse.endpoints import FederationEndpoints, PathRegistry

V1 = "/_matrix/federation/v1"
OURS, THEIRS = "!ours:x", "!theirs:x"


class Servlet:
    """One of Synapse's endpoints."""

    PREFIX = V1
    asked: list[tuple[str, dict[str, str]]]

    def __init__(self, asked: list[tuple[str, dict[str, str]]]) -> None:
        self.asked = asked

    def register(self, resource: PathRegistry) -> None:
        async def answer(request: Any, **params: str) -> tuple[int, str]:
            self.asked.append((type(self).__name__, params))
            return 200, "theirs"

        resource.register_paths("GET", (), answer, "")

    def on_GET(self) -> None:
        """Called by nobody here."""


class MakeJoin(Servlet):
    PATH = "/make_join/(?P<room_id>[^/]*)/(?P<user_id>[^/]*)"


class Version(Servlet):
    PATH = "/version"


class Port:
    """One of Synapse's ports: asks for the first pattern that matches."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, re.Pattern[str], Callable[..., Awaitable[Any]]]] = []

    def register_paths(
        self, method: str, path_patterns: Iterable[re.Pattern[str]], callback: Any, servlet_classname: str
    ) -> None:
        self.routes += [(method, pattern, callback) for pattern in path_patterns]

    def get(self, request: Request) -> Deferred[Any]:
        for method, pattern, callback in self.routes:
            found = pattern.match(request.path.decode())
            if method == "GET" and found:
                params = {name: re.sub("%21", "!", value) for name, value in found.groupdict().items()}
                return Deferred.fromCoroutine(callback(request, **params))  # type: ignore[arg-type]
        raise KeyError(request.path)


class Request:
    def __init__(self, path: str) -> None:
        self.path = path.encode()
        self.over: Deferred[None] = Deferred()
        self.answered: list[str] = []

    def notifyFinish(self) -> Deferred[None]:
        return self.over


class Router:
    """Stands in for our router: answers at once."""

    def render(self, request: Request) -> None:
        request.answered.append("ours")
        request.over.callback(None)

    def refuse(self, request: Request, answer: JsonAnswer) -> None:
        request.answered.append(f"refused {answer.status}")
        request.over.callback(None)


class Internals:
    """Stands in for the way into Synapse."""

    federation_servlets = (MakeJoin, Version)

    def __init__(self) -> None:
        self.served: Any = None

    def serve_first(self, key: str, servlet: Callable[..., Any]) -> None:
        self.served = servlet

    async def outside(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        return await begin()


async def _handler(_: Any) -> dict[str, Any]:
    return {}


TABLE = RouteTable(
    "federation",
    [
        Route("GET", f"{V1}/make_join/{{roomId}}/{{userId}}", _handler, "make_join"),
        Route("GET", f"{V1}/version", _handler, "version"),
        Route("GET", "/_matrix/federation/v2/event/{eventId}", _handler, "event"),
    ],
)


class EndpointsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        internals: Any = Internals()
        router: Any = Router()

        async def holds(room_id: str) -> bool:
            return room_id == OURS

        self.endpoints = FederationEndpoints(internals, TABLE, router, holds)
        self.endpoints.install()
        self.port = Port()
        internals.served(asked=self.asked).register(self.port)

    def get(self, path: str) -> tuple[Request, Deferred[Any]]:
        request = Request(path)
        return request, self.port.get(request)

    def test_by_room(self) -> None:
        """A path that both serve is ours for our rooms; Synapse's gets all others, with its own parameters, decoded."""
        self.endpoints.begin()
        request, answer = self.get(f"{V1}/make_join/%21ours:x/@a:y")
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(["ours"], request.answered)
        request, answer = self.get(f"{V1}/make_join/%21theirs:x/@a:y")
        self.assertEqual((200, "theirs"), self.successResultOf(answer))
        self.assertEqual([], request.answered)
        self.assertEqual([("MakeJoin", {"room_id": THEIRS, "user_id": "@a:y"})], self.asked)

    def test_without_a_room(self) -> None:
        """What both serve and names no room is not registered; what Synapse does not serve is ours."""
        self.assertRaises(KeyError, self.get, f"{V1}/version")
        self.endpoints.begin()
        request, _ = self.get("/_matrix/federation/v2/event/$x")
        self.assertEqual(["ours"], request.answered)

    def test_before_the_start(self) -> None:
        """Requests wait for the start, and are then answered as any other; one whose client has gone is not."""
        event, answer = self.get("/_matrix/federation/v2/event/$x")
        gone, _ = self.get("/_matrix/federation/v2/event/$y")
        join, joined = self.get(f"{V1}/make_join/%21ours:x/@a:y")
        gone.over.errback(Failure(ConnectionDone()))
        self.assertNoResult(answer)
        self.assertNoResult(joined)
        self.endpoints.begin()
        self.assertEqual((["ours"], ["ours"], []), (event.answered, join.answered, gone.answered))

    def test_failed_start(self) -> None:
        """Without us, Synapse's rooms are joined as ever, and what would be ours is refused."""
        waiting, answer = self.get(f"{V1}/make_join/%21theirs:x/@a:y")
        self.endpoints.give_up()
        self.assertEqual((200, "theirs"), self.successResultOf(answer))
        event, _ = self.get("/_matrix/federation/v2/event/$x")
        self.assertEqual((["refused 503"], []), (event.answered, waiting.answered))
