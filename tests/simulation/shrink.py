"""Making a failing plan small.

Owns: :func:`shrunk`: take steps out, and bad weather, for as long as the same kind of thing still goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from tests.simulation.network import Weather
from tests.simulation.plan import Plan, Step


def shrunk(plan: Plan, fails: Callable[[Plan], bool], *, tries: int = 150) -> Plan:
    """The smallest plan found that still fails.

    Args:
        plan: one that does.
        fails: whether a plan fails in the way that matters.
        tries: how many plans are tried, at most.
    """
    left = tries
    size = max(1, len(plan.steps) // 2)
    while left > 0:
        smaller = next((one for one in _candidates(plan, size, left) if fails(one)), None)
        left -= max(1, len(plan.steps) // size)
        if smaller is not None:
            plan = smaller
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
            continue
        size = min(size, max(1, len(plan.steps) // 2))
    for calmer in _calmer(plan):
        if fails(calmer):
            plan = calmer
    return plan


def _candidates(plan: Plan, size: int, most: int) -> Iterator[Plan]:
    steps: list[Step] = list(plan.steps)
    for number, start in enumerate(range(0, len(steps), size)):
        if number >= most:
            return
        yield plan.without(steps[start : start + size])


def _calmer(plan: Plan) -> Iterator[Plan]:
    weather, calm = plan.weather, Weather()
    for field in ("lose_request", "lose_answer", "duplicate", "stall"):
        if getattr(weather, field) != getattr(calm, field):
            weather = attrs.evolve(weather, **{field: getattr(calm, field)})
            yield attrs.evolve(plan, weather=weather)
