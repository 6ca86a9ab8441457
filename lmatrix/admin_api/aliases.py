"""``/aliases``: the room aliases of this server."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from lmatrix.admin_api.interfaces import LooksAfterAliases
from lmatrix.admin_api.pages import after_name, limit_of, page
from lmatrix.directory.interfaces import StoredAlias
from lmatrix.http.messages import JsonObject, JsonRequest


class AliasesResource:
    """Shows aliases, and removes them.

    Args:
        aliases: carries it out.
    """

    log = Logger()

    def __init__(self, aliases: LooksAfterAliases) -> None:
        self._aliases = aliases

    async def get_all(self, request: JsonRequest) -> JsonObject:
        """``GET /aliases``: ``{"aliases": [{"alias", "room_id", "creator"}, …]}``, in the order of their names."""
        limit = limit_of(request)
        found: Sequence[StoredAlias] = await self._aliases.all_after(after_name(request), limit)
        entries = [{"alias": one.alias, "room_id": one.room_id, "creator": one.creator} for one in found]
        return page("aliases", entries, found[-1].alias if len(found) == limit else None)

    async def delete(self, request: JsonRequest) -> JsonObject:
        """``DELETE /aliases/{alias}``: remove one, whosever it is; ``{"room_id": …}``, where it led.

        What the room calls itself (``m.room.canonical_alias``) is its members' to say, and stays.
        """
        alias = request.params["alias"]
        self.log.info(
            "the operator removes {alias} (asked from {address})", alias=alias, address=request.client_address
        )
        return {"room_id": await self._aliases.remove_for_operator(alias)}
