"""The policies that come with lmatrix: a list of blocked rooms, and rules for invites.

Owns: :class:`BlockedRooms` and :class:`InviteRules`, as the configuration's section ``policies`` sets them up.

Implements the I-D's "Spam Prevention" (blocking a room by its ID) and "User Privacy" (refusing unwanted invites).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from twisted.internet.interfaces import IReactorTime

from lmatrix.ids import server_of
from lmatrix.policies.globs import Globs
from lmatrix.policies.plugin import ALLOW, Answer, Refuse, Verdict
from lmatrix.rooms.policy import Invite

BLOCKED = "This room is blocked on this server."
REMEMBERED_SECONDS = 60.0
"""How long it is believed that a server shares a room with us, or does not: finding out goes through all members."""

MAX_REMEMBERED = 1000


class BlockedRooms:
    """Rooms in which nobody of this server takes part.

    Args:
        room_ids: the rooms.
        servers: patterns; every room whose ID bears a server name that matches.
    """

    def __init__(self, room_ids: Iterable[str] = (), servers: Iterable[str] = ()) -> None:
        self._room_ids = frozenset(room_ids)
        self._servers = Globs(servers)

    def check_room(self, room_id: str) -> Verdict:
        """See :class:`~lmatrix.policies.plugin.ChecksRooms`."""
        if room_id in self._room_ids or (self._servers and self._servers.match(server_of(room_id))):
            return Refuse(BLOCKED)
        return ALLOW


class InviteRules:
    """Who may invite our users. Our users themselves may, unless ``blocked_users`` says otherwise.

    Args:
        server_name: ours.
        blocked_servers: patterns; nobody of such a server, and nobody into a room whose hub it is.
        blocked_users: patterns for user IDs.
        allowed_servers: patterns; when there are any, only users of such a server.
        shares_a_room: whether somebody of a server is in a room with one of our users; ``None``: nobody has to be.
        clock: how long an answer to that is believed.
    """

    def __init__(
        self,
        server_name: str,
        *,
        blocked_servers: Iterable[str] = (),
        blocked_users: Iterable[str] = (),
        allowed_servers: Iterable[str] = (),
        shares_a_room: Callable[[str], Awaitable[bool]] | None = None,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._blocked_servers = Globs(blocked_servers)
        self._blocked_users = Globs(blocked_users)
        self._allowed_servers = Globs(allowed_servers)
        self._shares_a_room = shares_a_room
        self._clock = clock
        self._remembered: OrderedDict[str, tuple[bool, float]] = OrderedDict()

    def check_invite(self, invite: Invite) -> Answer:
        """See :class:`~lmatrix.policies.plugin.ChecksInvites`."""
        server = invite.inviter_server
        if self._blocked_users.match(invite.inviter):
            return Refuse(f"{invite.inviter} may not invite users of this server.")
        if server == self._server_name:
            return ALLOW
        for name in (server, invite.hub_server):
            if self._blocked_servers.match(name):
                return Refuse(f"Invites from {name} are not taken here.")
        if self._allowed_servers and not self._allowed_servers.match(server):
            return Refuse(f"Invites from {server} are not taken here.")
        if self._shares_a_room is not None:
            return self._from_a_shared_room(server)
        return ALLOW

    async def _from_a_shared_room(self, server: str) -> Verdict:
        if await self._shares(server):
            return ALLOW
        return Refuse(f"Invites are taken only from servers that share a room with this one; {server} does not.")

    async def _shares(self, server: str) -> bool:
        now = self._clock.seconds()
        shares, until = self._remembered.get(server, (False, now))
        if now >= until:
            if self._shares_a_room is None:
                return True
            shares = await self._shares_a_room(server)
            self._remembered[server] = (shares, self._clock.seconds() + REMEMBERED_SECONDS)
            self._remembered.move_to_end(server)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return shares
