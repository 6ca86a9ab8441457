"""Who may use the admin API: whoever knows the token.

Owns: :class:`AdminAccess`. Invariants: the token is compared in constant time, and is in no log and no answer.
"""

from __future__ import annotations

import hashlib
import hmac

from lmatrix.errors import UnknownToken
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.routes import Handler


class AdminAccess:
    """The door.

    Args:
        token: the one token there is.
    """

    def __init__(self, token: str) -> None:
        self._digest = _digest(token)

    def check(self, request: JsonRequest) -> None:
        """Return if the request bears the token (``Authorization: Bearer …``).

        Raises:
            UnknownToken: it bears none, or another one.
        """
        header = request.header("Authorization")
        if header is None:
            raise UnknownToken(missing=True)
        scheme, _, token = header.partition(" ")
        # Digests have one length, so that the time tells nothing of the token's.
        good = hmac.compare_digest(_digest(token.strip()), self._digest)
        if scheme.lower() != "bearer" or not good:
            raise UnknownToken(missing=False)
        request.origin = "admin"

    def guarded(self, handler: Handler) -> Handler:
        """A handler behind the door."""

        async def handle(request: JsonRequest) -> JsonObject | JsonAnswer:
            self.check(request)
            return await handler(request)

        return handle


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
