"""``GET /_matrix/key/v2/server``, our signing keys, and ``GET`` and ``POST /_matrix/key/v2/query``, other servers'.

Implements the I-D's "Retrieving Server Keys". Neither authenticated nor rate-limited: what a query may cost us is
bounded by :class:`~lmatrix.federation.notary.Notary`, and here by the number of servers that it may be about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lmatrix import ids
from lmatrix.canonical_json import MAX_SAFE_INTEGER
from lmatrix.errors import BadRequest
from lmatrix.federation.notary_choice import KeyQuery
from lmatrix.http.messages import JsonAnswer, JsonRequest

MAX_SERVERS = 100
"""Servers in one query."""

_MINIMUM = "minimum_valid_until_ts"


class PublishesKeys(Protocol):
    """See :class:`lmatrix.federation.own_keys.OwnKeys`."""

    def published(self) -> bytes:
        """The signed object as canonical JSON."""


class AnswersKeyQueries(Protocol):
    """See :class:`lmatrix.federation.notary.Notary`."""

    async def query(self, queries: Sequence[KeyQuery], client_address: str) -> bytes: ...


class KeysResource:
    """Hands keys out.

    Args:
        own_keys: our keys, signed.
        notary: knows other servers'.
    """

    def __init__(self, own_keys: PublishesKeys, notary: AnswersKeyQueries) -> None:
        self._own_keys = own_keys
        self._notary = notary

    async def server(self, _request: JsonRequest) -> JsonAnswer:
        """``GET /server``: the signed object."""
        return JsonAnswer(200, self._own_keys.published())

    async def query_one(self, request: JsonRequest) -> JsonAnswer:
        """``GET /query/:serverName?minimum_valid_until_ts=…``."""
        server_name = ids.server_name(request.params["serverName"])
        minimum = None
        if request.query_one(_MINIMUM) is not None:
            minimum = request.query_int(_MINIMUM, 0, minimum=0, maximum=MAX_SAFE_INTEGER)
        return await self._answer([KeyQuery(server_name, minimum=minimum)], request)

    async def query_many(self, request: JsonRequest) -> JsonAnswer:
        """``POST /query``."""
        wanted = request.json().get("server_keys")
        if not isinstance(wanted, dict):
            raise BadRequest("server_keys is required, and must be an object")
        if len(wanted) > MAX_SERVERS:
            raise BadRequest(f"server_keys names {len(wanted)} servers; {MAX_SERVERS} are allowed")
        queries = [KeyQuery(ids.server_name(name), _criteria(name, keys)) for name, keys in wanted.items()]
        return await self._answer(queries, request)

    async def _answer(self, queries: Sequence[KeyQuery], request: JsonRequest) -> JsonAnswer:
        return JsonAnswer(200, await self._notary.query(queries, request.client_address))


def _criteria(server_name: str, keys: object) -> Mapping[str, int | None]:
    place = f"server_keys.{server_name}"
    if not isinstance(keys, dict):
        raise BadRequest(f"{place} must be an object")
    criteria: dict[str, int | None] = {}
    for key_id, wanted in keys.items():
        algorithm, _, version = key_id.partition(":")
        if not algorithm or not version or len(key_id) > ids.MAX_ID_BYTES:
            raise BadRequest(f"{place}: {key_id[:80]!r} is not a key ID")
        if not isinstance(wanted, dict):
            raise BadRequest(f"{place}.{key_id} must be an object")
        minimum = wanted.get(_MINIMUM)
        if _MINIMUM in wanted and (type(minimum) is not int or minimum < 0):
            raise BadRequest(f"{place}.{key_id}.{_MINIMUM} must be an integer, and not negative")
        criteria[key_id] = minimum
    return criteria
