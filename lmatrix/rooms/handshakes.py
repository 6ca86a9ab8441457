"""Membership handshakes, the answering side (I-D "Room Membership").

Owns: the templates of ``make_join``, ``make_leave`` and ``make_knock``, the taking of what comes back in ``send_*``,
and ``invite`` in both of its roles. Only the hub answers the handshakes; everybody else names the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import BadRequest, Forbidden, IncompatibleRoomVersion, LMatrixError, NotFound, WrongServer
from lmatrix.events.auth_rules import authorise
from lmatrix.events.candidate import Draft
from lmatrix.events.forms import Lpdu, is_lpdu, peek_room_id
from lmatrix.events.stripped_state import stripped
from lmatrix.ids import server_of
from lmatrix.rooms.auth_chain import auth_chain
from lmatrix.rooms.hub import Hub
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, JsonObject, RoomStore
from lmatrix.rooms.invitations import Invitations
from lmatrix.rooms.inviting import Inviter
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.transactions import Recorder, Transactions

HANDSHAKES = ("join", "leave", "knock")


class Handshakes:
    """Answers other servers' handshakes.

    Args:
        identity: who we are.
        rooms, hub, inviter, invitations: who carries them out.
        transactions: carries each out once.
        database, store: for the state that a joiner is given.
        policies: may block a room.
        clock: for the time in templates.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        hub: Hub,
        inviter: Inviter,
        invitations: Invitations,
        transactions: Transactions,
        database: Database,
        store: RoomStore,
        policies: Policies,
        clock: IReactorTime,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._hub = hub
        self._inviter = inviter
        self._invitations = invitations
        self._transactions = transactions
        self._database = database
        self._store = store
        self._policies = policies
        self._clock = clock

    async def make(
        self, origin: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> JsonObject:
        """The template of a membership event: ``{"event": …, "room_version": …}``.

        Args:
            origin: the authenticated asker.
            membership: ``"join"``, ``"leave"`` or ``"knock"``.
            versions: the room versions that the asker supports; not looked at for ``"leave"``.

        Raises:
            Forbidden: the user is of another server, or the room is blocked here.
            NotFound, WrongServer: the room is not known here, or has another hub.
            IncompatibleRoomVersion: the room's version is not among ``versions``.
            EventRejected: the auth rules would refuse the event.
        """
        if server_of(user_id) != origin:
            raise Forbidden(f"{user_id} is not a user of {origin}")
        room = (await self._hub_room(room_id)).room
        if membership != "leave" and room.version.identifier not in versions:
            raise IncompatibleRoomVersion(room.version.identifier)
        candidate = Draft(
            room_version=room.version,
            room_id=room_id,
            type="m.room.member",
            sender=user_id,
            content={"membership": membership},
            origin_server_ts=int(self._clock.seconds() * 1000),
            state_key=user_id,
            hub_server=self._identity.server_name,
        )
        authorise(candidate, room.state, prev_events=(room.head_event_id or "",))
        return {
            "event": {
                "room_id": room_id,
                "type": candidate.type,
                "sender": user_id,
                "state_key": user_id,
                "content": {"membership": membership},
                "origin_server_ts": candidate.origin_server_ts,
                "hub_server": self._identity.server_name,
            },
            "room_version": room.version.identifier,
        }

    async def send(self, origin: str, membership: str, transaction_id: str, body: JsonObject) -> bytes:
        """Take the LPDU made from a template; the answer's canonical JSON, once it is on disk.

        Raises:
            BadRequest, SchemaViolation, EventTooLarge: it is not such an LPDU.
            Forbidden: it is not by one of the asker's users about themselves.
            BadSignature, EventRejected: it does not verify, or the auth rules refuse it.
            NotFound, WrongServer: the room is not known here, or has another hub.
        """
        room_id = peek_room_id(body)
        loaded = await self._hub_room(room_id)
        lpdu = Lpdu.parse(body, loaded.room.version)
        _check_is(lpdu, membership, origin)

        async def work(_: Recorder) -> bytes:
            answer = (await self._hub.take_lpdus(loaded, [lpdu], origin))[0]
            if isinstance(answer.outcome, LMatrixError):
                raise answer.outcome
            # What is stored is the event's ID only: a joiner's answer holds the room's whole state, and can be made
            # again.
            return encode({"event_id": answer.outcome.event_id})

        endpoint = f"send_{membership}"
        stored = await self._transactions.once(origin, endpoint, transaction_id, body, work)
        if membership == "join":
            return await self._join_answer(room_id, stored)
        if membership == "knock":
            state = stripped(loaded.room.state)
            return encode({"stripped_state": state, "knock_room_state": state})
        return b"{}"

    async def invite(self, origin: str, transaction_id: str, body: JsonObject) -> bytes:
        """Take an invite: of a participant, as the hub; or of a hub, as the target's server.

        Raises:
            BadRequest, SchemaViolation, EventTooLarge: it is no invite.
            Forbidden, BadSignature, EventRejected: it is not allowed.
            NotFound, WrongServer: the room or the target is not known here, or the room has another hub.
            IncompatibleRoomVersion: a room version that we do not know.
            PeerError: the target's server refuses it, or does not answer.
        """
        event = body.get("event")
        if not isinstance(event, dict):
            raise BadRequest("event must be an object")
        if not isinstance(body.get("room_version"), str):
            raise BadRequest("room_version must be a string")
        if not isinstance(body.get("invite_room_state", []), list):
            raise BadRequest("invite_room_state must be a list")
        peek_room_id(event)

        async def work(_: Recorder) -> bytes:
            if is_lpdu(event):
                signed = await self._invite_for(origin, event, body["room_version"])
            else:
                await self._check_no_usurper(origin, peek_room_id(event))
                pdu = await self._invitations.take(
                    origin, event, body["room_version"], body.get("invite_room_state", [])
                )
                signed = pdu.canonical
            return b'{"event":' + signed + b',"pdu":' + signed + b"}"

        return await self._transactions.once(origin, "invite", transaction_id, body, work)

    async def _invite_for(self, origin: str, event: JsonObject, version: str) -> bytes:
        loaded = await self._hub_room(peek_room_id(event))
        if version != loaded.room.version.identifier:
            raise BadRequest(f"room_version must be {loaded.room.version.identifier}")
        lpdu = Lpdu.parse(event, loaded.room.version)
        if lpdu.type != "m.room.member" or lpdu.content.get("membership") != "invite" or lpdu.state_key is None:
            raise BadRequest("event must be an m.room.member event with membership invite")
        if lpdu.sender_server != origin:
            raise Forbidden(f"{lpdu.sender} is not a user of {origin}")
        if lpdu.hub_server != self._identity.server_name:
            raise WrongServer(loaded.room.room_id, loaded.room.hub_server)
        sequenced = await self._inviter.invite(loaded, lpdu)
        if sequenced.pdu is not None:
            return sequenced.pdu.canonical
        stored = await self._database.read(lambda tx: self._store.event(tx, sequenced.event_id))
        if stored is None:
            raise NotFound(f"{sequenced.event_id} is not known here")
        return stored.canonical

    async def _check_no_usurper(self, origin: str, room_id: str) -> None:
        """Raises :class:`Forbidden` for an invite into a room that we are in, from a server that is not its hub."""
        loaded = await self._rooms.loaded(room_id)
        if loaded is not None and loaded.room.is_participating and loaded.room.hub_server != origin:
            raise Forbidden(f"{origin} is not the hub of {room_id}, which is {loaded.room.hub_server}")

    async def _hub_room(self, room_id: str) -> LoadedRoom:
        await self._policies.check_room(room_id)
        loaded = await self._rooms.loaded(room_id)
        if loaded is None:
            raise NotFound(f"this server does not know the room {room_id}")
        if not loaded.room.is_hub:
            raise WrongServer(room_id, loaded.room.hub_server)
        return loaded

    async def _join_answer(self, room_id: str, stored: bytes) -> bytes:
        event_id: str = parse_object(stored)["event_id"]
        store = self._store

        def work(tx: Any) -> bytes:
            event = store.event(tx, event_id)
            if event is None:
                raise NotFound(f"{event_id} is not known here")
            state = store.state_before(tx, room_id, event.position)
            chain = auth_chain(tx, store, state)
            return b'{"auth_chain":[%b],"event":%b,"state":[%b]}' % (
                b",".join(one.canonical for one in chain),
                event.canonical,
                b",".join(one.canonical for one in state),
            )

        return await self._database.read(work)


def _check_is(lpdu: Lpdu, membership: str, origin: str) -> None:
    if lpdu.type != "m.room.member" or lpdu.content.get("membership") != membership:
        raise BadRequest(f"expected an m.room.member event with membership {membership}")
    if lpdu.sender_server != origin:
        raise Forbidden(f"{lpdu.sender} is not a user of {origin}")
    if lpdu.sender != lpdu.state_key:
        raise Forbidden(f"a {membership} must be by the user whom it is about")
