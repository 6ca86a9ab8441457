"""``/rooms/{roomId}/evidence``: what is kept against the hubs of a room."""

from __future__ import annotations

from lmatrix.admin_api.interfaces import ExportsEvidence
from lmatrix.admin_api.pages import after_number, limit_of, room_id_of
from lmatrix.http.messages import JsonObject, JsonRequest

MAX_PIECES = 100
"""Pieces in one answer: each may be several events of 64 KiB."""


class EvidenceResource:
    """Shows evidence.

    Args:
        exporter: makes the documents.
    """

    def __init__(self, exporter: ExportsEvidence) -> None:
        self._exporter = exporter

    async def get(self, request: JsonRequest) -> JsonObject:
        """``GET /rooms/{roomId}/evidence``: a document as :mod:`lmatrix.rooms.evidence_document` describes it, and
        ``next_batch`` when there may be more.
        """
        limit = min(limit_of(request), MAX_PIECES)
        found = await self._exporter.page(room_id_of(request), after_number(request), limit)
        answer = found.document.to_json()
        if found.last is not None:
            answer["next_batch"] = str(found.last)
        return answer
