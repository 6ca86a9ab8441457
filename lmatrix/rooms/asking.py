"""The asking side of a membership handshake, up to the signed LPDU (I-D "Make and Send Handshake").

Owns: finding the hub that gives a template, following servers that name another as the hub, and building our LPDU. Of
    the
template nothing is used but the hub that it names: the event is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        version: the room's version, as far as is known.
        version_is_known: whether the hub, or somebody before it, has said the version. A bare template (the I-D's form)
            does not.
        lpdu: our event, signed for that hub.
    """

    hub: str
    version: RoomVersion
    version_is_known: bool
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

    async def ask(
        self,
        server: str,
        membership: str,
        room_id: str,
        user_id: str,
        content: JsonObject,
        known: RoomVersion | None = None,
    ) -> Asked:
        """Begin a handshake with a server that may be, or know, the hub.

        Args:
            membership: ``"join"``, ``"leave"`` or ``"knock"``.
            content: content of the event, ``membership`` included.
            known: the room's version, when it is known already.

        Raises:
            PeerError: it does not let the user, or gives no usable answer.
            UnsupportedRoomVersion: the room has a version that we do not know.
        """
        hub, template = await self._template(server, membership, room_id, user_id)
        stated = None if template.room_version is None else room_version(template.room_version)
        # A bare template does not say the version, and is what prototypes answer; but so may anybody by the I-D. A
        # membership event that we make is the same in all versions.
        version = stated or known or room_version(known_room_versions()[-1])
        hub_server = _named(hub, template.event.get("hub_server")) or hub
        lpdu = self.signed(hub_server, version, room_id, user_id, content)
        return Asked(hub, version, (stated or known) is not None, lpdu)

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


def version_of_room(asked: Asked, state: Sequence[JsonObject]) -> RoomVersion:
    """The room's version: the one that is known, or else what the room's create event says.

    Args:
        state: events, or stripped ones, as the hub gave them.

    Raises:
        UnsupportedRoomVersion: we do not know that version.
    """
    if not asked.version_is_known:
        for event in state:
            content = event.get("content")
            if event.get("type") == "m.room.create" and isinstance(content, dict):
                return room_version(content.get("room_version"))
    return asked.version


def _named(server: str, hub_server: object) -> str | None:
    """The hub that a server names, if it names one. Raises :class:`PeerMisbehaved` when nothing can have that name."""
    if not isinstance(hub_server, str):
        return None
    try:
        return ids.server_name(hub_server)
    except InvalidIdentifier as error:
        raise PeerMisbehaved(server, f"{server} names a hub that cannot be one: {error}") from error
