"""How far into a room a user may look.

Owns: :class:`RoomAccess`: the last position that a user may read up to, and what a client's token means as a position.
"""

from __future__ import annotations

from typing import Any

import attrs

from lmatrix.client_api.interfaces import TimelineStore
from lmatrix.client_api.room_view import RoomView
from lmatrix.client_api.tokens import PositionToken, StreamToken
from lmatrix.errors import Forbidden
from lmatrix.rooms.interfaces import RoomStore


@attrs.frozen(slots=True)
class RoomAccess:
    """Answers for one server's rooms.

    Attributes:
        store, timeline: what to read.
    """

    store: RoomStore
    timeline: TimelineStore

    def last_readable(self, tx: Any, room_id: str, user_id: str) -> int:
        """The token position up to which a user may read the room: now for a member, the end of the stay for a former
        one.

        Raises:
            Forbidden: the user may read nothing of it. An unknown room is no different.
        """
        present = self.timeline.user_in_room(tx, room_id, user_id)
        if present is not None and present.membership == "join":
            return self.head(tx, room_id)
        view = RoomView.load(tx, self.store, self.timeline, room_id, user_id)
        if view.is_world_readable:
            return self.head(tx, room_id)
        ended = 0 if present is None else view.end_of_last_stay(present.position)
        if ended == 0 or self._is_forgotten(tx, room_id, user_id):
            raise Forbidden(f"{user_id} is not in {room_id}")
        return ended

    def head(self, tx: Any, room_id: str) -> int:
        """The token position after the room's last event."""
        return self.timeline.position_at(tx, room_id, self.timeline.max_stream(tx))

    def position_of(self, tx: Any, room_id: str, place: StreamToken | PositionToken) -> int:
        """What a token means in one room's log."""
        if isinstance(place, PositionToken):
            return place.position
        return self.timeline.position_at(tx, room_id, place.stream)

    def _is_forgotten(self, tx: Any, room_id: str, user_id: str) -> bool:
        return all(room.room_id != room_id for room in self.timeline.rooms_of_user(tx, user_id))
