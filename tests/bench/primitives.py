"""What an event costs at the very least: the bare primitives, one after the other, on one core.

Owns: :func:`measure_primitives`. For the same events as the load's it times what no hub can leave out: parse the LPDU,
verify the participant's signature, take the three hashes, sign, encode the PDU, and commit. Nothing of lmatrix runs
inside the clock: it is the standard library's JSON, hashlib, libsodium and SQLite.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import attrs
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from lmatrix.crypto.digest import decode_base64
from lmatrix.crypto.keys import SigningKey
from lmatrix.events.building import build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, room_version
from tests.bench.participant import message_content

_EVENTS = 400
_ROUNDS = 5
_COMMITS = 40


@attrs.frozen
class Cost:
    """Of one event, in seconds: of the clock, and of the processor."""

    wall: float
    cpu: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


@attrs.frozen
class Primitives:
    """What was measured.

    Attributes:
        by_name: the cost of each primitive for one event, but for the commit.
        commits: the cost of the commit for one event, by how many events share one.
    """

    by_name: dict[str, Cost]
    commits: dict[int, Cost]

    def event(self, events_per_commit: int) -> Cost:
        """All of it for one event."""
        return sum(self.by_name.values(), start=self.commits[events_per_commit])


def measure_primitives(directory: Path, events_per_commit: Sequence[int]) -> Primitives:
    """Measure; takes two seconds or so.

    Args:
        directory: on the disk that the hub's database is on.
        events_per_commit: the batches that commits are measured with.
    """
    _, secret = crypto_sign_seed_keypair(b"s" * 32)
    pairs = [_event(number) for number in range(_EVENTS)]
    received = [lpdu.canonical for lpdu, _ in pairs]
    signatures = [_signature(lpdu) + lpdu.signing_bytes for lpdu, _ in pairs]
    unsigned = [pdu.signing_bytes for _, pdu in pairs]
    fields = [pdu.fields for _, pdu in pairs]
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
    sender = _PARTICIPANT.public.public

    def hash_thrice(lpdu: bytes, pdu: bytes) -> None:
        for message in (lpdu, pdu, pdu):
            hashlib.sha256(message).digest()

    by_name = {
        "parse": _each(json.loads, received),
        "verify": _each(lambda signed: crypto_sign_open(signed, sender), signatures),
        "hash": _each(lambda both: hash_thrice(*both), list(zip(received, unsigned, strict=True))),
        "sign": _each(lambda message: crypto_sign(message, secret), unsigned),
        "encode": _each(lambda event: encode(event).encode("utf-8"), fields),
    }
    pdus = [(pdu.event_id, pdu.canonical) for _, pdu in pairs]
    return Primitives(by_name, {size: _commits(directory, pdus, size) for size in events_per_commit})


def mean(several: Sequence[Primitives]) -> Primitives:
    """The mean of several measurements."""
    first = several[0]
    return Primitives(
        {name: _mean([one.by_name[name] for one in several]) for name in first.by_name},
        {size: _mean([one.commits[size] for one in several]) for size in first.commits},
    )


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.fmean(cost.wall for cost in costs), statistics.fmean(cost.cpu for cost in costs))


_PARTICIPANT = SigningKey.generate("a_participant", seed=b"p" * 32)
_HUB = SigningKey.generate("a_hub", seed=b"h" * 32)


def _event(number: int) -> tuple[Lpdu, Pdu]:
    lpdu = build_lpdu(
        room_version(DEFAULT_ROOM_VERSION),
        room_id="!bench:localhost:50000",
        type="m.room.message",
        sender="@user0:localhost:50001",
        content=message_content(f"primitives {1_700_000_000_000 + number}"),
        origin_server_ts=1_700_000_000_000 + number,
        hub_server="localhost:50000",
        server_name="localhost:50001",
        keys=[_PARTICIPANT],
    )
    event_ids = [f"${letter * 43}" for letter in "abcd"]
    pdu = complete_lpdu(
        lpdu, auth_events=event_ids[:3], prev_events=event_ids[3:], server_name="localhost:50000", keys=[_HUB]
    )
    return lpdu, pdu


def _signature(lpdu: Lpdu) -> bytes:
    return decode_base64(lpdu.signatures["localhost:50001"][_PARTICIPANT.key_id])


def _each(work: Callable[[Any], object], items: Sequence[Any]) -> Cost:
    """The cost for one item: the least of several rounds, since what disturbs a round only ever makes it longer."""
    walls, cpus = [], []
    for _ in range(_ROUNDS):
        cpu, wall = process_time(), perf_counter()
        for item in items:
            work(item)
        walls.append(perf_counter() - wall)
        cpus.append(process_time() - cpu)
    return Cost(min(walls) / len(items), min(cpus) / len(items))


def _commits(directory: Path, pdus: Sequence[tuple[str, bytes]], size: int) -> Cost:
    """The cost for one event of commits that wait for the disk, into a table that can be read by event ID."""
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".db") as file:
        connection = sqlite3.connect(file.name, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, event_id TEXT UNIQUE, canonical BLOB)")
        rows = [(f"{event_id}{copy}", canonical) for copy in range(_COMMITS) for event_id, canonical in pdus]
        walls, cpus = [], []
        for start in range(0, _COMMITS * size, size):
            cpu, wall = process_time(), perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO log (event_id, canonical) VALUES (?, ?)", rows[start : start + size])
            connection.execute("COMMIT")
            walls.append(perf_counter() - wall)
            cpus.append(process_time() - cpu)
        connection.close()
    return Cost(statistics.median(walls) / size, statistics.fmean(cpus) / size)
