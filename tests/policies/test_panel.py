"""Asking policies: in order, in time, and what becomes of those that are broken."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import Forbidden, Undecided
from lmatrix.metrics import Metrics
from lmatrix.policies import ALLOW, Answer, Refuse
from lmatrix.policies.panel import MAX_REASON, TIME_LIMIT_S, Panel

ROOM = "!room:hub.example"


class Says:
    """A policy for rooms that answers with what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def check_room(self, room_id: str) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class PanelTests(SynchronousTestCase):
    """A panel on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()

    def ask(self, *policies: object) -> Deferred[None]:
        panel = Panel(policies, clock=self.clock, metrics=self.metrics)
        return Deferred.fromCoroutine(panel.check_room(ROOM))

    def refusals(self, why: str) -> float:
        labels = {"hook": "room", "why": why}
        return self.metrics.registry.get_sample_value("lmatrix_policy_refusals_total", labels) or 0

    def undecided(self, asking: Deferred[None]) -> None:
        """It counts as a refusal, and is in the log."""
        self.failureResultOf(asking, Undecided)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_everybody_is_asked_until_somebody_refuses(self) -> None:
        """The first refusal is the answer; who comes after is not asked."""
        policies = [Says(ALLOW), Says(Refuse("no")), Says(Refuse("never"))]
        error = self.failureResultOf(self.ask(*policies), Forbidden).value
        self.assertEqual((str(error), type(error)), ("no", Forbidden))
        self.assertEqual([policy.asked for policy in policies], [1, 1, 0])
        self.assertEqual(self.refusals("refused"), 1)

    def test_nobody_refuses(self) -> None:
        """Then it is allowed; objects without the hook have no say."""
        self.successResultOf(self.ask(Says(ALLOW), object()))
        self.successResultOf(self.ask())

    def test_answers_may_be_awaited(self) -> None:
        """Coroutines and Deferreds alike."""

        async def later() -> Any:
            await waiting
            return Refuse("later")

        waiting: Deferred[None] = Deferred()
        asking = self.ask(Says(later()))
        self.assertNoResult(asking)
        waiting.callback(None)
        self.assertEqual(str(self.failureResultOf(asking, Forbidden).value), "later")
        deferred: Deferred[Any] = Deferred()
        asking = self.ask(Says(deferred))
        deferred.callback(ALLOW)
        self.successResultOf(asking)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_exception_is_a_refusal(self) -> None:
        """Raised at once or while it is awaited, it is logged, and says nothing of itself to others."""

        async def broken() -> Any:
            raise ZeroDivisionError("secret")

        for policy in (Says(ZeroDivisionError("secret")), Says(broken())):
            error = self.failureResultOf(self.ask(policy), Undecided).value
            self.assertNotIn("secret", str(error))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.refusals("failed"), 2)

    def test_nonsense_is_a_refusal(self) -> None:
        """Everything that is no verdict: a truth value most of all."""

        async def yes() -> Any:
            return True

        for answer in (True, None, "allow", yes()):
            self.undecided(self.ask(Says(answer)))

    def test_there_is_a_time_limit(self) -> None:
        """Who does not answer in time has refused, even if it will not be cancelled; what it says later is nothing."""

        async def stubborn() -> Any:
            try:
                await first
            except CancelledError:
                await second
            return ALLOW

        first: Deferred[None] = Deferred()
        second: Deferred[None] = Deferred()
        for answer in (stubborn(), Deferred()):
            asking = self.ask(Says(answer))
            self.clock.advance(TIME_LIMIT_S - 0.1)
            self.assertNoResult(asking)
            self.clock.advance(0.1)
            self.undecided(asking)
        second.callback(None)

    def test_reasons_are_bounded(self) -> None:
        """What reaches others is short, and never empty."""
        reason = str(self.failureResultOf(self.ask(Says(Refuse("x" * 10_000)))).value)
        self.assertEqual(len(reason), MAX_REASON)
        for empty in ("", " ", None):
            said = str(self.failureResultOf(self.ask(Says(Refuse(empty)))).value)  # type: ignore[arg-type]
            self.assertIn("does not allow", said)

    def test_who_is_not_asked_about_events(self) -> None:
        """Whether any policy has a say about events can be known beforehand."""

        class Censor:
            def check_event(self, event: object) -> Answer:
                return ALLOW

        for policies, asked in (([], False), ([Says(ALLOW)], False), ([Says(ALLOW), Censor()], True)):
            panel = Panel(policies, clock=self.clock, metrics=self.metrics)
            self.assertEqual(asked, panel.checks_events)

    def test_other_policies_take_over(self) -> None:
        """What is being asked is finished with the old ones."""
        deferred: Deferred[Any] = Deferred()
        panel = Panel([Says(deferred), Says(Refuse("old"))], clock=self.clock, metrics=self.metrics)
        asking = Deferred.fromCoroutine(panel.check_room(ROOM))
        self.assertTrue(panel.blocks_rooms)
        panel.replace([])
        self.assertFalse(panel.blocks_rooms)
        deferred.callback(ALLOW)
        self.assertEqual(str(self.failureResultOf(asking).value), "old")
        self.successResultOf(Deferred.fromCoroutine(panel.check_room(ROOM)))
