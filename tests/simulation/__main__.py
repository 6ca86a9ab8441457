"""``python -m tests.simulation``: run seeds, and show what a failing one does.

``--seed N`` runs one seed; when it fails, it is made as small as it can be, and its violations, its steps and its
timeline are printed. ``--seeds N --first M`` runs many, and says how to run each failing one again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import attrs
from twisted.logger import globalLogBeginner

from tests.simulation.plan import Plan, plan_of
from tests.simulation.shrink import shrunk
from tests.simulation.simulation import Result, run

_TIMELINE_LINES = 400


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, and show what it does when it fails")
    parser.add_argument("--seeds", type=int, default=20, help="how many to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--without", default="", help="kinds of step to leave out, with commas between them")
    parser.add_argument("--no-shrink", action="store_true", help="show a failing seed as it is")
    parser.add_argument("--timeline", action="store_true", help="print the timeline in any case")
    options = parser.parse_args(arguments)
    # Nothing of the servers' logs belongs on the terminal; the simulation listens for itself.
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False, discardBuffer=True)
    without = tuple(kind for kind in options.without.split(",") if kind)
    if options.seed is not None:
        return _one(plan_of(options.seed, without=without), shrink=not options.no_shrink, timeline=options.timeline)
    return _many(range(options.first, options.first + options.seeds), without)


def _one(plan: Plan, *, shrink: bool, timeline: bool) -> int:
    result = run(plan, verbose=True)
    if result.violations and shrink:
        kind = result.violations[0].kind
        print(f"{len(plan.steps)} steps; making it smaller …", flush=True)
        small = shrunk(plan, lambda one: kind in run(one).kinds)
        result = run(small, verbose=True)
    if result.violations or timeline:
        print("\n".join(result.timeline[-_TIMELINE_LINES:]))
        print(attrs.evolve(result.plan, steps=()))
        print("steps: " + ", ".join(f"{step.number} {step.kind} at {step.at:.3f}" for step in result.plan.steps))
    for violation in result.violations:
        print(violation)
    print(f"seed {plan.seed}: {_counts(result)}; digest {result.digest}")
    return bool(result.violations)


def _many(seeds: Sequence[int], without: Sequence[str]) -> int:
    began = time.monotonic()
    failed = events = requests = operations = 0
    for seed in seeds:
        result = run(plan_of(seed, without=without))
        events += result.events
        requests += result.requests
        operations += result.operations
        if result.violations:
            failed += 1
            print(f"seed {seed}: {', '.join(sorted(result.kinds))}: {str(result.violations[0])[:300]}")
            print(f"    python -m tests.simulation --seed {seed}", flush=True)
    print(
        f"{len(seeds)} seeds, {failed} failed: {operations} operations, {requests} requests, {events} events,"
        f" {time.monotonic() - began:.0f} s"
    )
    return bool(failed)


def _counts(result: Result) -> str:
    return (
        f"{result.done} of {result.operations} operations done, {result.requests} requests, {result.events} events,"
        f" {len(result.violations)} violations"
    )


if __name__ == "__main__":
    sys.exit(main())
