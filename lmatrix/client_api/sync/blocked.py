"""Rooms that are blocked, kept out of ``/sync`` (I-D "Spam Prevention": no access to the content within).

Owns: :func:`without_blocked_rooms`. A user is told of such a room that they have left it, and nothing else; as long as
they have not, there is no such room.
"""

from __future__ import annotations

from lmatrix.errors import Forbidden
from lmatrix.http.messages import JsonObject
from lmatrix.rooms.policy import Policies


async def without_blocked_rooms(sections: JsonObject, user_id: str, policies: Policies) -> None:
    """Take out of an answer what is not to be seen.

    Args:
        sections: ``rooms`` of the answer: section (``join``, ``invite``, ``knock``, ``leave``) → room ID → entry. It is
            changed.
        user_id: whose answer it is.
    """
    for name, rooms in sections.items():
        for room_id in list(rooms):
            try:
                await policies.check_room(room_id)
            except Forbidden:
                if name == "leave":
                    rooms[room_id] = _only_that_they_left(rooms[room_id], user_id)
                else:
                    del rooms[room_id]


def _only_that_they_left(entry: JsonObject, user_id: str) -> JsonObject:
    timeline = entry.get("timeline", {})
    own = [event for event in timeline.get("events", ()) if event.get("state_key") == user_id]
    return {
        "timeline": {**timeline, "events": [event for event in own if event.get("type") == "m.room.member"][-1:]},
        "state": {"events": []},
        "account_data": {"events": []},
    }
