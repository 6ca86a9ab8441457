"""The simulation as a test: some seeds that are always the same, and some that nobody has run before.

Whoever wants to run many: ``tox -e simulate -- --seeds 10000``.
"""

from __future__ import annotations

import gc
import os
from contextlib import redirect_stdout
from io import StringIO
from random import SystemRandom

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.__main__ import main
from tests.simulation.census import size
from tests.simulation.network import Weather
from tests.simulation.plan import PLANTS, V02, Plan, Step, plan_of
from tests.simulation.report import command, made_small, told
from tests.simulation.shrink import shrunk
from tests.simulation.simulation import Result, Simulation, run

FIXED = (2, 4, 7, 10, 11, 14, 17, 24)
"""Among them: with and without a server that misbehaves, with many transfers, of the other room version."""

FRESH_TURNS = 8_000
"""How much work the fresh seeds may be together, in turns of the simulated clock."""

DAMAGED = 24
"""A seed in which every kind of damage can be done."""


class SimulationTestCase(SynchronousTestCase):
    """Servers whose disks fail log failures; the simulation judges those itself."""

    def tearDown(self) -> None:
        gc.collect()  # crashed processes end here, and not in the middle of another test
        self.flushLoggedErrors()

    def assert_sound(self, result: Result) -> None:
        """Fail with everything that helps, if anything is wrong."""
        self.flushLoggedErrors()
        if result.violations:
            self.fail(told(made_small(result, tries=60)))


class SeedTests(SimulationTestCase):
    """Whatever the network, the disks, the clocks and one of the servers do, what was promised is kept."""

    def test_fixed_seeds(self) -> None:
        """A handful, the same every time."""
        for seed in FIXED:
            self.assert_sound(run(plan_of(seed)))

    def test_fresh_seeds(self) -> None:
        """Some that are drawn now; they are printed before they run. ``SIMULATION_SEED`` says which to begin with."""
        seed = int(os.environ.get("SIMULATION_SEED") or SystemRandom().randrange(10**6, 10**9))
        turns = 0
        while turns < FRESH_TURNS:
            print(f"simulation: seed {seed}", flush=True)
            result = run(plan_of(seed))
            self.assert_sound(result)
            turns += result.steps
            seed += 1

    def test_one_seed_is_one_run(self) -> None:
        """Nothing in a run is drawn from anything but its seed: a second run is the same, event for event."""
        first, second = run(plan_of(9)), run(plan_of(9))
        self.assertEqual((first.digest, first.timeline), (second.digest, second.timeline))
        self.assertNotEqual(first.digest, run(plan_of(8)).digest)


class DamageTests(SimulationTestCase):
    """What is wrong is found, told, made small, and found again."""

    def test_every_kind_of_damage_is_found(self) -> None:
        """Each kind of violation that can be planted is found as what it is; none is found where none is planted."""
        self.assertEqual(frozenset(), run(plan_of(DAMAGED)).kinds)
        for kind in PLANTS:
            self.assertIn(kind, run(plan_of(DAMAGED, plant=kind)).kinds)

    def test_a_failure_is_told_small_and_replays(self) -> None:
        """A failing seed shrinks to the steps that it takes, and the command that is printed does the same again."""
        plan = plan_of(DAMAGED, plant="standing")
        small = made_small(run(plan), tries=40)
        self.assertIn("standing", small.kinds)
        self.assertLess(len(small.plan.steps), 10)
        self.assertLess(len(small.plan.steps), len(plan.steps) / 4)
        text = told(small)
        for violation in small.violations:
            self.assertIn(str(violation), text)
        for step in small.plan.steps:
            self.assertIn(f"-- step {step.number}: {step.kind}", text)
        again = command(small.plan)
        self.assertIn(again, text)

        printed = StringIO()
        with redirect_stdout(printed):
            status = main([*again.split()[3:], "--no-shrink"])

        self.assertEqual(1, status)
        self.assertIn(f"digest {small.digest}", printed.getvalue())
        self.assertIn(str(small.violations[0]), printed.getvalue())

    def test_many_seeds_say_which_failed(self) -> None:
        """A run of many counts what failed, and says how to run each again."""
        printed = StringIO()
        with redirect_stdout(printed):
            status = main(["--first", str(DAMAGED), "--seeds", "1", "--plant", "leak"])
        self.assertEqual(1, status)
        self.assertIn("1 seeds, 1 failed", printed.getvalue())
        self.assertIn(f"python -m tests.simulation --seed {DAMAGED} --plant leak", printed.getvalue())


class GrowthTests(SimulationTestCase):
    """Work leaves nothing behind in memory."""

    def held_after(self, messages: int) -> dict[str, int]:
        """How many objects each server holds when that many messages have been sent and everything is at rest."""
        steps = tuple(Step(5.0 + number / 2, "message", number) for number in range(messages))
        seconds = 10.0 + messages / 2
        held: dict[str, int] = {}
        with Simulation(Plan(5, 3, 2, False, 1, "I.1", seconds, Weather(), steps)) as simulation:
            result = simulation.run()
            self.assertEqual((frozenset(), messages), (result.kinds, result.done - self.others(simulation)))
            for name, node in simulation.nodes.items():
                assert node.process is not None
                # These have bounds of their own, far above this.
                for loaded in node.process.rooms.rooms._loaded.values():
                    loaded.room.recent_lpdus.clear()
                node.process.rooms.receiver._transactions._answered._seen.clear()
                held[name] = size(node.process.server)
        return held

    def others(self, simulation: Simulation) -> int:
        return sum(one.state == "done" and one.kind != "message" for one in simulation.workload.operations)

    def test_no_growth(self) -> None:
        """With 200 messages more a server holds not even 200 objects more: nothing is kept for each of them."""
        few, many = self.held_after(100), self.held_after(300)
        for name, held in many.items():
            self.assertLess(held, few[name] + 200, name)


class ShrinkTests(SynchronousTestCase):
    """The shrinker, without servers."""

    def setUp(self) -> None:
        self.tried = 0
        self.plan = Plan(
            seed=1,
            servers=2,
            users=1,
            byzantine=False,
            rooms=1,
            version=V02,
            seconds=100.0,
            weather=Weather(lose_request=0.5, duplicate=0.5, stall=0.5),
            steps=tuple(Step(float(number), "message", number) for number in range(100)),
        )

    def fails(self, plan: Plan, *needed: int, weather: str | None = None) -> bool:
        self.tried += 1
        numbers = {step.number for step in plan.steps}
        return numbers.issuperset(needed) and (weather is None or getattr(plan.weather, weather) > 0)

    def test_only_what_it_takes_is_left(self) -> None:
        """Three steps far apart, and one kind of weather."""
        small = shrunk(self.plan, lambda plan: self.fails(plan, 3, 42, 97, weather="stall"))
        self.assertEqual([3, 42, 97], [step.number for step in small.steps])
        self.assertEqual((0.0, 0.0, 0.5), (small.weather.lose_request, small.weather.duplicate, small.weather.stall))

    def test_nothing_is_left_when_nothing_is_needed(self) -> None:
        """What fails without any step is found at once."""
        self.assertEqual((), shrunk(self.plan, self.fails).steps)
        self.assertLess(self.tried, 10)

    def test_it_gives_up(self) -> None:
        """With few tries the plan is only somewhat smaller, and still fails."""
        small = shrunk(self.plan, lambda plan: self.fails(plan, *range(0, 100, 9)), tries=20)
        self.assertLessEqual(self.tried, 20)
        self.assertTrue(self.fails(small, *range(0, 100, 9)))
