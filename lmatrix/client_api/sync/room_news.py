"""What one room has to tell one user since a token.

Owns: :class:`RoomNews`, which makes the entry of a room under ``rooms.join``, ``rooms.leave``, ``rooms.invite`` or
``rooms.knock``. All of it reads one database snapshot.

What decides is the user's membership at the token:

* joined then, and ever since: the timeline holds what came since, and when that is more than the limit, the state that
  changed before the timeline begins;
* joined then, but away in between: the same timeline, with the whole state;
* not joined then (the first sync, a join, a return): the newest events that the user may see, back to the end of its
  last stay, with the whole state; ``limited``, since there may be older ones that ``/messages`` can show.

A room that was left shows the same up to the event that ended the stay. A room that was left and to which the user was
invited again is shown as an invite only: what there was to tell before the leave can be had by ``/messages``, to which
the next timeline of the room points by being limited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmatrix.client_api.client_events import LogEvent, stripped_event
from lmatrix.client_api.filters import SyncFilter
from lmatrix.client_api.interfaces import TimelineStore, UserRoom
from lmatrix.client_api.rendering import Renderer
from lmatrix.client_api.room_view import MEMBER, RoomView, membership_in
from lmatrix.client_api.sync.window import Window, newest
from lmatrix.client_api.tokens import PositionToken
from lmatrix.events.stripped_state import STRIPPED_TYPES
from lmatrix.rooms.interfaces import JsonObject, RoomStore, Standing, StoredEvent

MAX_HEROES = 5


@attrs.frozen(slots=True)
class Span:
    """What a sync covers.

    Attributes:
        since: stream position of the client's token; ``None`` for a first sync.
        up_to: last stream position that is shown.
        full_state: whether whole states are wanted, whatever the client has.
    """

    since: int | None
    up_to: int
    full_state: bool = False


@attrs.frozen(slots=True)
class RoomBeside:
    """What there is to tell of a room beside its log, as events in the client's form.

    Attributes:
        ephemeral: who is typing, who has read what.
        account_data: what the user noted.
    """

    ephemeral: Sequence[JsonObject] = ()
    account_data: Sequence[JsonObject] = ()


@attrs.frozen(slots=True)
class _Stay:
    """How the user stands to the room over a span.

    Attributes:
        view: ``None`` when the user is known to have been joined all the time.
        top, floor: token positions between which events belong into the timeline.
        was_joined: whether the user was joined at the token.
        continuous: whether it stayed so.
        stayed_before: whether there was a stay that ended before the token.
    """

    view: RoomView | None
    top: int
    floor: int
    was_joined: bool
    continuous: bool
    stayed_before: bool = False


class RoomNews:
    """Makes rooms' entries.

    Args:
        tx: the snapshot.
        store, timeline: what to read.
        renderer: for the events.
        user_id: who syncs.
        span: since when.
        wanted: what the client wants.
    """

    def __init__(
        self,
        tx: Any,
        store: RoomStore,
        timeline: TimelineStore,
        renderer: Renderer,
        user_id: str,
        span: Span,
        wanted: SyncFilter,
    ) -> None:
        self._tx = tx
        self._store = store
        self._timeline = timeline
        self._renderer = renderer
        self._user_id = user_id
        self._span = span
        self._wanted = wanted

    def joined(self, room: UserRoom, beside: RoomBeside | None) -> JsonObject | None:
        """The entry of a room that the user is in; ``None`` when it has nothing to tell.

        Args:
            beside: what there is to tell beside the log.
        """
        top = self._timeline.position_at(self._tx, room.room_id, self._span.up_to)
        stay = self._stay(room, top)
        window = self._window(room.room_id, stay)
        whole = self._span.full_state or not stay.continuous
        state = self._state(room.room_id, stay, window, whole=whole)
        limited = self._is_limited(stay, window)
        if not (window.events or state or limited or whole or beside):
            return None
        beside = beside or RoomBeside()
        entry = self._entry(window, state, stay, limited=limited)
        entry["summary"] = {}
        entry["unread_notifications"] = {"highlight_count": 0, "notification_count": 0}
        entry["ephemeral"] = {"events": list(beside.ephemeral)}
        entry["account_data"] = {"events": list(beside.account_data)}
        if whole or any(event.type == MEMBER for event in (*window.events, *state)):
            entry["summary"] = self._summary(room.room_id, top)
        return entry

    def left(self, room: UserRoom) -> JsonObject | None:
        """The entry of a room that the user is no longer in; ``None`` when that is not news, or not in the log."""
        if room.stream is None:
            return None
        is_news = self._span.since is not None and room.stream > self._span.since
        if not is_news and not (self._span.since is None and self._wanted.include_leave):
            return None
        stay = self._stay(room, room.position, leaving=True)
        window = self._window(room.room_id, stay)
        view = stay.view
        stayed = stay.was_joined or (view is not None and "join" in view.memberships_between(stay.floor, stay.top))
        state = self._state(room.room_id, stay, window, whole=not stay.was_joined) if stayed else []
        limited = self._is_limited(stay, window) if stayed else stay.stayed_before
        return self._entry(window, state, stay, limited=limited)

    def invited(self, room: UserRoom) -> JsonObject:
        """``invite_state`` (or, for a knock, ``knock_state``) of a room that this server is in."""
        # What the invited user may see is what whoever is outside may: the facts at the time of the invite.
        wanted = [(event_type, "") for event_type in STRIPPED_TYPES]
        own = self._state_at(room, MEMBER, self._user_id)
        if own is not None and own.sender != self._user_id:
            wanted.append((MEMBER, own.sender))
        found = [self._state_at(room, *key) for key in wanted]
        return {"events": [stripped_event(event) for event in (*found, own) if event is not None]}

    def _state_at(self, room: UserRoom, event_type: str, state_key: str) -> LogEvent | None:
        stored = self._store.state_event_before(self._tx, room.room_id, room.position + 1, event_type, state_key)
        return None if stored is None else LogEvent.of(stored)

    def _stay(self, room: UserRoom, top: int, *, leaving: bool = False) -> _Stay:
        since = self._span.since
        reached = 0 if since is None else self._timeline.position_at(self._tx, room.room_id, since)
        if not leaving and since is not None and room.stream is not None and room.stream <= since:
            # The current membership is older than the token: joined then, and ever since.
            return _Stay(None, top, reached, was_joined=True, continuous=True)
        view = RoomView.load(self._tx, self._store, self._timeline, room.room_id, self._user_id)
        if since is not None and view.membership_after(reached) == "join":
            away = any(membership != "join" for membership in view.memberships_between(reached, top))
            return _Stay(view, top, reached, was_joined=True, continuous=not away)
        floor = view.end_of_last_stay(reached)
        stayed_before = floor > 0
        if leaving and since is not None:
            # Nothing before the first thing that happened to the user is of account for a stay that is over.
            floor = max(floor, view.next_change(reached) - 1)
        return _Stay(view, top, floor, was_joined=False, continuous=False, stayed_before=stayed_before)

    def _window(self, room_id: str, stay: _Stay) -> Window:
        view, only = stay.view, self._wanted.timeline
        return newest(
            self._tx,
            self._timeline,
            room_id,
            top=stay.top,
            floor=stay.floor,
            limit=only.limit,
            visible=_everything if view is None else view.may_see,
            wanted=lambda event: only.wants(event.fields),
        )

    def _state(self, room_id: str, stay: _Stay, window: Window, *, whole: bool) -> list[LogEvent]:
        found: Sequence[StoredEvent] = ()
        if whole:
            found = self._timeline.state_at(self._tx, room_id, window.start)
        elif not (window.complete and self._wanted.timeline.wants_all):
            found = self._timeline.state_between(self._tx, room_id, stay.floor, window.start)
        events = [LogEvent.of(stored) for stored in found if stored.standing is Standing.ACCEPTED]
        return [event for event in events if self._wanted.state.wants(event.fields)]

    def _is_limited(self, stay: _Stay, window: Window) -> bool:
        if stay.was_joined:
            return not window.complete
        # Older events may be visible that the client has not got, unless these begin where the room does.
        return not (window.complete and stay.floor == 0)

    def _entry(self, window: Window, state: Sequence[LogEvent], stay: _Stay, *, limited: bool) -> JsonObject:
        return {
            "timeline": {
                "events": self._renderer.timeline(self._tx, window.events, stay.view),
                "limited": limited,
                "prev_batch": str(PositionToken(window.start)),
            },
            "state": {"events": self._renderer.state(self._tx, state)},
            "account_data": {"events": []},
        }

    def _summary(self, room_id: str, top: int) -> JsonObject:
        joined, invited = self._timeline.member_counts(self._tx, room_id)
        summary: JsonObject = {"m.joined_member_count": joined, "m.invited_member_count": invited}
        named = self._store.state_event_before(
            self._tx, room_id, top + 1, "m.room.name", ""
        ) or self._store.state_event_before(self._tx, room_id, top + 1, "m.room.canonical_alias", "")
        if named is None:
            summary["m.heroes"] = self._heroes(room_id)
        return summary

    def _heroes(self, room_id: str) -> list[str]:
        """The members after whom a client names a room that has no name: first those who are there, else who was."""
        others = [
            (str(member.state_key), membership_in(member))
            for member in map(LogEvent.of, self._timeline.members(self._tx, room_id))
            if member.state_key != self._user_id
        ]
        present = [user_id for user_id, membership in others if membership in ("join", "invite")]
        absent = [user_id for user_id, membership in others if membership in ("leave", "ban")]
        return (present or absent)[:MAX_HEROES]


def _everything(_: LogEvent) -> bool:
    return True
