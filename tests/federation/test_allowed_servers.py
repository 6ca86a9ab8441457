"""Talking to some servers only."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import Forbidden, PeerUnreachable
from lmatrix.federation.allowed_servers import OnlyFrom, OnlyTo
from lmatrix.federation.discovery import Route, Target
from lmatrix.http.messages import JsonObject, JsonRequest

FRIENDS = {"friend.example"}
ROUTE = Route("friend.example", "friend.example", (Target("friend.example", 8448),))


class Authenticates:
    def __init__(self, origin: str) -> None:
        self.origin = origin

    async def authenticate(self, request: JsonRequest, content: JsonObject | None) -> str:
        return self.origin


class Finds:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, server_name: str) -> Route:
        self.asked.append(server_name)
        return ROUTE


class AllowedServersTests(SynchronousTestCase):
    def test_requests(self) -> None:
        """Who is not named is refused, after it has proved who it is."""
        request = JsonRequest(method="GET", raw_uri=b"/")
        friend = OnlyFrom(Authenticates("friend.example"), FRIENDS).authenticate(request, None)
        self.assertEqual("friend.example", self.successResultOf(Deferred.fromCoroutine(friend)))
        stranger = OnlyFrom(Authenticates("stranger.example"), FRIENDS).authenticate(request, None)
        error = self.failureResultOf(Deferred.fromCoroutine(stranger), Forbidden)
        self.assertIn("stranger.example", str(error.value))

    def test_destinations(self) -> None:
        """A server that is not named is not even looked up."""
        finds = Finds()
        finder = OnlyTo(finds, FRIENDS)
        self.assertEqual(ROUTE, self.successResultOf(Deferred.fromCoroutine(finder.resolve("friend.example"))))
        self.failureResultOf(Deferred.fromCoroutine(finder.resolve("stranger.example")), PeerUnreachable)
        self.assertEqual(["friend.example"], finds.asked)
