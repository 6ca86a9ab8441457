"""From the DAG room to the LM room.

Owns: handing the linearizer's list, in order, to the LM room, as events of our own users and of ghosts. Invariants: an
event is handed over once, by its event ID as the transaction ID, and by its mark in the LM log; what the ghosts and the
bot wrote never comes this way: there can be no loop; what the LM room refuses is undone on the DAG side, so that both
rooms agree; a room that cannot be written to now keeps its place in its own list, and holds up no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from twisted.logger import Logger

from lmatrix import canonical_json
from lmatrix.errors import EventRejected, Forbidden, LMatrixError, PeerError, PeerUnreachable
from lmatrix.events.power_levels import PowerLevels
from lmatrix.replication.content import Unmappable, references
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.interfaces import MIRROR, SOURCE, DagEvent, DagRefused, JsonObject, Stage
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import DEVICE, INWARD, Sides, mark_of_dag, marked
from lmatrix.replication.stopping import ENCRYPTED, Stopper
from lmatrix.replication.translation import (
    ENCRYPTION,
    MEMBER,
    POWER_LEVELS,
    REDACTION,
    DagContext,
    Silent,
    Source,
    Translated,
    to_lm,
)
from lmatrix.replication.worker import is_passing
from lmatrix.rooms.local_users import ClientTransaction
from lmatrix.rooms.room import Room

BATCH: Final = 20
"""Events of one mirror that are in memory at once."""

LARGE_BYTES: Final = 60_000
"""Canonical JSON of a content beyond which its mark is kept short."""

JOIN_ATTEMPTS: Final = 6
"""How often a user's way into an LM room is tried, with growing pauses, before the user is told that it is closed."""


