"""Who may see what, when some of a room's past is known and some is not."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.room_view import RoomView
from lmatrix.events.visibility import Visibility
from lmatrix.rooms.interfaces import Standing, StoredEvent

ME = "@me:a.test"


def event(
    position: int, event_type: str = "m.room.message", standing: Standing = Standing.ACCEPTED, **more: Any
) -> LogEvent:
    fields = {"type": event_type, "sender": "@other:a.test", "content": {}, **more}
    canonical = json.dumps(fields).encode()
    return LogEvent.of(StoredEvent("!r:a.test", position, f"${position}", position, canonical, standing, None))


def view(
    members: dict[int, str], visibilities: dict[int, Visibility] | None = None, *, unknown_below: bool = False
) -> RoomView:
    visibilities = visibilities or {}
    return RoomView(
        user_id=ME,
        member_positions=list(members),
        member_values=list(members.values()),
        visibility_positions=list(visibilities),
        visibility_values=list(visibilities.values()),
        unknown_below=unknown_below,
    )


class RoomViewTests(SynchronousTestCase):
    """:class:`RoomView`, which is pure once loaded."""

    def seen(self, of: RoomView, up_to: int = 12) -> list[int]:
        """Positions of what the user sees of a log that has its own member events, and messages of others."""
        values = dict(zip(of.member_positions, of.member_values, strict=True))
        log = [
            event(position, "m.room.member", state_key=ME, content={"membership": values[position]})
            if position in values
            else event(position)
            for position in range(1, up_to + 1)
        ]
        return [one.position for one in log if of.may_see(one)]

    def test_shared_by_default(self) -> None:
        """Without a word on visibility: everything up to the end of the last stay."""
        self.assertEqual(self.seen(view({5: "join", 8: "leave"})), [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual(self.seen(view({5: "invite", 8: "leave"})), [5, 8])
        self.assertEqual(self.seen(view({})), [])

    def test_joined(self) -> None:
        """From after the join to the leave, and no longer."""
        members = {3: "invite", 5: "join", 8: "leave", 10: "join"}
        self.assertEqual(self.seen(view(members, {1: Visibility.JOINED})), [1, 3, 5, 6, 7, 8, 10, 11, 12])

    def test_invited(self) -> None:
        """From after the invite on."""
        members = {3: "invite", 5: "join", 8: "leave"}
        self.assertEqual(self.seen(view(members, {1: Visibility.INVITED})), [1, 3, 4, 5, 6, 7, 8])

    def test_world_readable(self) -> None:
        """By anybody, while it lasts; the change itself is seen from either side."""
        opened = view({}, {3: Visibility.WORLD_READABLE, 6: Visibility.SHARED})
        self.assertEqual(self.seen(opened), [4, 5, 6])
        self.assertFalse(opened.is_world_readable)
        changes = [(3, "world_readable"), (6, "shared")]
        for position, value in changes:
            change = event(position, "m.room.history_visibility", state_key="", content={"history_visibility": value})
            self.assertTrue(opened.may_see(change))

    def test_unknown_counts_as_joined(self) -> None:
        """Where an earlier visibility may be unknown, nothing is shown to who was not there."""
        members, visibilities = {8: "join"}, {5: Visibility.SHARED}
        self.assertEqual(self.seen(view(members, visibilities)), list(range(1, 13)))
        self.assertEqual(self.seen(view(members, visibilities, unknown_below=True)), list(range(6, 13)))

    def test_own_membership(self) -> None:
        """What happens to the user is always seen; what happens to others is not."""
        outside = view({5: "invite", 8: "ban"}, {1: Visibility.JOINED})
        for whose, expected in ((ME, True), ("@you:a.test", False)):
            banned = event(8, "m.room.member", state_key=whose, content={"membership": "ban"})
            self.assertEqual(outside.may_see(banned), expected)

    def test_never_shown(self) -> None:
        """What was rejected or soft-failed is shown to nobody, member or not."""
        member = view({1: "join"})
        for standing in (Standing.REJECTED, Standing.SOFT_FAILED):
            self.assertFalse(member.may_see(event(5, standing=standing)))

    def test_stays(self) -> None:
        """The end of the last stay is the leave or ban that ended it, not what came after."""
        stays = view({2: "invite", 4: "join", 6: "join", 8: "leave", 9: "ban", 10: "leave", 11: "join"})
        self.assertEqual([stays.end_of_last_stay(position) for position in (3, 7, 8, 10, 12)], [0, 0, 8, 8, 8])
        self.assertEqual([stays.next_change(position) for position in (1, 4, 11)], [2, 6, 12])
        self.assertEqual(list(stays.memberships_between(6, 9)), ["leave", "ban"])
