"""Requests to federation endpoints, signed without lmatrix: a second opinion on the wire.

Owns: :class:`SigningClient` (the X-Matrix header and what it signs, LPDUs, transactions, the joining handshake) and the
paths of both forms of the endpoints. It talks to any server that speaks the I-D, well or badly: what is sent can be
bent at every point, and answers come back as they are.

Source: I-D "Transport", "Request Authentication".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from signedjson.sign import sign_json
from signedjson.types import VerifyKey

from tests.end_to_end.raw_http import Answer, RawHttp
from tests.end_to_end.wire_events import (
    I1,
    V02,
    Identity,
    JsonObject,
    WireError,
    canonical,
    check_signature,
    make_lpdu,
    rehashed,
    verify_keys_of,
)

Query = Sequence[tuple[str, object]]

UNSTABLE = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"
_STABLE_VERSIONS: Mapping[str, str] = {
    **dict.fromkeys(("send", "event", "backfill"), "v2"),
    **dict.fromkeys(("state", "state_ids", "make_join", "make_leave", "make_knock", "user"), "v1"),
    **dict.fromkeys(("invite", "send_join", "send_leave", "send_knock"), "v3"),
}

FORMS = ("stable", "unstable")


class Refused(Exception):
    """A server answered otherwise than 200.

    Args:
        answer: what it answered.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.body[:500]!r}")
        self.answer = answer


def path(name: str, *segments: str, form: str = "stable", query: Query = ()) -> str:
    """The request target of an endpoint.

    Args:
        name: its first word: ``"send_join"``.
        segments: what follows, not yet encoded.
        form: one of :data:`FORMS`.
        query: names and values, not yet encoded.
    """
    prefix = UNSTABLE if form == "unstable" else f"/_matrix/federation/{_STABLE_VERSIONS[name]}"
    encoded = "/".join((prefix, name, *(quote(segment, safe="") for segment in segments)))
    return encoded + "?" + urlencode([(key, str(value)) for key, value in query], quote_via=quote) if query else encoded


