"""A DAG-capable server in memory: rooms as DAGs with forks, a state resolution of its own, and rules.

Owns: :class:`FakeDagServer`, which is a :class:`~lmatrix.replication.interfaces.DagServer`. Events may be appended on
any predecessors, by anybody; each is checked against the state before it, and, if it is refused by the room's present
state, soft-failed. Of conflicting state the more powerful sender's prevails, then the later, then the higher event ID.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from lmatrix.replication.interfaces import (
    DagEvent,
    DagRefused,
    DagRoom,
    DagUnavailable,
    DagWrite,
    Interest,
    MembershipWrite,
    NewRoom,
    Profile,
    StreamPage,
)

State = dict[tuple[str, str], str]
PL = ("m.room.power_levels", "")


@attrs.define(slots=True, eq=False)
class FakeRoom:
    """A room: its events, the state after each, and those that nothing follows yet."""

    room_id: str
    version: str
    creator: str
    after: dict[str, State] = attrs.field(factory=dict)
    extremities: set[str] = attrs.field(factory=set)
    order: list[str] = attrs.field(factory=list)


class FakeDagServer:
    """The server.

    Args:
        server_name: its name.
        creators_rule: whether rooms are of version 12, where creators stand above all levels.

    Attributes:
        refused_types: what it does not let ghosts, nor the bot, write.
        mishaps: what happens to the next writes: ``"before"``, ``"after"`` (the answer is lost), or ``""`` (nothing).
    """

    def __init__(self, server_name: str, *, creators_rule: bool = True) -> None:
        self.server_name = server_name
        self.bot = f"@bridge:{server_name}"
        self.creators_rule = creators_rule
        self.events_by_id: dict[str, DagEvent] = {}
        self.stream: list[DagEvent] = []
        self.rooms: dict[str, FakeRoom] = {}
        self.accounts: set[str] = set()
        self.ghosts: dict[str, Profile | None] = {}
        self.transactions: dict[tuple[str, str, str], str] = {}
        self.redacted: set[str] = set()
        self.told: list[tuple[str, str]] = []
        self.typing: list[tuple[str, str, bool]] = []
        self.read_marks: list[tuple[str, str, str]] = []
        self.mishaps: list[str] = []
        self.unavailable = False
        self.refused_types: set[str] = set()
        self.writes = 0
        self.advanced: Callable[[], None] = lambda: None
        self._now = 1_700_000_000_000
        self._numbers = 0

    # -- The rules --

    def state(self, room: FakeRoom) -> State:
        """Resolved state."""
        return self._resolve(room, sorted(room.extremities))

    def _resolve(self, room: FakeRoom, event_ids: Iterable[str]) -> State:
        states = [room.after[event_id] for event_id in event_ids if event_id in room.after]
        resolved: State = {}
        for key in {key for state in states for key in state}:
            candidates = {state[key] for state in states if key in state}
            if len(candidates) == 1:
                [resolved[key]] = candidates
        for key in sorted({key for state in states for key in state} - resolved.keys(), key=lambda key: key != PL):
            candidates = {state[key] for state in states if key in state}
            resolved[key] = max(candidates, key=lambda event_id: self._strength(room, resolved, event_id))
        return resolved

    def _strength(self, room: FakeRoom, state: State, event_id: str) -> tuple[float, int, str]:
        event = self.events_by_id[event_id]
        return (self.level(room, state, event.sender), event.origin_server_ts, event_id)

    def content(self, state: State, key: tuple[str, str]) -> Mapping[str, Any] | None:
        """Content of some state."""
        event_id = state.get(key)
        return None if event_id is None else self.events_by_id[event_id].content

    def level(self, room: FakeRoom, state: State, user_id: str) -> float:
        """A user's power level."""
        if self.creators_rule and user_id == room.creator:
            return float("inf")
        levels = self.content(state, PL)
        if levels is None:
            return 100 if user_id == room.creator else 0
        return float(levels.get("users", {}).get(user_id, levels.get("users_default", 0)))

    def membership(self, state: State, user_id: str) -> str:
        """A user's membership."""
        return str((self.content(state, ("m.room.member", user_id)) or {}).get("membership", "leave"))

    def _check(self, room: FakeRoom, state: State, sender: str, kind: str, content: Any, state_key: str | None) -> None:
        if kind == "m.room.create":
            return
        levels = self.content(state, PL) or {}
        level = self.level(room, state, sender)
        if kind == "m.room.member":
            self._check_membership(room, state, sender, str(state_key), str(content.get("membership")), level, levels)
            return
        if self.membership(state, sender) != "join":
            raise DagRefused(f"{sender} is not in the room")
        default = levels.get("state_default", 50) if state_key is not None else levels.get("events_default", 0)
        if not levels and state_key is not None:
            default = 0 if sender == room.creator else 50
        needed = levels.get("events", {}).get(kind, default)
        if level < needed:
            raise DagRefused(f"{sender} has {level}, {kind} needs {needed}")
        if state_key is not None and state_key.startswith("@") and state_key != sender:
            raise DagRefused("somebody else's state")
        if kind == PL[0]:
            if self.creators_rule and room.creator in content.get("users", {}):
                raise DagRefused("creators are not listed")
            before, after = levels.get("users", {}), content.get("users", {})
            for user_id in {*before, *after}:
                old, new = before.get(user_id), after.get(user_id)
                if levels and old != new and ((new or 0) > level or ((old or 0) >= level and user_id != sender)):
                    raise DagRefused(f"{sender} may not change the level of {user_id}")

    def _check_membership(
        self, room: FakeRoom, state: State, sender: str, target: str, wished: str, level: float, levels: Any
    ) -> None:
        present, own = self.membership(state, target), self.membership(state, sender)
        rule = (self.content(state, ("m.room.join_rules", "")) or {}).get("join_rule", "invite")
        targets = self.level(room, state, target)
        if wished == "join":
            first = sender == room.creator and len(room.order) == 1
            if sender != target or present == "ban":
                raise DagRefused("may not join")
            if not first and rule != "public" and present not in ("invite", "join"):
                raise DagRefused(f"{target} is not invited")
        elif wished == "invite":
            if own != "join" or present in ("join", "ban") or level < levels.get("invite", 0):
                raise DagRefused(f"{sender} may not invite {target}")
        elif wished == "leave" and sender == target:
            if present not in ("join", "invite", "knock"):
                raise DagRefused(f"{target} is not in the room")
        elif wished in ("leave", "ban"):
            needed = levels.get("ban" if "ban" in (wished, present) else "kick", 50)
            if own != "join" or level < needed or targets >= level:
                raise DagRefused(f"{sender} may not do that to {target}")
        elif wished == "knock":
            if rule != "knock" or present in ("join", "ban"):
                raise DagRefused("may not knock")
        else:
            raise DagRefused("odd membership")

    # -- What anybody may do --

    def append(
        self,
        room_id: str,
        sender: str,
        kind: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[str] | None = None,
        ts: int | None = None,
        hidden: bool = False,
    ) -> str:
        """Append an event after ``prev`` (the extremities); returns its ID. ``hidden``: the stream never shows it."""
        room = self.rooms[room_id]
        prevs = sorted(room.extremities if prev is None else prev)
        before = self._resolve(room, prevs)
        self._check(room, before, sender, kind, content, state_key)
        self._now += 1
        self._numbers += 1
        origin_ts = self._now if ts is None else ts
        digest = hashlib.sha256(
            json.dumps([self._numbers, room_id, sender, kind, content, state_key, prevs, origin_ts]).encode()
        )
        event_id = "$" + digest.hexdigest()[:43]
        soft_failed = False
        try:
            self._check(room, self.state(room) if room.order else before, sender, kind, content, state_key)
        except DagRefused:
            soft_failed = True
        redacts = content.get("redacts") if kind == "m.room.redaction" else None
        event = DagEvent(
            event_id,
            room_id,
            len(self.stream) + 1,
            kind,
            sender,
            json.loads(json.dumps(content)),
            state_key,
            origin_ts,
            tuple(prevs),
            redacts,
            hashes={"sha256": "x"},
            signatures={sender.partition(":")[2]: {"ed25519:1": "y"}},
        )
        self.events_by_id[event_id] = event
        room.order.append(event_id)
        after = dict(before)
        if state_key is not None:
            after[kind, state_key] = event_id
        room.after[event_id] = after
        if soft_failed:
            return event_id
        room.extremities = (room.extremities - set(prevs)) | {event_id}
        if redacts in self.events_by_id:
            self.redacted.add(str(redacts))
        if hidden:
            self.stream.append(attrs.evolve(event, room_id="!hidden"))
        else:
            self.stream.append(event)
        self.advanced()
        return event_id

    def make_room(self, creator: str, *, public: bool = False, **state: Mapping[str, Any]) -> str:
        """A room of a person; ``state`` by the last part of its type."""
        room_id = f"!room{len(self.rooms)}" + ("" if self.creators_rule else f":{self.server_name}")
        self.rooms[room_id] = FakeRoom(room_id, "12" if self.creators_rule else "10", creator)
        self.append(room_id, creator, "m.room.create", {}, "")
        self.append(room_id, creator, "m.room.member", {"membership": "join"}, creator)
        users = {} if self.creators_rule else {creator: 100}
        self.append(room_id, creator, *PL[:1], {"users": users, "invite": 0}, "")
        self.append(room_id, creator, "m.room.join_rules", {"join_rule": "public" if public else "invite"}, "")
        for name, content in state.items():
            self.append(room_id, creator, f"m.room.{name}", content, "")
        return room_id

    def user(self, localpart: str) -> str:
        """A local account."""
        user_id = f"@{localpart}:{self.server_name}"
        self.accounts.add(user_id)
        return user_id

    def join(self, room_id: str, user_id: str, **more: Any) -> str:
        """A user joins."""
        return self.append(room_id, user_id, "m.room.member", {"membership": "join", **more}, user_id)

    def member(self, room_id: str, sender: str, target: str, membership: str, **more: Any) -> str:
        """A user does something to another."""
        return self.append(room_id, sender, "m.room.member", {"membership": membership, **more}, target)

    def say(self, room_id: str, sender: str, body: str, **more: Any) -> str:
        """A user says something."""
        return self.append(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": body}, **more)

    # -- What tests look at --

    def current(self, room_id: str) -> dict[tuple[str, str], DagEvent]:
        """Resolved state."""
        state = self.state(self.rooms[room_id])
        return {key: self.events_by_id[event_id] for key, event_id in state.items()}

    def timeline(self, room_id: str) -> list[DagEvent]:
        """What clients see: everything that is no state, without what was redacted."""
        return [
            event
            for event in self.stream
            if event.room_id == room_id and event.state_key is None and event.event_id not in self.redacted
        ]

    def bodies(self, room_id: str) -> list[str]:
        """The messages' texts."""
        return [event.content["body"] for event in self.timeline(room_id) if event.type == "m.room.message"]

    def members(self, room_id: str, membership: str = "join") -> set[str]:
        """Who is in the room, but for the bot."""
        return {
            key[1]
            for key, event in self.current(room_id).items()
            if key[0] == "m.room.member" and event.content["membership"] == membership and key[1] != self.bot
        }

    # -- The port --

    async def position(self) -> int:
        self._available()
        return len(self.stream)

    async def read(self, after: int, limit: int, interest: Interest) -> StreamPage:
        self._available()
        looked = self.stream[after : after + limit]
        wanted = [event for event in looked if interest(event.room_id, event.type, event.state_key)]
        return StreamPage([self._as_it_is(event) for event in wanted], after + len(looked))

    async def events(self, event_ids: Sequence[str]) -> Mapping[str, DagEvent]:
        self._available()
        return {one: self._as_it_is(self.events_by_id[one]) for one in event_ids if one in self.events_by_id}

    async def room(self, room_id: str, keys: Collection[tuple[str, str]] | None = None) -> DagRoom | None:
        self._available()
        room = self.rooms.get(room_id)
        if room is None:
            return None
        state = self.current(room_id)
        if not any(
            key[0] == "m.room.member"
            and key[1].endswith(f":{self.server_name}")
            and event.content["membership"] == "join"
            for key, event in state.items()
        ):
            return None
        chosen = {key: event for key, event in state.items() if keys is None or key in keys}
        creators = frozenset({room.creator} if self.creators_rule else ())
        return DagRoom(room_id, len(self.stream), room.version, creators, chosen)

    async def user_exists(self, user_id: str) -> bool:
        self._available()
        return user_id in self.accounts

    async def ensure_ghost(self, user_id: str, profile: Profile | None) -> None:
        self._available()
        if profile is not None or user_id not in self.ghosts:
            self.ghosts[user_id] = profile

    async def create_room(self, new: NewRoom) -> str:
        return await self._write(lambda: self._create_room(new))

    def _create_room(self, new: NewRoom) -> str:
        self._known(new.creator)
        room_id = f"!room{len(self.rooms)}"
        self.rooms[room_id] = FakeRoom(room_id, "12", new.creator)
        self.append(room_id, new.creator, "m.room.create", {}, "")
        self.append(room_id, new.creator, "m.room.member", {"membership": "join"}, new.creator)
        for one in new.state:
            content = dict(one.content)
            if one.type == PL[0] and self.creators_rule:
                content["users"] = {user: level for user, level in content["users"].items() if user != new.creator}
            self.append(room_id, new.creator, one.type, content, one.state_key)
        return room_id

    async def set_membership(self, write: MembershipWrite) -> str:
        content = {**write.content, "membership": write.membership}
        return await self._write(
            lambda: self._once(
                write.room_id,
                write.sender,
                write.transaction_id,
                lambda: self.append(
                    write.room_id, write.sender, "m.room.member", content, write.target, ts=write.origin_server_ts
                ),
            )
        )

    async def send(self, write: DagWrite) -> str:
        assert write.type != "m.room.member"
        if write.type == "m.room.redaction":
            self._check_redaction(write)
        if write.type in self.refused_types:
            raise DagRefused(f"nobody writes {write.type} here")
        return await self._write(
            lambda: self._once(
                write.room_id,
                write.sender,
                write.transaction_id,
                lambda: self.append(
                    write.room_id,
                    write.sender,
                    write.type,
                    write.content,
                    write.state_key,
                    ts=write.origin_server_ts,
                ),
            )
        )

    def _check_redaction(self, write: DagWrite) -> None:
        """What a client may redact: its own, or anything with the power to."""
        room = self.rooms[write.room_id]
        state = self.state(room)
        needed = (self.content(state, PL) or {}).get("redact", 50)
        original = self.events_by_id[write.content["redacts"]]
        if original.sender != write.sender and self.level(room, state, write.sender) < needed:
            raise DagRefused(f"{write.sender} may not redact that")

    def _once(self, room_id: str, sender: str, txn_id: str, do: Callable[[], str]) -> str:
        self._known(sender)
        assert len(txn_id) <= 100
        assert all(char.isalnum() or char in "._=-" for char in txn_id), txn_id
        key = (room_id, sender, txn_id)
        if key not in self.transactions:
            self.transactions[key] = do()
        return self.transactions[key]

    async def let_in(self, room_id: str, inviter: str) -> None:
        self._available()
        state = self.current(room_id)
        room = self.rooms[room_id]
        if self.membership(self.state(room), self.bot) == "join":
            return
        rules = state.get(("m.room.join_rules", ""))
        if rules is None or rules.content["join_rule"] != "public":
            self.member(room_id, inviter, self.bot, "invite")
        self.join(room_id, self.bot)
        if self.level(room, self.state(room), inviter) >= 100:
            levels = dict(self.content(self.state(room), PL) or {})
            levels["users"] = {**levels.get("users", {}), self.bot: 100}
            self.append(room_id, inviter, PL[0], levels, "")

    async def set_typing(self, room_id: str, user_id: str, *, typing: bool, timeout_ms: int) -> None:
        self.typing.append((room_id, user_id, typing))

    async def set_read(self, room_id: str, user_id: str, event_id: str) -> None:
        self.read_marks.append((room_id, user_id, event_id))

    async def tell_user(self, user_id: str, text: str) -> None:
        self.told.append((user_id, text))

    def _known(self, user_id: str) -> None:
        assert user_id in self.ghosts, f"{user_id} writes, and was never made"

    def _available(self) -> None:
        if self.unavailable:
            raise DagUnavailable("the DAG server is away")

    async def _write(self, do: Callable[[], str]) -> str:
        self._available()
        self.writes += 1
        mishap = self.mishaps.pop(0) if self.mishaps else ""
        if mishap == "before":
            raise DagUnavailable("nothing was written")
        if mishap == "after":
            # So is the news that the stream has grown.
            advanced, self.advanced = self.advanced, lambda: None
            do()
            self.advanced = advanced
            raise DagUnavailable("the answer was lost")
        return do()

    def _as_it_is(self, event: DagEvent) -> DagEvent:
        if event.event_id not in self.redacted:
            return event
        kept = {key: event.content[key] for key in ("membership", "users") if key in event.content}
        return attrs.evolve(event, content=kept, redacted=True)


_GRAVEYARD: list[Deferred[Any]] = []
"""What is never to be collected: letting go of those who wait would run what a dying process never runs."""


class DeadEnd:
    """What a process that died never hears the end of."""

    def __init__(self) -> None:
        self.reached = False

    def forever(self) -> Deferred[Any]:
        self.reached = True
        never: Deferred[Any] = Deferred()
        _GRAVEYARD.append(never)
        return never
