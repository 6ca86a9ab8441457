"""Refusing an invite, or taking a knock back, from outside the room (I-D "Rejecting Invites and Leaves").

Owns: the ``make_leave``/``send_leave`` handshake. A user can always be rid of an invite: when the hub cannot be
reached, or does not let the user leave, the invite ends here all the same.
"""

from __future__ import annotations

from twisted.logger import Logger

from lmatrix.errors import PeerError, UnsupportedRoomVersion
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.asking import Asker
from lmatrix.rooms.interfaces import JsonObject, Peers, PendingInvite


class Departer:
    """Declines invites on behalf of our own users.

    Args:
        asker, peers: the way to hubs.
    """

    log = Logger()

    def __init__(self, asker: Asker, peers: Peers) -> None:
        self._asker = asker
        self._peers = peers

    async def decline(self, invite: PendingInvite, content: JsonObject) -> Lpdu:
        """Tell the hub that the user does not come; returns the event that says so.

        A hub that cannot be told, or answers with a room version that we do not know, is logged, and does not keep the
        invite alive.
        """
        try:
            asked = await self._asker.ask(
                invite.hub_server, "leave", invite.room_id, invite.user_id, content, room_version(invite.room_version)
            )
            await self._peers.send_membership(asked.hub, "leave", asked.version, asked.lpdu)
        except (PeerError, UnsupportedRoomVersion) as error:
            self.log.warn(
                "{room_id}: {user_id} declined the invite, but {hub} could not be told: {error}",
                room_id=invite.room_id,
                user_id=invite.user_id,
                hub=invite.hub_server,
                error=error,
            )
            version = room_version(invite.room_version)
            return self._asker.signed(invite.hub_server, version, invite.room_id, invite.user_id, content)
        return asked.lpdu
