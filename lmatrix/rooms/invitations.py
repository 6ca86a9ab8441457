"""Invites for our own users (I-D "POST /invite", the target server's part).

Owns: deciding whether an invite from a hub is taken, signing it, keeping it until it is answered, and its end when
the hub says that it is withdrawn. An invite does not make this server a participant: it can verify the event, not the
room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from lmatrix.errors import (
    BadRequest,
    EventDropped,
    Forbidden,
    IncompatibleRoomVersion,
    NotFound,
    UnsupportedRoomVersion,
)
from lmatrix.events.building import add_signature
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.stripped_state import check_stripped
from lmatrix.ids import server_of
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import (
    AccountLookup,
    Database,
    InviteStore,
    JsonObject,
    LocalAudience,
    LocalDirectory,
    PendingInvite,
)
from lmatrix.rooms.policy import Invite, Policies

MAX_PENDING = 500
"""Invites and knocks of one user that may wait for an answer."""


class StoredAccounts:
    """The :class:`~lmatrix.rooms.interfaces.LocalDirectory` of a server that keeps its users' accounts itself.

    Args:
        database, accounts: where they are.
    """

    def __init__(self, database: Database, accounts: AccountLookup) -> None:
        self._database = database
        self._accounts = accounts

    async def user_exists(self, user_id: str) -> bool:
        """Whether the user has an account."""
        return await self._database.read(lambda tx: self._accounts.user_exists(tx, user_id))


class Invitations:
    """Takes invites for our own users.

    Args:
        identity: who signs.
        checker: verifies the event.
        database, store: where invites are kept.
        directory: which users are ours.
        audience: tells the user.
        policies: may refuse an invite (I-D "User Privacy", "Spam Prevention").
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        checker: EventChecker,
        database: Database,
        store: InviteStore,
        directory: LocalDirectory,
        audience: LocalAudience,
        policies: Policies,
    ) -> None:
        self._identity = identity
        self._checker = checker
        self._database = database
        self._store = store
        self._directory = directory
        self._audience = audience
        self._policies = policies

    async def take(self, origin: str, event: JsonObject, version_id: object, stripped_state: object) -> Pdu:
        """Take an invite, a PDU, from a room's hub; returns it with our signature, once it is kept.

        Raises:
            BadRequest: not an invite of one of our users.
            IncompatibleRoomVersion: a room version that we do not know.
            SchemaViolation, BadSignature: the event is malformed or not properly signed.
            Forbidden: it is not from its hub, a policy refuses it, or the user has too many invites already.
            NotFound: there is no such user.
        """
        try:
            version = room_version(version_id)
        except UnsupportedRoomVersion:
            raise IncompatibleRoomVersion(str(version_id)[:128]) from None
        invite = Pdu.parse(event, version)
        user_id = self._check_is_ours(invite)
        if origin != (invite.hub_server or invite.sender_server):
            raise Forbidden(f"{origin} is not the hub that this invite names")
        stripped = check_stripped(stripped_state)
        checked = (await self._checker.check([invite], origin))[0].event
        if isinstance(checked, EventDropped):
            raise checked
        await self.check_user(user_id)
        await self._policies.check_room(checked.room_id)
        await self._policies.check_invite(Invite.of(checked, origin, stripped))
        signed = add_signature(checked, self._identity.server_name, self._identity.keys)

        def work(tx: Any) -> int:
            if self._store.pending_count(tx, user_id, signed.room_id) >= MAX_PENDING:
                raise Forbidden(f"{user_id} has {MAX_PENDING} invites that are not answered yet")
            return self._store.put(tx, user_id, signed.room_id, version.identifier, origin, signed, stripped)

        stream = await self._database.write(work)
        self._audience.stream_advanced(stream, signed.room_id, (user_id,))
        self.log.info(
            "{room_id}: {user_id} was invited by {sender}",
            room_id=signed.room_id,
            user_id=user_id,
            sender=signed.sender,
        )
        return signed

    async def pending(self, user_id: str, room_id: str) -> PendingInvite | None:
        """A user's pending invite (or knock) for a room that this server is not in."""
        return await self._database.read(lambda tx: self._store.get(tx, user_id, room_id))

    async def check_user(self, user_id: str) -> None:
        """Raises :class:`NotFound` unless the user is one of ours."""
        if not self._identity.owns(user_id) or not await self._directory.user_exists(user_id):
            raise NotFound(f"{user_id} does not exist on this server")

    async def member_event_arrived(self, origin: str, room_id: str, raw: JsonObject) -> bool:
        """A PDU arrived for a room that this server is not in: is it the end of one of our users' invites?

        Returns:
            whether it belonged to a pending invite (or knock), and so is dealt with.
        """
        user_id = raw.get("state_key")
        if raw.get("type") != "m.room.member" or not isinstance(user_id, str) or not self._identity.owns(user_id):
            return False
        invite = await self.pending(user_id, room_id)
        if invite is None or invite.hub_server != origin:
            return False
        pdu = await self._verified(raw, room_version(invite.room_version), room_id)
        if pdu is not None and pdu.content.get("membership") in ("leave", "ban"):
            await self.ended(user_id, room_id, pdu)
        return True

    async def ended(self, user_id: str, room_id: str, by: Pdu | Lpdu | None) -> None:
        """An invite is over: by a leave or ban, or ``None`` when the user joined."""
        stream = await self._database.write(lambda tx: self._store.remove(tx, user_id, room_id, by))
        if stream is not None:
            self._audience.stream_advanced(stream, room_id, (user_id,))

    async def _verified(self, raw: Mapping[str, Any], version: RoomVersion, room_id: str) -> Pdu | None:
        parsed = [pdu for pdu in self._checker.parse_pdus([dict(raw)], version) if pdu.room_id == room_id]
        verified = await self._checker.verified(parsed)
        return verified[0] if verified else None

    def _check_is_ours(self, invite: Pdu) -> str:
        if invite.type != "m.room.member" or invite.content.get("membership") != "invite":
            raise BadRequest("event must be an m.room.member event with membership invite")
        user_id = invite.state_key
        if user_id is None or "@" not in user_id or server_of(user_id) != self._identity.server_name:
            raise BadRequest(f"event: {user_id} is not a user of this server")
        return user_id
