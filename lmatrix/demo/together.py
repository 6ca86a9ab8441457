"""Waiting for several things that go on at the same time."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at the same time until all have ended; raises what the first of them in order raised."""
    running = [Deferred.fromCoroutine(work) for work in works]
    outcomes: list[tuple[bool, Any]] = await DeferredList(running, consumeErrors=True)
    for success, outcome in outcomes:
        if not success:
            outcome.raiseException()
