"""Asking other servers, not more often than need be."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.directory.lookups import (
    MAX_ASKING,
    MAX_REMEMBERED,
    REFUSAL_REMEMBERED_S,
    REMEMBERED_S,
    Lookups,
)
from lmatrix.errors import NotFound, Overloaded


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lookups: Lookups[str] = Lookups(self.clock)
        self.asked: list[tuple[str, Deferred[str]]] = []

    def ask(self, name: str) -> Callable[[], Coroutine[Any, Any, str]]:
        async def asking() -> str:
            answer: Deferred[str] = Deferred()
            self.asked.append((name, answer))
            return await answer

        return asking

    def find(self, name: str) -> Deferred[str]:
        return Deferred.fromCoroutine(self.lookups.find(name, self.ask(name)))

    def test_shared(self) -> None:
        """Who asks at the same time shares the request and its outcome, even when the first loses interest."""
        first, second, third = self.find("a"), self.find("a"), self.find("b")
        self.assertEqual(["a", "b"], [name for name, _ in self.asked])
        first.cancel()
        self.failureResultOf(first)
        self.asked[0][1].callback("answer")
        self.assertEqual("answer", self.successResultOf(second))
        self.assertNoResult(third)
        self.asked[1][1].errback(NotFound("b"))
        self.failureResultOf(third, NotFound)

    def test_remembered(self) -> None:
        """An answer is good for a while, that there is none for a shorter one."""
        self.find("a")
        self.asked[0][1].callback("one")
        nothing = self.find("b")
        self.asked[1][1].errback(NotFound("b"))
        self.failureResultOf(nothing, NotFound)
        self.clock.advance(REFUSAL_REMEMBERED_S - 1)
        self.failureResultOf(self.find("b"), NotFound)
        self.clock.advance(1)
        self.assertNoResult(self.find("b"))
        self.clock.advance(REMEMBERED_S - REFUSAL_REMEMBERED_S - 1)
        self.assertEqual("one", self.successResultOf(self.find("a")))
        self.clock.advance(1)
        self.assertNoResult(self.find("a"))

    def test_mistakes_are_not_remembered(self) -> None:
        """An error that is nobody's answer is asked about again."""
        broken = self.find("a")
        self.asked[0][1].errback(ZeroDivisionError())
        self.failureResultOf(broken, ZeroDivisionError)
        self.assertNoResult(self.find("a"))

    def test_bounds(self) -> None:
        """So many are asked for at one time, and so many remembered, and no more."""
        for number in range(MAX_ASKING):
            self.find(str(number))
        self.failureResultOf(self.find("one more"), Overloaded)
        self.asked[0][1].callback("x")
        self.assertNoResult(self.find("one more"))
        for _, answer in self.asked[1:]:
            answer.callback("x")
        for number in range(MAX_REMEMBERED):
            self.find(f"name {number}")
            self.asked[-1][1].callback("x")
        self.asked.clear()
        self.assertEqual("x", self.successResultOf(self.find("name 0")))
        self.assertNoResult(self.find("one more"))
