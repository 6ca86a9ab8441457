"""The door that every federation request but that for keys goes through.

Owns: what is done before an endpoint looks at a request: who made it (I-D "Request Authentication"), and whether it
asks too often, or too much at one time (I-D "Rate Limiting").

Until it is known who makes a request, it counts for the address that it comes from; then for its origin.
"""

from __future__ import annotations

from typing import Protocol

from lmatrix.http.messages import JsonObject, JsonRequest


class Authenticates(Protocol):
    """See :class:`lmatrix.federation.authentication.Authenticator`."""

    async def authenticate(self, request: JsonRequest, content: JsonObject | None) -> str:
        """The server name that the request proves to come from. Raises :class:`~lmatrix.errors.Unauthenticated`."""


class Limits(Protocol):
    """See :class:`lmatrix.http.limits.RateLimiter`."""

    def take(self, key: str, cost: float = 1) -> None:
        """Raises :class:`~lmatrix.errors.Overloaded`."""


class Admission:
    """Lets requests of other servers in.

    Args:
        authenticator: tells who made a request.
        limiter: how often one server may ask, for the endpoints that the I-D calls rate-limited; ``None``: as it likes.
    """

    def __init__(self, authenticator: Authenticates, limiter: Limits | None) -> None:
        self._authenticator = authenticator
        self._limiter = limiter

    async def admit_bare(self, request: JsonRequest) -> str:
        """Admit a rate-limited request that asks for no body; a body that it has all the same is signed with it.

        Returns:
            The origin's server name.

        Raises:
            Unauthenticated: it does not prove where it comes from.
            Overloaded: the origin asks too often, or has too much under way.
            NotJson, UnsafeJson, BadRequest: it has a body that is not a JSON object.
        """
        return await self._admit(request, request.json() if request.body else None, limited=True)

    async def admit(self, request: JsonRequest, *, limited: bool = True) -> tuple[str, JsonObject]:
        """Admit a request with a body.

        Args:
            limited: whether the endpoint is rate-limited.

        Returns:
            The origin's server name, and the body.

        Raises:
            as :meth:`admit_bare`; no body at all is ``NotJson``.
        """
        content = request.json()
        return await self._admit(request, content, limited=limited), content

    async def _admit(self, request: JsonRequest, content: JsonObject | None, *, limited: bool) -> str:
        origin = await self._authenticator.authenticate(request, content)
        if request.place is not None:
            request.place.pass_to(("server", origin))
        if limited and self._limiter is not None:
            self._limiter.take(origin)
        return origin
