"""A failing run, told so that somebody can begin to work on it.

Owns: making a failing plan small, and the text about it: what is wrong, the command that runs it again, the steps that
are left, and the timeline of what happened.
"""

from __future__ import annotations

import attrs

from tests.simulation.network import CALM
from tests.simulation.plan import Plan, plan_of
from tests.simulation.shrink import shrunk
from tests.simulation.simulation import Result, run

TIMELINE_LINES = 400
"""How much of the timeline is told: its end."""


def made_small(result: Result, *, tries: int = 150) -> Result:
    """The run of the smallest plan found in which the same kind of thing goes wrong, the servers' warnings included.

    Args:
        result: a run with violations.
        tries: how many plans are run, at most.
    """
    kind = result.violations[0].kind
    return run(shrunk(result.plan, lambda plan: kind in run(plan).kinds, tries=tries), verbose=True)


def command(plan: Plan) -> str:
    """What runs a plan again."""
    words = ["python -m tests.simulation", f"--seed {plan.seed}"]
    drawn = plan_of(plan.seed, plant=plan.plant)
    if plan.steps != drawn.steps:
        words.append("--only " + (",".join(str(step.number) for step in plan.steps) or "none"))
    calmed = [name for name in CALM if getattr(plan.weather, name) != getattr(drawn.weather, name)]
    if calmed:
        words.append("--calm " + ",".join(calmed))
    if plan.plant is not None:
        words.append(f"--plant {plan.plant}")
    return " ".join(words)


def told(result: Result) -> str:
    """A run in words: its timeline, its plan, what is wrong with it, and how to run it again."""
    plan = result.plan
    lines = list(result.timeline[-TIMELINE_LINES:])
    lines.append(str(attrs.evolve(plan, steps=())))
    lines.append(
        "steps: " + (", ".join(f"{step.number} {step.kind} at {step.at:.3f}" for step in plan.steps) or "none")
    )
    lines += [str(violation) for violation in result.violations]
    lines.append(f"seed {plan.seed}: {counts(result)}; digest {result.digest}")
    lines.append(f"again: {command(plan)}")
    return "\n".join(lines)


def counts(result: Result) -> str:
    """How much happened."""
    return (
        f"{result.done} of {result.operations} operations done, {result.requests} requests, {result.events} events,"
        f" {result.steps} turns, {len(result.violations)} violations"
    )
