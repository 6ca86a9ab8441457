"""Asking other servers, not more often than need be.

Owns: :class:`Lookups`. Invariants: who asks for the same thing at the same time shares one request; an answer, or that
there is none, is remembered for a short time; memory and requests in flight are bounded, however much is asked for.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from lmatrix.errors import LMatrixError, Overloaded

T = TypeVar("T")

REMEMBERED_S = 60.0
"""How long an answer is good for."""

REFUSAL_REMEMBERED_S = 10.0
"""How long it counts that there was none."""

MAX_REMEMBERED = 2000
MAX_ASKING = 50


@attrs.frozen(slots=True)
class _Answer(Generic[T]):
    answer: T
    until: float


@attrs.frozen(slots=True)
class _NoAnswer:
    error: LMatrixError
    until: float


class Lookups(Generic[T]):
    """Look-ups of one kind, by name.

    Args:
        clock: the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._remembered: OrderedDict[str, _Answer[T] | _NoAnswer] = OrderedDict()
        self._waiting: dict[str, list[Deferred[T]]] = {}

    async def find(self, name: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What is remembered under a name, else what asking gives.

        Raises:
            Overloaded: too much is being asked for.
            LMatrixError: as ``ask``.
        """
        known = self._remembered.get(name)
        if known is not None and self._clock.seconds() < known.until:
            if isinstance(known, _NoAnswer):
                raise known.error.with_traceback(None)
            return known.answer
        waiting = self._waiting.get(name)
        turn: Deferred[T] = Deferred()
        if waiting is not None:
            waiting.append(turn)
            return await turn
        if len(self._waiting) >= MAX_ASKING:
            raise Overloaded(1000)
        self._waiting[name] = [turn]
        # On its own: whoever asked first may lose interest, and the others must not suffer.
        Deferred.fromCoroutine(ask()).addBoth(self._told, name)
        return await turn

    def _told(self, result: T | Failure, name: str) -> None:
        now = self._clock.seconds()
        error = result.value if isinstance(result, Failure) else None
        if isinstance(error, LMatrixError):
            self._remember(name, _NoAnswer(error, now + REFUSAL_REMEMBERED_S))
        elif not isinstance(result, Failure):
            self._remember(name, _Answer(result, now + REMEMBERED_S))
        for turn in self._waiting.pop(name):
            if not turn.called:
                turn.callback(result)

    def _remember(self, name: str, outcome: _Answer[T] | _NoAnswer) -> None:
        self._remembered[name] = outcome
        self._remembered.move_to_end(name)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