class SigningClient:
    """A server's requests to other servers.

    Args:
        identity: who makes them.
        http: carries them.
        urls: where servers are, by name; others are at ``https://`` and their name.
        clock: gives milliseconds since the epoch.
    """

    def __init__(self, identity: Identity, http: RawHttp, urls: Mapping[str, str], clock: Any) -> None:
        self.identity = identity
        self._http = http
        self._urls = urls
        self._clock = clock
        self._last_ts = 0
        self._keys: dict[str, dict[str, VerifyKey]] = {}

    # -- Requests -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        destination: str,
        method: str,
        target: str,
        content: object = None,
        *,
        body: bytes | None = None,
        authorization: Sequence[str] | None = None,
        seconds: float = 60.0,
    ) -> Answer:
        """Make a request.

        Args:
            destination: the other server's name.
            target: see :func:`path`.
            content: the body as JSON, ``None`` for none.
            body: the body's bytes, where they are not those of ``content``.
            authorization: the ``Authorization`` headers, where they are not the one that is right.
        """
        if body is None and content is not None:
            body = canonical(content)
        if authorization is None:
            authorization = [self.authorization(destination, method, target, content)]
        headers = {"Host": [destination], "Authorization": list(authorization)}
        if body is not None:
            headers["Content-Type"] = ["application/json"]
        url = self._urls.get(destination, f"https://{destination}")
        return await self._http.request(method, url, target, headers=headers, body=body, seconds=seconds)

    def authorization(
        self,
        destination: str,
        method: str,
        target: str,
        content: object = None,
        *,
        identity: Identity | None = None,
        bent: Mapping[str, str] | None = None,
    ) -> str:
        """The header that proves who makes a request.

        Args:
            content: the body as JSON; ``None``, no body, is signed as ``{}``.
            identity: who signs, where that is not who asks.
            bent: parameters (``origin``, ``destination``, ``key``, ``sig``) that the header is to have instead.
        """
        identity = identity or self.identity
        request: JsonObject = {
            "method": method,
            "uri": target,
            "origin": self.identity.server_name,
            "destination": destination,
            "content": {} if content is None else content,
        }
        signed = sign_json(request, identity.server_name, identity.key)
        parameters = {
            "origin": self.identity.server_name,
            "destination": destination,
            "key": identity.key_id,
            "sig": signed["signatures"][identity.server_name][identity.key_id],
            **(bent or {}),
        }
        return "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in parameters.items())

    async def get(self, destination: str, target: str, **settings: Any) -> Any:
        """The JSON of a successful ``GET``.

        Raises:
            Refused: it was not successful.
        """
        return _successful(await self.request(destination, "GET", target, **settings))

    async def send(
        self, destination: str, transaction_id: str, pdus: Sequence[JsonObject], *, form: str = "stable"
    ) -> Answer:
        """Send a transaction."""
        return await self.request(destination, "PUT", path("send", transaction_id, form=form), {"pdus": list(pdus)})

    # -- Keys ---------------------------------------------------------------------------------------------------------

    async def keys(self, server_name: str, *, fresh: bool = False) -> Mapping[str, VerifyKey]:
        """A server's keys, the old ones too.

        Raises:
            WireError: what it publishes is not what it must be.
        """
        if fresh or server_name not in self._keys:
            url = self._urls.get(server_name, f"https://{server_name}")
            answer = await self._http.request("GET", url, "/_matrix/key/v2/server", headers={"Host": [server_name]})
            published = _successful(answer)
            if published["server_name"] != server_name:
                raise WireError(f"{server_name} publishes the keys of {published['server_name']}")
            for key_id, key in verify_keys_of(published, with_old=False).items():
                check_signature(published, server_name, {server_name: {key_id: key}})
            self._keys[server_name] = verify_keys_of(published)
        return self._keys[server_name]

    async def keys_of(self, server_names: Iterable[str]) -> dict[str, Mapping[str, VerifyKey]]:
        """The keys of several servers."""
        return {server_name: await self.keys(server_name) for server_name in sorted(set(server_names))}

    # -- Events -------------------------------------------------------------------------------------------------------

    def lpdu(
        self,
        room_id: str,
        sender: str,
        type: str,
        content: JsonObject,
        *,
        hub_server: str,
        state_key: str | None = None,
        version: str = I1,
        **fields: object,
    ) -> JsonObject:
        """An LPDU of one of our users, hashed and signed, with a time of its own.

        Args:
            fields: more fields, or others.
        """
        self._last_ts = max(self._last_ts + 1, int(self._clock.seconds() * 1000))
        lpdu = make_lpdu(
            self.identity,
            room_id=room_id,
            sender=sender,
            type=type,
            content=content,
            hub_server=hub_server,
            origin_server_ts=self._last_ts,
            state_key=state_key,
            version=version,
        )
        return rehashed(self.identity, {**lpdu, **fields}, version) if fields else lpdu

    def message(self, room_id: str, sender: str, text: str, *, hub_server: str, version: str = I1) -> JsonObject:
        """An LPDU of a message."""
        content = {"msgtype": "m.text", "body": text}
        return self.lpdu(room_id, sender, "m.room.message", content, hub_server=hub_server, version=version)

    def member(
        self, room_id: str, sender: str, membership: str, *, hub_server: str, target: str | None = None, **fields: Any
    ) -> JsonObject:
        """An LPDU of a membership, by default of the sender's own."""
        content = {"membership": membership}
        state_key = target or sender
        return self.lpdu(
            room_id, sender, "m.room.member", content, hub_server=hub_server, state_key=state_key, **fields
        )

    async def join(self, hub: str, room_id: str, user_id: str, *, form: str = "stable") -> JsonObject:
        """Join one of our users to a room by the handshake.

        Returns:
            The answer to ``send_join``: ``event``, ``state``, ``auth_chain``.

        Raises:
            Refused: the hub did not let the user in.
        """
        query = [("ver", version) for version in (I1, V02)]
        template = await self.get(hub, path("make_join", room_id, user_id, form=form, query=query))
        event, version = template["event"], template["room_version"]
        lpdu = self.member(room_id, event["sender"], "join", hub_server=event["hub_server"], version=version)
        target = path("send_join", f"join{lpdu['origin_server_ts']}", form=form)
        joined: JsonObject = _successful(await self.request(hub, "POST", target, lpdu))
        return joined

    async def room(self, hub: str, room_id: str, last: str) -> list[JsonObject]:
        """All events of a room from the first one up to and including one, page by page.

        Raises:
            Refused: the hub does not show them.
        """
        events: list[JsonObject] = []
        wanted: Sequence[str] = [last]
        while wanted:
            query = [("v", wanted[0]), ("limit", 100)]
            page = (await self.get(hub, path("backfill", room_id, query=query)))["pdus"]
            events[:0] = page
            wanted = page[0]["prev_events"]
        return events


def _successful(answer: Answer) -> Any:
    if answer.status != 200:
        raise Refused(answer)
    return answer.json
