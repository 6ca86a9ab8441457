"""What our own users do in rooms, whichever role this server has there.

Owns: turning a user's wish into an event in the room — by the sequencer where we are the hub, by an LPDU where we are a
participant, by a handshake where we are neither — and the promise that a client's transaction is carried out once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import BadRequest, Forbidden, SendFailed, WrongServer
from lmatrix.events.building import build_lpdu
from lmatrix.events.creation import RoomPlan, initial_events
from lmatrix.events.forms import Lpdu
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.room_versions import room_version
from lmatrix.events.stripped_state import stripped
from lmatrix.ids import server_of
from lmatrix.rooms.departing import Departer
from lmatrix.rooms.hub import Hub
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import (
    ClientTransactionStore,
    Database,
    JsonObject,
    LocalAudience,
    MemberProfiles,
    MembershipWatcher,
    Peers,
    PendingLpdu,
    RoomStore,
)
from lmatrix.rooms.invitations import Invitations
from lmatrix.rooms.inviting import Inviter
from lmatrix.rooms.joining import Joiner
from lmatrix.rooms.knocking import Knocker
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.policy import Kind, LocalAction, Policies, ProposedEvent
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.renaming import MEMBER, Departures
from lmatrix.rooms.room import RoomDraft
from lmatrix.rooms.scrollback import Scrollback
from lmatrix.rooms.sequencing import LocalEvent, Sequenced, take_local
from lmatrix.rooms.timestamps import Timestamps
from lmatrix.rooms.transfer import HubTransfer

NEW_HUB = "org.lmatrix.server"
"""In the content of an ``m.room.hub`` that a client sends to the hub: the server that the room is to move to."""

ROOM_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


_KINDS = {"invite": Kind.INVITE, "join": Kind.JOIN, "knock": Kind.KNOCK}


@attrs.frozen(slots=True)
class ClientTransaction:
    """A client's transaction ID, which counts for one device."""

    user_id: str
    device_id: str
    txn_id: str


