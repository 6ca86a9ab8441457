"""What clients ask for before anything else: versions, capabilities, push rules, filters.

Owns: those small endpoints. There are no push rules here yet: the rule set is empty, so that clients which insist on
asking can go on. Source: Client-Server API v1.11, "API Versions", "Capabilities negotiation", "Filtering", "Push Rules:
API".
"""

from __future__ import annotations

import json

from lmatrix import canonical_json
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.filters import parse_sync_filter
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.errors import Forbidden, NotFound, TooLarge
from lmatrix.events.room_versions import known_room_versions, room_version
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database

SPEC_VERSIONS = (
    *(f"r0.{minor}.{patch}" for minor, patch in ((0, 1), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (6, 1))),
    *(f"v1.{minor}" for minor in range(1, 12)),
)
MAX_FILTER_BYTES = 16 * 1024
_NO_RULES: JsonObject = {"content": [], "override": [], "room": [], "sender": [], "underride": []}


async def versions(request: JsonRequest) -> Answer:
    """``GET /_matrix/client/versions``."""
    return {"versions": list(SPEC_VERSIONS), "unstable_features": {}}


class StartUp:
    """The endpoints that clients call when they start.

    Args:
        default_room_version: of rooms whose creator does not choose.
        database, accounts: for filters.
    """

    def __init__(self, default_room_version: str, *, database: Database, accounts: AccountStore) -> None:
        self._default_room_version = default_room_version
        self._database = database
        self._accounts = accounts

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (
            Endpoint("GET", "/capabilities", self._capabilities, "capabilities"),
            Endpoint("GET", "/pushrules/", self._push_rules, "pushrules"),
            Endpoint("GET", "/pushrules/global/", self._global_push_rules, "pushrules"),
            Endpoint("POST", "/user/{userId}/filter", self._put_filter, "put_filter", MAX_FILTER_BYTES),
            Endpoint("GET", "/user/{userId}/filter/{filterId}", self._get_filter, "get_filter"),
        )

    async def _capabilities(self, request: JsonRequest, requester: Requester) -> Answer:
        available = {
            identifier: "stable" if room_version(identifier).stable else "unstable"
            for identifier in known_room_versions()
        }
        off = {"enabled": False}
        return {
            "capabilities": {
                "m.room_versions": {"default": self._default_room_version, "available": available},
                "m.change_password": off,
                "m.set_displayname": {"enabled": True},
                "m.set_avatar_url": {"enabled": True},
                "m.3pid_changes": off,
                "m.get_login_token": off,
            }
        }

    async def _push_rules(self, request: JsonRequest, requester: Requester) -> Answer:
        return {"global": _NO_RULES}

    async def _global_push_rules(self, request: JsonRequest, requester: Requester) -> Answer:
        return dict(_NO_RULES)

    async def _put_filter(self, request: JsonRequest, requester: Requester) -> Answer:
        self._own(request, requester)
        definition = request.json()
        parse_sync_filter(definition)
        encoded = canonical_json.encode(definition)
        if len(encoded) > MAX_FILTER_BYTES:
            raise TooLarge(f"a filter has at most {MAX_FILTER_BYTES} bytes")
        filter_id = await self._database.write(lambda tx: self._accounts.put_filter(tx, requester.user_id, encoded))
        return {"filter_id": filter_id}

    async def _get_filter(self, request: JsonRequest, requester: Requester) -> Answer:
        self._own(request, requester)
        filter_id = request.params["filterId"]
        encoded = await self._database.read(lambda tx: self._accounts.filter(tx, requester.user_id, filter_id))
        if encoded is None:
            raise NotFound("No such filter")
        definition: Answer = json.loads(encoded)
        return definition

    def _own(self, request: JsonRequest, requester: Requester) -> None:
        if request.params["userId"] != requester.user_id:
            raise Forbidden("Filters belong to their own user")
