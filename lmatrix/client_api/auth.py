"""Who is asking: access tokens.

Owns: making tokens, keeping only their SHA-256, and finding the user and device of a request. Invariants: a token in
the clear exists in the client and in the answer that brought it, nowhere else; a token is 256 random bits from the
injected source, so that its hash needs no salt. Source: Client-Server API v1.11, "Client Authentication", "Using
access tokens".
"""

from __future__ import annotations

import base64
import hashlib
import random

import attrs

from lmatrix.client_api.interfaces import AccountStore
from lmatrix.errors import UnknownToken
from lmatrix.http.messages import JsonRequest
from lmatrix.rooms.interfaces import Database

_TOKEN_BYTES = 32
_MAX_TOKEN_CHARACTERS = 512
_DEVICE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@attrs.frozen(slots=True)
class Requester:
    """Whom an access token stands for.

    Attributes:
        user_id: the user.
        device_id: the device that logged in.
        token_hash: of the token that was used.
    """

    user_id: str
    device_id: str
    token_hash: str = attrs.field(repr=False)


class Authenticator:
    """Finds the user of a request.

    Args:
        database, accounts: where tokens are.
    """

    def __init__(self, database: Database, accounts: AccountStore) -> None:
        self._database = database
        self._accounts = accounts

    async def requester(self, request: JsonRequest) -> Requester:
        """Who makes this request.

        Raises:
            UnknownToken: there is no token, or none that this server gave out and has not taken back.
        """
        token = _token_of(request)
        if token is None:
            raise UnknownToken(missing=True)
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise UnknownToken(missing=False)
        token_hash = hash_of_token(token)
        owner = await self._database.read(lambda tx: self._accounts.user_of_token(tx, token_hash))
        if owner is None:
            raise UnknownToken(missing=False)
        user_id, device_id = owner
        request.origin = user_id
        return Requester(user_id, device_id, token_hash)


def new_token(rng: random.Random) -> str:
    """A fresh access token. ``rng`` must be a cryptographically secure source (``random.SystemRandom``)."""
    return "lmt_" + base64.urlsafe_b64encode(rng.randbytes(_TOKEN_BYTES)).rstrip(b"=").decode("ascii")


def new_device_id(rng: random.Random) -> str:
    """A fresh device ID, ten capital letters."""
    return "".join(rng.choice(_DEVICE_LETTERS) for _ in range(10))


def hash_of_token(token: str) -> str:
    """What is stored of a token: hex SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _token_of(request: JsonRequest) -> str | None:
    # The header is preferred; the query parameter is deprecated, and still sent by clients of /r0.
    header = request.header("Authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None
    return request.query_one("access_token") or None
