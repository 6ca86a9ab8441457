"""Whose devices a client should ask about anew (Client-Server API v1.11, "Tracking the device list for a user").

Owns: :class:`DeviceListReader`, for ``/sync`` and ``/keys/changes``. Whom it names as changed: users who share a room
with the client's user and whose device list changed, or who came to share a room; as left: users who share no room any
more. It may name somebody too many, never somebody too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmatrix.client_api.interfaces import DeviceNewsStore, TimelineStore, UserRoom
from lmatrix.client_api.room_view import RoomView
from lmatrix.devices.interfaces import SharingStore
from lmatrix.rooms.interfaces import RoomStore


@attrs.frozen(slots=True)
class DeviceLists:
    """Whose device lists are news.

    Attributes:
        changed: to be asked about.
        left: to be forgotten.
    """

    changed: Sequence[str] = ()
    left: Sequence[str] = ()


@attrs.frozen(slots=True)
class DeviceListReader:
    """Reads them.

    Attributes:
        store, timeline, devices, sharing: what to read.
    """

    store: RoomStore
    timeline: TimelineStore
    devices: DeviceNewsStore
    sharing: SharingStore

    def read(self, tx: Any, user_id: str, rooms: Sequence[UserRoom], since: int, up_to: int) -> DeviceLists:
        """The news at stream positions ``since < s <= up_to``.

        Args:
            rooms: all that the user has to do with.
            up_to: the stream's end, as of this snapshot.
        """
        changed = set(self.devices.changed_lists(tx, user_id, since, up_to))
        gone: set[str] = set()
        active = set(self.timeline.changes_since(tx, [room.room_id for room in rooms], since, up_to))
        for room in rooms:
            if room.room_id not in active:
                continue
            is_news = room.stream is not None and room.stream > since
            if room.membership == "join" and is_news and not self._was_always_there(tx, room, user_id, since):
                changed.update(self.sharing.joined_users(tx, room.room_id))
                changed.discard(user_id)
            elif room.membership == "join":
                after = self.timeline.position_at(tx, room.room_id, since)
                top = self.timeline.position_at(tx, room.room_id, up_to)
                for member, membership in self.devices.changed_members(tx, room.room_id, after, top):
                    if member != user_id:
                        (changed if membership == "join" else gone).add(member)
            elif is_news and self._was_ever_there(tx, room, user_id, since):
                gone.update(self.sharing.joined_users(tx, room.room_id))
        gone -= changed | {user_id}
        left = [other for other in gone if not self.sharing.share_a_room(tx, user_id, other)]
        return DeviceLists(sorted(changed), sorted(left))

    def _was_always_there(self, tx: Any, room: UserRoom, user_id: str, since: int) -> bool:
        view, reached = self._view(tx, room, user_id, since)
        return view.membership_after(reached) == "join" and all(
            membership == "join" for membership in view.memberships_between(reached, room.position)
        )

    def _was_ever_there(self, tx: Any, room: UserRoom, user_id: str, since: int) -> bool:
        view, reached = self._view(tx, room, user_id, since)
        return view.membership_after(reached) == "join" or "join" in view.memberships_between(reached, room.position)

    def _view(self, tx: Any, room: UserRoom, user_id: str, since: int) -> tuple[RoomView, int]:
        view = RoomView.load(tx, self.store, self.timeline, room.room_id, user_id)
        return view, self.timeline.position_at(tx, room.room_id, since)
