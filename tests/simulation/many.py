"""Many seeds, one after the other or several at one time.

Owns: :func:`results`. What runs in other processes is in this module, and not beside the command line, because a
process that is spawned finds it by its name.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
from twisted.logger import globalLogBeginner

from tests.simulation.plan import plan_of
from tests.simulation.simulation import Result, run

SEEDS_IN_A_PROCESS = 50
"""After so many a process is replaced: whatever is wrong with one run must not gather."""


def results(seeds: Sequence[int], without: Sequence[str], plant: str | None, jobs: int) -> Iterator[Result]:
    """Run seeds, and give their results, without the timelines, as they come.

    Args:
        without: kinds of step to leave out.
        plant: damage to do.
        jobs: how many to run at one time.
    """
    one = partial(_short, without=tuple(without), plant=plant)
    if jobs == 1:
        silence()
        yield from map(one, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=silence, maxtasksperchild=SEEDS_IN_A_PROCESS) as pool:
        yield from pool.imap_unordered(one, seeds)


def silence() -> None:
    """Nothing of the servers' logs belongs on the terminal; the simulation listens for itself."""
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False, discardBuffer=True)


def _short(seed: int, *, without: tuple[str, ...], plant: str | None) -> Result:
    return attrs.evolve(run(plan_of(seed, without=without, plant=plant)), timeline=())
