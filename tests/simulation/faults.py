"""What the world does to servers: crashes, cut lines, bad weather, failing disks, clocks that are set, keys that
change.

Owns: :class:`Faults`, which makes a fault out of a plan's step, and :meth:`Faults.heal`, which ends all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs

from tests.simulation.clocks import WorldClock
from tests.simulation.disk import Speed
from tests.simulation.network import Network, Weather
from tests.simulation.node import Node


class Faults:
    """All faults.

    Args:
        nodes: the servers that they happen to.
        weather: how the network is when nothing happens.
    """

    def __init__(
        self,
        clock: WorldClock,
        network: Network,
        nodes: dict[str, Node],
        seed: int,
        weather: Weather,
        note: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._network = network
        self._nodes = nodes
        self._seed = seed
        self._weather = weather
        self._note = note
        self._healed = False

    def step(self, kind: str, number: int) -> None:
        """Do what a step of this kind comes to."""
        rng = Random(f"{self._seed} step {number}")
        node = self._nodes[rng.choice(sorted(self._nodes))]
        getattr(self, f"_do_{kind}")(rng, node)

    def heal(self) -> None:
        """From now on the world is good. What is lost stays lost."""
        self._healed = True
        self._note("the world heals")
        self._network.weather = Weather()
        self._network.cut.clear()
        for node in self._nodes.values():
            node.put_out_fuse()
            self._mend_disk(node)
            node.set_clock(0.0)
            node.start()

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._clock.callLater(seconds, lambda: None if self._healed else do())

    def _do_crash(self, rng: Random, node: Node) -> None:
        down = rng.choice((0.0, 1.0, 20.0, 90.0)) * rng.random()
        node.crash()
        node.restart_later(down)

    def _do_crash_at(self, rng: Random, node: Node) -> None:
        points = rng.choice((3, 10, 40))
        node.light_fuse(rng.randint(1, points), rng.choice((0.0, 1.0, 20.0)) * rng.random())
        self._note(f"{node.name} will not live long")

    def _do_stop(self, rng: Random, node: Node) -> None:
        down = rng.uniform(0.0, 5.0)
        node.stop(lambda: node.restart_later(down))

    def _do_cut(self, rng: Random, node: Node) -> None:
        names = sorted(self._network.processes)
        group = set(rng.sample(names, k=rng.randint(1, max(1, len(names) - 1))))
        if rng.random() < 0.5:
            pairs = [frozenset((one, other)) for one in names if one in group for other in names if other not in group]
        else:
            pairs = [frozenset(rng.sample(names, k=2))] if len(names) > 1 else []
        self._note(f"cut: {', '.join(sorted('-'.join(sorted(pair)) for pair in pairs))}")
        self._network.cut.update(pairs)
        self._later(rng.choice((2.0, 30.0, 120.0)) * rng.random(), lambda: self._mend(pairs))

    def _mend(self, pairs: list[frozenset[str]]) -> None:
        self._note("the cut is mended")
        self._network.cut.difference_update(pairs)

    def _do_storm(self, rng: Random, node: Node) -> None:
        self._note("a storm")
        self._network.weather = Weather(
            lose_request=rng.choice((0.0, 0.3, 0.8)),
            lose_answer=rng.choice((0.0, 0.3, 0.8)),
            silence=rng.random(),
            duplicate=rng.choice((0.0, 0.5)),
            delay=rng.choice((0.05, 2.0)),
            stall=rng.choice((0.0, 0.3)),
            stall_seconds=100.0,
        )
        self._later(rng.uniform(1.0, 30.0), self._calm)

    def _calm(self) -> None:
        self._note("the storm is over")
        self._network.weather = attrs.evolve(self._weather)

    # -- Disks ---------------------------------------------------------------------------------------------------------

    def _do_disk_fails(self, rng: Random, node: Node) -> None:
        if node.process is not None:
            count = rng.randint(1, 4)
            self._note(f"{node.name}: the next {count} commits fail")
            node.process.disk.fail_commits += count

    def _do_disk_denies(self, rng: Random, node: Node) -> None:
        if node.process is not None:
            self._note(f"{node.name}: the next commit takes place, and is reported as failed")
            node.process.disk.deny_commits += 1

    def _do_disk_unreadable(self, rng: Random, node: Node) -> None:
        if node.process is not None:
            count = rng.randint(1, 3)
            self._note(f"{node.name}: the next {count} reads fail")
            node.process.disk.fail_reads += count

    def _do_disk_full(self, rng: Random, node: Node) -> None:
        process = node.process
        if process is not None:
            self._note(f"{node.name}: the disk is full")
            process.disk.engine.fill(True)
            self._later(rng.uniform(0.5, 20.0), lambda: self._mend_disk(node))

    def _do_disk_slow(self, rng: Random, node: Node) -> None:
        self._note(f"{node.name}: the disk is slow")
        slow = rng.choice((0.2, 2.0))
        node.speed.commit, node.speed.news, node.speed.read = slow, slow / 4, slow / 4
        self._later(rng.uniform(1.0, 30.0), lambda: self._mend_disk(node))

    def _mend_disk(self, node: Node) -> None:
        usual = Speed()
        node.speed.commit, node.speed.news, node.speed.read = usual.commit, usual.news, usual.read
        if node.process is not None:
            disk = node.process.disk
            disk.fail_commits = disk.deny_commits = disk.fail_reads = 0
            if disk.is_open:
                disk.engine.fill(False)

    # -- Clocks and keys -----------------------------------------------------------------------------------------------

    def _do_clock(self, rng: Random, node: Node) -> None:
        ahead = rng.choice((0.0, 0.5, 5.0, -5.0, 45.0, -45.0, 600.0, -600.0, 50_000.0))
        self._note(f"{node.name}: its clock is {ahead:+g} s from the true time")
        node.set_clock(ahead)

    def _do_rotate(self, rng: Random, node: Node) -> None:
        how = rng.choice(("crash", "stop", "live"))
        self._note(f"{node.name}: a new signing key ({how})")
        if how == "crash":
            node.crash()
            node.rotate_key()
            node.restart_later(rng.uniform(0.0, 5.0))
        elif how == "stop":
            node.rotate_key()
            node.stop(lambda: node.restart_later(0.5))
        else:
            node.rotate_key()
            self._later(rng.uniform(0.0, 5.0), lambda: self._reload(node))

    def _reload(self, node: Node) -> None:
        if node.ready is not None:
            node.ready.server.reload()
