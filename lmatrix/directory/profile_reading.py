"""Whose profile is what (Client-Server API v1.11, "Profiles"; Server-Server API v1.11, "Querying for information").

Owns: :class:`Profiles`, which answers for local users from the database and for others by asking their servers.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from lmatrix.directory.interfaces import DirectoryPeers, ProfileStore
from lmatrix.directory.lookups import Lookups
from lmatrix.directory.profiles import Profile
from lmatrix.errors import NotFound
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database, LocalDirectory


class Profiles:
    """Tells profiles.

    Args:
        server_name: ours.
        accounts: who is a local user.
        database, store: what they are called.
        peers: whom to ask about others.
        clock: for how long answers are remembered.
    """

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        accounts: LocalDirectory,
        store: ProfileStore,
        peers: DirectoryPeers,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._accounts = accounts
        self._store = store
        self._peers = peers
        self._lookups: Lookups[Profile] = Lookups(clock)

    def is_local(self, user_id: str) -> bool:
        """Whether a user would be one of ours."""
        return server_of(user_id) == self._server_name

    async def local(self, user_id: str) -> Profile:
        """A local user's profile; empty when nothing is set. Raises :class:`NotFound`."""
        if not self.is_local(user_id) or not await self._accounts.user_exists(user_id):
            raise NotFound(f"{user_id} is not known here")
        return await self._database.read(lambda tx: self._store.profile(tx, user_id))

    async def of(self, user_id: str) -> Profile:
        """Anybody's profile.

        Raises:
            NotFound: there is no such user, as far as the user's server says.
            PeerError: that server gives no usable answer.
            Overloaded: too many servers are being asked.
        """
        if self.is_local(user_id):
            return await self.local(user_id)
        return await self._lookups.find(user_id, lambda: self._peers.profile(server_of(user_id), user_id))
