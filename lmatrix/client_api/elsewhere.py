"""Who may have this server ask other servers, by requests that need no access token of their own.

Owns: :class:`AskingElsewhere`. Such a request costs another server something, in our name: so it is for users of ours
only, and counts against what a user may do, like a change.
"""

from __future__ import annotations

from lmatrix.client_api.auth import Authenticator
from lmatrix.errors import Forbidden, UnknownToken
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonRequest


class AskingElsewhere:
    """The door.

    Args:
        authenticator: who is logged in.
        limiter: how often a user may; ``None``: as often as they like.
    """

    def __init__(self, authenticator: Authenticator, limiter: RateLimiter | None) -> None:
        self._authenticator = authenticator
        self._limiter = limiter

    async def check(self, request: JsonRequest) -> None:
        """Return if whoever makes the request may have another server asked.

        Raises:
            Forbidden: there is no access token.
            UnknownToken: there is one, and it is not (or no longer) good.
            Overloaded: the user asks too often.
        """
        try:
            requester = await self._authenticator.requester(request)
        except UnknownToken as error:
            if error.missing:
                raise Forbidden("Other servers are asked for users of this one only: log in") from error
            raise
        if self._limiter is not None:
            self._limiter.take(requester.user_id)
