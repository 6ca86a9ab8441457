"""The way of our users into LM rooms of other hubs.

Owns: :class:`Beginnings`: for each pending invite of the LM side, a DAG room in which the inviter's ghost invites the
user; and the withdrawal of what is not pending any more. What becomes of the invite in the DAG room is carried over by
:mod:`lmatrix.replication.inward`. Everything is found anew from what is stored: a turn may be repeated at any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.logger import Logger

from lmatrix.canonical_json import parse_object
from lmatrix.errors import Forbidden, LMatrixError
from lmatrix.events.creation import default_power_levels
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.intake import Intake
from lmatrix.replication.interfaces import MIRROR, DagRefused, JsonObject, NewRoom, Stage, StateWrite
from lmatrix.replication.pairs import Pair
from lmatrix.replication.power import bots_level
from lmatrix.replication.sides import Sides
from lmatrix.replication.stopping import ENCRYPTED
from lmatrix.replication.translation import ENCRYPTION, MEMBER, POWER_LEVELS
from lmatrix.replication.worker import is_passing
from lmatrix.rooms.interfaces import PendingInvite

_SHOWN: Final = ("m.room.name", "m.room.topic", "m.room.avatar")
_WITHDRAWN: Final = "The invite was withdrawn."
MAX_VIA: Final = 10


class Beginnings:
    """Brings invites to our users.

    Args:
        sides: both sides.
        intake: knows which DAG rooms were made already.
        writer: writes on the DAG side.
    """

    log = Logger()

    def __init__(self, sides: Sides, intake: Intake, writer: DagWriter) -> None:
        self._sides = sides
        self._intake = intake
        self._writer = writer
        self._done: set[tuple[str, str, int]] = set()
        self._before: set[tuple[str, str]] | None = None

    async def turn(self) -> None:
        """Look at every pending invite. Raises what is_passing."""
        sides = self._sides
        # A room that was made, and of which we did not hear, shows in the stream.
        await self._intake.read_to_end()
        pending = await sides.database.read(sides.store.pending_invites)
        for invite in pending:
            key = (invite.user_id, invite.room_id, invite.stream)
            if key not in self._done:
                await self._bring(invite)
                self._done.add(key)
        self._done &= {(invite.user_id, invite.room_id, invite.stream) for invite in pending}
        await self._withdraw({(invite.user_id, invite.room_id) for invite in pending})

    async def _bring(self, invite: PendingInvite) -> None:
        event = parse_object(invite.canonical)
        if event["content"].get("membership") != "invite":
            return  # a knock, which the user made
        try:
            await self._offer(invite, str(event["sender"]), event["content"])
        except LMatrixError as error:
            if is_passing(error):
                raise
            self.log.info(
                "{room_id}: the invite of {user_id} is declined: {error}",
                room_id=invite.room_id,
                user_id=invite.user_id,
                error=error,
            )
            await self._decline(invite, str(error))

    async def _decline(self, invite: PendingInvite, reason: str) -> None:
        sides = self._sides
        try:
            await sides.local_users.leave(invite.user_id, invite.room_id, reason)
        except Forbidden:
            return  # it has ended meanwhile
        await sides.dag.tell_user(
            invite.user_id, f"You were invited to {invite.room_id}, which is not possible: {reason}"
        )

    async def _offer(self, invite: PendingInvite, sender: str, content: JsonObject) -> None:
        """Invite the user in the DAG room."""
        sides = self._sides
        if not sides.names.is_person(invite.user_id):
            raise DagRefused("Only users of this server itself can be invited to a room that it is not in.")
        if any(event["type"] == ENCRYPTION for event in invite.stripped_state):
            raise DagRefused(ENCRYPTED)
        pair = await self.mirror_of(invite.room_id, [invite.hub_server], invite.stripped_state)
        room = await sides.dag.room(pair.dag_room_id, [(MEMBER, invite.user_id)])
        member = None if room is None else room.state.get((MEMBER, invite.user_id))
        membership = None if member is None else member.content.get("membership")
        if membership in ("invite", "join"):
            return
        ghost = sides.names.to_dag(sender)
        reference = f"{invite.room_id}{invite.stream}"
        more: JsonObject = {key: content[key] for key in ("reason", "is_direct") if key in content}
        try:
            await sides.prepared(ghost, None, None)
            await self._bring_in(pair, ghost, reference)
            await self._writer.set_membership(pair, ghost, invite.user_id, "invite", more, reference)
        except DagRefused:
            await self._writer.set_membership(pair, sides.dag.bot, invite.user_id, "invite", more, reference)

    async def _bring_in(self, pair: Pair, ghost: str, reference: str) -> None:
        """The ghost who invites must be in the room."""
        room = await self._sides.dag.room(pair.dag_room_id, [(MEMBER, ghost)])
        member = None if room is None else room.state.get((MEMBER, ghost))
        if member is not None and member.content.get("membership") == "join":
            return
        bot = self._sides.dag.bot
        await self._writer.set_membership(pair, bot, ghost, "invite", {}, f"g{reference}")
        await self._writer.set_membership(pair, ghost, ghost, "join", {}, f"h{reference}")

    async def mirror_of(self, lm_room_id: str, via: Sequence[str], stripped: Sequence[JsonObject]) -> Pair:
        """The mirror of an LM room that this server may not be in; made when there is none.

        Raises:
            DagRefused: it was stopped, or cannot be made.
        """
        sides = self._sides
        pair = sides.pairs.by_lm(lm_room_id)
        if pair is None:
            await sides.dag.ensure_ghost(sides.dag.bot, None)
            dag_room_id = await sides.dag.create_room(_new_room(sides.dag.bot, lm_room_id, via, stripped))
            pair = await sides.pairs.add(lm_room_id, dag_room_id, Stage.INVITED)
        if pair.stage is Stage.STOPPED:
            raise DagRefused(pair.reason or "This room is not mirrored any more.")
        return pair

    async def _withdraw(self, pending: set[tuple[str, str]]) -> None:
        """Take back what the LM side has taken back: invites by ghosts that have no counterpart any more.

        After a start every room is looked at; from then on those whose invites were pending and are not.
        """
        sides = self._sides
        gone = None if self._before is None else {room_id for _, room_id in self._before - pending}
        for pair in sides.pairs:
            if pair.stage is not Stage.INVITED or (gone is not None and pair.lm_room_id not in gone):
                continue
            room = await sides.dag.room(pair.dag_room_id)
            for (event_type, user_id), event in ({} if room is None else room.state).items():
                invited = event_type == MEMBER and event.content.get("membership") == "invite"
                if not invited or not sides.names.is_person(user_id) or (user_id, pair.lm_room_id) in pending:
                    continue
                if sides.names.is_dag_ghost(event.sender):
                    await self._remove(pair, user_id, event.event_id)
        self._before = pending

    async def _remove(self, pair: Pair, user_id: str, reference: str) -> None:
        try:
            await self._writer.remove(pair, user_id, _WITHDRAWN, reference)
        except DagRefused as error:
            self.log.warn("{user_id}: the invite could not be withdrawn: {error}", user_id=user_id, error=error)


def _new_room(bot: str, lm_room_id: str, via: Sequence[str], stripped: Sequence[JsonObject]) -> NewRoom:
    levels: dict[str, Any] = default_power_levels(())
    levels["users"] = {bot: bots_level(levels)}
    state = [
        StateWrite(MIRROR, "", {"room_id": lm_room_id, "via": list(via)[:MAX_VIA]}),
        StateWrite(POWER_LEVELS, "", levels),
        StateWrite("m.room.join_rules", "", {"join_rule": "invite"}),
        StateWrite("m.room.history_visibility", "", {"history_visibility": "shared"}),
    ]
    known = {event["type"]: event["content"] for event in stripped if event["state_key"] == ""}
    state += [StateWrite(event_type, "", known[event_type]) for event_type in _SHOWN if event_type in known]
    return NewRoom(bot, tuple(state))