class Inward:
    """Carries events of DAG rooms over.

    Args:
        sides: both sides.
        writer: undoes what is refused.
        stopper: ends mirrors.
    """

    log = Logger()

    def __init__(self, sides: Sides, writer: DagWriter, stopper: Stopper) -> None:
        self._sides = sides
        self._writer = writer
        self._stopper = stopper
        self._attempts: dict[str, int] = {}

    async def turn(self, pair: Pair) -> None:
        """Carry over what waits. Raises what is_passing."""
        sides, nid = self._sides, pair.nid
        while True:
            if pair.stage is Stage.OPENING or (pair.stage is Stage.OPEN and not pair.recognised):
                return  # whoever changes that wakes us
            waiting = await sides.database.read(lambda tx: sides.store.waiting(tx, nid, BATCH))
            if not waiting:
                return
            events = await sides.dag.events(waiting)
            for event_id in waiting:
                event = events.get(event_id)
                before = pair.stage
                if event is None:
                    await self._lost(pair, event_id, "purged")
                else:
                    await self._carry(pair, event)
                if pair.stage is not before:
                    break

    async def _carry(self, pair: Pair, event: DagEvent) -> None:
        row = await self._sides.database.read(lambda tx: self._sides.store.dag_events(tx, pair.nid, [event.event_id]))
        if event.event_id in row and not row[event.event_id].waiting:
            return  # recognised in the LM log meanwhile
        if pair.stage is Stage.STOPPED:
            await self._refuse_stopped(pair, event)
        elif event.type == ENCRYPTION and event.state_key == "":
            await self._stopper.stop(pair, ENCRYPTED)
            await self._lost(pair, event.event_id, "encryption")
        elif pair.stage is Stage.INVITED:
            await self._before_the_room(pair, event)
        else:
            await self._into_the_room(pair, event)

    # -- While this server is not in the LM room --

    async def _before_the_room(self, pair: Pair, event: DagEvent) -> None:
        about_itself = event.type == MEMBER and event.state_key == event.sender
        membership = event.content.get("membership")
        if about_itself and membership == "join" and self._sides.names.is_person(event.sender):
            await self._enter(pair, event)
        elif about_itself and membership == "leave":
            try:
                await self._sides.local_users.leave(event.sender, pair.lm_room_id, _reason(event))
            except Forbidden:
                self.log.debug("{user_id} had no invite to decline", user_id=event.sender)
            await self._settle(pair, event)
        elif event.state_key is not None:
            await self._settle(pair, event)  # state is compared as a whole once we are in the room
        else:
            await self._lost(pair, event.event_id, "not_joined")

    async def _enter(self, pair: Pair, event: DagEvent) -> None:
        """A user accepts: join the LM room."""
        sides, user_id = self._sides, event.sender
        more = {**_profile(event), SOURCE: mark_of_dag(event)}
        try:
            via = await self._via(pair)
            await sides.local_users.join(user_id, pair.lm_room_id, via, _reason(event), more=more)
        except LMatrixError as error:
            attempts = self._attempts[event.event_id] = self._attempts.get(event.event_id, 0) + 1
            if is_passing(error) and not (isinstance(error, PeerUnreachable) and attempts >= JOIN_ATTEMPTS):
                raise
            self._attempts.pop(event.event_id, None)
            await self._turned_away(pair, event, str(error))
            return
        self._attempts.pop(event.event_id, None)
        room = await sides.rooms.load(pair.lm_room_id)
        if room is None:
            raise RuntimeError(f"{pair.lm_room_id} was joined and is not there")
        if room.state.get(ENCRYPTION) is not None:
            await self._stopper.stop(pair, ENCRYPTED)
            await self._turned_away(pair, event, ENCRYPTED)
            return
        joined = room.state.get(MEMBER, user_id)
        pair.touch_all()
        pair.recognised = False
        # In this order: were we to die in between, the join would be found in the room, and not be made again.
        await sides.pairs.move(pair, Stage.OPEN, outward=room.first_position)
        await self._settle(pair, event, None if joined is None else joined.event_id)
        self.log.info("{room_id}: is mirrored in {dag}", room_id=pair.lm_room_id, dag=pair.dag_room_id)

    async def _via(self, pair: Pair) -> list[str]:
        room = await self._sides.dag.room(pair.dag_room_id, [(MIRROR, "")])
        mirror = None if room is None else room.state.get((MIRROR, ""))
        via = [] if mirror is None else mirror.content.get("via")
        return [server for server in via if isinstance(server, str)] if isinstance(via, list) else []

    async def _turned_away(self, pair: Pair, event: DagEvent, reason: str) -> None:
        """The LM side does not let a user in: the user is removed from the DAG room, and told why."""
        self.log.info(
            "{room_id}: {user} may not join: {reason}", room_id=pair.lm_room_id, user=event.sender, reason=reason
        )
        try:
            await self._writer.remove(pair, event.sender, reason, event.event_id)
        except DagRefused as error:
            self.log.warn("{user} could not be removed: {error}", user=event.sender, error=error)
        await self._lost(pair, event.event_id, "refused", refused=True)

    async def _refuse_stopped(self, pair: Pair, event: DagEvent) -> None:
        if event.type == MEMBER and event.content.get("membership") == "invite":
            await self._no_guest(pair, event, pair.reason or "This room is not mirrored.")
        await self._lost(pair, event.event_id, "stopped")

    # -- While it is --

    async def _into_the_room(self, pair: Pair, event: DagEvent) -> None:
        sides = self._sides
        sender = sides.names.to_lm(event.sender)
        if sender is None:
            await self._lost(pair, event.event_id, "unknown_user")
            return
        if event.state_key is None and event.redacted:
            await self._settle(pair, event)  # redacted before it was carried over: there is nothing to carry
            return
        is_state = event.state_key is not None
        if is_state and event.stream <= pair.baseline and not sides.names.is_dag_ghost(event.state_key or ""):
            await self._settle(pair, event)  # it was part of the state that the LM room began with
            return
        try:
            what = await self._translated(pair, event)
        except Unmappable as error:
            self.log.info(
                "{room_id}: {event_id} ({type}) is not carried over: {cause}",
                room_id=pair.dag_room_id,
                event_id=event.event_id,
                type=event.type,
                cause=error.cause,
            )
            await self._lost(pair, event.event_id, error.cause)
            return
        if what is None or isinstance(what, Silent):
            await self._settle(pair, event)
            return
        if what.state_key is not None:
            pair.touch((what.type, what.state_key))
        try:
            lm_event_id = await self._submit(pair, event, sender, attrs.evolve(what, content=_marked(what, event)))
        except LMatrixError as error:
            if is_passing(error):
                raise
            await self._refused(pair, event, what, str(error))
        else:
            await self._settle(pair, event, lm_event_id)
            sides.metrics.mirror_events.labels(direction=INWARD).inc()

    async def _translated(self, pair: Pair, event: DagEvent) -> Translated | Silent | None:
        """The event in LM words; ``None`` for a redaction of an event that was not carried over itself."""
        sides = self._sides
        wanted = references(event.type, event.content)
        if event.redacts is not None:
            wanted.add(event.redacts)
        known: Mapping[str, str] = {}
        if wanted:
            known = await sides.database.read(lambda tx: sides.store.lm_of(tx, pair.nid, sorted(wanted)))
        redacts = event.redacts if event.type == REDACTION else None
        if redacts is not None and redacts not in known:
            target = redacts
            if await sides.database.read(lambda tx: sides.store.dag_events(tx, pair.nid, [target])):
                return None
        context = DagContext((), {})
        if event.type == POWER_LEVELS:
            context = await sides.context(pair)
        return to_lm(Source(event.type, event.state_key, event.content, redacts), sides.names, known, context)

    async def _submit(self, pair: Pair, event: DagEvent, sender: str, what: Translated) -> str | None:
        """Hand an event over; returns its LM event ID, ``None`` when that is recognised when it arrives."""
        if what.type == MEMBER:
            return await self._submit_membership(pair, event, sender, what)
        return await self._send(pair, event, sender, what)

    async def _send(self, pair: Pair, event: DagEvent, sender: str, what: Translated) -> str:
        return await self._sides.local_users.send(
            pair.lm_room_id,
            sender,
            what.type,
            what.content,
            state_key=what.state_key,
            transaction=ClientTransaction(sender, DEVICE, event.event_id),
            # A server may be ahead; what is dated into the future is refused.
            origin_server_ts=min(event.origin_server_ts, self._sides.now_ms()),
        )

    async def _submit_membership(self, pair: Pair, event: DagEvent, sender: str, what: Translated) -> str | None:
        room = await self._sides.room(pair)
        target, membership = what.state_key or "", what.content["membership"]
        if room is None:
            raise Forbidden(f"nobody of ours is in {pair.lm_room_id}")
        current = room.state.get(MEMBER, target)
        if current is not None and marked(current.content, pair.dag_room_id) == event.event_id:
            return current.event_id
        if membership == "leave" and room.membership(target) == "leave":
            return None
        if membership == "invite" and not self._sides.names.is_ours(target):
            await self._invite(pair, sender, target, what.content)
            return None
        try:
            return await self._send(pair, event, sender, what)
        except EventRejected:
            guest = membership == "join" and sender == target and room.membership(target) in ("leave", "knock")
            inviter = self._inviter(room) if guest else None
            if inviter is None:
                raise
            # The DAG room let the user in by a rule that the LM room does not know.
            content = {"membership": "invite", "reason": "joined the mirrored room"}
            await self._sides.local_users.send(pair.lm_room_id, inviter, MEMBER, content, state_key=target)
            return await self._send(pair, event, sender, what)

    async def _invite(self, pair: Pair, sender: str, target: str, content: JsonObject) -> None:
        more = {key: value for key, value in content.items() if key not in ("membership", "reason")}
        reason = content.get("reason")
        try:
            await self._sides.local_users.invite(
                pair.lm_room_id, sender, target, reason if isinstance(reason, str) else None, more=more
            )
        except PeerError as error:
            # An invite is worth one attempt: whoever invites hears of it, and can do so again.
            raise Forbidden(str(error)) from error

    def _inviter(self, room: Room) -> str | None:
        """Whoever of ours may best invite."""
        levels = PowerLevels.of(room.state)
        best: tuple[int, str] | None = None
        for member in room.state.members():
            if self._sides.names.is_ours(member.state_key) and room.membership(member.state_key) == "join":
                level = levels.user_level(member.state_key)
                if level >= levels.level_for("invite") and (best is None or level > best[0]):
                    best = (level, member.state_key)
        return None if best is None else best[1]

    # -- What became of it --

    async def _refused(self, pair: Pair, event: DagEvent, what: Translated, reason: str) -> None:
        """The LM room does not take it: it is undone on the DAG side. State that differs is put back by
        :mod:`lmatrix.replication.agreement`.
        """
        self.log.info(
            "{room_id}: {event_id} ({type}) was refused by {lm_room_id}: {reason}",
            room_id=pair.dag_room_id,
            event_id=event.event_id,
            type=event.type,
            lm_room_id=pair.lm_room_id,
            reason=reason,
        )
        try:
            if what.type == MEMBER:
                await self._membership_refused(pair, event, what, reason)
            elif event.state_key is None and event.type != REDACTION:
                await self._writer.redact(pair, event.event_id, f"The other side refused it: {reason}")
        except DagRefused as error:
            self.log.warn("{event_id} could not be undone: {error}", event_id=event.event_id, error=error)
        self._sides.metrics.mirror_corrections.labels(direction="outward").inc()
        await self._lost(pair, event.event_id, "refused", refused=True)

    async def _membership_refused(self, pair: Pair, event: DagEvent, what: Translated, reason: str) -> None:
        membership = what.content["membership"]
        if membership == "invite" and self._sides.names.is_dag_ghost(event.state_key or ""):
            await self._no_guest(pair, event, reason)
        elif membership in ("join", "knock", "invite"):
            room = await self._sides.room(pair)
            if room is None or room.membership(what.state_key or "") not in ("join", membership):
                await self._writer.remove(pair, event.state_key or "", reason, event.event_id)

    async def _no_guest(self, pair: Pair, event: DagEvent, reason: str) -> None:
        """A remote LM user cannot be invited: its ghost declines, with the reason."""
        ghost = event.state_key or ""
        if not self._sides.names.is_dag_ghost(ghost):
            return
        await self._sides.prepared(ghost, None, None)
        try:
            await self._writer.set_membership(pair, ghost, ghost, "leave", {"reason": reason}, event.event_id)
        except DagRefused as error:
            self.log.warn("{ghost} could not decline: {error}", ghost=ghost, error=error)

    async def _settle(self, pair: Pair, event: DagEvent, lm_event_id: str | None = None) -> None:
        sides, now_ms = self._sides, self._sides.now_ms()

        def work(tx: Any) -> None:
            if lm_event_id is None:
                sides.store.settle(tx, pair.nid, event.event_id)
            else:
                sides.store.link(tx, pair.nid, lm_event_id, event.event_id, None, now_ms)

        await sides.database.write(work)

    async def _lost(self, pair: Pair, event_id: str, cause: str, *, refused: bool = False) -> None:
        sides = self._sides

        def work(tx: Any) -> None:
            sides.store.settle(tx, pair.nid, event_id, refused=refused)
            sides.store.lose(tx, pair.nid, event_id, cause)

        await sides.database.write(work)
        sides.metrics.mirror_losses.labels(direction=INWARD, cause=cause).inc()


def _marked(what: Translated, event: DagEvent) -> JsonObject:
    """The content with its mark: a short one where the whole might make the event too large."""
    mark = mark_of_dag(event)
    if len(canonical_json.encode(what.content)) > LARGE_BYTES:
        mark = {field: mark[field] for field in ("event_id", "room_id")}
    return {**what.content, SOURCE: mark}


def _reason(event: DagEvent) -> str | None:
    reason = event.content.get("reason")
    return reason if isinstance(reason, str) else None


def _profile(event: DagEvent) -> JsonObject:
    return {key: event.content[key] for key in ("displayname", "avatar_url") if key in event.content}
