"""Requests to other servers, signed.

Owns: :class:`SignedClient`: from "this request to that server" to its JSON answer or one of three errors. It resolves,
signs (with every key of ours), sends, bounds time and size, and judges the answer.

Invariants:

* a body is encoded once, and the same bytes are signed and sent;
* whatever a peer does, a request ends within its time limit, with a JSON object or with
  :class:`~lmatrix.errors.PeerUnreachable` (no usable answer), :class:`~lmatrix.errors.PeerRefused` (an error status) or
  :class:`~lmatrix.errors.PeerMisbehaved` (a 200 that is not a JSON object, or too long);
* nothing is retried but what costs no one anything: an idempotent request whose kept connection was dead, and a request
  without a body whose signature was refused in the one form that the I-D and Matrix disagree about. Back-off and
  repetition are the caller's.

Implements the I-D's "Request Authentication" (its sending side) and "Requests and Responses", "Errors".
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix import canonical_json
from lmatrix.errors import (
    BadRequest,
    InvalidJson,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    TooLarge,
)
from lmatrix.federation.discovery import Route
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.retry_after import retry_after_ms
from lmatrix.federation.transport import NETWORK_ERRORS, Answer, OutgoingRequest, PeerTransport, words_for
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from lmatrix.metrics import Metrics
from lmatrix.rooms.identity import ServerIdentity

JsonObject = dict[str, Any]
Query = Sequence[tuple[str, str]]

TIMEOUT_S = 30.0
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer, for requests that do not say otherwise."""

_MAX_ERROR_TEXT = 500
_MAX_ERRCODE = 100
_REPEATABLE_METHODS = frozenset({"GET", "PUT"})
_EMPTY_CONTENT = b"{}"


class RouteFinder(Protocol):
    """See :class:`lmatrix.federation.resolver.ServerResolver`."""

    async def resolve(self, server_name: str) -> Route: ...


def path_of(prefix: str, *segments: str) -> str:
    """A path: the prefix as it is, then each segment percent-encoded whole (a slash in it too)."""
    return "/".join((prefix, *(quote(segment, safe="") for segment in segments)))


