"""``python -m tests.simulation``: run seeds, and show what a failing one does.

``--seed N`` runs one seed; when it fails, it is made as small as it can be, and its timeline, its steps, its violations
and the command that runs the small one again are printed. ``--seeds N --first M`` runs many, on several processors, and
says how to run each failing one again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import attrs

from tests.simulation.many import results, silence
from tests.simulation.network import CALM
from tests.simulation.plan import PLANTS, plan_of
from tests.simulation.report import counts, made_small, told
from tests.simulation.simulation import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, and show what it does when it fails")
    parser.add_argument("--only", help="with --seed: the numbers of the steps that happen, with commas between them")
    parser.add_argument("--calm", default="", help=f"with --seed: what is left out of the weather: {', '.join(CALM)}")
    parser.add_argument("--seeds", type=int, default=20, help="how many to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="how many to run at one time; 0: as there are processors")
    parser.add_argument("--without", default="", help="kinds of step to leave out, with commas between them")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="do this damage, to see that it is found")
    parser.add_argument("--no-shrink", action="store_true", help="show a failing seed as it is")
    parser.add_argument("--timeline", action="store_true", help="print the timeline in any case")
    options = parser.parse_args(arguments)
    without = _listed(options.without)
    if options.seed is None:
        seeds = range(options.first, options.first + options.seeds)
        return _many(seeds, without, options.plant, options.jobs or os.cpu_count() or 1)
    silence()
    plan = plan_of(options.seed, without=without, plant=options.plant)
    if options.only is not None:
        plan = plan.only([int(number) for number in _listed(options.only) if number != "none"])
    plan = attrs.evolve(plan, weather=plan.weather.without(_listed(options.calm)))
    result = run(plan, verbose=True)
    if result.violations and not options.no_shrink:
        print(f"{len(plan.steps)} steps; making it smaller …", flush=True)
        result = made_small(result)
    if result.violations or options.timeline:
        print(told(result))
    else:
        print(f"seed {plan.seed}: {counts(result)}; digest {result.digest}")
    return bool(result.violations)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _many(seeds: Sequence[int], without: Sequence[str], plant: str | None, jobs: int) -> int:
    began = time.monotonic()
    options = f" --without {','.join(without)}" if without else ""
    options += f" --plant {plant}" if plant else ""
    failed = turns = events = requests = operations = 0
    for result in results(seeds, without, plant, jobs):
        turns += result.steps
        events += result.events
        requests += result.requests
        operations += result.operations
        if result.violations:
            failed += 1
            seed = result.plan.seed
            print(f"seed {seed}: {', '.join(sorted(result.kinds))}: {str(result.violations[0])[:300]}")
            print(f"    python -m tests.simulation --seed {seed}{options}", flush=True)
    print(
        f"{len(seeds)} seeds, {failed} failed: {operations} operations, {requests} requests, {events} events,"
        f" {turns} turns, {time.monotonic() - began:.0f} s"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
