"""Putting together what is told about events beside themselves, and rendering them.

Owns: :class:`Renderer`, which looks up redactions, earlier content and client transactions for a list of events at
once, in the same database snapshot as the events themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.client_events import LogEvent, Surroundings, client_event
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.client_api.room_view import RoomView
from lmatrix.rooms.interfaces import JsonObject, RoomStore


@attrs.frozen(slots=True)
class Renderer:
    """Renders events for one device.

    Attributes:
        store, accounts: where the surroundings are.
        requester: whose device it is.
        now_ms: milliseconds since the epoch.
        with_room_id: whether events name their room.
    """

    store: RoomStore
    accounts: AccountStore
    requester: Requester
    now_ms: int
    with_room_id: bool

    def timeline(self, tx: Any, events: Sequence[LogEvent], view: RoomView | None) -> list[JsonObject]:
        """Events of a timeline, with everything that is told about them.

        Args:
            view: the asking user's; ``None`` for a user who is known to be joined at all of them.
        """
        redactions = self._redactions(tx, events)
        own = [event.event_id for event in events if event.sender == self.requester.user_id]
        transactions: Mapping[str, str] = {}
        if own:
            transactions = self.accounts.transactions_behind(tx, self.requester.user_id, self.requester.device_id, own)
        shown = []
        for event in events:
            membership = "join" if view is None else view.membership_after(event.position)
            around = Surroundings(
                now_ms=self.now_ms,
                transaction_id=transactions.get(event.event_id),
                redacted_because=redactions.get(event.stored.redacted_by or ""),
                prev_content=self._prev_content(tx, event) if membership == "join" else None,
                membership=membership,
            )
            shown.append(client_event(event, around, with_room_id=self.with_room_id))
        return shown

    def state(self, tx: Any, events: Sequence[LogEvent]) -> list[JsonObject]:
        """State events, with what matters of them as state."""
        redactions = self._redactions(tx, events)
        return [
            client_event(
                event,
                Surroundings(self.now_ms, redacted_because=redactions.get(event.stored.redacted_by or "")),
                with_room_id=self.with_room_id,
            )
            for event in events
        ]

    def _redactions(self, tx: Any, events: Sequence[LogEvent]) -> dict[str, LogEvent]:
        wanted = sorted({event.stored.redacted_by for event in events if event.stored.redacted_by is not None})
        if not wanted:
            return {}
        return {event_id: LogEvent.of(stored) for event_id, stored in self.store.events(tx, wanted).items()}

    def _prev_content(self, tx: Any, event: LogEvent) -> JsonObject | None:
        """What a state event replaced. Only for somebody who was in the room, and so could see it."""
        state_key = event.state_key
        if state_key is None or event.position == 0:
            return None
        replaced = self.store.state_event_before(tx, event.stored.room_id, event.position, event.type, state_key)
        return None if replaced is None else LogEvent.of(replaced).content
