"""What a seed stands for: which servers there are, how bad the world is to them, and what happens when.

Owns: :class:`Plan` and its derivation from a seed. A plan is a list of steps, each with a time and a number of its own;
what a step does in detail it draws from a random stream of its own number, so that a plan with some steps taken out
still does the same with the others. That is what makes shrinking possible.

Not every seed has every kind of fault: each leaves some out altogether, so that the others are not hidden by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import attrs

from tests.simulation.network import Weather

USER_STEPS = {
    "create": 1.0,
    "message": 30.0,
    "burst": 5.0,
    "state": 8.0,
    "power": 3.0,
    "redact": 3.0,
    "invite": 4.0,
    "join": 8.0,
    "leave": 3.0,
    "kick": 2.0,
    "ban": 1.5,
    "unban": 1.5,
    "knock": 1.0,
    "scroll": 1.5,
}
TRANSFER_STEPS = {"move": 2.0, "take": 2.0, "give": 2.0, "desert": 0.7, "carousel": 1.0, "fatal_move": 3.0}
FAULT_STEPS = {
    "crash": 3.0,
    "crash_at": 3.0,
    "stop": 1.0,
    "cut": 3.0,
    "storm": 2.0,
    "disk_fails": 2.0,
    "disk_denies": 1.5,
    "disk_unreadable": 1.0,
    "disk_full": 1.0,
    "disk_slow": 1.0,
    "clock": 1.5,
    "rotate": 1.5,
}
BYZANTINE_STEPS = {"mischief": 6.0}


@attrs.frozen(slots=True)
class Step:
    """Something that happens.

    Attributes:
        at: seconds after the beginning.
        number: which it is, in the plan as it was drawn.
    """

    at: float
    kind: str
    number: int


@attrs.frozen(slots=True)
class Plan:
    """A run.

    Attributes:
        servers: how many correct servers.
        users: how many users each has.
        byzantine: whether there is one more server, which misbehaves.
        rooms: how many rooms are made at the beginning.
        version: of those rooms.
        seconds: how long the bad times last.
        plant: which damage is done at the end, for the simulation's own tests; see :data:`PLANTS`.
    """

    seed: int
    servers: int
    users: int
    byzantine: bool
    rooms: int
    version: str
    seconds: float
    weather: Weather
    steps: tuple[Step, ...]
    plant: str | None = None

    def only(self, numbers: Iterable[int]) -> Plan:
        """The same, but nothing happens except the steps with these numbers."""
        kept = set(numbers)
        return attrs.evolve(self, steps=tuple(step for step in self.steps if step.number in kept))

    def without(self, steps: Sequence[Step]) -> Plan:
        """The same, but these do not happen."""
        gone = {step.number for step in steps}
        return attrs.evolve(self, steps=tuple(step for step in self.steps if step.number not in gone))


PLANTS = ("lost", "order", "bytes", "standing", "refused", "twice", "pending", "owed", "leak", "hanging")
"""Damage that can be done at the end of a run: each is named after the kind of violation that it must be found as."""

V02 = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"


def plan_of(seed: int, *, without: Sequence[str] = (), plant: str | None = None) -> Plan:
    """The plan that a seed stands for.

    Args:
        without: kinds of step that are left out.
        plant: damage to do.
    """
    rng = Random(f"{seed} plan")
    calm = rng.random() < 0.15
    version = V02 if rng.random() < 0.15 else "I.1"
    byzantine = rng.random() < 0.3
    weights = {**USER_STEPS}
    faults = {kind: weight * rng.choice((0.0, 0.5, 1.0, 2.0)) for kind, weight in FAULT_STEPS.items()}
    if not calm:
        weights.update(faults)
    if rng.random() < 0.6:
        factor = rng.choice((0.5, 1.0, 3.0))
        weights.update({kind: weight * factor for kind, weight in TRANSFER_STEPS.items()})
    if byzantine:
        weights.update(BYZANTINE_STEPS)
    seconds = rng.choice((30.0, 120.0, 400.0))
    count = rng.randint(20, 110)
    times = sorted(rng.uniform(1.0, seconds) for _ in range(count))
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    weather = Weather()
    if not calm:
        weather = Weather(
            lose_request=rng.choice((0.0, 0.02, 0.1)),
            lose_answer=rng.choice((0.0, 0.02, 0.15)),
            silence=rng.choice((0.0, 0.5, 1.0)),
            duplicate=rng.choice((0.0, 0.05, 0.3)),
            delay=rng.choice((0.005, 0.05, 0.5)),
            stall=rng.choice((0.0, 0.02, 0.1)),
            stall_seconds=rng.choice((5.0, 90.0)),
        )
    return Plan(
        seed=seed,
        servers=rng.choice((2, 3, 3, 4)),
        users=rng.choice((1, 2, 3)),
        byzantine=byzantine,
        rooms=rng.choice((1, 1, 2)),
        version=version,
        seconds=seconds,
        weather=weather,
        plant=plant,
        steps=tuple(
            Step(at, kind, number)
            for number, (at, kind) in enumerate(zip(times, kinds, strict=True))
            if kind not in without and weights[kind] > 0
        ),
    )
