"""A user's client: requests of the Client-Server API as they go over the wire, without lmatrix.

Owns: :class:`ClientUser`. Answers come back as they are; the few methods that give a result raise
:class:`~tests.end_to_end.signing_client.Refused` on any error.

Source: Client-Server API v1.11.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from tests.end_to_end.raw_http import Answer, RawHttp
from tests.end_to_end.signing_client import Refused
from tests.end_to_end.wire_events import JsonObject, canonical

PASSWORD = "correct horse battery staple"
V3 = "/_matrix/client/v3"


def place(*segments: str, query: dict[str, object] | None = None) -> str:
    """A path below ``/_matrix/client/v3``, from segments that are not encoded yet."""
    encoded = "".join("/" + quote(segment, safe="") for segment in segments)
    return encoded + "?" + urlencode(query, doseq=True) if query else encoded


class ClientUser:
    """One user.

    Args:
        base_url: of the server's client listener.
        http: carries requests.

    Attributes:
        user_id, token: known after :meth:`register`.
    """

    def __init__(self, base_url: str, http: RawHttp) -> None:
        self.base_url = base_url
        self.user_id = ""
        self.token: str | None = None
        self._http = http
        self._transactions = 0

    async def request(
        self,
        method: str,
        below_v3: str,
        content: object = None,
        *,
        body: bytes | None = None,
        token: str | None = None,
        prefix: str = V3,
        seconds: float = 60.0,
    ) -> Answer:
        """Make a request.

        Args:
            below_v3: the path, see :func:`place`.
            content: the body as JSON, ``None`` for none.
            body: the body's bytes, instead.
            token: an access token, instead of the user's own; ``""`` for none.
        """
        if body is None and content is not None:
            body = canonical(content)
        token = self.token if token is None else token
        headers = {"Authorization": [f"Bearer {token}"]} if token else {}
        return await self._http.request(
            method, self.base_url, prefix + below_v3, headers=headers, body=body, seconds=seconds
        )

    async def call(self, method: str, below_v3: str, content: object = None, *, seconds: float = 60.0) -> Any:
        """Make a request, and give the JSON of its answer.

        Raises:
            Refused: any other status than 200.
        """
        answer = await self.request(method, below_v3, content, seconds=seconds)
        if answer.status != 200:
            raise Refused(answer)
        return answer.json

    async def register(self, username: str) -> None:
        """Make an account and log in."""
        content = {"username": username, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        answer = await self.call("POST", "/register", content)
        self.user_id, self.token = answer["user_id"], answer["access_token"]

    async def create_room(self, **settings: object) -> str:
        """Returns the room ID."""
        return str((await self.call("POST", "/createRoom", settings))["room_id"])

    async def join(self, room_id: str, via: str) -> None:
        """Join, through a server."""
        await self.call("POST", place("join", room_id, query={"via": via}), {})

    async def change(self, room_id: str, what: str, **content: object) -> None:
        """``invite``, ``leave``, ``kick``, ``ban`` or ``unban``."""
        await self.call("POST", place("rooms", room_id, what), content)

    async def say(self, room_id: str, text: str) -> str:
        """Send a message; returns the event ID."""
        self._transactions += 1
        return await self.say_once(room_id, f"t{self._transactions}", text)

    async def say_once(self, room_id: str, transaction_id: str, text: str, *, seconds: float = 60.0) -> str:
        """Send a message under a transaction ID; returns the event ID."""
        content = {"msgtype": "m.text", "body": text}
        path = place("rooms", room_id, "send", "m.room.message", transaction_id)
        return str((await self.call("PUT", path, content, seconds=seconds))["event_id"])

    async def set_state(self, room_id: str, type: str, content: JsonObject, state_key: str = "") -> str:
        """Returns the event ID."""
        path = place("rooms", room_id, "state", type, state_key)
        return str((await self.call("PUT", path, content))["event_id"])

    async def redact(self, room_id: str, event_id: str) -> str:
        """Returns the redaction's event ID."""
        self._transactions += 1
        path = place("rooms", room_id, "redact", event_id, f"t{self._transactions}")
        return str((await self.call("PUT", path, {}))["event_id"])

    async def state(self, room_id: str) -> dict[tuple[str, str], JsonObject]:
        """The room's present state: content by type and state key."""
        events = await self.call("GET", place("rooms", room_id, "state"))
        return {(event["type"], event["state_key"]): event["content"] for event in events}

    async def latest(self, room_id: str) -> JsonObject:
        """The newest event that the user sees."""
        query: dict[str, object] = {"dir": "b", "limit": 1}
        answer = await self.call("GET", place("rooms", room_id, "messages", query=query))
        event: JsonObject = answer["chunk"][0]
        return event

    async def timeline(self, room_id: str) -> list[JsonObject]:
        """All events of a room that the user sees, oldest first, paging back to the beginning."""
        events: list[JsonObject] = []
        query: dict[str, object] = {"dir": "b", "limit": 100}
        while True:
            answer = await self.call("GET", place("rooms", room_id, "messages", query=query))
            events += answer["chunk"]
            if "end" not in answer:
                return events[::-1]
            query["from"] = answer["end"]

    async def wait_for(self, room_id: str, event_id: str, *, seconds: float = 30.0) -> None:
        """Sync until an event of the room comes down, or is there.

        Raises:
            AssertionError: it did not come in time.
        """
        since: str | None = None
        clock = self._http.clock
        deadline = clock.seconds() + seconds
        while clock.seconds() < deadline:
            query: dict[str, object] = {"timeout": 2000, **({"since": since} if since else {})}
            answer = await self.call("GET", place("sync", query=query))
            since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            if any(event["event_id"] == event_id for event in room.get("timeline", {}).get("events", ())):
                return
            if (await self.request("GET", place("rooms", room_id, "event", event_id))).status == 200:
                return
        raise AssertionError(f"{self.user_id} has not seen {event_id} in {seconds:.0f} s")
