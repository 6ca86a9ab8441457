"""The hub of a room, made without lmatrix, which does what it is told, good or bad.

Owns: :class:`RawHub`: a public ``I.1`` room on a :class:`~tests.end_to_end.signing_server.SigningServer`, with the
handshake for joining, ``/send`` and ``/backfill``. It checks no auth rules; what it answers beyond the I-D's own words
(``org.lmatrix.accepted``) it does not say.

Source: I-D "Transport", "Auth Events Selection".
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_server import Incoming, Reply, SigningServer
from tests.end_to_end.wire_events import I1, JsonObject, complete, event_id

NOT_FOUND: Reply = 404, {"errcode": "M_NOT_FOUND", "error": "not found"}


class RawHub:
    """A room.

    Args:
        server: the hub.

    Attributes:
        events: the room's log.
        sent: how many transactions it has sent.
    """

    def __init__(self, server: SigningServer) -> None:
        self.server = server
        self.room_id = f"!raw:{server.server_name}"
        self.owner = server.identity.user("owner")
        self.events: list[JsonObject] = []
        self.sent = 0
        self._state: dict[tuple[str, str], JsonObject] = {}
        server.handlers |= {
            "make_join": self._make_join,
            "send_join": self._send_join,
            "send": self._send,
            "backfill": self._backfill,
        }
        for event_type, state_key, content in (
            ("m.room.create", "", {"room_version": I1}),
            ("m.room.member", self.owner, {"membership": "join"}),
            ("m.room.power_levels", "", {"users": {self.owner: 100}}),
            ("m.room.join_rules", "", {"join_rule": "public"}),
        ):
            self.append(self.make(event_type, content, state_key=state_key))

    @property
    def head(self) -> str:
        """The last event's ID."""
        return event_id(self.events[-1])

    def make(
        self,
        type: str,
        content: JsonObject,
        *,
        state_key: str | None = None,
        prev_events: Sequence[str] | None = None,
        auth_events: Sequence[str] | None = None,
    ) -> JsonObject:
        """An event of the owner's, which follows the head unless told otherwise; not appended."""
        hub = self.server.server_name
        lpdu = self.server.client.lpdu(self.room_id, self.owner, type, content, hub_server=hub, state_key=state_key)
        return self.complete(lpdu, prev_events=prev_events, auth_events=auth_events)

    def message(
        self, text: str, *, prev_events: Sequence[str] | None = None, auth_events: Sequence[str] | None = None
    ) -> JsonObject:
        """A message of the owner's; not appended."""
        content = {"msgtype": "m.text", "body": text}
        return self.make("m.room.message", content, prev_events=prev_events, auth_events=auth_events)

    def complete(
        self,
        lpdu: JsonObject,
        *,
        prev_events: Sequence[str] | None = None,
        auth_events: Sequence[str] | None = None,
    ) -> JsonObject:
        """The PDU of an LPDU, which follows the head unless told otherwise; not appended."""
        if prev_events is None:
            prev_events = [self.head] if self.events else []
        if auth_events is None:
            auth_events = self._auth_events(lpdu)
        return complete(self.server.identity, lpdu, auth_events=auth_events, prev_events=prev_events)

    def append(self, pdu: JsonObject) -> JsonObject:
        """Make an event the room's last one."""
        self.events.append(pdu)
        if "state_key" in pdu:
            self._state[pdu["type"], pdu["state_key"]] = pdu
        return pdu

    async def deliver(self, destination: str, *pdus: JsonObject) -> Answer:
        """Send events to a participant."""
        self.sent += 1
        return await self.server.client.send(destination, f"hub{self.sent}", pdus)

    def _auth_events(self, event: JsonObject) -> list[str]:
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", event["sender"])]
        if event["type"] == "m.room.member":
            keys.append(("m.room.member", event["state_key"]))
            if event["content"].get("membership") in ("join", "invite"):
                keys.append(("m.room.join_rules", ""))
        found = [event_id(self._state[key]) for key in dict.fromkeys(keys) if key in self._state]
        return [] if event["type"] == "m.room.create" else found

    async def _make_join(self, incoming: Incoming) -> Reply:
        room_id, user_id = incoming.segments
        if room_id != self.room_id:
            return NOT_FOUND
        event = {
            "room_id": room_id,
            "type": "m.room.member",
            "sender": user_id,
            "state_key": user_id,
            "content": {"membership": "join"},
            "hub_server": self.server.server_name,
        }
        return 200, {"event": event, "room_version": I1}

    async def _send_join(self, incoming: Incoming) -> Reply:
        before = list(self._state.values())
        join = self.append(self.complete(incoming.content))
        return 200, {"event": join, "state": before, "auth_chain": before}

    async def _send(self, incoming: Incoming) -> Reply:
        for lpdu in incoming.content["pdus"]:
            self.append(self.complete(lpdu))
        return 200, {"failed_pdus": {}}

    async def _backfill(self, incoming: Incoming) -> Reply:
        order = [event_id(event) for event in self.events]
        wanted = incoming.query["v"]
        if incoming.segments != (self.room_id,) or wanted not in order:
            return NOT_FOUND
        end = order.index(wanted) + 1
        return 200, {"pdus": self.events[max(0, end - int(incoming.query["limit"])) : end]}
