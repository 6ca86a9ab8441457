"""The hub's part of an invite (I-D "Invites"; PROTOCOL notes on ``invite``).

Owns: completing an invite, offering it to the target's server, and appending it once that server has signed. The
    sequencer is
not held while the target thinks: a slow target must not stall a room. When the head has moved meanwhile, the same
invite is completed anew on the new head, and the target is sent that one without waiting.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.errors import EventDropped, LMatrixError, PeerMisbehaved
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.stripped_state import stripped
from lmatrix.ids import server_of
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, Keyring, Peers
from lmatrix.rooms.invitations import Invitations
from lmatrix.rooms.policy import Invite, Policies, ProposedEvent
from lmatrix.rooms.registry import LoadedRoom
from lmatrix.rooms.room import Room, RoomDraft
from lmatrix.rooms.sequencer import Commit
from lmatrix.rooms.sequencing import (
    LocalEvent,
    Sequenced,
    complete,
    make_local,
    take_local,
    take_lpdu,
    take_signed_invite,
)


class Inviter:
    """Carries invites out for the rooms whose hub this server is.

    Args:
        identity: who signs.
        checker: verifies participants' LPDUs.
        keyring: for the target server's signature.
        peers: the way to target servers.
        invitations: for targets that are our own users.
        policies: may refuse an LPDU, and an invite for one of our own users.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        checker: EventChecker,
        keyring: Keyring,
        peers: Peers,
        invitations: Invitations,
        policies: Policies,
    ) -> None:
        self._identity = identity
        self._checker = checker
        self._keyring = keyring
        self._peers = peers
        self._invitations = invitations
        self._policies = policies

    async def invite(self, loaded: LoadedRoom, source: Lpdu | LocalEvent) -> Sequenced:
        """Invite a user, on behalf of a participant's user (an LPDU, not yet verified) or one of our own.

        Returns:
            the event in the room, on disk.

        Raises:
            BadSignature: the LPDU is not properly signed.
            EventRejected: the auth rules refuse the invite.
            NotFound: the target is ours, and does not exist.
            Forbidden: a policy of ours refuses it.
            PeerRefused: the target's server refuses it.
            PeerUnreachable, PeerMisbehaved: it gives no usable answer.
        """
        if isinstance(source, Lpdu):
            verified = (await self._checker.check([source], server_of(source.sender)))[0].event
            if isinstance(verified, EventDropped):
                raise verified
            source = verified
            await self._policies.check_event(ProposedEvent.of(source, server_of(source.sender)))
        target = source.state_key or ""
        server = server_of(target)
        if server == self._identity.server_name:
            # Who may not invite does not learn who exists.
            made = self._made(RoomDraft(loaded.room), source)
            await self._invitations.check_user(target)
            await self._policies.check_invite(Invite.of(made, server))
        elif loaded.room.joined_per_server[server] == 0:
            offered = await self._offer(loaded.room, source, server)
            return await loaded.sequencer.submit(
                lambda draft: take_signed_invite(draft, offered, source, self._identity),
                source=server_of(source.sender),
            )
        return await loaded.sequencer.submit(lambda draft: self._take(draft, source), source=server_of(source.sender))

    def offer_committed(self, commit: Commit) -> None:
        """After a commit: invites whose targets' servers have not seen the event as it is now are sent to them.

        Those are invites that came as ordinary events, and those that had to be completed anew.
        """
        room = commit.room
        for appended in commit.draft.events:
            pdu = appended.pdu
            if pdu.type != "m.room.member" or pdu.content.get("membership") != "invite" or pdu.state_key is None:
                continue
            server = server_of(pdu.state_key)
            known = server in pdu.signatures or room.joined_per_server[server] > 0
            if server != self._identity.server_name and not known:
                Deferred.fromCoroutine(self._send_final(room, pdu, server)).addErrback(
                    lambda failure: self.log.failure("an invite could not be sent", failure=failure)
                )

    def _take(self, draft: RoomDraft, source: Lpdu | LocalEvent) -> Sequenced:
        if isinstance(source, Lpdu):
            return take_lpdu(draft, source, self._identity)
        return take_local(draft, source, self._identity)

    def _made(self, draft: RoomDraft, source: Lpdu | LocalEvent) -> Pdu:
        """The invite on the head of now, authorised, but not appended."""
        if isinstance(source, Lpdu):
            return complete(draft, source, self._identity)
        return make_local(draft, source, self._identity)

    async def _offer(self, room: Room, source: Lpdu | LocalEvent, server: str) -> Pdu:
        pdu = self._made(RoomDraft(room), source)
        answer = await self._peers.invite(server, room.version, dict(pdu.fields), stripped(room.state))
        return await self._with_target_signature(pdu, answer, server)

    async def _with_target_signature(self, pdu: Pdu, answer: JsonObject, server: str) -> Pdu:
        """Our event with the target's signatures from its answer, of which nothing else is used."""
        signatures = answer.get("signatures")
        theirs = signatures.get(server) if isinstance(signatures, dict) else None
        if not isinstance(theirs, dict) or not 0 < len(theirs) <= 8:
            raise PeerMisbehaved(server, f"{server} answered the invite without signing it")
        keys = (await self._keyring.keys_for({server: theirs.keys()})).get(server, {})
        good = {
            key_id: signature
            for key_id, signature in theirs.items()
            if isinstance(signature, str)
            and key_id in keys
            and keys[key_id].verify_key.verify(pdu.signing_bytes, signature)
        }
        if not good:
            raise PeerMisbehaved(server, f"{server} answered the invite with a signature that does not verify")
        return Pdu.parse({**pdu.fields, "signatures": {**pdu.signatures, server: good}}, pdu.room_version)

    async def _send_final(self, room: Room, pdu: Pdu, server: str) -> None:
        try:
            await self._peers.invite(server, room.version, dict(pdu.fields), stripped(room.state))
        except LMatrixError as error:
            self.log.warn(
                "{room_id}: {server} could not be told of the invite of {user}: {error}",
                room_id=room.room_id,
                server=server,
                user=pdu.state_key,
                error=error,
            )
