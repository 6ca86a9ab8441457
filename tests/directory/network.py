"""Directories on the servers of :mod:`tests.rooms.network`, joined without HTTP.

Owns: :class:`DirectoryServer`, the real directory on a server's real stores and rooms, and
:class:`MemoryDirectoryPeers`, the requests between them, with errors as the wire gives them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TypeVar

from lmatrix.directory.floor import DirectoryFloor, DirectoryStores
from lmatrix.directory.interfaces import AliasTarget
from lmatrix.directory.profiles import Profile
from lmatrix.errors import NotFound, PeerRefused
from lmatrix.rooms.invitations import StoredAccounts
from lmatrix.storage.stores import Stores
from tests.rooms.network import Network, Server

T = TypeVar("T")


class MemoryDirectoryPeers:
    """Requests to the other servers.

    Args:
        network: between them.
        server_name: who asks.
        servers: all servers' directories, by server name.
    """

    def __init__(self, network: Network, server_name: str, servers: Mapping[str, DirectoryServer]) -> None:
        self._network = network
        self._us = server_name
        self._servers = servers

    def _reach(self, destination: str, what: str) -> DirectoryFloor:
        return self._servers[self._network.reach(self._us, destination, what).name].floor

    async def profile(self, destination: str, user_id: str) -> Profile:
        peer = self._reach(destination, "profile")
        await self._network.think(destination, "profile")
        return await self._ask(destination, peer.profiles.local(user_id))

    async def alias(self, destination: str, alias: str) -> AliasTarget:
        peer = self._reach(destination, "alias")
        await self._network.think(destination, "alias")
        return await self._ask(destination, peer.aliases.local(alias))

    async def _ask(self, destination: str, answer: Awaitable[T]) -> T:
        try:
            return await self._network.ask(destination, answer)
        except PeerRefused as error:
            if error.status == 404:
                raise NotFound(str(error)) from error
            raise


class DirectoryServer:
    """One server's directory.

    Args:
        server: its rooms.
        servers: all servers' directories, by server name; it adds itself.
    """

    def __init__(self, server: Server, servers: dict[str, DirectoryServer]) -> None:
        self.server = server
        self.stores = Stores.create()
        self._servers = servers
        self.floor = self.build()
        servers[server.name] = self

    def build(self) -> DirectoryFloor:
        """The directory on the server's database and rooms; again after a restart."""
        server = self.server
        self.floor = DirectoryFloor.build(
            server.name,
            server.database,
            DirectoryStores(
                profiles=self.stores.profiles,
                aliases=self.stores.aliases,
                memberships=self.stores.sharing,
                published=self.stores.published_rooms,
            ),
            accounts=StoredAccounts(server.database, server.accounts),
            peers=MemoryDirectoryPeers(server.network, server.name, self._servers),
            rooms=server.floor.rooms,
            sender=server.floor.local_users,
            renamer=server.floor.renamer,
            policies=server.policies,
            clock=server.network.clock,
        )
        return self.floor
