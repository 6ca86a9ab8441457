"""One run: the servers, the world, the steps of a plan, the healing, the end.

Owns: :class:`Simulation` and :class:`Result`.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import attrs
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.ids import server_of
from tests.simulation.byzantine import NAME as MALLORY
from tests.simulation.byzantine import Mischief
from tests.simulation.checks import Ending
from tests.simulation.clocks import WorldClock
from tests.simulation.disk import Disk
from tests.simulation.faults import Faults
from tests.simulation.moving import Moves
from tests.simulation.network import Network
from tests.simulation.node import Node, Surroundings
from tests.simulation.plan import BYZANTINE_STEPS, FAULT_STEPS, TRANSFER_STEPS, Plan
from tests.simulation.planted import do_damage
from tests.simulation.reverify import Keys
from tests.simulation.watch import Violation, Watch
from tests.simulation.workload import Workload

START = 1_700_000_000.0
LOCALPARTS = ("ann", "ben", "cleo")
NAMES = ("north.example", "south.example", "east.example", "west.example")

ANSWER_SECONDS = 3 * 3600.0
"""How long after the healing every client must have its answer."""

AFTERTHOUGHT_SECONDS = 3600.0
"""After how long a user tries again to get into a room."""

REST_SECONDS = 24 * 3600.0
"""How long after that everything must have come to rest."""


@attrs.frozen
class Result:
    """What came of a run.

    Attributes:
        timeline: what happened, in words.
        digest: the same for two runs of one plan, or something in it is not drawn from the seed.
        steps: turns that the world's clock took: how much work it was.
    """

    plan: Plan
    violations: tuple[Violation, ...]
    timeline: tuple[str, ...]
    digest: str
    events: int
    requests: int
    operations: int
    done: int
    steps: int

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of violation."""
        return frozenset(violation.kind for violation in self.violations)


def run(plan: Plan, *, verbose: bool = False) -> Result:
    """Carry a plan out.

    Args:
        verbose: whether the servers' warnings go into the timeline.
    """
    with Simulation(plan, verbose=verbose) as simulation:
        return simulation.run()


