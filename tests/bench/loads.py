"""Putting load on a hub, and measuring what it does with it.

Owns: the participants' processes, :class:`Load` and :func:`measure`. All participants send at the same time; what is
measured is from the first of them to the last.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION
from tests.bench.hub import RunningHub
from tests.bench.participant import Result, Role, Task
from tests.bench.rooms import Guest

_STOP_SECONDS = 10.0


@attrs.frozen(kw_only=True)
class Load:
    """What is sent.

    Attributes:
        name: a short name.
        transactions: how many, over all senders.
        events: in each of them.
        senders: how many of the participants send; all of them receive.
        in_flight: how many transactions at a time, over all senders.
    """

    name: str
    transactions: int
    events: int
    senders: int
    in_flight: int

    def __str__(self) -> str:
        return f"{self.name}: {_count(self.events, 'LPDU')} a transaction, {self.in_flight} in flight"


@attrs.frozen(kw_only=True)
class Measured:
    """What came of a load.

    Attributes:
        events: how many were sent, accepted and echoed.
        accepted_per_second, echoed_per_second: events, until the last answer and until the last echo.
        answers: seconds from sending a transaction to its answer.
        echoes: seconds from sending an event until it came back to its sender.
        seconds: from the first transaction's sending to the last answer.
        hub_cpu_seconds: processor time of the hub, until the last echo.
    """

    events: int
    accepted_per_second: float
    echoed_per_second: float
    answers: tuple[float, ...]
    echoes: tuple[float, ...]
    seconds: float
    hub_cpu_seconds: float

    @property
    def wall_per_event(self) -> float:
        """Seconds for each event."""
        return self.seconds / self.events

    @property
    def cpu_per_event(self) -> float:
        """Seconds of the hub's processor time for each event, its delivery to every participant included."""
        return self.hub_cpu_seconds / self.events


class ParticipantProcess:
    """A participant in a process of its own; use it with ``with``.

    Args:
        guest: who it is.
        role: the same, with everything that it needs to know.
    """

    def __init__(self, guest: Guest, role: Role) -> None:
        self.guest = guest
        self._role = role

    def __enter__(self) -> Self:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.participant"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.order(attrs.asdict(self._role))
        self.answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def order(self, order: object) -> None:
        """Tell it something; its answer is to be waited for."""
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Its answer.

        Raises:
            RuntimeError: it ended instead; why, it has said on standard error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the participant {self._role.server_name} failed")
        return dict(json.loads(line))


def measure(
    hub: RunningHub, participants: Sequence[ParticipantProcess], room_id: str, load: Load, label: str
) -> Measured:
    """Put a load on the hub.

    Args:
        label: distinguishes this load from every other of the same hub.

    Raises:
        RuntimeError: the hub refused something, or something was lost.
    """
    senders = participants[: load.senders]
    for sender in senders:
        task = Task(
            name=label,
            room_id=room_id,
            room_version=DEFAULT_ROOM_VERSION,
            sender=sender.guest.user(0),
            transactions=load.transactions // load.senders,
            events=load.events,
            in_flight=load.in_flight // load.senders,
        )
        sender.order(attrs.asdict(task))
    for sender in senders:
        sender.answer()
    cpu_before = hub.cpu_seconds()
    for sender in senders:
        sender.order("run")
    results = [Result(**sender.answer()) for sender in senders]
    cpu = hub.cpu_seconds() - cpu_before
    if any(result.refused for result in results):
        raise RuntimeError(f"the hub refused {sum(result.refused for result in results)} events")
    events = sum(result.events for result in results)
    began = min(result.began for result in results)
    answered = max(result.answered for result in results)
    echoed = max(result.echoed for result in results)
    return Measured(
        events=events,
        accepted_per_second=events / (answered - began),
        echoed_per_second=events / (echoed - began),
        answers=tuple(seconds for result in results for seconds in result.answers),
        echoes=tuple(seconds for result in results for seconds in result.echoes),
        seconds=answered - began,
        hub_cpu_seconds=cpu,
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
