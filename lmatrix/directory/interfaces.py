"""What the directory needs of its neighbours, as interfaces, and the values that cross them.

Owns: the protocols of its stores (implemented in :mod:`lmatrix.storage`), of the requests to other servers
(:mod:`lmatrix.federation`) and of what it asks of the rooms. As everywhere, a store method takes the transaction first
and never commits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import attrs

from lmatrix.directory.profiles import Profile
from lmatrix.rooms.room import Room


@attrs.frozen(slots=True)
class StoredAlias:
    """An alias of this server's.

    Attributes:
        alias: the alias.
        room_id: where it leads.
        creator: user ID of who made it.
    """

    alias: str
    room_id: str
    creator: str


@attrs.frozen(slots=True)
class AliasTarget:
    """Where an alias leads.

    Attributes:
        room_id: the room.
        servers: servers that may let one in, the likeliest first.
    """

    room_id: str
    servers: tuple[str, ...]


class ProfileStore(Protocol):
    """Local users' profiles. Each change has a number, so that it is known up to which one the rooms were told."""

    def profile(self, tx: Any, user_id: str) -> Profile:
        """An empty one for a user who has not set anything."""

    def put_profile(self, tx: Any, user_id: str, profile: Profile) -> bool:
        """Whether anything is different; the rooms are to be told then."""

    def unannounced(self, tx: Any, user_id: str) -> int | None:
        """The number of the last change, when the rooms have not been told of it."""

    def users_unannounced(self, tx: Any) -> Sequence[str]:
        """Users with a change of which the rooms have not been told."""

    def announced(self, tx: Any, user_id: str, change: int) -> None:
        """The rooms have been told of all changes up to this one."""


class AliasStore(Protocol):
    """The aliases of this server."""

    def alias(self, tx: Any, alias: str) -> StoredAlias | None: ...

    def put_alias(self, tx: Any, alias: StoredAlias, now_ms: int) -> None:
        """Raises :class:`~lmatrix.errors.AliasTaken`."""

    def remove_alias(self, tx: Any, alias: str) -> None: ...

    def aliases_of_room(self, tx: Any, room_id: str) -> Sequence[str]:
        """Sorted."""

    def aliases_by(self, tx: Any, creator: str) -> int:
        """How many a user has made that there are."""

    def aliases_after(self, tx: Any, alias: str, limit: int) -> Sequence[StoredAlias]:
        """In the order of their names, after that one."""


@attrs.frozen(slots=True)
class PublishedState:
    """What the list of public rooms is made from.

    Attributes:
        room_id: the room.
        joined: how many users are in it.
        content: of some of its state events, by type.
    """

    room_id: str
    joined: int
    content: Mapping[str, Mapping[str, Any]]


class PublishedRoomStore(Protocol):
    """Which rooms this server shows to everybody."""

    def is_published(self, tx: Any, room_id: str) -> bool: ...

    def set_published(self, tx: Any, room_id: str, published: bool) -> None: ...

    def published(self, tx: Any, server_name: str, types: Collection[str], limit: int) -> Sequence[PublishedState]:
        """Those in which a user of the server is joined, with their state of some types."""


class Memberships(Protocol):
    """Who is in which room."""

    def is_joined(self, tx: Any, room_id: str, user_id: str) -> bool: ...

    def joined_rooms(self, tx: Any, user_id: str) -> Sequence[str]: ...


class LoadsRooms(Protocol):
    """See :class:`lmatrix.rooms.registry.Rooms`."""

    async def load(self, room_id: str) -> Room | None: ...


class Renames(Protocol):
    """See :class:`lmatrix.rooms.renaming.Renamer`."""

    async def rename(self, room_id: str, user_id: str) -> None: ...


class SendsEvents(Protocol):
    """See :class:`lmatrix.rooms.local_users.LocalUsers`."""

    async def send(
        self,
        room_id: str,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
    ) -> str: ...


class DirectoryPeers(Protocol):
    """Requests to other servers about their users and aliases.

    Every method raises :class:`~lmatrix.errors.PeerError`, and :class:`~lmatrix.errors.NotFound` where the other
    server does not know whom or what it is asked about.
    """

    async def profile(self, destination: str, user_id: str) -> Profile: ...

    async def alias(self, destination: str, alias: str) -> AliasTarget:
        """What comes back has been checked for its form, and is bounded."""
