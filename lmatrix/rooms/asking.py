"""The asking side of a membership handshake, up to the signed LPDU (I-D "Make and Send Handshake").

Owns: finding the hub that gives a template, following servers that name another as the hub, and building our LPDU. Of
    the
template nothing is used but the hub that it names: the event is ours.
"""

from __future__ import annotations

import attrs

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier, PeerMisbehaved, PeerRefused
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import RoomVersion, known_room_versions, room_version
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, MembershipTemplate, Peers
from lmatrix.rooms.timestamps import Timestamps

MAX_HUB_REDIRECTIONS = 3


@attrs.frozen(slots=True)
class Asked:
    """What a handshake goes on with.

    Attributes:
        hub: the server to send it to.
        version: the room's version.
        lpdu: our event, signed for that hub.
    """

    hub: str
    version: RoomVersion
    lpdu: Lpdu


class Asker:
    """Asks hubs for templates, on behalf of our own users.

    Args:
        identity: who signs.
        peers: the way to hubs.
        timestamps: for the time of the event.
    """

    def __init__(self, identity: ServerIdentity, peers: Peers, timestamps: Timestamps) -> None:
        self._identity = identity
        self._peers = peers
        self._timestamps = timestamps

    async def ask(self, server: str, membership: str, room_id: str, user_id: str, content: JsonObject) -> Asked:
        """Begin a handshake with a server that may be, or know, the hub.

        Args:
            membership: ``"join"``, ``"leave"`` or ``"knock"``.
            content: content of the event, ``membership`` included.

        Raises:
            PeerError: it does not let the user, or gives no usable answer.
            UnsupportedRoomVersion: the room has a version that we do not know.
        """
        hub, template = await self._template(server, membership, room_id, user_id)
        # A bare template (the I-D's form) does not say the version; it is one of those that we named, and only
        # prototypes answer so.
        version = room_version(template.room_version or known_room_versions()[-1])
        hub_server = _named(hub, template.event.get("hub_server")) or hub
        return Asked(hub, version, self.signed(hub_server, version, room_id, user_id, content))

    def signed(self, hub_server: str, version: RoomVersion, room_id: str, user_id: str, content: JsonObject) -> Lpdu:
        """A user's event about their own membership, signed for a hub."""
        return build_lpdu(
            version,
            room_id=room_id,
            type="m.room.member",
            sender=user_id,
            content=content,
            origin_server_ts=self._timestamps.next(user_id),
            hub_server=hub_server,
            server_name=self._identity.server_name,
            keys=self._identity.keys,
            state_key=user_id,
        )

    async def _template(
        self, server: str, membership: str, room_id: str, user_id: str
    ) -> tuple[str, MembershipTemplate]:
        hub = server
        for _ in range(MAX_HUB_REDIRECTIONS + 1):
            try:
                return hub, await self._peers.make_membership(hub, membership, room_id, user_id, known_room_versions())
            except PeerRefused as error:
                named = _named(hub, error.body.get("hub_server")) if error.errcode == "M_WRONG_SERVER" else None
                if named is None or named == hub:
                    raise
                hub = named
        raise PeerMisbehaved(server, f"no server of {room_id} admits to be its hub")


def _named(server: str, hub_server: object) -> str | None:
    """The hub that a server names, if it names one. Raises :class:`PeerMisbehaved` when nothing can have that name."""
    if not isinstance(hub_server, str):
        return None
    try:
        return ids.server_name(hub_server)
    except InvalidIdentifier as error:
        raise PeerMisbehaved(server, f"{server} names a hub that cannot be one: {error}") from error
