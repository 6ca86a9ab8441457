"""``/destinations``: what is owed to whom."""

from __future__ import annotations

from lmatrix.admin_api.pages import after_name, limit_of, page
from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.overview import DestinationOverview, OverviewStore


class DestinationsResource:
    """Shows destinations.

    Args:
        database, overview: what is shown.
    """

    def __init__(self, database: Database, overview: OverviewStore) -> None:
        self._database = database
        self._overview = overview

    async def get_all(self, request: JsonRequest) -> JsonObject:
        """``GET /destinations``: other servers that are owed something, or do not answer.

        ``{"destinations": [{"server", "owed_events", "owed_rooms", "pending_lpdus", "edus", "failing_since_ts",
        "retry_at_ts", "back_off_ms", "last_success_ts"}, …]}``: ``owed_events`` is its lag, over all rooms; times are
        milliseconds since the epoch, ``null`` where there is none. A server that is up to date is not listed.
        """
        after, limit = after_name(request), limit_of(request)
        found = await self._database.read(lambda tx: self._overview.owed_after(tx, after, limit))
        return page(
            "destinations", [_shown(one) for one in found], found[-1].destination if len(found) == limit else None
        )


def _shown(one: DestinationOverview) -> JsonObject:
    return {
        "server": one.destination,
        "owed_events": one.owed_events,
        "owed_rooms": one.owed_rooms,
        "pending_lpdus": one.pending_lpdus,
        "edus": one.edus,
        "failing_since_ts": one.state.failing_since_ms,
        "retry_at_ts": one.state.retry_at_ms,
        "back_off_ms": one.state.interval_ms,
        "last_success_ts": one.state.last_success_ms,
    }
