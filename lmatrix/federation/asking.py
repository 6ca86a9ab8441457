"""Asking another server at one of its endpoints.

Owns: :class:`Endpoint`, the asking side of an endpoint, and :class:`Asker`, which makes the request in the form of path
that the peer understands: one that does not know an endpoint in one form (stable, unstable) is asked in the other, and
that is remembered. And the first look at what comes back, by which it has the shape that was promised.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from lmatrix.errors import PeerMisbehaved, PeerRefused
from lmatrix.events.room_versions import PathForm
from lmatrix.federation.client import Query, path_of
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.resources.paths import EndpointPath
from lmatrix.rooms.interfaces import JsonObject

_MIB = 1024 * 1024
_UNRECOGNIZED_STATUSES = frozenset({400, 404, 405})


@attrs.frozen(slots=True)
class Endpoint:
    """An endpoint, as far as the asking side is concerned.

    Attributes:
        at: where it is, in both forms.
        timeout_s: seconds until the request is given up.
        max_answer: bytes of its answer, at most.
        repeatable: whether the request may arrive twice.
    """

    at: EndpointPath
    timeout_s: float = 60
    max_answer: int = _MIB
    repeatable: bool = True

    def path(self, form: PathForm, *segments: str) -> str:
        """Its path in one form, with the parameters filled in, in their order."""
        template = self.at.unstable if form is PathForm.UNSTABLE else self.at.stable
        values = iter(segments)
        return path_of("", *(next(values) if part.startswith("{") else part for part in template[1:].split("/")))


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


class Asker:
    """Asks.

    Args:
        client: makes the requests.
        traits: what is remembered of peers' peculiarities.
    """

    def __init__(self, client: RequestMaker, traits: PeerTraitsMemory) -> None:
        self._client = client
        self._traits = traits

    async def either(
        self,
        endpoint: Endpoint,
        preferred: PathForm,
        destination: str,
        *segments: str,
        query: Query = (),
        content_bytes: bytes | None = None,
    ) -> JsonObject:
        """Ask in the form that the peer is known to understand, else in the preferred one; then in the other."""

        async def ask(form: PathForm) -> JsonObject:
            return await self.ask(endpoint, form, destination, *segments, query=query, content_bytes=content_bytes)

        first = self._traits.of(destination).path_form or preferred
        try:
            return await ask(first)
        except PeerRefused as unrecognized:
            if not is_unrecognized(unrecognized):
                raise
            refusal = unrecognized
        second = PathForm.STABLE if first is PathForm.UNSTABLE else PathForm.UNSTABLE
        try:
            answer = await ask(second)
        except PeerRefused as error:
            if is_unrecognized(error):
                raise refusal from None
            # It refused what was asked, so it understood it.
            self._traits.learned_path_form(destination, second)
            raise
        self._traits.learned_path_form(destination, second)
        return answer

    async def ask(
        self,
        endpoint: Endpoint,
        form: PathForm,
        destination: str,
        *segments: str,
        query: Query = (),
        content_bytes: bytes | None = None,
    ) -> JsonObject:
        """Ask in one form."""
        return await self._client.request(
            destination,
            endpoint.at.method,
            endpoint.path(form, *segments),
            query=query,
            content_bytes=content_bytes,
            timeout_s=endpoint.timeout_s,
            max_answer=endpoint.max_answer,
            repeatable=endpoint.repeatable,
        )


def is_unrecognized(error: PeerRefused) -> bool:
    """Whether the peer does not know the endpoint. Some say so with a bare 404 that no program was meant to read."""
    if error.status not in _UNRECOGNIZED_STATUSES:
        return False
    return error.errcode == "M_UNRECOGNIZED" or (error.status != 400 and "errcode" not in error.body)


def object_in(destination: str, answer: JsonObject, key: str) -> JsonObject:
    """An object that the answer must have. Raises :class:`PeerMisbehaved`."""
    value = answer.get(key)
    if not isinstance(value, dict):
        raise misbehaved(destination, f"{key} is not an object")
    return value


def objects_in(destination: str, answer: JsonObject, key: str) -> list[JsonObject]:
    """A list of objects that the answer must have. Raises :class:`PeerMisbehaved`."""
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise misbehaved(destination, f"{key} is not a list of objects")
    return value


def misbehaved(destination: str, reason: str) -> PeerMisbehaved:
    """The error for an answer that cannot be used."""
    return PeerMisbehaved(destination, f"{destination} gave an answer that cannot be used: {reason}")
