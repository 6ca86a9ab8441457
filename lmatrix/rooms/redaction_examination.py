"""Whether what is redacted in a stored room was redacted by somebody who may, and what was to be redacted is.

Owns: :class:`RedactionExamination`, which is told of the room's events one by one and judges at the end, because a
redaction comes after its target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from lmatrix.events.forms import Pdu
from lmatrix.events.redaction import redact
from lmatrix.events.state import StateView
from lmatrix.rooms.event_examination import parse_event
from lmatrix.rooms.examined import ExaminedEvent
from lmatrix.rooms.redactions import Redaction, redaction_by


@attrs.frozen(slots=True)
class _Target:
    """An event that the database says is redacted."""

    row: ExaminedEvent
    sender: str


class RedactionExamination:
    """The redactions of one room.

    Args:
        is_live: whether an event came in as it was sent, or with a snapshot, rather than as history that was fetched
            later. Only then does a redaction that comes in find it here.
        known: an event of the room by its ID.
    """

    def __init__(self, is_live: Callable[[ExaminedEvent], bool], known: Callable[[str], ExaminedEvent | None]) -> None:
        self._is_live = is_live
        self._known = known
        self._redactions: dict[str, tuple[ExaminedEvent, Redaction]] = {}
        self._targets: list[_Target] = []

    def held(self, row: ExaminedEvent, pdu: Pdu) -> None:
        """An event that is held."""
        if row.redacted_by is not None:
            self._targets.append(_Target(row, pdu.sender))

    def seen(self, row: ExaminedEvent, pdu: Pdu, state: StateView) -> None:
        """An event that was accepted, with the state before it."""
        redaction = redaction_by(pdu, state)
        if redaction is not None:
            self._redactions[pdu.event_id] = row, redaction

    def findings(self, *, all_seen: bool) -> Iterator[tuple[ExaminedEvent, str]]:
        """What is wrong with which event.

        Args:
            all_seen: whether :meth:`seen` was told of every event that there is.
        """
        for target in self._targets:
            row, redacted_by = target.row, target.row.redacted_by or ""
            found = self._redactions.get(redacted_by)
            if found is None:
                if all_seen:
                    yield row, f"it was redacted by {redacted_by}, which is no redaction of this room"
            elif found[1].target != row.event_id or not found[1].permits(target.sender):
                yield row, f"it was redacted by {redacted_by}, which may not do that"
        for by, redaction in self._redactions.values():
            row_or_none = self._known(redaction.target)
            if row_or_none is not None and self._is_live(by) and self._is_live(row_or_none):
                yield from self._unredacted(row_or_none, by, redaction)

    def _unredacted(
        self, row: ExaminedEvent, by: ExaminedEvent, redaction: Redaction
    ) -> Iterator[tuple[ExaminedEvent, str]]:
        pdu, _ = parse_event(row, redaction.version)
        if pdu is not None and redaction.permits(pdu.sender) and redact(pdu).canonical != pdu.canonical:
            yield row, f"{by.event_id} redacts it, and it still has its content"
