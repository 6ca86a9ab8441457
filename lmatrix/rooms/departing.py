"""Refusing an invite, or taking a knock back, from outside the room (I-D "Rejecting Invites and Leaves").

Owns: the ``make_leave``/``send_leave`` handshake. A user can always be rid of an invite: when the hub cannot be
reached, or does not let the user leave, the invite ends here all the same.
"""

from __future__ import annotations

from twisted.logger import Logger

from lmatrix.errors import PeerError
from lmatrix.events.building import build_lpdu
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, Peers, PendingInvite
from lmatrix.rooms.timestamps import Timestamps


class Departer:
    """Declines invites on behalf of our own users.

    Args:
        identity: who signs.
        peers: the way to hubs.
        timestamps: for the time of the event.
    """

    log = Logger()

    def __init__(self, identity: ServerIdentity, peers: Peers, timestamps: Timestamps) -> None:
        self._identity = identity
        self._peers = peers
        self._timestamps = timestamps

    async def decline(self, invite: PendingInvite, content: JsonObject) -> None:
        """Tell the hub that the user does not come. A hub that cannot be told is logged, and does not keep the invite
        alive.
        """
        version = room_version(invite.room_version)
        try:
            template = await self._peers.make_membership(
                invite.hub_server, "leave", invite.room_id, invite.user_id, (version.identifier,)
            )
            named_hub = template.event.get("hub_server")
            lpdu = build_lpdu(
                version,
                room_id=invite.room_id,
                type="m.room.member",
                sender=invite.user_id,
                content=content,
                origin_server_ts=self._timestamps.next(invite.user_id),
                hub_server=named_hub if isinstance(named_hub, str) else invite.hub_server,
                server_name=self._identity.server_name,
                keys=self._identity.keys,
                state_key=invite.user_id,
            )
            await self._peers.send_membership(invite.hub_server, "leave", version, lpdu)
        except PeerError as error:
            self.log.warn(
                "{room_id}: {user_id} declined the invite, but {hub} could not be told: {error}",
                room_id=invite.room_id,
                user_id=invite.user_id,
                hub=invite.hub_server,
                error=error,
            )
