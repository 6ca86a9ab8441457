"""The hub of one room, made from the I-D's text: enough of one for users of the target to take part in it.

Owns: :class:`TinyHub`, a room's events and state, the PDUs that it makes, its answers to ``make_*``, ``send_*``,
``state``, ``state_ids``, ``backfill`` and ``event``, and the sending of its events to the target. It checks nothing:
what the target sends is for the cases to judge, and what it sends itself a case may bend at will.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from tests.end_to_end.raw_http import Answer
from tests.end_to_end.wire_events import I1, JsonObject, complete, event_id, lpdu_hash

if TYPE_CHECKING:
    from tests.conformance.peer import Arrival, Peer, Reply

_NOT_FOUND: tuple[int, JsonObject] = (404, {"errcode": "M_NOT_FOUND", "error": "not found"})


class TinyHub:
    """The hub of one room.

    Args:
        peer: the server that is the hub.
        target: the server that takes part.
        room_id: the room.
        version: its room version.

    Attributes:
        events: all events, in order.
        state: the present state.
        lpdus: the LPDUs that came by ``send`` or ``send_*``, as they came.
        template: fields that templates have beside, or instead of, what is right.
        claimed_version: the room version that ``make_*`` answers claim, where it is not the room's.
        bend: changes a PDU before it is appended and answered by ``send_join``.
    """

    log = Logger()

    def __init__(self, peer: Peer, target: str, room_id: str, version: str = I1) -> None:
        self.peer, self.target, self.room_id, self.version = peer, target, room_id, version
        self.creator = peer.identity.user("creator")
        self.events: list[JsonObject] = []
        self.state: dict[tuple[str, str], JsonObject] = {}
        self.lpdus: list[JsonObject] = []
        self.template: JsonObject = {}
        self.claimed_version = version
        self._lock = DeferredLock()
        self._sent = 0
        self._ts = peer.now_ms()
        peer.hubs[room_id] = self

    # -- Making events ------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        join_rule: str = "public",
        users: Mapping[str, int] | None = None,
        levels: Mapping[str, object] | None = None,
        more: Sequence[tuple[str, str, JsonObject]] = (),
        without_levels: bool = False,
        creation: Mapping[str, object] | None = None,
    ) -> TinyHub:
        """Fill the room with its first events.

        Args:
            join_rule: of the room.
            users, levels: power levels, beside the creator's, which is 100.
            more: further state events: type, state key, content.
            without_levels: leave the power levels out.
            creation: fields of the create event that are not as they must be.
        """
        creator = self.creator
        bent: dict[str, Any] = {"content": {"room_version": self.version}, "state_key": "", **(creation or {})}
        self.append(self.draft("m.room.create", **bent))
        self.make("m.room.member", {"membership": "join"}, state_key=creator)
        if not without_levels:
            levels = {"users": {creator: 100, **(users or {})}, **(levels or {})}
            self.make("m.room.power_levels", levels, state_key="")
        self.make("m.room.join_rules", {"join_rule": join_rule}, state_key="")
        for kind, state_key, content in more:
            self.make(kind, content, state_key=state_key)
        return self

    def make(
        self, type: str, content: JsonObject, *, state_key: str | None = None, sender: str | None = None
    ) -> JsonObject:
        """Make an event of one of the hub's own users, and append it."""
        return self.append(self.draft(type, content, state_key=state_key, sender=sender))

    def draft(
        self,
        type: str,
        content: JsonObject,
        *,
        state_key: str | None = None,
        sender: str | None = None,
        auth_events: Sequence[str] | None = None,
        prev_events: Sequence[str] | None = None,
        **fields: object,
    ) -> JsonObject:
        """Make an event of one of the hub's own users without appending it.

        Args:
            auth_events, prev_events: where they are not what is right.
            fields: more fields, or others.
        """
        sender = sender or self.creator
        event: JsonObject = {
            "room_id": self.room_id,
            "type": type,
            "sender": sender,
            "content": content,
            "origin_server_ts": self._now(),
        }
        if state_key is not None:
            event["state_key"] = state_key
        if self.version == I1:
            event["hub_server"] = self.peer.server_name
        event.update(fields)
        event["hashes"] = {"lpdu": {"sha256": lpdu_hash(event)}} if "hub_server" in event else {}
        return complete(
            self.peer.identity,
            event,
            auth_events=self.auth_event_ids(event) if auth_events is None else auth_events,
            prev_events=self.head() if prev_events is None else prev_events,
            version=self.version,
        )

    def complete(self, lpdu: JsonObject, **bent: Any) -> JsonObject:
        """The PDU made from an LPDU, to follow the last event."""
        return complete(
            self.peer.identity,
            lpdu,
            auth_events=bent.get("auth_events", self.auth_event_ids(lpdu)),
            prev_events=bent.get("prev_events", self.head()),
            version=self.version,
        )

    def append(self, event: JsonObject, *, counts: bool = True) -> JsonObject:
        """Append an event, and give it back.

        Args:
            counts: whether it changes the state; a bad event has its place in the hub's order, and no more.
        """
        self.events.append(event)
        if "state_key" in event and counts:
            self.state[event["type"], event["state_key"]] = event
        return event

    def head(self) -> list[str]:
        """The last event's ID, as ``prev_events``."""
        return [self.id(self.events[-1])] if self.events else []

    def id(self, event: JsonObject) -> str:
        """An event's ID."""
        return event_id(event, self.version)

    def event(self, wanted: str) -> JsonObject | None:
        """The event with an ID."""
        return next((event for event in self.events if self.id(event) == wanted), None)

    def auth_event_ids(self, event: JsonObject) -> list[str]:
        """What an event's ``auth_events`` must be (I-D "Auth Events Selection")."""
        return [self.id(self.state[key]) for key in auth_keys(event) if key in self.state]

    # -- Talking to the target ----------------------------------------------------------------------------------------

    async def push(self, *events: JsonObject) -> Answer:
        """Send events to the target, in a transaction of their own, after those that are under way."""
        await self._lock.acquire()
        try:
            self._sent += 1
            transaction_id = f"hub{self._ts}-{self._sent}"
            return await self.peer.client.send(self.target, transaction_id, list(events))
        finally:
            self._lock.release()

    async def say(self, type: str, content: JsonObject, *, state_key: str | None = None) -> JsonObject:
        """Make an event, append it, and send it to the target."""
        event = self.make(type, content, state_key=state_key)
        await self.push(event)
        return event

    async def invite(self, user_id: str, **bent: object) -> Answer:
        """Invite a user of the target; appended when the target has signed.

        Args:
            bent: fields of the request that are to be otherwise; ``None`` leaves one out.
        """
        event = self.draft("m.room.member", {"membership": "invite"}, state_key=user_id)
        request: JsonObject = {
            "event": event,
            "room_version": self.version,
            "invite_room_state": self.stripped(),
            **bent,
        }
        content = {key: value for key, value in request.items() if value is not None}
        answer = await self.offer(content)
        if answer.status == 200:
            self.append(answer.json["pdu"])
        return answer

    async def offer(self, content: JsonObject) -> Answer:
        """Ask the target's ``/invite``."""
        self._sent += 1
        target = f"/_matrix/federation/v3/invite/inv{self._ts}-{self._sent}"
        return await self.peer.client.request(self.target, "POST", target, content)

    def stripped(self) -> list[JsonObject]:
        """The room's stripped state."""
        names = ("type", "state_key", "sender", "content")
        types = ("m.room.create", "m.room.name", "m.room.join_rules")
        return [{name: event[name] for name in names} for (kind, _), event in self.state.items() if kind in types]

    # -- Being asked --------------------------------------------------------------------------------------------------

    def take(self, lpdu: JsonObject) -> None:
        """Take what came by ``send``: complete it, append it, and send it out."""
        self.lpdus.append(lpdu)
        pdu = self.append(self.complete(lpdu))
        Deferred.fromCoroutine(self.push(pdu)).addErrback(
            lambda failure: self.log.failure("an event could not be sent", failure=failure)
        )

    def answer(self, arrival: Arrival) -> Reply:
        """Answer ``make_*``, ``send_*``, ``state``, ``state_ids``, ``backfill`` and ``event``."""
        name = arrival.name
        if name.startswith("make_"):
            return 200, self._template(name.removeprefix("make_"), arrival.segments[1])
        if name.startswith("send_"):
            return 200, self._sent_membership(name.removeprefix("send_"), arrival.content)
        if name == "event":
            event = self.event(arrival.segments[0])
            return _NOT_FOUND if event is None else (200, event)
        wanted = arrival.query.get("v" if name == "backfill" else "event_id", [""])[0]
        position = next((place for place, event in enumerate(self.events) if self.id(event) == wanted), None)
        if position is None:
            return _NOT_FOUND
        if name == "backfill":
            limit = int(arrival.query["limit"][0])
            return 200, {"pdus": self.events[max(0, position + 1 - limit) : position + 1]}
        state = {(one["type"], one["state_key"]): one for one in self.events[:position] if "state_key" in one}
        events = list(state.values())
        chain = self.chain(events)
        if name == "state":
            return 200, {"pdus": events, "auth_chain": chain}
        return 200, {"pdu_ids": [*map(self.id, events)], "auth_chain_ids": [*map(self.id, chain)]}

    def chain(self, events: Sequence[JsonObject]) -> list[JsonObject]:
        """The auth chain of some events, in the room's order."""
        needed: set[str] = set()
        wanted = [one for event in events for one in event["auth_events"]]
        while wanted:
            one = wanted.pop()
            event = self.event(one)
            if one not in needed and event is not None:
                needed.add(one)
                wanted += event["auth_events"]
        return [event for event in self.events if self.id(event) in needed]

    def _template(self, membership: str, user_id: str) -> JsonObject:
        event = {
            "room_id": self.room_id,
            "type": "m.room.member",
            "sender": user_id,
            "state_key": user_id,
            "content": {"membership": membership},
            "origin_server_ts": self._now(),
            "hub_server": self.peer.server_name,
            **self.template,
        }
        return {"event": event, "room_version": self.claimed_version}

    def _sent_membership(self, membership: str, lpdu: JsonObject) -> JsonObject:
        self.lpdus.append(lpdu)
        before = [copy.deepcopy(event) for event in self.state.values()]
        pdu = self.append(self.complete(lpdu))
        if membership == "join":
            return {"state": before, "auth_chain": self.chain(before), "event": pdu}
        return {"stripped_state": self.stripped()} if membership == "knock" else {}

    def _now(self) -> int:
        self._ts = max(self._ts + 1, self.peer.now_ms())
        return self._ts


def auth_keys(event: JsonObject) -> list[tuple[str, str]]:
    """The (type, state key) pairs of which an event's ``auth_events`` are the present state events."""
    if event["type"] == "m.room.create":
        return []
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", event["sender"])]
    if event["type"] == "m.room.member" and "state_key" in event:
        keys.append(("m.room.member", event["state_key"]))
        if event["content"].get("membership") in ("join", "invite"):
            keys.append(("m.room.join_rules", ""))
    return list(dict.fromkeys(keys))
