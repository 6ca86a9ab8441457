"""Which servers speak Linearized Matrix only."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerUnreachable
from lmatrix.federation.linearized_servers import KEPT_S, KEPT_WITHOUT_ANSWER_S, LinearizedServers


class Servers:
    """Answers for servers; ``None``: the server does not."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any] | None] = {}
        self.asked = 0
        self.gate: Deferred[None] | None = None

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = 0, max_answer: int = 0
    ) -> dict[str, Any]:
        self.asked += 1
        if self.gate is not None:
            await self.gate
        answer = self.answers[destination]
        if answer is None:
            raise PeerUnreachable(destination, "it is down")
        return answer


class LinearizedServersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.peers = Clock(), Servers()
        self.servers = LinearizedServers(self.peers, self.clock)

    def ask(self, server: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.servers.is_linearized(server))

    def test_answers(self) -> None:
        """A server is one when it says so, in so many words; otherwise it speaks all of Matrix."""
        self.peers.answers = {"yes": {"m.linearized": True}, "no": {}, "odd": {"m.linearized": "true"}, "down": None}
        found = {server: self.successResultOf(self.ask(server)) for server in self.peers.answers}
        self.assertEqual({"yes": True, "no": False, "odd": False, "down": False}, found)

    def test_asked_seldom(self) -> None:
        """An answer counts for an hour, a failure for a minute, and all who wait share one question."""
        self.peers.answers = {"yes": {"m.linearized": True}}
        self.peers.gate = Deferred()
        both = self.ask("yes"), self.ask("yes")
        self.peers.gate.callback(None)
        self.assertEqual([True, True], [self.successResultOf(one) for one in both])
        self.clock.advance(KEPT_S - 1)
        self.successResultOf(self.ask("yes"))
        self.assertEqual(1, self.peers.asked)
        self.clock.advance(2)
        self.peers.answers["yes"] = None
        self.peers.gate = None
        self.assertFalse(self.successResultOf(self.ask("yes")))
        self.clock.advance(KEPT_WITHOUT_ANSWER_S + 1)
        self.peers.answers["yes"] = {"m.linearized": True}
        self.assertTrue(self.successResultOf(self.ask("yes")))
        self.assertEqual(3, self.peers.asked)
