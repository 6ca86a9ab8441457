"""Synapse as a :class:`~lmatrix.replication.interfaces.DagServer`.

Owns: what the mirrors' words mean to Synapse: which of its functions reads the stream, makes a ghost, writes an event,
and which of its errors mean "never" and which "not now". Invariants:

* the stream is that of Synapse's own event positions; an event whose content was known before it took its place in a
  room (an "outlier") is in the stream at the position where it took it;
* every write carries its transaction ID from a registered device, by which Synapse knows it again for a day;
* nothing but :class:`DagRefused` and :class:`DagUnavailable` comes out.

Members' events go through Synapse's own membership code, and so are subject to its rules (blocked rooms, allowed
avatars); rate limits do not apply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from lmatrix.errors import LMatrixError
from lmatrix.replication.interfaces import (
    DAG_GHOST_PREFIX,
    LM_GHOST_PREFIX,
    DagEvent,
    DagRefused,
    DagRoom,
    DagUnavailable,
    DagWrite,
    Interest,
    MembershipWrite,
    NewRoom,
    Profile,
    StateWrite,
    StreamPage,
)
from lmatrix.replication.synapse.internals import Internals

T = TypeVar("T")

DEVICE_ID = "LMATRIX"
"""The device that every ghost writes from."""

ROOM_VERSION = "12"
"""Of the rooms that mirror linearized ones: its creator, the bot, stands above every level."""

_NOT_FOR_USERS = frozenset({"org.matrix.dummy_event"})
"""What Synapse sends to itself, to bring the ends of a forked room together."""

_CREATE = ("m.room.create", "")

_ASK_AGAIN = frozenset({408, 429})


class NotReserved(LMatrixError):
    """The application service that is to own the ghosts is not there, or does not own them."""


class SynapseDagServer:
    """One Synapse.

    Args:
        internals: the way into it.
        service_id: ``id`` of the application service that owns the ghosts.

    Raises:
        NotReserved: Synapse has no such application service, or it does not reserve the ghosts' user IDs.
    """

    log = Logger()

    def __init__(self, internals: Internals, service_id: str) -> None:
        self._internals = internals
        self._service = _reserving_service(internals, service_id)
        self._known_ghosts: set[str] = set()

    @property
    def server_name(self) -> str:
        """Synapse's, and ours."""
        return self._internals.server_name

    @property
    def bot(self) -> str:
        """The application service's own user."""
        return self._internals.user_of(self._service)

    # -- Reading ------------------------------------------------------------------------------------------------------

    async def position(self) -> int:
        """The end of the stream."""
        return self._internals.stream_position()

    async def read(self, after: int, limit: int, interest: Interest) -> StreamPage:
        """Read on in the stream."""
        return await self._guarded(lambda: self._read(after, limit, interest))

    async def _read(self, after: int, limit: int, interest: Interest) -> StreamPage:
        end = self._internals.stream_position()
        if end <= after:
            return StreamPage((), after)
        position, new = await self._internals.new_event_ids(after, end, limit)
        # Up to the end, not only of this page: what was stored in it may have taken its place later.
        places = {event_id: place for place, event_id in await self._internals.completed_events(after, end)}
        here = [event_id for event_id, place in places.items() if place <= position]
        here += [event_id for event_id in new if event_id not in places]
        metadata = await self._internals.metadata(here)
        wanted = [
            event_id
            for event_id in here
            if event_id in metadata and metadata[event_id][1] not in _NOT_FOR_USERS and interest(*metadata[event_id])
        ]
        found = await self._internals.events(wanted) if wanted else {}
        events = []
        for event in found.values():
            converted = _converted(event, places.get(event.event_id))
            if converted is not None and after < converted.stream <= position:
                events.append(converted)
        return StreamPage(sorted(events, key=lambda event: event.stream), position)

    async def events(self, event_ids: Sequence[str]) -> Mapping[str, DagEvent]:
        """Events as they are now."""
        found = await self._guarded(lambda: self._internals.events(event_ids))
        converted = (_converted(event, None) for event in found.values())
        return {event.event_id: event for event in converted if event is not None}

    async def room(self, room_id: str, keys: Collection[tuple[str, str]] | None = None) -> DagRoom | None:
        """A room as it is now."""
        return await self._guarded(lambda: self._room(room_id, keys))

    async def _room(self, room_id: str, keys: Collection[tuple[str, str]] | None) -> DagRoom | None:
        if not await self._internals.is_in_room(room_id):
            return None
        position = self._internals.stream_position()
        version = await self._internals.room_version(room_id)
        wanted = None if keys is None else {_CREATE, *keys}
        state: dict[tuple[str, str], DagEvent] = {}
        for key, event in (await self._internals.state(room_id, wanted)).items():
            converted = _converted(event, None)
            if converted is not None:
                state[key] = converted
        creators: frozenset[str] = frozenset()
        create = state.get(_CREATE)
        if create is not None and self._internals.creators_stand_above(version):
            creators = frozenset([create.sender, *create.content.get("additional_creators", ())])
        return DagRoom(room_id, position, str(version.identifier), creators, state)

    async def user_exists(self, user_id: str) -> bool:
        """Whether this is an active local account of a person."""
        if user_id == self.bot or _is_ghost(user_id):
            return False
        account = await self._guarded(lambda: self._internals.account(user_id))
        return account is not None and not account.is_deactivated and not account.is_guest

    # -- Writing ------------------------------------------------------------------------------------------------------

    async def ensure_ghost(self, user_id: str, profile: Profile | None) -> None:
        """Make sure that a ghost exists."""
        await self._guarded(lambda: self._ensure_ghost(user_id, profile))

    async def _ensure_ghost(self, user_id: str, profile: Profile | None) -> None:
        if user_id not in self._known_ghosts:
            if await self._internals.account(user_id) is None:
                await self._internals.register(user_id[1:].partition(":")[0], self._service)
            await self._internals.keep_device(user_id, DEVICE_ID, "lmatrix")
            self._known_ghosts.add(user_id)
        if profile is None:
            return
        displayname, avatar_url = await self._internals.profile(user_id)
        wanted = (profile.displayname or "", profile.avatar_url or "")
        if wanted != (displayname or "", avatar_url or ""):
            await self._internals.set_profile(self._as(user_id), displayname=wanted[0], avatar_url=wanted[1])

    async def create_room(self, new: NewRoom) -> str:
        """Make a room."""
        config = {
            "preset": "private_chat",
            "visibility": "private",
            "room_version": ROOM_VERSION,
            "initial_state": [
                {"type": one.type, "state_key": one.state_key, "content": _without_creator(one, new.creator)}
                for one in new.state
            ],
        }
        return await self._guarded(lambda: self._internals.create_room(self._as(new.creator), config))

    async def set_membership(self, write: MembershipWrite) -> str:
        """Change a membership."""
        return await self._guarded(lambda: self._set_membership(write))

    async def _set_membership(self, write: MembershipWrite) -> str:
        requester = self._as(write.sender)
        # Synapse would first ask whether the change makes sense, and once it has been made, it makes none.
        done = await self._internals.sent_before(requester, write.room_id, write.transaction_id)
        if done is not None:
            return done
        action = write.membership
        if action == "leave" and write.sender != write.target:
            member = ("m.room.member", write.target)
            present = (await self._internals.state(write.room_id, (member,))).get(member)
            banned = present is not None and present.content.get("membership") == "ban"
            action = "unban" if banned else "kick"
        content = {name: value for name, value in write.content.items() if name != "membership"}
        return await self._internals.change_membership(
            requester,
            write.target,
            write.room_id,
            action,
            content=content,
            txn_id=write.transaction_id,
            origin_server_ts=write.origin_server_ts,
        )

    async def send(self, write: DagWrite) -> str:
        """Write an event that is not a membership."""
        return await self._guarded(lambda: self._send(write))

    async def _send(self, write: DagWrite) -> str:
        event: dict[str, Any] = {
            "type": write.type,
            "room_id": write.room_id,
            "sender": write.sender,
            "content": write.content,
        }
        if write.state_key is not None:
            event["state_key"] = write.state_key
        if write.origin_server_ts is not None:
            event["origin_server_ts"] = write.origin_server_ts
        if write.type == "m.room.redaction":
            version = await self._internals.room_version(write.room_id)
            if not version.updated_redaction_rules:
                event["redacts"] = write.content.get("redacts")
        return await self._internals.send(self._as(write.sender), event, write.transaction_id)

    async def let_in(self, room_id: str, inviter: str) -> None:
        """Bring the bot into a room of local users."""
        await self._guarded(lambda: self._let_in(room_id, inviter))

    async def _let_in(self, room_id: str, inviter: str) -> None:
        await self._ensure_ghost(self.bot, None)
        me, rules, levels = ("m.room.member", self.bot), ("m.room.join_rules", ""), ("m.room.power_levels", "")
        state = await self._internals.state(room_id, (me, rules))
        mine = state.get(me)
        membership = "leave" if mine is None else mine.content.get("membership")
        if membership != "join":
            rule = state.get(rules)
            public = rule is not None and rule.content.get("join_rule") == "public"
            if membership != "invite" and not public:
                await self._internals.change_membership(self._as(inviter), self.bot, room_id, "invite")
            await self._internals.change_membership(self._as(self.bot), self.bot, room_id, "join")
        room = await self._room(room_id, (levels,))
        power = None if room is None else room.state.get(levels)
        if room is None or power is None:
            return
        content = _with_power(power.content, self.bot, inviter, inviter in room.creators)
        if content is None:
            return
        event = {"type": power.type, "room_id": room_id, "sender": inviter, "state_key": "", "content": content}
        try:
            await self._internals.send(self._as(inviter), event, f"lmatrix.power.{room.position}")
        except Exception as error:
            refusal = self._internals.refusal(error)
            if refusal is None or refusal[0] != 403:
                raise
            self.log.info(
                "{room_id}: the bot gets no power, because {inviter} may not give it: {reason}",
                room_id=room_id,
                inviter=inviter,
                reason=refusal[1],
            )

    # -- Beside the events --------------------------------------------------------------------------------------------

    async def set_typing(self, room_id: str, user_id: str, *, typing: bool, timeout_ms: int) -> None:
        """A ghost types, or does not."""
        requester = self._as(user_id)
        await self._guarded(
            lambda: self._internals.set_typing(requester, room_id, typing=typing, timeout_ms=timeout_ms)
        )

    async def set_read(self, room_id: str, user_id: str, event_id: str) -> None:
        """A ghost has read up to an event."""
        await self._guarded(lambda: self._internals.set_read(user_id, room_id, event_id))

    async def tell_user(self, user_id: str, text: str) -> None:
        """Tell a local user something: by a server notice, or in a room of the bot's with them."""
        await self._guarded(lambda: self._tell_user(user_id, text))

    async def _tell_user(self, user_id: str, text: str) -> None:
        content = {"msgtype": "m.notice", "body": text}
        if await self._internals.server_notice(user_id, content):
            return
        await self._ensure_ghost(self.bot, None)
        config = {"preset": "trusted_private_chat", "is_direct": True, "invite": [user_id], "name": "Notice"}
        room_id = await self._internals.create_room(self._as(self.bot), config)
        event = {"type": "m.room.message", "room_id": room_id, "sender": self.bot, "content": content}
        await self._internals.send(self._as(self.bot), event, "lmatrix.notice")

    # -- Who and how --------------------------------------------------------------------------------------------------

    def _as(self, user_id: str) -> Any:
        """As whom Synapse is asked: a ghost writes from its device, a local user without one."""
        if user_id == self.bot or _is_ghost(user_id):
            return self._internals.requester(user_id, service=self._service, device_id=DEVICE_ID)
        return self._internals.requester(user_id)

    async def _guarded(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something with Synapse, and put what goes wrong into the mirrors' words."""
        try:
            return await work()
        except CancelledError:
            raise
        except Exception as error:
            refusal = self._internals.refusal(error)
            if refusal is None:
                self.log.failure("Synapse failed to do what lmatrix asked of it")
                raise DagUnavailable(f"Synapse failed: {type(error).__name__}: {error}") from error
            status, words = refusal
            if status in _ASK_AGAIN or status >= 500:
                raise DagUnavailable(f"Synapse cannot do it now ({status}): {words}") from error
            raise DagRefused(f"Synapse refuses ({status}): {words}") from error


def _reserving_service(internals: Internals, service_id: str) -> Any:
    service = internals.application_service(service_id)
    if service is None:
        raise NotReserved(
            f"Synapse has no application service with the id {service_id!r}: "
            "list its registration under app_service_config_files, and restart"
        )
    for prefix in (DAG_GHOST_PREFIX, LM_GHOST_PREFIX):
        example = f"@{prefix}someone=3aexample.org:{internals.server_name}"
        if not service.is_exclusive_user(example):
            raise NotReserved(
                f"the application service {service_id!r} does not reserve user IDs such as {example}: its registration "
                "needs an exclusive namespace of users for each of the prefixes "
                f"{DAG_GHOST_PREFIX!r} and {LM_GHOST_PREFIX!r}"
            )
    return service


def _is_ghost(user_id: str) -> bool:
    return user_id.startswith((f"@{DAG_GHOST_PREFIX}", f"@{LM_GHOST_PREFIX}"))


def _converted(event: Any, place: int | None) -> DagEvent | None:
    """An event of Synapse's; ``None`` for one that has no place in its room, or that users are not to see.

    Args:
        place: where in the stream it took its place, if that is not where it was stored.
    """
    metadata = event.internal_metadata
    if metadata.is_outlier() or metadata.is_soft_failed():
        return None
    fields = event.get_dict()
    content = fields.get("content", {})
    redacts = content.get("redacts", fields.get("redacts")) if event.type == "m.room.redaction" else None
    return DagEvent(
        event_id=event.event_id,
        room_id=event.room_id,
        stream=metadata.stream_ordering or 0 if place is None else place,
        type=event.type,
        sender=event.sender,
        content=content,
        state_key=event.get_state_key(),
        origin_server_ts=int(event.origin_server_ts),
        prev_events=tuple(event.prev_event_ids()),
        redacts=redacts if isinstance(redacts, str) else None,
        redacted=metadata.is_redacted(),
        hashes=fields.get("hashes", {}),
        signatures=fields.get("signatures", {}),
    )


def _without_creator(state: StateWrite, creator: str) -> dict[str, Any]:
    """State to begin a room with, where power levels must not name a creator."""
    if state.type != "m.room.power_levels":
        return state.content
    users = {user_id: level for user_id, level in state.content.get("users", {}).items() if user_id != creator}
    return {**state.content, "users": users}


def _with_power(content: Mapping[str, Any], bot: str, inviter: str, inviter_is_creator: bool) -> dict[str, Any] | None:
    """Power levels in which the bot has as much power as the inviter can give; ``None`` when there is nothing to do."""
    users = dict(content.get("users", {}))
    default = content.get("users_default", 0)
    levels = [level for level in (*users.values(), default) if isinstance(level, int)]
    most = max([100, *levels]) if inviter_is_creator else users.get(inviter, default)
    if not isinstance(most, int) or users.get(bot, default) >= most:
        return None
    return {**content, "users": {**users, bot: most}}
