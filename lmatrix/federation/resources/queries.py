"""``GET /query/profile`` and ``GET /query/directory`` (Server-Server API v1.11, "Querying for information")."""

from __future__ import annotations

from typing import Protocol

from lmatrix import ids
from lmatrix.directory.interfaces import AliasTarget
from lmatrix.directory.profiles import FIELDS, Profile
from lmatrix.errors import BadRequest, InvalidIdentifier, InvalidParam, MissingParam
from lmatrix.federation.resources.admission import Admission
from lmatrix.http.messages import JsonObject, JsonRequest


class TellsProfiles(Protocol):
    """See :class:`lmatrix.directory.profile_reading.Profiles`."""

    def is_local(self, user_id: str) -> bool: ...

    async def local(self, user_id: str) -> Profile: ...


class TellsWhereAliasesLead(Protocol):
    """See :class:`lmatrix.directory.aliases.Aliases`."""

    def is_local(self, alias: str) -> bool: ...

    async def local(self, alias: str) -> AliasTarget: ...


class QueriesResource:
    """Tells other servers of local users and local aliases.

    Args:
        admission: the door.
        profiles, aliases: what there is to tell.
    """

    def __init__(self, admission: Admission, profiles: TellsProfiles, aliases: TellsWhereAliasesLead) -> None:
        self._admission = admission
        self._profiles = profiles
        self._aliases = aliases

    async def profile(self, request: JsonRequest) -> JsonObject:
        """``GET /query/profile?user_id=…&field=…``: the field that is asked for, or all, as far as they are set."""
        await self._admission.admit_bare(request)
        try:
            user_id = ids.user_id(_needed(request, "user_id"))
        except InvalidIdentifier as problem:
            raise InvalidParam("user_id", str(problem)) from problem
        if not self._profiles.is_local(user_id):
            raise InvalidParam("user_id", f"{user_id} is not of this server")
        field = request.query_one("field")
        if field is not None and field not in FIELDS:
            raise InvalidParam("field", f"must be one of {', '.join(FIELDS)}")
        fields = (await self._profiles.local(user_id)).fields()
        return {name: value for name, value in fields.items() if field in (None, name)}

    async def directory(self, request: JsonRequest) -> JsonObject:
        """``GET /query/directory?room_alias=…``: the room, and servers that may let one in."""
        await self._admission.admit_bare(request)
        try:
            alias = ids.room_alias(_needed(request, "room_alias"))
        except InvalidIdentifier as problem:
            raise InvalidParam("room_alias", str(problem)) from problem
        if not self._aliases.is_local(alias):
            raise InvalidParam("room_alias", f"{alias} is not of this server")
        target = await self._aliases.local(alias)
        return {"room_id": target.room_id, "servers": list(target.servers)}


def _needed(request: JsonRequest, name: str) -> str:
    try:
        value = request.query_one(name)
    except BadRequest as problem:
        raise InvalidParam(name, str(problem)) from problem
    if value is None:
        raise MissingParam(name)
    return value
