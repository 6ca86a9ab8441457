"""What the admin API needs of the rooms."""

from __future__ import annotations

from typing import Protocol

from lmatrix.rooms.evidence_export import EvidencePage
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
