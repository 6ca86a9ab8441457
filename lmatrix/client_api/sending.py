"""Sending events: messages, state, redactions (Client-Server API v1.11, "Sending events to a room", "Redactions").

Owns: ``PUT …/send``, ``PUT …/state`` and ``PUT …/redact``. Each waits until the room has the event (or the hub has said
why not), so that the event ID answered is the final one. A membership that a client sets by hand as state takes the
same way as by its own endpoint, since it may need another server; the aliases that a room is to call itself are looked
up first.
"""

from __future__ import annotations

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import bad_json, invalid_param
from lmatrix.client_api.fields import reason_of, room_id_in, user_id
from lmatrix.client_api.interfaces import LocalUsers, TimelineStore
from lmatrix.directory.canonical_alias import CanonicalAliases
from lmatrix.directory.naming_power import CANONICAL_ALIAS
from lmatrix.errors import InvalidIdentifier
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.local_users import ClientTransaction

MEMBER = "m.room.member"


class Sending:
    """The endpoints that send events.

    Args:
        rooms: carries them out.
        canonical: what rooms may call themselves.
        database, timeline: for the sender's present membership.
    """

    def __init__(
        self, rooms: LocalUsers, canonical: CanonicalAliases, database: Database, timeline: TimelineStore
    ) -> None:
        self._rooms = rooms
        self._canonical = canonical
        self._database = database
        self._timeline = timeline

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers. A path that ends with a slash is that of an empty state key, as many clients write it."""
        return (
            Endpoint("PUT", "/rooms/{roomId}/send/{eventType}/{txnId}", self._send, "send"),
            Endpoint("PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", self._redact, "redact"),
            Endpoint("PUT", "/rooms/{roomId}/state/{eventType}", self._put_state, "put_state"),
            Endpoint("PUT", "/rooms/{roomId}/state/{eventType}/", self._put_state, "put_state"),
            Endpoint("PUT", "/rooms/{roomId}/state/{eventType}/{stateKey}", self._put_state, "put_state"),
        )

    async def _send(self, request: JsonRequest, requester: Requester) -> Answer:
        event_id = await self._rooms.send(
            room_id_in(request.params),
            requester.user_id,
            _event_type(request),
            request.json(),
            transaction=_transaction(request, requester),
        )
        return {"event_id": event_id}

    async def _redact(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id = room_id_in(request.params)
        try:
            target = ids.event_id(request.params["eventId"])
        except InvalidIdentifier as problem:
            raise invalid_param("eventId", str(problem)) from problem
        reason = reason_of(request.json_or_empty())
        transaction = _transaction(request, requester)
        event_id = await self._rooms.redact(room_id, requester.user_id, target, reason, transaction)
        return {"event_id": event_id}

    async def _put_state(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, event_type, content = room_id_in(request.params), _event_type(request), request.json()
        state_key = request.params.get("stateKey", "")
        if event_type == MEMBER:
            return await self._put_member(room_id, requester, state_key, content)
        if event_type == CANONICAL_ALIAS and not state_key:
            await self._canonical.check(room_id, content)
        event_id = await self._rooms.send(room_id, requester.user_id, event_type, content, state_key=state_key)
        return {"event_id": event_id}

    async def _put_member(self, room_id: str, requester: Requester, state_key: str, content: JsonObject) -> Answer:
        target = user_id(state_key, "stateKey")
        membership = content.get("membership")
        if not isinstance(membership, str):
            raise bad_json("membership", "a string")
        sender, reason = requester.user_id, reason_of(content)
        present = await self._database.read(lambda tx: self._timeline.user_in_room(tx, room_id, sender))
        if membership == "join" and target == sender and (present is None or present.membership != "join"):
            await self._rooms.join(sender, room_id, (), reason)
        elif membership == "leave" and target == sender:
            await self._rooms.leave(sender, room_id, reason)
        elif membership == "invite":
            await self._rooms.invite(room_id, sender, target, reason)
        elif membership == "join" and target == sender:
            # A change of display name or avatar: the content matters, and the membership does not change.
            return {"event_id": await self._rooms.send(room_id, sender, MEMBER, content, state_key=target)}
        else:
            return {"event_id": await self._rooms.membership(room_id, sender, target, membership, reason)}
        # Of a room that this server is not in, or not yet sure of, the event is not known: the answer then names none.
        found = await self._database.read(lambda tx: self._timeline.user_in_room(tx, room_id, target))
        return {} if found is None else {"event_id": found.event_id}


def _event_type(request: JsonRequest) -> str:
    event_type = request.params["eventType"]
    if len(event_type.encode("utf-8", "surrogatepass")) > ids.MAX_ID_BYTES:
        raise invalid_param("eventType", f"longer than {ids.MAX_ID_BYTES} bytes")
    return event_type


def _transaction(request: JsonRequest, requester: Requester) -> ClientTransaction:
    txn_id = request.params["txnId"]
    if len(txn_id) > ids.MAX_ID_BYTES:
        raise invalid_param("txnId", f"longer than {ids.MAX_ID_BYTES} characters")
    return ClientTransaction(requester.user_id, requester.device_id, txn_id)
