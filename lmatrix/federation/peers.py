"""The requests that this server makes of others, one method for each endpoint.

Owns: :class:`HttpPeers`, which implements :class:`~lmatrix.rooms.interfaces.Peers` and the sending of transactions:
paths and their two forms, how long each request may take and how long its answer may be, and the shape of the answers.

Invariants: what a caller gets has the shape that its method promises, whatever the peer sent, else
:class:`~lmatrix.errors.PeerMisbehaved`; what is *in* an event is not looked at here. Every ``POST`` carries a
transaction ID that follows from its body, so that sending it twice does no harm.

``make_*`` and ``state``, which are older than the I-D's unstable prefix, are asked for in their stable form only.

Implements the I-D's "Sending Events", "Event and State APIs", "Room Membership", their asking side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmatrix import canonical_json
from lmatrix.crypto.digest import sha256_urlsafe
from lmatrix.errors import PeerRefused
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import PathForm, RoomVersion
from lmatrix.federation.asking import (
    Asker,
    Endpoint,
    RequestMaker,
    is_unrecognized,
    misbehaved,
    object_in,
    objects_in,
)
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.resources import paths
from lmatrix.rooms.interfaces import JsonObject, MembershipTemplate

_MIB = 1024 * 1024


_SEND = Endpoint(paths.SEND)
_EVENT = Endpoint(paths.EVENT, timeout_s=30)
_BACKFILL = Endpoint(paths.BACKFILL, max_answer=16 * _MIB)
_STATE = Endpoint(paths.STATE, max_answer=64 * _MIB)
# The hub asks the target in turn before it answers.
_INVITE = Endpoint(paths.INVITE)
# The candidate may have to fetch and check the whole room first; the asker of a request waits for such an offer.
_HUB_OFFER = Endpoint(paths.HUB_OFFER, timeout_s=240)
_HUB_REQUEST = Endpoint(paths.HUB_REQUEST, timeout_s=300)
_HEAD = Endpoint(paths.HEAD, timeout_s=20, max_answer=16 * 1024)
_MAKE_MEMBERSHIP = {
    "join": Endpoint(paths.MAKE_JOIN, timeout_s=30),
    "leave": Endpoint(paths.MAKE_LEAVE, timeout_s=30),
    "knock": Endpoint(paths.MAKE_KNOCK, timeout_s=30),
}
_SEND_MEMBERSHIP = {
    "join": Endpoint(paths.SEND_JOIN, max_answer=64 * _MIB),
    "leave": Endpoint(paths.SEND_LEAVE),
    "knock": Endpoint(paths.SEND_KNOCK),
}

_ACCEPTED = "org.lmatrix.accepted"


class HttpPeers:
    """Other servers, over HTTP.

    Args:
        client: makes the requests.
        traits: what is remembered of peers' peculiarities.

    Every method raises :class:`~lmatrix.errors.PeerUnreachable`, :class:`~lmatrix.errors.PeerRefused` or
    :class:`~lmatrix.errors.PeerMisbehaved`.
    """

    def __init__(self, client: RequestMaker, traits: PeerTraitsMemory) -> None:
        self._asker = Asker(client, traits)

    async def send_transaction(
        self, destination: str, transaction_id: str, body: bytes, path_form: PathForm
    ) -> JsonObject:
        """``PUT /send/:txnId``.

        Args:
            destination: the other server's name.
            transaction_id: the transaction's ID.
            body: canonical JSON with ``pdus`` and, maybe, ``edus``.
            path_form: which form of path to try first.

        Returns:
            An object that has ``failed_pdus`` (event ID → object with a string ``error``) and ``org.lmatrix.accepted``
            (LPDU event ID → event ID), both maybe empty: what the peer sent besides, or in another shape, is left out.
        """
        answer = await self._asker.either(_SEND, path_form, destination, transaction_id, content_bytes=body)
        return {"failed_pdus": _failed_pdus(answer), _ACCEPTED: _accepted(answer)}

    async def make_membership(
        self, destination: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> MembershipTemplate:
        """``GET /make_join``, ``/make_leave`` or ``/make_knock``; accepts the bare and the wrapped template.

        Args:
            membership: ``"join"``, ``"leave"`` or ``"knock"``.
            versions: identifiers of the room versions that we support.
        """
        # make_leave has no such parameter: the version was checked when the invite came.
        query = [] if membership == "leave" else [("ver", version) for version in versions]
        answer = await self._asker.ask(
            _MAKE_MEMBERSHIP[membership], PathForm.STABLE, destination, room_id, user_id, query=query
        )
        version = answer.get("room_version")
        if version is not None and not isinstance(version, str):
            raise misbehaved(destination, "room_version is not a string")
        if "event" in answer:
            return MembershipTemplate(object_in(destination, answer, "event"), version)
        if "type" not in answer:
            raise misbehaved(destination, "it is not an event template")
        return MembershipTemplate({key: value for key, value in answer.items() if key != "room_version"}, version)

    async def send_membership(
        self, destination: str, membership: str, room_version: RoomVersion, lpdu: Lpdu
    ) -> JsonObject:
        """``POST /send_join``, ``/send_leave`` or ``/send_knock``.

        Args:
            membership: ``"join"``, ``"leave"`` or ``"knock"``.
            lpdu: the signed LPDU.

        Returns:
            The answer. For a join it has ``state`` and ``auth_chain``, lists of objects, and an object ``event`` if
            the peer gave one; for a knock ``stripped_state``, a list of objects.
        """
        answer = await self._asker.either(
            _SEND_MEMBERSHIP[membership],
            room_version.outbound_paths,
            destination,
            lpdu.event_id,
            content_bytes=lpdu.canonical,
        )
        if membership == "join":
            objects_in(destination, answer, "state")
            objects_in(destination, answer, "auth_chain")
            if "event" in answer:
                object_in(destination, answer, "event")
        elif membership == "knock":
            given = "stripped_state" if "stripped_state" in answer else "knock_room_state"
            answer["stripped_state"] = objects_in(destination, answer, given)
        return answer

    async def invite(
        self,
        destination: str,
        room_version: RoomVersion,
        event: JsonObject,
        stripped_state: Sequence[JsonObject],
    ) -> JsonObject:
        """``POST /invite``: to the hub with an LPDU, from the hub to the target with a PDU.

        Returns:
            The signed event, from ``pdu`` or ``event``.
        """
        body = canonical_json.encode(
            {"event": event, "invite_room_state": list(stripped_state), "room_version": room_version.identifier}
        )
        answer = await self._asker.either(
            _INVITE, room_version.outbound_paths, destination, sha256_urlsafe(body), content_bytes=body
        )
        return object_in(destination, answer, "pdu" if "pdu" in answer else "event")

    async def backfill(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str, limit: int
    ) -> Sequence[JsonObject]:
        """``GET /backfill``: up to ``limit`` events that end with ``event_id``, in the order that the peer gave."""
        query = [("v", event_id), ("limit", str(limit))]
        answer = await self._asker.either(_BACKFILL, room_version.outbound_paths, destination, room_id, query=query)
        return objects_in(destination, answer, "pdus")

    async def event(self, destination: str, room_version: RoomVersion, event_id: str) -> JsonObject:
        """``GET /event``."""
        return await self._asker.either(_EVENT, room_version.outbound_paths, destination, event_id)

    async def state(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str
    ) -> tuple[Sequence[JsonObject], Sequence[JsonObject]]:
        """``GET /state`` before ``event_id``: ``(pdus, auth_chain)``."""
        answer = await self._asker.ask(_STATE, PathForm.STABLE, destination, room_id, query=[("event_id", event_id)])
        return objects_in(destination, answer, "pdus"), objects_in(destination, answer, "auth_chain")

    async def head(self, destination: str, room_id: str) -> JsonObject | None:
        """``GET …/org.lmatrix.head/:roomId``: its head statement; ``None`` when it does not know the question."""
        try:
            return await self._asker.ask(_HEAD, PathForm.STABLE, destination, room_id)
        except PeerRefused as error:
            if is_unrecognized(error):
                return None
            raise

    async def offer_hub(self, destination: str, offer: JsonObject) -> JsonObject:
        """Offer a room to its next hub; the candidate's LPDU."""
        body = canonical_json.encode(offer)
        answer = await self._asker.ask(
            _HUB_OFFER, PathForm.STABLE, destination, sha256_urlsafe(body), content_bytes=body
        )
        return object_in(destination, answer, "event")

    async def request_hub(self, destination: str, room_id: str, user_id: str) -> str:
        """Ask a room's hub to make us the hub, for a user of ours; the event ID of the event that did."""
        body = canonical_json.encode({"room_id": room_id, "user_id": user_id})
        answer = await self._asker.ask(
            _HUB_REQUEST, PathForm.STABLE, destination, sha256_urlsafe(body), content_bytes=body
        )
        event_id = answer.get("event_id")
        if not isinstance(event_id, str):
            raise misbehaved(destination, "event_id is not a string")
        return event_id


def _failed_pdus(answer: JsonObject) -> dict[str, JsonObject]:
    failed = answer.get("failed_pdus")
    if not isinstance(failed, dict):
        return {}
    return {event_id: _failure(entry) for event_id, entry in failed.items()}


def _failure(entry: Any) -> JsonObject:
    """An entry of ``failed_pdus``; the error code is our addition, for LPDUs that another hub should get."""
    failure: JsonObject = {"error": _reason(entry)}
    if isinstance(entry, Mapping) and isinstance(entry.get("errcode"), str):
        failure["errcode"] = entry["errcode"][:100]
    return failure


def _reason(entry: Any) -> str:
    error = entry.get("error") if isinstance(entry, Mapping) else entry
    return error[:1000] if isinstance(error, str) and error else "no reason given"


def _accepted(answer: JsonObject) -> dict[str, str]:
    accepted = answer.get(_ACCEPTED)
    if not isinstance(accepted, dict):
        return {}
    return {lpdu: event_id for lpdu, event_id in accepted.items() if isinstance(event_id, str)}
