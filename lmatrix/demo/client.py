"""A small Matrix client: what the demo's users do, over the Client-Server API (Matrix v1.11).

Owns: the few endpoints that the demo needs, errors that say what the server answered, and waiting for an event to come
down ``/sync``.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from treq.client import HTTPClient
from twisted.internet.interfaces import IReactorTime

from lmatrix.errors import LMatrixError

JsonObject = dict[str, Any]

_POLL_MS = 5000


class ClientError(LMatrixError):
    """A server answered a client's request with an error.

    Args:
        request: method and path.
        status: HTTP status.
        errcode: Matrix's code, empty when there was none.
        message: the server's words.
    """

    def __init__(self, request: str, status: int, errcode: str, message: str) -> None:
        super().__init__(f"{request}: {status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode
        self.message = message


class MatrixClient:
    """One user's client.

    Args:
        base_url: of the server's client listener.
        http: makes the requests.
        clock: for giving up waiting.

    Attributes:
        user_id: known after :meth:`register`.
    """

    def __init__(self, base_url: str, http: HTTPClient, clock: IReactorTime) -> None:
        self.base_url = base_url
        self.user_id = ""
        self._http = http
        self._clock = clock
        self._token: str | None = None
        self._since: str | None = None
        self._transactions = 0
        self._seen: set[str] = set()

    async def register(self, username: str, password: str) -> None:
        """Make an account and log in."""
        body = {"username": username, "password": password, "auth": {"type": "m.login.dummy"}}
        answer = await self._request("POST", "/register", body)
        self.user_id = answer["user_id"]
        self._token = answer["access_token"]

    async def create_room(self, **settings: object) -> str:
        """Returns the room ID."""
        answer = await self._request("POST", "/createRoom", settings)
        return str(answer["room_id"])

    async def invite(self, room_id: str, user_id: str) -> None:
        await self._request("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    async def join(self, room_id: str, via: str) -> None:
        await self._request("POST", f"/join/{quote(room_id)}?server_name={quote(via)}&via={quote(via)}", {})

    async def leave(self, room_id: str) -> None:
        await self._request("POST", f"/rooms/{quote(room_id)}/leave", {})

    async def say(self, room_id: str, text: str) -> str:
        """Send a message; returns the event ID, once the hub has put it into the room."""
        self._transactions += 1
        path = f"/rooms/{quote(room_id)}/send/m.room.message/demo{self._transactions}"
        answer = await self._request("PUT", path, {"msgtype": "m.text", "body": text})
        return str(answer["event_id"])

    async def set_state(self, room_id: str, event_type: str, content: JsonObject) -> str:
        """Returns the event ID."""
        answer = await self._request("PUT", f"/rooms/{quote(room_id)}/state/{event_type}", content)
        return str(answer["event_id"])

    async def read_backwards(self, room_id: str, limit: int) -> list[JsonObject]:
        """The newest events that this user may see, newest first."""
        answer = await self._request("GET", f"/rooms/{quote(room_id)}/messages?dir=b&limit={limit}", None)
        return list(answer["chunk"])

    async def wait_for(self, room_id: str, event_id: str, seconds: float) -> None:
        """Sync until the event is there.

        Raises:
            LMatrixError: it did not come in time.
        """
        deadline = self._clock.seconds() + seconds
        while event_id not in self._seen:
            if self._clock.seconds() > deadline:
                raise LMatrixError(f"{self.user_id} has not seen {event_id} in {seconds:.0f} s")
            query = f"?timeout={_POLL_MS}" + (f"&since={quote(self._since)}" if self._since else "")
            answer = await self._request("GET", f"/sync{query}", None)
            self._since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            self._seen.update(event["event_id"] for event in room.get("timeline", {}).get("events", ()))

    async def _request(self, method: str, path: str, body: object) -> JsonObject:
        url = f"{self.base_url}/_matrix/client/v3{path}"
        headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode("utf-8")
        response = await self._http.request(method, url, headers=headers, data=data, timeout=60)
        content = await response.content()
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {"error": content[:200].decode("utf-8", "replace")}
        if response.code != 200:
            shown = f"{method} {path.partition('?')[0]}"
            raise ClientError(shown, response.code, str(answer.get("errcode", "")), str(answer.get("error", "")))
        return dict(answer)
