"""Reading a room's history: pages of it, one event, an event and what is around it.

Owns: ``GET …/messages``, ``GET …/event`` and ``GET …/context`` (Client-Server API v1.11, "Getting events for a room",
"Event context"). Invariants: a page ends where its token says, so that the next one begins there and nothing is
skipped or repeated; what a user may not see is left out, never an error; a page costs a bounded amount of work.

A participant holds the log from its join on. Towards the past it is fetched from the hub when a page reaches the
bottom of what is held, once for each request. A hub that gives nothing ends the history here, until the client asks
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix import canonical_json
from lmatrix.client_api.access import RoomAccess
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import query_int, room_id_in
from lmatrix.client_api.filters import MAX_TIMELINE_LIMIT, EventFilter, parse_event_filter
from lmatrix.client_api.interfaces import AccountStore, LocalUsers, TimelineStore
from lmatrix.client_api.rendering import Renderer
from lmatrix.client_api.room_view import CREATE, RoomView
from lmatrix.client_api.tokens import PositionToken, parse_place
from lmatrix.errors import NotFound
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database, RoomStore, StoredEvent

DEFAULT_LIMIT = 10
MAX_SCANNED = 1000
"""Events looked at for one page; a page of a filter that wants hardly any of them is short, and has a token to go
on."""


@attrs.frozen(slots=True)
class _Page:
    """Some of a room's events.

    Attributes:
        events: in the direction that was asked for.
        end: token position after the last event that was looked at.
        at_creation: whether the page reached the beginning of the room.
        bottom: the oldest event that is held without a hole, when the page reached it and older ones must exist.
    """

    events: list[LogEvent]
    end: int
    at_creation: bool = False
    bottom: StoredEvent | None = None


@attrs.frozen(slots=True)
class Messages:
    """The endpoints that read history.

    Attributes:
        database, store, timeline, accounts: what to read.
        access: who may.
        rooms: fetches what is not held.
        clock: for the age of events.
    """

    database: Database
    store: RoomStore
    timeline: TimelineStore
    accounts: AccountStore
    access: RoomAccess
    rooms: LocalUsers
    clock: IReactorTime

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("GET", "/rooms/{roomId}/messages", self._messages, "messages"),
            Endpoint("GET", "/rooms/{roomId}/event/{eventId}", self._event, "event"),
            Endpoint("GET", "/rooms/{roomId}/context/{eventId}", self._context, "context"),
        )

    async def _messages(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, user_id = room_id_in(request.params), requester.user_id
        backwards = _is_backwards(request)
        limit = query_int(request, "limit", DEFAULT_LIMIT, minimum=1, maximum=MAX_TIMELINE_LIMIT)
        only = _filter(request)
        begin, stop = request.query_one("from"), request.query_one("to")
        begin_at = parse_place(begin, "from") if begin else None
        stop_at = parse_place(stop, "to") if stop else None

        def bounds(tx: Any) -> tuple[int, int | None]:
            last = self.access.last_readable(tx, room_id, user_id)
            start = (last if backwards else 0) if begin_at is None else self.access.position_of(tx, room_id, begin_at)
            end = None if stop_at is None else self.access.position_of(tx, room_id, stop_at)
            if backwards:
                return min(start, last), end
            return start, last if end is None else min(end, last)

        start, end = await self.database.read(bounds)

        def read(tx: Any) -> tuple[_Page, list[JsonObject]]:
            view = RoomView.load(tx, self.store, self.timeline, room_id, user_id)
            page = self._page(tx, room_id, start, end, limit, backwards, _seen_by(view, only))
            return page, self._renderer(requester).timeline(tx, page.events, view)

        page, chunk = await self.database.read(read)
        if page.bottom is not None and len(chunk) < limit:
            await self.rooms.backfill_before(room_id, page.bottom.position, limit - len(chunk))
            page, chunk = await self.database.read(read)
        answer: JsonObject = {"start": begin or str(PositionToken(start)), "chunk": chunk}
        # Where nothing moved there is nothing more to be had, and a client that followed the token would go in circles.
        if page.end != start and not page.at_creation:
            answer["end"] = str(PositionToken(page.end))
        return answer

    async def _event(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, event_id = room_id_in(request.params), request.params["eventId"]

        def work(tx: Any) -> JsonObject:
            view, event = self._visible(tx, room_id, event_id, requester)
            return self._renderer(requester).timeline(tx, [event], view)[0]

        return await self.database.read(work)

    async def _context(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, event_id = room_id_in(request.params), request.params["eventId"]
        limit = query_int(request, "limit", DEFAULT_LIMIT, minimum=0, maximum=MAX_TIMELINE_LIMIT)
        only, renderer = _filter(request), self._renderer(requester)

        def work(tx: Any) -> JsonObject:
            view, event = self._visible(tx, room_id, event_id, requester)
            if event.position == 0:
                raise NotFound("This server does not hold what is around that event")
            wanted, at = _seen_by(view, only), event.position
            last = self.access.last_readable(tx, room_id, requester.user_id)
            before = self._page(tx, room_id, at - 1, None, (limit + 1) // 2, True, wanted)
            after = self._page(tx, room_id, at, max(last, at), limit // 2, False, wanted)
            state = [LogEvent.of(stored) for stored in self.timeline.state_at(tx, room_id, after.end)]
            return {
                "event": renderer.timeline(tx, [event], view)[0],
                "events_before": renderer.timeline(tx, before.events, view),
                "events_after": renderer.timeline(tx, after.events, view),
                "start": str(PositionToken(before.end)),
                "end": str(PositionToken(after.end)),
                "state": renderer.state(tx, state),
            }

        return await self.database.read(work)

    def _visible(self, tx: Any, room_id: str, event_id: str, requester: Requester) -> tuple[RoomView, LogEvent]:
        """An event that the user may see. Raises :class:`NotFound`, whether it is unknown, elsewhere or hidden."""
        view = RoomView.load(tx, self.store, self.timeline, room_id, requester.user_id)
        stored = self.store.event(tx, event_id)
        if stored is not None and stored.room_id == room_id:
            event = LogEvent.of(stored)
            # What is known only as part of a state that a hub gave us was shown to whoever joined with it.
            if view.may_see(event) if event.position else view.was_ever_joined:
                return view, event
        raise NotFound(f"The event {event_id} is not known, or not for you to see")

    def _page(
        self,
        tx: Any,
        room_id: str,
        start: int,
        stop: int | None,
        limit: int,
        backwards: bool,
        wanted: Callable[[LogEvent], bool],
    ) -> _Page:
        """Wanted events from the token position ``start`` on, not beyond ``stop``."""
        found: list[LogEvent] = []
        cursor, scanned = start, 0
        oldest: StoredEvent | None = None
        while True:
            page = self.timeline.events_page(tx, room_id, cursor, "b" if backwards else "f", limit + 1)
            for stored in page.events:
                if _is_beyond(stored.position, stop, backwards) or len(found) >= limit or scanned >= MAX_SCANNED:
                    return _Page(found, cursor)
                scanned += 1
                event = LogEvent.of(stored)
                if wanted(event):
                    found.append(event)
                oldest = stored
                cursor = stored.position - 1 if backwards else stored.position
            cursor = page.end
            if not page.more:
                break
        if not backwards:
            return _Page(found, cursor)
        if oldest is None:
            # The page began below everything that is held: what is held lies right above.
            above = self.timeline.events_page(tx, room_id, start, "f", 1).events
            oldest = above[0] if above else None
        at_creation = oldest is None or LogEvent.of(oldest).type == CREATE
        return _Page(found, cursor, at_creation, None if at_creation else oldest)

    def _renderer(self, requester: Requester) -> Renderer:
        now_ms = int(self.clock.seconds() * 1000)
        return Renderer(self.store, self.accounts, requester, now_ms, with_room_id=True)


def _is_beyond(position: int, stop: int | None, backwards: bool) -> bool:
    if stop is None:
        return False
    return position <= stop if backwards else position > stop


def _seen_by(view: RoomView, only: EventFilter) -> Callable[[LogEvent], bool]:
    return lambda event: view.may_see(event) and only.wants(event.fields)


def _is_backwards(request: JsonRequest) -> bool:
    direction = request.query_one("dir")
    if direction not in ("b", "f"):
        raise invalid_param("dir", "must be b or f")
    return direction == "b"


def _filter(request: JsonRequest) -> EventFilter:
    given = request.query_one("filter")
    return EventFilter() if not given else parse_event_filter(canonical_json.parse_object(given))
