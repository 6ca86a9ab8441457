"""Making a failing plan small.

Owns: :func:`shrunk`: take steps out, and bad weather, for as long as the same kind of thing still goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tests.simulation.network import CALM
from tests.simulation.plan import Plan


def shrunk(plan: Plan, fails: Callable[[Plan], bool], *, tries: int = 150) -> Plan:
    """The smallest plan found that still fails.

    First all steps are taken out, then halves of them, quarters, and so on down to single ones, until no single one can
    be spared; then one kind of bad weather after the other.

    Args:
        plan: one that does.
        fails: whether a plan fails in the way that matters.
        tries: how many plans are tried, at most.
    """
    size = len(plan.steps)
    while size > 0 and tries > 0:
        start, before = 0, plan
        while start < len(plan.steps) and tries > 0:
            smaller = plan.without(plan.steps[start : start + size])
            tries -= 1
            if fails(smaller):
                plan = smaller
            else:
                start += size
        if size > 1:
            size = min((size + 1) // 2, max(1, len(plan.steps)))
        elif plan is before:
            break
    for name in CALM:
        calmer = attrs.evolve(plan, weather=plan.weather.without([name]))
        if calmer != plan and tries > 0:
            tries -= 1
            if fails(calmer):
                plan = calmer
    return plan
