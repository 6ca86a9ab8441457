"""What must be so whatever is said to a server.

Owns: :class:`Watch`, which holds a world to it: no errors in the log, every request answered and never with 500,
nothing left over when all is quiet, nothing stored of what was refused, and what is stored still a chain of signed
events.
"""

from __future__ import annotations

import gc
import hashlib
import json
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from hypothesis import currently_in_test_context, note
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from lmatrix.federation.bounded import BoundedCache
from lmatrix.http.limits import RateLimiter
from tests.end_to_end.wire_events import I1, Identity, WireError, check_pdu, event_id
from tests.fuzz.requests import Call
from tests.fuzz.world import PATIENCE_S, Host, World
from tests.http.memory_http import Answer

KEPT_FOR_THEMSELVES = frozenset(
    {
        *("received_transactions", "server_keys", "server_key_responses", "destinations", "delivery_cursors"),
        *("sqlite_sequence", "peer_traits"),
    }
)
"""Tables that a refused request may change: who asked, how they can be reached, and what they were answered."""

BOUNDED = (BoundedCache, RateLimiter)
"""Containers that have a bound of their own, and tests that it is kept."""


PLAYED: Counter[tuple[str, int]] = Counter()
"""How often each endpoint gave each status, to see how far one gets."""

FOLLOWING = frozenset({"Room", "LoadedRoom", "Rooms", "DeliveryTools.forms", "AnsweredTransactions._seen"})
"""Classes, or their attributes, that grow with the rooms that are known, or have a bound that is far away."""

_BEGINNING: Counter[str] = Counter()

VALUES = ("lmatrix.events.", "lmatrix.crypto.", "lmatrix.config.", "lmatrix.http.routes", "lmatrix.metrics")
"""Where there is nothing that could grow by itself."""


class Wrong(AssertionError):
    """The server did something that it must not."""


