"""What the admin API needs of the rooms and the directory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from lmatrix.directory.interfaces import StoredAlias
from lmatrix.http.messages import JsonObject
from lmatrix.rooms.evidence_export import EvidencePage
from lmatrix.rooms.hearing import Heard
from lmatrix.rooms.recovery import RecoveringRoom
from lmatrix.rooms.room import Room


class LoadsRooms(Protocol):
    """See :class:`lmatrix.rooms.registry.Rooms`."""

    async def load(self, room_id: str) -> Room | None: ...


class MovesRooms(Protocol):
    """See :class:`lmatrix.rooms.transfer.HubTransfer`."""

    async def transfer(self, room_id: str, candidate: str) -> str: ...

    def candidates(self, room: Room) -> list[str]: ...


class ExportsEvidence(Protocol):
    """See :class:`lmatrix.rooms.evidence_export.EvidenceExporter`."""

    async def page(self, room_id: str, after: int, limit: int) -> EvidencePage: ...


class RecoversRooms(Protocol):
    """See :class:`lmatrix.rooms.recovery.Recovery`."""

    def status(self, room_id: str) -> RecoveringRoom | None: ...

    def all_held(self) -> Sequence[RecoveringRoom]: ...

    def forked(self, room_id: str) -> str | None: ...

    async def go_on(self, room_id: str, without: Collection[str]) -> None: ...


class LooksAfterAliases(Protocol):
    """See :class:`lmatrix.directory.aliases.Aliases`."""

    async def all_after(self, alias: str, limit: int) -> Sequence[StoredAlias]: ...

    async def remove_for_operator(self, alias: str) -> str: ...


class OperatesMirrors(Protocol):
    """See :class:`lmatrix.replication.operating.MirrorOperations`."""

    async def all_mirrors(self) -> Sequence[JsonObject]: ...

    async def compare(self, room_id: str) -> JsonObject: ...

    async def open_room(self, dag_room_id: str, opener: str, invitees: Sequence[str]) -> str: ...

    async def enter_room(self, user_id: str, lm_room_id: str, via: Sequence[str]) -> str: ...

    async def stop_mirror(self, room_id: str, reason: str) -> None: ...


class HearsHeads(Protocol):
    """See :class:`lmatrix.rooms.hearing.HeadListener`."""

    def last_heard(self, room_id: str) -> Sequence[Heard]: ...
