"""The directory, put together.

Owns: the order in which its parts are built and handed to one another.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.directory.aliases import Aliases
from lmatrix.directory.canonical_alias import CanonicalAliases
from lmatrix.directory.interfaces import (
    AliasStore,
    DirectoryPeers,
    LoadsRooms,
    Memberships,
    ProfileStore,
    PublishedRoomStore,
    Renames,
    SendsEvents,
)
from lmatrix.directory.profile_changes import ProfileChanges
from lmatrix.directory.profile_reading import Profiles
from lmatrix.directory.public_rooms import PublicRooms
from lmatrix.rooms.interfaces import Database, LocalDirectory
from lmatrix.rooms.policy import Policies


@attrs.frozen(slots=True, kw_only=True)
class DirectoryStores:
    """The stores that the directory uses."""

    profiles: ProfileStore
    aliases: AliasStore
    memberships: Memberships
    published: PublishedRoomStore


@attrs.frozen(slots=True, kw_only=True)
class DirectoryFloor:
    """What the floors above call.

    Attributes:
        profiles: anybody's profile.
        changes: local users' changes of theirs.
        aliases: where aliases lead.
        canonical: what rooms call themselves.
        public_rooms: the rooms that are shown to everybody.
    """

    profiles: Profiles
    changes: ProfileChanges
    aliases: Aliases
    canonical: CanonicalAliases
    public_rooms: PublicRooms

    @classmethod
    def build(
        cls,
        server_name: str,
        database: Database,
        stores: DirectoryStores,
        *,
        accounts: LocalDirectory,
        peers: DirectoryPeers,
        rooms: LoadsRooms,
        sender: SendsEvents,
        renamer: Renames,
        policies: Policies,
        clock: IReactorTime,
    ) -> DirectoryFloor:
        """Build it.

        Args:
            server_name: ours.
            accounts: which users are ours.
            peers: the way to other servers' directories.
            rooms, sender, renamer: the rooms, and what local users do in them.
            policies: what is allowed beside the rules of the rooms.
        """
        aliases = Aliases(
            server_name,
            database=database,
            store=stores.aliases,
            memberships=stores.memberships,
            rooms=rooms,
            policies=policies,
            peers=peers,
            clock=clock,
        )
        return cls(
            profiles=Profiles(
                server_name,
                database=database,
                accounts=accounts,
                store=stores.profiles,
                peers=peers,
                clock=clock,
            ),
            changes=ProfileChanges(
                database=database,
                store=stores.profiles,
                memberships=stores.memberships,
                renamer=renamer,
                clock=clock,
            ),
            aliases=aliases,
            canonical=CanonicalAliases(aliases.find, rooms, sender),
            public_rooms=PublicRooms(
                server_name,
                database=database,
                store=stores.published,
                rooms=rooms,
                policies=policies,
                clock=clock,
            ),
        )

    async def stop(self) -> None:
        """Leave nothing behind."""
        await self.changes.stop()
