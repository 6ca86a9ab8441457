"""Display names and avatars (Client-Server API v1.11, "Profiles").

Owns: the endpoints. Local users' profiles are told to anybody; those of other servers' users to whoever is logged in
here, since a request is made for it.
"""

from __future__ import annotations

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.elsewhere import AskingElsewhere
from lmatrix.client_api.endpoints import Answer, Endpoint, OpenEndpoint
from lmatrix.client_api.errors import missing_param
from lmatrix.client_api.fields import optional_string, user_id
from lmatrix.directory.profile_changes import ProfileChanges
from lmatrix.directory.profile_reading import Profiles
from lmatrix.directory.profiles import AVATAR_URL, DISPLAYNAME
from lmatrix.errors import Forbidden
from lmatrix.http.messages import JsonObject, JsonRequest

_PATH = "/profile/{userId}"


class ProfileEndpoints:
    """Shows and changes profiles.

    Args:
        profiles, changes: carry it out.
        elsewhere: who may have other servers asked.
    """

    def __init__(self, profiles: Profiles, changes: ProfileChanges, elsewhere: AskingElsewhere) -> None:
        self._profiles = profiles
        self._changes = changes
        self._elsewhere = elsewhere

    def endpoints(self) -> tuple[Endpoint | OpenEndpoint, ...]:
        """What it answers."""
        return (
            OpenEndpoint("GET", _PATH, self._get, "profile"),
            OpenEndpoint("GET", f"{_PATH}/{DISPLAYNAME}", self._get_displayname, "profile"),
            OpenEndpoint("GET", f"{_PATH}/{AVATAR_URL}", self._get_avatar_url, "profile"),
            Endpoint("PUT", f"{_PATH}/{DISPLAYNAME}", self._put_displayname, "put_profile"),
            Endpoint("PUT", f"{_PATH}/{AVATAR_URL}", self._put_avatar_url, "put_profile"),
        )

    async def _get(self, request: JsonRequest) -> Answer:
        return await self._fields(request)

    async def _get_displayname(self, request: JsonRequest) -> Answer:
        return await self._get_one(request, DISPLAYNAME)

    async def _get_avatar_url(self, request: JsonRequest) -> Answer:
        return await self._get_one(request, AVATAR_URL)

    async def _get_one(self, request: JsonRequest, name: str) -> Answer:
        fields = await self._fields(request)
        return {name: fields[name]} if name in fields else {}

    async def _fields(self, request: JsonRequest) -> JsonObject:
        whose = user_id(request.params["userId"], "userId")
        if not self._profiles.is_local(whose):
            await self._elsewhere.check(request)
        return (await self._profiles.of(whose)).fields()

    async def _put_displayname(self, request: JsonRequest, requester: Requester) -> Answer:
        return await self._put(request, requester, DISPLAYNAME)

    async def _put_avatar_url(self, request: JsonRequest, requester: Requester) -> Answer:
        return await self._put(request, requester, AVATAR_URL)

    async def _put(self, request: JsonRequest, requester: Requester, name: str) -> Answer:
        if user_id(request.params["userId"], "userId") != requester.user_id:
            raise Forbidden("A profile belongs to its own user")
        body = request.json()
        if name not in body:
            raise missing_param(name)
        await self._changes.set_field(requester.user_id, name, optional_string(body, name))
        return {}
