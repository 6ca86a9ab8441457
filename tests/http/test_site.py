"""Ending a listener's connections."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.http.router import Route

from .memory_http import Wire, site_for


class CloseTests(SynchronousTestCase):
    """What happens to open connections at shutdown."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turn: Deferred[None] = Deferred()

        async def handler(_request: JsonRequest) -> JsonObject:
            await self.turn
            return {}

        self.site = site_for(Route("PUT", "/", handler, "name"), clock=self.clock)

    def _close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.site.close_connections(grace=5))

    def test_with_no_connections_it_is_done(self) -> None:
        """There is nothing to wait for."""
        self.successResultOf(self._close())

    def test_idle_connections_are_closed_at_once(self) -> None:
        """It is done when the last of them has ended, and leaves no timer."""
        wires = [Wire(self.site), Wire(self.site)]
        closed = self._close()
        for wire in wires:
            self.assertTrue(wire.closed)
            self.assertNoResult(closed)
            wire.hang_up()
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_answer_is_waited_for(self) -> None:
        """A connection on which a request is being handled is closed after its answer."""
        wire = Wire(self.site)
        wire.request("PUT", "/", b"{}")
        closed = self._close()
        self.assertFalse(wire.closed)
        self.turn.callback(None)
        self.assertEqual(wire.answer().status, 200)
        self.assertTrue(wire.closed)
        wire.hang_up()
        self.successResultOf(closed)

    def test_patience_ends(self) -> None:
        """A connection that does not end is cut after the grace."""
        wire = Wire(self.site)
        closed = self._close()
        self.clock.advance(4.9)
        self.assertFalse(wire.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(wire.transport.aborted)
        wire.hang_up()
        self.successResultOf(closed)