class Watch:
    """Watches a world for one example."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.us = world.us
        self.errors: list[str] = []
        globalLogPublisher.addObserver(self._observe)
        self._digest = digest(self.us)
        if not _BEGINNING:
            _BEGINNING.update(inventory(self.us))
        self._inventory = _BEGINNING

    # -- Requests -----------------------------------------------------------------------------------------------------

    def play(self, call: Call) -> Answer:
        """Make a request, and judge its answer."""
        wire = self.us.connect()
        wire.send(call.wire())
        self.world.until(lambda: bool(wire.transport.value()) or wire.closed, PATIENCE_S, f"{call}")
        answers = wire.answers()
        wire.hang_up()
        if currently_in_test_context():
            note(f"{call} -> {answers}")
        if not answers:
            raise Wrong(f"no answer to {call}")
        answer = answers[-1]
        PLAYED[call.method + " " + (call.target if call.route is None else call.route.path), answer.status] += 1
        self.judge(call, answer)
        return answer

    def judge(self, call: Call, answer: Answer) -> None:
        """That an answer is one, and that what was refused was not stored."""
        if answer.status == 500:
            raise Wrong(f"{call}: {answer}; {self.errors}")
        name = None if call.route is None else call.route.name
        if answer.headers.get("content-type") == "application/json" and answer.body:
            parsed = json.loads(answer.body)
            if (
                answer.status >= 400
                and name != "health"
                and not isinstance(parsed.get("errcode", parsed.get("flows")), str | list)
            ):
                raise Wrong(f"an error without errcode: {call}: {answer}")
        elif answer.status >= 400 and name != "metrics":
            raise Wrong(f"an error that is not JSON: {call}: {answer}")
        now = digest(self.us)
        changed = {table for table in now if now[table] != self._digest.get(table)}
        # 5xx: another server did not answer, and what we wanted of it may still be pending. And what was fetched from
        # another server is kept, whatever became of the rest.
        if changed and 400 <= answer.status < 500 and self.world.reply is None:
            raise Wrong(f"{call} was refused ({answer}), and has changed {sorted(changed)}")
        self._digest = now
        self.check_log()

    # -- The end ------------------------------------------------------------------------------------------------------

    def check_log(self) -> None:
        """That nothing went wrong inside."""
        if self.errors:
            raise Wrong("\n".join(self.errors))

    def end(self) -> None:
        """Wait until all is quiet, and look at what is left."""
        try:
            self.world.reply = self.world.rewrite = None
            self.world.settle(1500)
            self.check_log()
            self.check_left_over()
            for host in self.world.hosts.values():
                if host is self.us:
                    check_rooms(self.world, host)
            self.world.end()
            gc.collect(1)
            self.check_log()
        finally:
            self.close()

    def close(self) -> None:
        """Watch no longer."""
        globalLogPublisher.removeObserver(self._observe)

    def check_left_over(self) -> None:
        """That nothing is still being done, no connection is open, and no container has grown that has no bound."""
        site = self.us.site
        if site.router.requests_in_flight or site.connections:
            raise Wrong(f"{site.router.requests_in_flight} requests and {site.connections} connections are left over")
        if self.us.wires.open:
            raise Wrong(f"{len(self.us.wires.open)} requests to other servers never end")
        grown = {
            place: (self._inventory.get(place, 0), size)
            for place, size in inventory(self.us).items()
            if size > self._inventory.get(place, 0) + 2 and not _follows_storage(place)
        }
        if grown:
            raise Wrong(
                f"something has grown, (before, now): {grown}; if it has a bound, say so in BOUNDED or FOLLOWING"
            )

    def _observe(self, event: dict[str, Any]) -> None:
        # Only what nobody expected has a failure; a server that is lied to may well cry out.
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            self.errors.append(failure.getTraceback())


def digest(host: Host) -> dict[str, str]:
    """A hash of each table that bad input must not change."""
    tables = [name for (name,) in host.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {
        name: hashlib.sha256(repr(host.rows(f'SELECT * FROM "{name}"')).encode()).hexdigest()
        for name in tables
        if name not in KEPT_FOR_THEMSELVES
    }


def inventory(host: Host) -> Counter[str]:
    """How much is in the containers that a server's objects hold, by class and attribute.

    Containers with a bound of their own are left out, and frozen values: what holds too many of them is seen itself.
    """
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    queue: list[Any] = [host.server]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for name, value in _attributes(one):
            if isinstance(value, BOUNDED):
                continue
            if isinstance(value, dict | list | set | deque | OrderedDict):
                held = [inner for inner in value.values() if inner] if isinstance(value, dict) else value
                if not _is_frozen(type(one)):
                    sizes[f"{type(one).__name__}.{name}"] += len(held)
                queue.extend(value.values() if isinstance(value, dict) else value)
            else:
                queue.append(value)
    return sizes


def _is_frozen(kind: type) -> bool:
    return getattr(kind.__setattr__, "__name__", "") == "_frozen_setattrs"


def _attributes(one: Any) -> Iterator[tuple[str, Any]]:
    kind = type(one)
    if isinstance(one, types.MethodType):
        yield "self", one.__self__
        return
    if not kind.__module__.startswith("lmatrix") or kind.__module__.startswith(VALUES) or isinstance(one, type):
        return
    yield from list(vars(one).items()) if hasattr(one, "__dict__") else ()
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__weakref__", "__dict__") and hasattr(one, name):
                yield name, getattr(one, name)


def _follows_storage(place: str) -> bool:
    """Whether it grows with the rooms that are known, or has a bound that is far away."""
    return place in FOLLOWING or place.partition(".")[0] in FOLLOWING


def check_rooms(world: World, host: Host) -> None:
    """That every room is a chain of events that verify."""
    keys = {
        one.name: {one.key.key_id: Identity(one.name, _signing_key(one)).verify_key} for one in world.hosts.values()
    }
    for room_nid, version in host.rows("SELECT room_nid, room_version FROM rooms"):
        head = None
        for position, canonical, stored_id in host.rows(
            "SELECT position, canonical, event_id FROM events WHERE position > 0"
            f" AND room_nid = {room_nid} ORDER BY position"
        ):
            event = json.loads(canonical)
            if version == I1 and head is not None and position == head[0] + 1 and event["prev_events"] != [head[1]]:
                raise Wrong(f"no chain: {event} follows {head}")
            head = (position, stored_id)
            if _is_plain(event):
                try:
                    check_pdu(event, keys, version)
                except WireError as error:
                    redacted = set(event["content"]) <= {"membership", "users", "join_rule"}
                    if "hash" not in str(error) or not redacted:
                        raise Wrong(f"{error}: {event}") from error
                if event_id(event, version) != stored_id:
                    raise Wrong(f"another event ID: {event}")


def _signing_key(host: Host) -> Any:
    from signedjson.key import decode_signing_key_base64

    algorithm, version, seed = (host.home / "signing.key").read_text().split()
    return decode_signing_key_base64(algorithm, version, seed)


def _is_plain(value: Any) -> bool:
    """Whether the second opinion writes it as RFC 8785 does: without floats and rare characters in keys."""
    text = json.dumps(value)
    return "." not in "".join(part for part in text.split('"')[::2]) and "\\u" not in text