class SignedClient:
    """Makes requests to other servers in the name of this one.

    Args:
        identity: who we are.
        resolver: finds the route to a server.
        transport: carries a request along a route.
        traits: what is remembered of peers' peculiarities.
        clock: for the time limits.
        metrics: where requests are counted.
        user_agent: the header's value, for example ``"lmatrix/1.0"``.
    """

    _log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        *,
        resolver: RouteFinder,
        transport: PeerTransport,
        traits: PeerTraitsMemory,
        clock: IReactorTime,
        metrics: Metrics,
        user_agent: str = "lmatrix",
    ) -> None:
        self._identity = identity
        self._resolver = resolver
        self._transport = transport
        self._traits = traits
        self._clock = clock
        self._metrics = metrics
        self._user_agent = user_agent

    async def request(
        self,
        destination: str,
        method: str,
        path: str,
        *,
        query: Query = (),
        content: JsonObject | None = None,
        content_bytes: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
        max_answer: int = MAX_ANSWER,
        repeatable: bool | None = None,
    ) -> JsonObject:
        """Make a signed request.

        Args:
            destination: the other server's name.
            method: HTTP method in capitals.
            path: percent-encoded path, see :func:`path_of`.
            query: names and values, not yet encoded; in this order.
            content: the body; ``None`` for none.
            content_bytes: the body's canonical JSON, if it is at hand; instead of ``content``.
            timeout_s: seconds until we give up, name resolution included.
            max_answer: bytes of the answer, at most.
            repeatable: whether the request may arrive twice; by default that depends on the method. Set it for a
                ``POST`` with a transaction ID.

        Returns:
            The answer to a request that succeeded (200).

        Raises:
            PeerUnreachable, PeerRefused, PeerMisbehaved: see the module.
            UnsafeJson: ``content`` cannot be encoded.
        """
        if content_bytes is None and content is not None:
            content_bytes = canonical_json.encode(content)
        target = path + "?" + urlencode(query, quote_via=quote, safe="") if query else path
        if repeatable is None:
            repeatable = method in _REPEATABLE_METHODS

        async def exchange() -> Answer:
            return await self._signed(destination, method, target, content_bytes, max_answer, repeatable)

        return await self._counted(destination, exchange(), timeout_s)

    async def get_public(
        self, destination: str, path: str, *, timeout_s: float = TIMEOUT_S, max_answer: int = MAX_ANSWER
    ) -> JsonObject:
        """Make a ``GET`` request to an endpoint that asks for no authentication, without signing it.

        Args and raises: as :meth:`request`.
        """
        request = OutgoingRequest("GET", path, {"User-Agent": [self._user_agent]}, None, repeatable=True)

        async def exchange() -> Answer:
            route = await self._resolver.resolve(destination)
            return await self._transport.exchange(route, request, max_answer)

        return await self._counted(destination, exchange(), timeout_s)

    async def _counted(self, destination: str, exchange: Coroutine[Any, Any, Answer], timeout_s: float) -> JsonObject:
        outcomes = self._metrics.federation_requests_out
        try:
            answer = await self._bounded(destination, exchange, timeout_s)
            body = _judged(destination, answer, self._clock.seconds())
        except PeerError as error:
            outcomes.labels(_OUTCOMES[type(error)]).inc()
            self._log.debug("{error}", error=error)
            raise
        outcomes.labels("ok").inc()
        return body

    async def _bounded(self, destination: str, exchange: Coroutine[Any, Any, Answer], timeout_s: float) -> Answer:
        """Run the exchange within the time limit, and put whatever goes wrong into our own words."""

        def too_late(*_: object) -> Answer:
            raise PeerUnreachable(destination, f"no answer within {timeout_s:g} seconds")

        try:
            return await Deferred.fromCoroutine(exchange).addTimeout(timeout_s, self._clock, too_late)
        except (PeerError, CancelledError):
            raise
        except TooLarge as error:
            raise PeerMisbehaved(destination, f"{destination} gave an answer that is too long: {error}") from None
        except NETWORK_ERRORS as error:
            raise PeerUnreachable(destination, words_for(error)) from error
        except Exception as error:
            # Not one of the ways in which a network fails, so perhaps a mistake of ours; to the caller there is no
            # answer either way.
            self._log.failure("a request to {destination} failed unexpectedly", destination=destination)
            raise PeerUnreachable(destination, words_for(error)) from error

    async def _signed(
        self, destination: str, method: str, target: str, body: bytes | None, max_answer: int, repeatable: bool
    ) -> Answer:
        if destination == self._identity.server_name:
            raise PeerUnreachable(destination, "that is this server itself")
        route = await self._resolver.resolve(destination)

        async def attempt(signed_content: bytes | None) -> Answer:
            headers = {
                "Authorization": self._authorization(destination, method, target, signed_content),
                "User-Agent": [self._user_agent],
            }
            if body is not None:
                headers["Content-Type"] = ["application/json"]
            request = OutgoingRequest(method, target, headers, body, repeatable)
            return await self._transport.exchange(route, request, max_answer)

        if body is not None:
            return await attempt(body)
        bare = self._traits.of(destination).bare_get_signature
        answer = await attempt(None if bare else _EMPTY_CONTENT)
        if answer.status != 401:
            return answer
        # The I-D signs `content: {}` for a request without a body, Matrix no `content` at all: the other one, then.
        second = await attempt(_EMPTY_CONTENT if bare else None)
        if second.status == 401:
            return answer
        self._traits.learned_bare_get_signature(destination, not bare)
        return second

    def _authorization(self, destination: str, method: str, target: str, content: bytes | None) -> list[str]:
        origin = self._identity.server_name
        message = request_signing_bytes(method, target, origin, destination, content)
        return [
            format_authorization(XMatrix(origin, destination, key.key_id, key.sign(message)))
            for key in self._identity.keys
        ]


_OUTCOMES: dict[type[PeerError], str] = {
    PeerUnreachable: "unreachable",
    PeerRefused: "refused",
    PeerMisbehaved: "misbehaved",
}


def _judged(destination: str, answer: Answer, now_s: float) -> JsonObject:
    if answer.status != 200:
        raise _refusal(destination, answer, now_s)
    try:
        return canonical_json.parse_object(answer.body)
    except (InvalidJson, BadRequest) as error:
        raise PeerMisbehaved(destination, f"{destination} gave an answer that cannot be used: {error}") from None


def _refusal(destination: str, answer: Answer, now_s: float) -> PeerRefused:
    """An error answer; whatever its body is, the status stands (PROTOCOL section 4)."""
    try:
        body = canonical_json.parse_object(answer.body)
    except (InvalidJson, BadRequest):
        body = {}
    errcode, error = body.get("errcode"), body.get("error")
    if not isinstance(errcode, str) or not errcode:
        errcode = "M_UNKNOWN"
    if not isinstance(error, str):
        error = "no reason given"
    asked_to_wait = retry_after_ms(answer.headers, now_s)
    return PeerRefused(destination, answer.status, errcode[:_MAX_ERRCODE], error[:_MAX_ERROR_TEXT], body, asked_to_wait)
