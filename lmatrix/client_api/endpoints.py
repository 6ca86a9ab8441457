"""What an endpoint of the client API is, before it has its full paths.

Owns: :class:`Endpoint` (for a logged-in user) and :class:`OpenEndpoint` (for anybody), and :class:`ClientLimits`. The
modules of the client API give lists of these; :mod:`lmatrix.client_api.routes` makes routes of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.routes import DEFAULT_MAX_BODY

Answer = JsonObject | JsonAnswer


@attrs.frozen(slots=True)
class Endpoint:
    """An endpoint that needs an access token.

    Attributes:
        method: the HTTP method.
        path: below ``/_matrix/client/v3``: ``"/rooms/{roomId}/join"``.
        handler: answers it.
        name: for logs and metrics.
        max_body: bytes of its request body, at most.
        long_poll: whether the answer may take long on purpose.
    """

    method: str
    path: str
    handler: Callable[[JsonRequest, Requester], Awaitable[Answer]] = attrs.field(repr=False)
    name: str
    max_body: int = DEFAULT_MAX_BODY
    long_poll: bool = False


@attrs.frozen(slots=True)
class OpenEndpoint:
    """An endpoint for which nobody need be logged in; attributes as for :class:`Endpoint`."""

    method: str
    path: str
    handler: Callable[[JsonRequest], Awaitable[Answer]] = attrs.field(repr=False)
    name: str
    max_body: int = DEFAULT_MAX_BODY


@attrs.frozen(slots=True)
class ClientLimits:
    """How often clients may ask; ``None`` for as often as they like.

    Attributes:
        registration: keyed by the client's address.
        login: keyed by the client's address, and by the account.
        changes: keyed by user, for everything that is not a ``GET``.
    """

    registration: RateLimiter | None = None
    login: RateLimiter | None = None
    changes: RateLimiter | None = None
