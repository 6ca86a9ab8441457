"""The requests that this server makes of others, one method for each endpoint.

Owns: :class:`HttpPeers`, which implements :class:`~lmatrix.rooms.interfaces.Peers` and the sending of transactions:
paths and their two forms, how long each request may take and how long its answer may be, and the shape of the answers.

Invariants: what a caller gets has the shape that its method promises, whatever the peer sent, else
:class:`~lmatrix.errors.PeerMisbehaved`; what is *in* an event is not looked at here. Every ``POST`` carries a
transaction ID that follows from its body, so that sending it twice does no harm.

A peer that does not know an endpoint in one form (stable, unstable) is asked in the other, and remembered. ``make_*``
and ``state``, which are older than the I-D's unstable prefix, are asked for in their stable form only.

Implements the I-D's "Sending Events", "Event and State APIs", "Room Membership", their asking side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from lmatrix import canonical_json
from lmatrix.crypto.digest import sha256_urlsafe
from lmatrix.errors import PeerMisbehaved, PeerRefused
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import PathForm, RoomVersion
from lmatrix.federation.client import Query, path_of
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.resources import paths
from lmatrix.federation.resources.paths import EndpointPath
from lmatrix.rooms.interfaces import JsonObject, MembershipTemplate

_MIB = 1024 * 1024
_UNRECOGNIZED_STATUSES = frozenset({400, 404, 405})


@attrs.frozen(slots=True)
class _Endpoint:
    """An endpoint, as far as the asking side is concerned.

    Attributes:
        at: where it is, in both forms.
        timeout_s: seconds until the request is given up.
        max_answer: bytes of its answer, at most.
    """

    at: EndpointPath
    timeout_s: float = 60
    max_answer: int = _MIB

    def path(self, form: PathForm, *segments: str) -> str:
        template = self.at.unstable if form is PathForm.UNSTABLE else self.at.stable
        # All parameters stand at the end.
        return path_of(template.partition("/{")[0], *segments)


_SEND = _Endpoint(paths.SEND)
_EVENT = _Endpoint(paths.EVENT, timeout_s=30)
_BACKFILL = _Endpoint(paths.BACKFILL, max_answer=16 * _MIB)
_STATE = _Endpoint(paths.STATE, max_answer=64 * _MIB)
# The hub asks the target in turn before it answers.
_INVITE = _Endpoint(paths.INVITE)
# The candidate may have to fetch and check the whole room first; the asker of a request waits for such an offer.
_HUB_OFFER = _Endpoint(paths.HUB_OFFER, timeout_s=240)
_HUB_REQUEST = _Endpoint(paths.HUB_REQUEST, timeout_s=300)
_MAKE_MEMBERSHIP = {
    "join": _Endpoint(paths.MAKE_JOIN, timeout_s=30),
    "leave": _Endpoint(paths.MAKE_LEAVE, timeout_s=30),
    "knock": _Endpoint(paths.MAKE_KNOCK, timeout_s=30),
}
_SEND_MEMBERSHIP = {
    "join": _Endpoint(paths.SEND_JOIN, max_answer=64 * _MIB),
    "leave": _Endpoint(paths.SEND_LEAVE),
    "knock": _Endpoint(paths.SEND_KNOCK),
}

_ACCEPTED = "org.lmatrix.accepted"


class RequestMaker(Protocol):
    """See :meth:`lmatrix.federation.client.SignedClient.request`."""

    async def request(
        self,
        destination: str,
        method: str,
        path: str,
        *,
        query: Query = ...,
        content: JsonObject | None = ...,
        content_bytes: bytes | None = ...,
        timeout_s: float = ...,
        max_answer: int = ...,
        repeatable: bool | None = ...,
    ) -> JsonObject: ...


class HttpPeers:
    """Other servers, over HTTP.

    Args:
        client: makes the requests.
        traits: what is remembered of peers' peculiarities.

    Every method raises :class:`~lmatrix.errors.PeerUnreachable`, :class:`~lmatrix.errors.PeerRefused` or
    :class:`~lmatrix.errors.PeerMisbehaved`.
    """

    def __init__(self, client: RequestMaker, traits: PeerTraitsMemory) -> None:
        self._client = client
        self._traits = traits

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
        answer = await self._either(_SEND, path_form, destination, transaction_id, content_bytes=body)
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
        answer = await self._ask(
            _MAKE_MEMBERSHIP[membership], PathForm.STABLE, destination, room_id, user_id, query=query
        )
        version = answer.get("room_version")
        if version is not None and not isinstance(version, str):
            raise _misbehaved(destination, "room_version is not a string")
        if "event" in answer:
            return MembershipTemplate(_object(destination, answer, "event"), version)
        if "type" not in answer:
            raise _misbehaved(destination, "it is not an event template")
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
        answer = await self._either(
            _SEND_MEMBERSHIP[membership],
            room_version.outbound_paths,
            destination,
            lpdu.event_id,
            content_bytes=lpdu.canonical,
        )
        if membership == "join":
            _objects(destination, answer, "state")
            _objects(destination, answer, "auth_chain")
            if "event" in answer:
                _object(destination, answer, "event")
        elif membership == "knock":
            given = "stripped_state" if "stripped_state" in answer else "knock_room_state"
            answer["stripped_state"] = _objects(destination, answer, given)
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
        answer = await self._either(
            _INVITE, room_version.outbound_paths, destination, sha256_urlsafe(body), content_bytes=body
        )
        return _object(destination, answer, "pdu" if "pdu" in answer else "event")

    async def backfill(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str, limit: int
    ) -> Sequence[JsonObject]:
        """``GET /backfill``: up to ``limit`` events that end with ``event_id``, in the order that the peer gave."""
        query = [("v", event_id), ("limit", str(limit))]
        answer = await self._either(_BACKFILL, room_version.outbound_paths, destination, room_id, query=query)
        return _objects(destination, answer, "pdus")

    async def event(self, destination: str, room_version: RoomVersion, event_id: str) -> JsonObject:
        """``GET /event``."""
        return await self._either(_EVENT, room_version.outbound_paths, destination, event_id)

    async def state(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str
    ) -> tuple[Sequence[JsonObject], Sequence[JsonObject]]:
        """``GET /state`` before ``event_id``: ``(pdus, auth_chain)``."""
        answer = await self._ask(_STATE, PathForm.STABLE, destination, room_id, query=[("event_id", event_id)])
        return _objects(destination, answer, "pdus"), _objects(destination, answer, "auth_chain")

    async def offer_hub(self, destination: str, offer: JsonObject) -> JsonObject:
        """Offer a room to its next hub; the candidate's LPDU."""
        body = canonical_json.encode(offer)
        answer = await self._ask(_HUB_OFFER, PathForm.STABLE, destination, sha256_urlsafe(body), content_bytes=body)
        return _object(destination, answer, "event")

    async def request_hub(self, destination: str, room_id: str, user_id: str) -> str:
        """Ask a room's hub to make us the hub, for a user of ours; the event ID of the event that did."""
        body = canonical_json.encode({"room_id": room_id, "user_id": user_id})
        answer = await self._ask(_HUB_REQUEST, PathForm.STABLE, destination, sha256_urlsafe(body), content_bytes=body)
        event_id = answer.get("event_id")
        if not isinstance(event_id, str):
            raise _misbehaved(destination, "event_id is not a string")
        return event_id

    async def _either(
        self,
        endpoint: _Endpoint,
        preferred: PathForm,
        destination: str,
        *segments: str,
        query: Query = (),
        content_bytes: bytes | None = None,
    ) -> JsonObject:
        """Ask in the form that the peer is known to understand, else in the room version's; then in the other."""

        async def ask(form: PathForm) -> JsonObject:
            return await self._ask(endpoint, form, destination, *segments, query=query, content_bytes=content_bytes)

        first = self._traits.of(destination).path_form or preferred
        try:
            return await ask(first)
        except PeerRefused as unrecognized:
            if not _is_unrecognized(unrecognized):
                raise
            refusal = unrecognized
        second = PathForm.STABLE if first is PathForm.UNSTABLE else PathForm.UNSTABLE
        try:
            answer = await ask(second)
        except PeerRefused as error:
            if _is_unrecognized(error):
                raise refusal from None
            # It refused what was asked, so it understood it.
            self._traits.learned_path_form(destination, second)
            raise
        self._traits.learned_path_form(destination, second)
        return answer

    async def _ask(
        self,
        endpoint: _Endpoint,
        form: PathForm,
        destination: str,
        *segments: str,
        query: Query = (),
        content_bytes: bytes | None = None,
    ) -> JsonObject:
        return await self._client.request(
            destination,
            endpoint.at.method,
            endpoint.path(form, *segments),
            query=query,
            content_bytes=content_bytes,
            timeout_s=endpoint.timeout_s,
            max_answer=endpoint.max_answer,
            repeatable=True,
        )


def _is_unrecognized(error: PeerRefused) -> bool:
    """Whether the peer does not know the endpoint. Some say so with a bare 404 that no program was meant to read."""
    if error.status not in _UNRECOGNIZED_STATUSES:
        return False
    return error.errcode == "M_UNRECOGNIZED" or (error.status != 400 and "errcode" not in error.body)


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


def _object(destination: str, answer: JsonObject, key: str) -> JsonObject:
    value = answer.get(key)
    if not isinstance(value, dict):
        raise _misbehaved(destination, f"{key} is not an object")
    return value


def _objects(destination: str, answer: JsonObject, key: str) -> list[JsonObject]:
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise _misbehaved(destination, f"{key} is not a list of objects")
    return value


def _misbehaved(destination: str, reason: str) -> PeerMisbehaved:
    return PeerMisbehaved(destination, f"{destination} gave an answer that cannot be used: {reason}")
