"""What was measured, as a table for people and as figures for programs.

Owns: the two renderings, and what is compared with what: the limit of a load is what the bare primitives cost for its
events on one core, commits shared as its transactions allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from tests.bench.end_to_end import Journey
from tests.bench.loads import Load, Measured
from tests.bench.primitives import Primitives
from tests.bench.rooms import RoomShape

_PERCENTILES = (50, 95, 99)
_BUSY = 0.5  # a load average that others have caused


@attrs.frozen
class Row:
    """One load on one room, with the primitives as they were before and after it."""

    shape: RoomShape
    load: Load
    measured: Measured
    primitives: Primitives

    @property
    def limit_per_second(self) -> float:
        """Events in a second, if there were nothing but the primitives, one after the other."""
        return 1 / self.primitives.event(self.load.events).wall

    @property
    def share_of_limit(self) -> float:
        """How much of the limit is reached, by the clock."""
        return self.measured.accepted_per_second / self.limit_per_second

    @property
    def share_of_cpu(self) -> float:
        """How much of the hub's processor time is what the primitives need."""
        return self.primitives.event(self.load.events).cpu / self.measured.cpu_per_event


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def table(rows: Sequence[Row], journey: Journey | None, load_average: float) -> str:
    """Everything, in lines of text.

    Args:
        load_average: how many processes wanted to run before the benchmark began.
    """
    lines = [*_primitives(rows), ""]
    if load_average >= _BUSY:
        lines.insert(
            0, f"This machine was busy: before the benchmark began, its load average was {load_average:.1f}.\n"
        )
    for shape in dict.fromkeys(row.shape for row in rows):
        lines += [f"Hub with two participants, a room of {shape}:", _HEADINGS]
        lines += [_line(row) for row in rows if row.shape is shape]
        lines.append("")
    lines += [
        "Share of the limit: in time, the events accepted in a second of those that the primitives could be run for;",
        "in CPU, the primitives' processor time of the hub's, which has the delivery to both participants in it.",
        "",
        *_flatness(rows),
        "",
    ]
    if journey is not None:
        lines += _journey(journey)
    return "\n".join(lines).rstrip()


def figures(rows: Sequence[Row], journey: Journey | None, load_average: float) -> dict[str, Any]:
    """Everything, for JSON; times in microseconds for each event, latencies in milliseconds."""
    return {
        "load_average_before": load_average,
        "loads": [_figures(row) for row in rows],
        "end_to_end": None if journey is None else _journey_figures(journey),
    }


_HEADINGS = """\
                                              events/s      send to echo, ms     to answer  hub CPU  share of limit
                                         accepted  echoed    p50    p95    p99     p50, ms us/event     time    CPU\
"""


def _line(row: Row) -> str:
    measured = row.measured
    p50, p95, p99 = (percentile(measured.echoes, percent) * 1e3 for percent in _PERCENTILES)
    return (
        f"  {row.load!s:<38} {measured.accepted_per_second:8.0f} {measured.echoed_per_second:7.0f}"
        f"{p50:7.1f}{p95:7.1f}{p99:7.1f} {percentile(measured.answers, 50) * 1e3:11.1f}"
        f"{measured.cpu_per_event * 1e6:9.0f}  {row.share_of_limit:7.0%} {row.share_of_cpu:6.0%}"
    )


def _primitives(rows: Sequence[Row]) -> list[str]:
    primitives = rows[-1].primitives
    parts = [f"{name} {cost.wall * 1e6:.1f}" for name, cost in primitives.by_name.items()]
    lines = [
        "Bare primitives for one event, microseconds on one core (least of several rounds; the last measurement):",
        "  " + ", ".join(parts),
    ]
    for size, commit in primitives.commits.items():
        whole = primitives.event(size)
        lines.append(
            f"  commit, {size} in each: {commit.wall * 1e6:.1f} (CPU {commit.cpu * 1e6:.1f}); together"
            f" {whole.wall * 1e6:.1f} (CPU {whole.cpu * 1e6:.1f}): {1 / whole.wall:.0f} events/s"
        )
    return lines


def _flatness(rows: Sequence[Row]) -> list[str]:
    base = rows[0].shape
    lines = [f"Compared with the room of {base} (CPU time for each event, p50 of the echo):"]
    for row in rows:
        same = next(one for one in rows if one.shape is base and one.load is row.load)
        if row is same:
            continue
        cpu = row.measured.cpu_per_event / same.measured.cpu_per_event
        echo = percentile(row.measured.echoes, 50) / percentile(same.measured.echoes, 50)
        lines.append(f"  {row.load.name:<4} {row.shape!s:<32} CPU x {cpu:.2f}, echo x {echo:.2f}")
    return lines


def _journey(journey: Journey) -> list[str]:
    def line(what: str, values: Sequence[float]) -> str:
        shown = "  ".join(f"p{percent} {percentile(values, percent) * 1e3:.1f}" for percent in _PERCENTILES)
        return f"  {what:<58} {shown}"

    crowd = percentile(journey.crowd_answers, 50) * 1e3
    return [
        "Three real servers, from user to user over the Client-Server API, one message at a time, ms:",
        line("participant's user sends, has the event ID", journey.answers),
        line("participant's user sends, other participant's user sees it", journey.sights),
        f"  {journey.senders} users everywhere at once: {journey.messages_per_second:.0f}/s, p50 {crowd:.1f} ms",
    ]


def _figures(row: Row) -> dict[str, Any]:
    measured = row.measured
    return {
        "room": {"events": row.shape.events, "members": row.shape.members},
        "load": attrs.asdict(row.load),
        "events": measured.events,
        "accepted_per_second": measured.accepted_per_second,
        "echoed_per_second": measured.echoed_per_second,
        "echo_ms": {f"p{percent}": percentile(measured.echoes, percent) * 1e3 for percent in _PERCENTILES},
        "answer_ms": {f"p{percent}": percentile(measured.answers, percent) * 1e3 for percent in _PERCENTILES},
        "wall_us": measured.wall_per_event * 1e6,
        "hub_cpu_us": measured.cpu_per_event * 1e6,
        "primitives_us": {
            name: {"wall": cost.wall * 1e6, "cpu": cost.cpu * 1e6}
            for name, cost in {
                **row.primitives.by_name,
                "commit": row.primitives.commits[row.load.events],
                "together": row.primitives.event(row.load.events),
            }.items()
        },
        "limit_per_second": row.limit_per_second,
        "share_of_limit": row.share_of_limit,
        "share_of_cpu": row.share_of_cpu,
    }


def _journey_figures(journey: Journey) -> dict[str, Any]:
    return {
        "answer_ms": {f"p{percent}": percentile(journey.answers, percent) * 1e3 for percent in _PERCENTILES},
        "sight_ms": {f"p{percent}": percentile(journey.sights, percent) * 1e3 for percent in _PERCENTILES},
        "crowd": {
            "senders": journey.senders,
            "messages_per_second": journey.messages_per_second,
            "answer_ms": {f"p{percent}": percentile(journey.crowd_answers, percent) * 1e3 for percent in _PERCENTILES},
        },
    }
