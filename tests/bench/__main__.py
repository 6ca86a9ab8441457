"""The benchmark's command line: which rooms, which loads, how many events."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import attrs

from lmatrix.crypto.keys import SigningKey
from tests.bench import report
from tests.bench.end_to_end import measure_end_to_end
from tests.bench.hub import HubSetup, RunningHub
from tests.bench.loads import Load, ParticipantProcess, measure
from tests.bench.participant import Role
from tests.bench.primitives import Primitives, mean, measure_primitives
from tests.bench.report import Row
from tests.bench.rooms import Guest, RoomShape, write_room

_PARTICIPANTS = 2


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        shapes: the rooms; all loads are put on the first of them, and those that are ``flat`` on the others.
        loads: the loads.
        flat: names of loads that are to be as fast in a long or large room.
        messages: for the end-to-end measurement.
    """

    shapes: tuple[RoomShape, ...]
    loads: tuple[Load, ...]
    flat: frozenset[str]
    messages: int


def plan(quick: bool) -> Plan:
    """The plan; ``quick`` has a tenth of the events."""
    size = 1 if quick else 10
    return Plan(
        shapes=(
            RoomShape(events=10, members=2),
            RoomShape(events=10_000 * size, members=2),
            RoomShape(events=2_100, members=2_000) if not quick else RoomShape(events=300, members=200),
        ),
        loads=(
            Load(name="a1", transactions=50 * size, events=1, senders=1, in_flight=1),
            Load(name="a16", transactions=160 * size, events=1, senders=2, in_flight=16),
            Load(name="b", transactions=30 * size, events=50, senders=2, in_flight=2),
        ),
        flat=frozenset({"a1", "b"}),
        messages=20 * size,
    )


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events: less than a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="the disk to use (default: temporary files)")
    parser.add_argument(
        "--one-core",
        action="store_true",
        help="keep the hub on one core, and this program and the participants on the others",
    )
    parser.add_argument("--no-end-to-end", action="store_true", help="leave out the three real servers")
    options = parser.parse_args(arguments)
    what = plan(options.quick)
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="lmatrix-bench-", dir=options.directory) as directory:
        hub_cores = _divide_cores() if options.one_core else None
        rows = list(_measure_hub(what, Path(directory), hub_cores))
        journey = None if options.no_end_to_end else measure_end_to_end(Path(directory) / "servers", what.messages)
    print()
    print(report.table(rows, journey, load_average))
    if options.json is not None:
        figures = report.figures(rows, journey, load_average)
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def _divide_cores() -> set[int]:
    """Leave one core to the hub, and return it; what this process starts inherits the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("--one-core: there is only one")
    os.sched_setaffinity(0, others)
    return {first}


def _measure_hub(what: Plan, directory: Path, hub_cores: set[int] | None) -> Iterator[Row]:
    federation_port, client_port, *ports = _free_ports(2 + _PARTICIPANTS)
    guests = [Guest(f"localhost:{port}", SigningKey.generate(f"p{port}")) for port in ports]
    setup = HubSetup(directory, federation_port, client_port, [guest.server_name for guest in guests])
    batches = sorted({load.events for load in what.loads})
    with ExitStack() as stack:
        participants = [
            stack.enter_context(
                ParticipantProcess(
                    guest,
                    Role(
                        server_name=guest.server_name,
                        key=guest.key.to_line(),
                        certificate=str(setup.certificate),
                        private_key=str(setup.private_key),
                        hub=setup.server_name,
                    ),
                )
            )
            for guest in guests
        ]
        for number, shape in enumerate(what.shapes):
            began = monotonic()
            database = directory / f"room{number}.db"
            room_id = write_room(database, setup.identity, guests, shape)
            _tell(f"wrote a room of {shape} in {monotonic() - began:.1f} s")
            with RunningHub(setup, database, hub_cores) as hub:
                # The first request of all: keys are fetched, connections made, the room is loaded.
                warm_up = Load(name="warm-up", transactions=20, events=1, senders=_PARTICIPANTS, in_flight=2)
                measure(hub, participants, room_id, warm_up, f"warm-up-{number}")
                for load in what.loads:
                    if number and load.name not in what.flat:
                        continue
                    around: list[Primitives] = [measure_primitives(directory, batches)]
                    measured = measure(hub, participants, room_id, load, f"{load.name}-{number}")
                    around.append(measure_primitives(directory, batches))
                    _tell(f"  {load}: {measured.accepted_per_second:.0f} events/s")
                    yield Row(shape, load, measured, mean(around))


def _free_ports(count: int) -> list[int]:
    # They are free now; should another program take one before it is used, the benchmark fails and says so.
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