class Simulation:
    """A world with some servers. To be used with ``with``, once.

    Args:
        plan: what happens.
        verbose: whether the servers' warnings go into the timeline.
    """

    def __init__(self, plan: Plan, *, verbose: bool = False) -> None:
        self.plan = plan
        self.clock = WorldClock(START)
        self.network = Network(self.clock, plan.seed)
        self.network.weather = attrs.evolve(plan.weather)
        self.timeline: list[str] = []
        self._digest = hashlib.sha256()
        self._verbose = verbose
        self._directory = Path(tempfile.mkdtemp(prefix="lmatrix-simulation-", dir=_memory_directory()))
        around = Surroundings(self.clock, self.network, plan.seed, self._directory, self.note, self._committed)
        names = NAMES[: plan.servers]
        self.nodes = {name: Node(around, name, LOCALPARTS[: plan.users]) for name in names}
        self.mischief: Mischief | None = None
        everybody = dict(self.nodes)
        if plan.byzantine:
            self.mischief = Mischief(self.clock, plan.seed, self.note, names)
            mallory = Node(around, MALLORY, LOCALPARTS[:1], self.mischief.tamper, self.mischief.answer)
            self.mischief.node = everybody[MALLORY] = mallory
        self.everybody = everybody
        self.watch = Watch(frozenset(names))
        self.network.witnesses.append(self.watch.answered)
        if verbose:
            self.network.witnesses.append(self._refusals)
        self.workload = Workload(
            everybody, plan.seed, self.note, lambda what: self.watch.violated("answer", what), plan.version
        )
        self.moves = Moves(everybody, self.network, self.workload, plan.seed, self.note)
        self.faults = Faults(self.clock, self.network, everybody, plan.seed, plan.weather, self.note)

    def __enter__(self) -> Simulation:
        # What a crashed process holds must not be collected while others run: its coroutines would be ended, and act.
        gc.collect()
        gc.disable()
        globalLogPublisher.addObserver(self._logged)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        globalLogPublisher.removeObserver(self._logged)
        for node in self.everybody.values():
            node.crash()
        gc.enable()
        shutil.rmtree(self._directory, ignore_errors=True)

    def note(self, text: str) -> None:
        """A line for the timeline."""
        line = f"{self.clock.seconds() - START:10.3f}  {text}"
        self.timeline.append(line)
        self._digest.update(line.encode())

    def run(self) -> Result:
        """Everything, in order."""
        for node in self.everybody.values():
            node.start()
        self.clock.run_until(START + 1.0)
        for number in range(self.plan.rooms):
            self.workload.step("create", -1 - number)
        for step in self.plan.steps:
            self.clock.callLater(step.at, self._step, step.kind, step.number)
        self.clock.run_until(START + 1.0 + self.plan.seconds)
        self.faults.heal()
        if self.mischief is not None:
            self.mischief.repent()
        self._run_while(self._somebody_waits, ANSWER_SECONDS)
        self.workload.retrying = False
        ending = Ending(self.nodes, self._keys(), self.watch, self.workload)
        self._rest()
        for _ in range(3):
            strangers = list(ending.strangers())
            for user_id, room_id, hub in strangers:
                self.note(f"{user_id} is in {room_id} without knowing it")
                self.workload._join(user_id, room_id, [hub])
            self._rest()
            if not strangers:
                break
            self.clock.run_until(self.clock.seconds() + AFTERTHOUGHT_SECONDS)
        if self.mischief is not None and self.mischief.node is not None:
            self.mischief.node.crash()
            self._run_while(lambda: True, 600.0)
        if self.clock.calls:
            self.note(f"not at rest: {self.clock.calls[:5]}")
        if self.plan.plant is not None:
            do_damage(self.plan.plant, self.nodes, self.workload)
        found = ending.violations()
        gc.collect()  # a failure that nobody has looked at says so now
        return Result(
            plan=self.plan,
            violations=tuple(dict.fromkeys([*self.watch.violations, *found])),
            timeline=tuple(self.timeline),
            digest=self._digest.hexdigest()[:16],
            events=self.watch.events,
            requests=self.network.requests,
            operations=len(self.workload.operations),
            done=sum(one.state == "done" for one in self.workload.operations),
            steps=self.clock.steps,
        )

    def _somebody_waits(self) -> bool:
        return any(
            one.state == "open" and one.room_id not in self.watch.tainted and server_of(one.user_id) in self.nodes
            for one in self.workload.operations
        )

    def _step(self, kind: str, number: int) -> None:
        self.note(f"-- step {number}: {kind}")
        if kind in FAULT_STEPS:
            self.faults.step(kind, number)
        elif kind in TRANSFER_STEPS:
            self.moves.step(kind, number)
        elif kind not in BYZANTINE_STEPS:
            self.workload.step(kind, number)
        elif self.mischief is not None:
            self.mischief.step(number)

    def _rest(self) -> None:
        self._run_while(lambda: True, REST_SECONDS)

    def _run_while(self, condition: Callable[[], bool], seconds: float) -> None:
        until = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= until and condition():
            self.clock.step()

    def _keys(self) -> Keys:
        return {name: node.public_keys() for name, node in self.everybody.items()}

    def _committed(self, node: Node, disk: Disk) -> None:
        self.watch.committed(node.name, disk)
        self._digest.update(f"{node.name} {self.clock.seconds()}".encode())

    def _refusals(self, origin: str, destination: str, request: OutgoingRequest, answer: Answer) -> None:
        if answer.status != 200:
            self.note(f"   {destination} answers {origin} {answer.status}: {answer.body[:200]!r}")
        elif b'"failed_pdus":{"' in answer.body:
            self.note(f"   {destination} answers {origin}: {answer.body[:300]!r}")

    def _logged(self, event: LogEvent) -> None:
        self.watch.logged(event)
        if self._verbose and event.get("log_level", LogLevel.debug) >= LogLevel.warn:
            self.note(f"   {event.get('log_namespace', '')}: {formatEvent(event)[:300]}")


def _memory_directory() -> str | None:
    """Where files cost least."""
    shared = Path("/dev/shm")  # noqa: S108 - a directory with a random name is made in it
    return str(shared) if shared.is_dir() else None
