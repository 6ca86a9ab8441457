"""Turns: how much is done in one turn of the reactor, and for whom."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.metrics import Metrics
from lmatrix.rooms.turns import Turns


class Reactor(Clock):
    """A clock that goes round as a reactor does: what is put off in one turn comes in the next."""

    def turn(self) -> None:
        """Go round once."""
        due, self.calls = self.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)


class TurnsTests(SynchronousTestCase):
    """Ten at a time."""

    def setUp(self) -> None:
        self.clock = Reactor()
        self.metrics = Metrics()
        self.turns = Turns(10, clock=self.clock, metrics=self.metrics, name="checks")
        self.done: list[str] = []

    def ask(self, source: str, amount: int = 1) -> Deferred[None]:
        asking = Deferred.fromCoroutine(self.turns.take(source, amount))
        asking.addCallbacks(lambda _: self.done.append(source), lambda _: None)
        return asking

    def waiting(self) -> float | None:
        return self.metrics.registry.get_sample_value("lmatrix_queue_length", {"queue": "checks"})

    def test_without_a_crowd_nobody_waits(self) -> None:
        """A turn's worth is done at once, and again in the next turn."""
        for _ in range(3):
            self.ask("a", 10)
            self.clock.turn()
        self.assertEqual(self.done, ["a"] * 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_turn_has_an_end(self) -> None:
        """However much is asked for, no more than that is done before the reactor goes on with other things."""
        for _ in range(35):
            self.ask("a")
        counts = [len(self.done)]
        self.assertEqual(self.waiting(), 25)
        for _ in range(3):
            self.clock.turn()
            counts.append(len(self.done))
        self.assertEqual(counts, [10, 20, 30, 35])
        self.assertEqual(self.waiting(), 0)
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sources_take_turns(self) -> None:
        """A flood that came first does not hold others back by more than one turn."""
        for _ in range(100):
            self.ask("noisy")
        self.ask("quiet", 3)
        self.ask("other")
        self.clock.turn()
        self.assertEqual(set(self.done[10:]), {"noisy", "quiet", "other"})

    def test_what_is_too_large_for_a_turn_comes_alone(self) -> None:
        """It is not stuck, and nobody overtakes it for ever."""
        self.ask("a", 5)
        self.ask("b", 50)
        self.ask("c", 1)
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.done, ["a", "b", "c"])

    def test_whoever_gives_up_holds_nobody_up(self) -> None:
        """A cancelled waiter's turn passes."""
        self.ask("a", 10)
        cancelled = self.ask("b", 10)
        self.ask("c", 10)
        cancelled.cancel()
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.done, ["a", "c"])