class LocalUsers:
    """Carries out what local users ask for.

    Args:
        identity: who signs.
        rooms, hub, outbox, inviter, invitations, joiner, departer, knocker, scrollback, transfer: who carries it out.
        peers: for invites that go through another hub.
        database, store, client_transactions: for what was done before.
        profiles: what users are called, for their member events.
        departures: is told who is on the way out.
        policies: what local users may do beside the rules of the room.
        audience, watcher: told of joins, whose log starts past the sequencer.
        timestamps, clock, rng: time of events, names of rooms.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        hub: Hub,
        outbox: Outbox,
        inviter: Inviter,
        invitations: Invitations,
        joiner: Joiner,
        departer: Departer,
        knocker: Knocker,
        scrollback: Scrollback,
        transfer: HubTransfer,
        peers: Peers,
        database: Database,
        store: RoomStore,
        client_transactions: ClientTransactionStore,
        profiles: MemberProfiles,
        departures: Departures,
        policies: Policies,
        audience: LocalAudience,
        watcher: MembershipWatcher,
        timestamps: Timestamps,
        clock: IReactorTime,
        rng: Random,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._hub = hub
        self._outbox = outbox
        self._inviter = inviter
        self._invitations = invitations
        self._joiner = joiner
        self._departer = departer
        self._knocker = knocker
        self._scrollback = scrollback
        self._transfer = transfer
        self._peers = peers
        self._database = database
        self._store = store
        self._client_transactions = client_transactions
        self._profiles = profiles
        self._departures = departures
        self._policies = policies
        self._audience = audience
        self._watcher = watcher
        self._timestamps = timestamps
        self._clock = clock
        self._rng = rng
        self._in_flight: dict[tuple[ClientTransaction, str], list[Deferred[str]]] = {}

    async def create_room(
        self, creator: str, version: str, plan: RoomPlan, beside: Callable[[Any, str], None] | None = None
    ) -> str:
        """Make a room whose hub is this server; returns its room ID, once it is on disk.

        The plan's invitees are invited afterwards; an invite that fails is logged and does not undo the room.

        Args:
            beside: called with the transaction and the room ID, to write what must be on disk together with the room;
                what it raises, there is no room.

        Raises:
            UnsupportedRoomVersion: we do not know that version.
            EventRejected, SchemaViolation, EventTooLarge: the plan asks for something impossible; there is no room.
            Forbidden: a policy of this server does not allow it; there is no room.
        """
        await self._policies.check_action(LocalAction(user_id=creator, kind=Kind.CREATE))
        chosen = room_version(version)
        room_id = f"!{''.join(self._rng.choices(ROOM_ID_ALPHABET, k=18))}:{self._identity.server_name}"
        events = [
            LocalEvent(one.type, creator, one.content, self._timestamps.next(creator), one.state_key)
            for one in initial_events(plan, chosen, creator, await self._called(creator))
        ]
        for event in events:
            await self._check_event(room_id, creator, event.type, event.content, event.state_key)

        def decide(draft: RoomDraft) -> list[Sequenced]:
            return [take_local(draft, event, self._identity) for event in events]

        await self._rooms.create(
            room_id, chosen, decide, len(events), None if beside is None else lambda tx: beside(tx, room_id)
        )
        self.log.info(
            "{room_id}: created by {creator}, version {version}", room_id=room_id, creator=creator, version=version
        )
        results = await DeferredList(
            [Deferred.fromCoroutine(self._invite_to_new(room_id, creator, target, plan)) for target in plan.invite],
            consumeErrors=True,
        )
        for (_, failure), target in zip(results, plan.invite, strict=True):
            if isinstance(failure, Failure):
                self.log.warn(
                    "{room_id}: {target} could not be invited: {error}",
                    room_id=room_id,
                    target=target,
                    error=failure.value,
                )
        return room_id

    async def send(
        self,
        room_id: str,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        transaction: ClientTransaction | None = None,
        origin_server_ts: int | None = None,
    ) -> str:
        """Send an event; returns its event ID, once it is in the room.

        Args:
            transaction: carried out once, however often it is asked for.
            origin_server_ts: when it was sent, milliseconds since the epoch, where that is not now.

        Raises:
            Forbidden: this server is not in the room, or a policy does not allow it.
            EventRejected, SchemaViolation, EventTooLarge: the event is not allowed, or not an event.
            SendFailed: the room's hub refused it, or has not answered yet.
        """

        async def work() -> str:
            loaded = await self._participating(room_id, sender)
            await self._check_event(room_id, sender, event_type, content, state_key)
            if event_type == "m.room.member":
                await self._check_membership(room_id, sender, content.get("membership"), state_key)
            if event_type == HUB_EVENT and state_key == "" and loaded.room.version.hub_is_state:
                return await self._move_hub(loaded, sender, content)
            return await self._send(loaded, sender, event_type, content, state_key, transaction, origin_server_ts)

        return await self._once(transaction, room_id, work)

    async def _move_hub(self, loaded: LoadedRoom, sender: str, content: Mapping[str, Any]) -> str:
        """A user's wish that the room move: from here to the server that they name, or from elsewhere to here.

        The event itself is the handshake's to make: it bears the signatures of both hubs.
        """
        room = loaded.room
        if not room.is_hub:
            return await self._peers.request_hub(room.hub_server, room.room_id, sender)
        candidate = content.get(NEW_HUB)
        if not isinstance(candidate, str):
            raise BadRequest(f"name the server that is to be the hub as {NEW_HUB}")
        self._transfer.check_power(room, sender)
        return await self._transfer.transfer(room.room_id, candidate)

    async def _invite_to_new(self, room_id: str, creator: str, target: str, plan: RoomPlan) -> None:
        await self.invite(room_id, creator, target, None, is_direct=plan.is_direct)

    async def invite(
        self,
        room_id: str,
        sender: str,
        target: str,
        reason: str | None,
        *,
        is_direct: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Invite a user, of whichever server.

        Args:
            is_direct: whether the invite is marked as one to a direct chat.
            more: further content of the membership event.

        Raises:
            as :meth:`send`, and :class:`NotFound` and :class:`PeerError` for what the target's server says.
        """
        loaded = await self._participating(room_id, sender)
        room = loaded.room
        content = {**await self._called(target), **(more or {}), **_member_content("invite", reason)}
        if is_direct:
            content["is_direct"] = True
        await self._check_membership(room_id, sender, "invite", target)
        await self._check_event(room_id, sender, "m.room.member", content, target)
        if room.is_hub:
            await self._inviter.invite(
                loaded, LocalEvent("m.room.member", sender, content, self._timestamps.next(sender), target)
            )
            return
        server = server_of(target)
        if room.joined_per_server[server] > 0 or server == room.hub_server:
            await self._send(loaded, sender, "m.room.member", content, target, None)
            return
        lpdu = self._lpdu(loaded, sender, "m.room.member", content, target, self._timestamps.next(sender))
        await self._peers.invite(room.hub_server, room.version, dict(lpdu.fields), stripped(room.state))

    async def join(
        self,
        user_id: str,
        room_id: str,
        via: Sequence[str],
        reason: str | None,
        *,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Join a room; returns its room ID.

        Args:
            via: servers that may know the room, best first.
            more: further content of the membership event.

        Raises:
            EventRejected, SendFailed: the room does not let the user in.
            NotFound, PeerError: it could not be found, or its hub does not let us in.
            Forbidden: it is blocked here, or a policy does not allow it.
        """
        await self._policies.check_room(room_id)
        await self._policies.check_action(LocalAction(user_id=user_id, kind=Kind.JOIN, room_id=room_id))
        content = {**await self._called(user_id), **(more or {}), **_member_content("join", reason)}
        self._departures.undo(room_id, user_id)
        loaded = await self._rooms.loaded(room_id)
        if loaded is None or not loaded.room.is_participating:
            invite = await self._invitations.pending(user_id, room_id)
            known = [invite.hub_server] if invite else []
            candidates = list(dict.fromkeys([*known, *via, server_of(room_id)]))
            loaded, stream = await self._joiner.join(user_id, room_id, candidates, content)
            if stream is not None:
                self._audience.stream_advanced(stream, room_id)
                self._audience.stream_advanced(stream, room_id, (user_id,))
                self._watcher.memberships_changed(room_id, (user_id,), (), ())
                await self._invitations.ended(user_id, room_id, None)
                return room_id
        if loaded.room.membership(user_id) != "join":
            await self._send(loaded, user_id, "m.room.member", content, user_id, None)
        await self._invitations.ended(user_id, room_id, None)
        return room_id

    async def knock(self, user_id: str, room_id: str, via: Sequence[str], reason: str | None) -> str:
        """Ask to be invited into a room; returns its room ID.

        Args:
            via: servers that may know the room, best first.

        Raises:
            EventRejected, SendFailed: one cannot knock on this room.
            NotFound, PeerError: it could not be found, or its hub does not take the knock.
            Forbidden: it is blocked here, or a policy does not allow it.
        """
        await self._policies.check_room(room_id)
        await self._policies.check_action(LocalAction(user_id=user_id, kind=Kind.KNOCK, room_id=room_id))
        content = {**await self._called(user_id), **_member_content("knock", reason)}
        loaded = await self._rooms.loaded(room_id)
        if loaded is not None and loaded.room.is_participating:
            await self._send(loaded, user_id, "m.room.member", content, user_id, None)
            return room_id
        candidates = list(dict.fromkeys([*via, server_of(room_id)]))
        await self._knocker.knock(user_id, room_id, candidates, content)
        return room_id

    async def leave(self, user_id: str, room_id: str, reason: str | None) -> None:
        """Leave a room, refuse an invite, or take a knock back.

        Raises:
            Forbidden: there is nothing to leave.
            EventRejected, SendFailed: the room does not let the user go.
        """
        content = _member_content("leave", reason)
        loaded = await self._rooms.loaded(room_id)
        if loaded is not None and loaded.room.is_participating and loaded.room.membership(user_id) != "leave":
            await self._send(loaded, user_id, "m.room.member", content, user_id, None)
            await self._invitations.ended(user_id, room_id, None)
            return
        invite = await self._invitations.pending(user_id, room_id)
        if invite is None:
            raise Forbidden(f"{user_id} is not in {room_id}")
        declined = await self._departer.decline(invite, content)
        await self._invitations.ended(user_id, room_id, declined)

    async def membership(self, room_id: str, sender: str, target: str, membership: str, reason: str | None) -> str:
        """Kick (``"leave"``), ban (``"ban"``) or unban (``"leave"``) a user; returns the event ID.

        Raises:
            as :meth:`send`.
        """
        content = _member_content(membership, reason)
        return await self.send(room_id, sender, "m.room.member", content, state_key=target)

    async def redact(
        self,
        room_id: str,
        sender: str,
        target_event_id: str,
        reason: str | None,
        transaction: ClientTransaction | None = None,
    ) -> str:
        """Redact an event; returns the redaction's event ID. Raises as :meth:`send`."""
        content: JsonObject = {"redacts": target_event_id}
        if reason is not None:
            content["reason"] = reason
        return await self.send(room_id, sender, "m.room.redaction", content, transaction=transaction)

    async def backfill_before(self, room_id: str, position: int, limit: int) -> None:
        """Make sure, as far as the hub lets us, that ``limit`` events at and before a position are held here.

        Args:
            position: a position in this server's log of the room.
            limit: how many events the user wants to see.
        """
        loaded = await self._rooms.loaded(room_id)
        if loaded is not None and not loaded.room.is_hub:
            await self._scrollback.fetch(loaded, position, limit)

    async def _send(
        self,
        loaded: LoadedRoom,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None,
        transaction: ClientTransaction | None,
        origin_server_ts: int | None = None,
    ) -> str:
        sent_ts = self._timestamps.next(sender) if origin_server_ts is None else origin_server_ts
        if not loaded.room.is_hub:
            lpdu = self._lpdu(loaded, sender, event_type, content, state_key, sent_ts)
            key = None if transaction is None else (transaction.user_id, transaction.device_id, transaction.txn_id)
            if event_type == MEMBER and state_key is not None:
                self._departures.note(loaded.room.room_id, state_key, content.get("membership"))
            try:
                return await self._outbox.send(lpdu, loaded.room.hub_server, key)
            except SendFailed as failure:
                if event_type == MEMBER and state_key is not None and failure.refused:
                    self._departures.undo(loaded.room.room_id, state_key)
                raise
        event = LocalEvent(event_type, sender, content, sent_ts, state_key)
        now_ms = int(self._clock.seconds() * 1000)

        def beside(tx: Any, sequenced: list[Sequenced]) -> None:
            if transaction is not None:
                self._client_transactions.put_client_transaction(
                    tx,
                    transaction.user_id,
                    transaction.device_id,
                    loaded.room.room_id,
                    transaction.txn_id,
                    sequenced[0].event_id,
                    now_ms,
                )

        try:
            return (await self._hub.take_local(loaded, [event], beside))[0].event_id
        except WrongServer:
            # The room moved while this waited its turn, perhaps more than once: it goes to whoever is the hub now.
            return await self._send(loaded, sender, event_type, content, state_key, transaction, sent_ts)

    def _lpdu(
        self,
        loaded: LoadedRoom,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None,
        origin_server_ts: int,
    ) -> Lpdu:
        return build_lpdu(
            loaded.room.version,
            room_id=loaded.room.room_id,
            type=event_type,
            sender=sender,
            content=dict(content),
            origin_server_ts=origin_server_ts,
            hub_server=loaded.room.hub_server,
            server_name=self._identity.server_name,
            keys=self._identity.keys,
            state_key=state_key,
        )

    async def _called(self, user_id: str) -> JsonObject:
        """What our member events about a user say besides the membership; nothing about other servers' users."""
        if server_of(user_id) != self._identity.server_name:
            return {}
        return await self._database.read(lambda tx: self._profiles.member_fields(tx, user_id))

    async def _check_event(
        self, room_id: str, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None
    ) -> None:
        await self._policies.check_event(
            ProposedEvent(
                room_id=room_id,
                type=event_type,
                sender=sender,
                state_key=state_key,
                content=content,
                origin=self._identity.server_name,
            )
        )

    async def _check_membership(self, room_id: str, sender: str, membership: object, target: str | None) -> None:
        kind = _KINDS.get(membership) if isinstance(membership, str) else None
        if kind is not None:
            invitee = target if kind is Kind.INVITE else None
            await self._policies.check_action(LocalAction(user_id=sender, kind=kind, room_id=room_id, target=invitee))

    async def _participating(self, room_id: str, user_id: str) -> LoadedRoom:
        await self._policies.check_room(room_id)
        loaded = await self._rooms.loaded(room_id)
        if loaded is None or not loaded.room.is_participating:
            raise Forbidden(f"{user_id} is not in {room_id}")
        return loaded

    async def _once(
        self,
        transaction: ClientTransaction | None,
        room_id: str,
        work: Callable[[], Awaitable[str]],
    ) -> str:
        if transaction is None:
            return await work()
        key = (transaction, room_id)
        sharers = self._in_flight.get(key)
        if sharers is not None:
            shared: Deferred[str] = Deferred()
            sharers.append(shared)
            return await shared
        self._in_flight[key] = []
        try:
            done = await self._done_before(transaction, room_id)
            event_id = await work() if done is None else done
        except BaseException as error:
            for sharer in self._in_flight.pop(key):
                sharer.errback(error)
            raise
        for sharer in self._in_flight.pop(key):
            sharer.callback(event_id)
        return event_id

    async def _done_before(self, transaction: ClientTransaction, room_id: str) -> str | None:
        """The event ID that a repeated transaction led to; waits for one whose LPDU is still pending."""

        def look_up(tx: Any) -> tuple[str, PendingLpdu | None] | None:
            found = self._client_transactions.client_transaction(
                tx, transaction.user_id, transaction.device_id, room_id, transaction.txn_id
            )
            return None if found is None else (found, self._outbox.pending(tx, found))

        found = await self._database.read(look_up)
        if found is None:
            return None
        reference, pending = found
        return reference if pending is None else await self._outbox.outcome_of(pending)


def _member_content(membership: str, reason: str | None) -> JsonObject:
    content: JsonObject = {"membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content
