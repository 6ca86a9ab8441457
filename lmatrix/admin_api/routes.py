"""The admin API put together.

Owns: :func:`admin_table`, with every path of the API. All of them are behind the same door; none can be called from a
browser of another origin.
"""

from __future__ import annotations

from lmatrix.admin_api.access import AdminAccess
from lmatrix.admin_api.aliases import AliasesResource
from lmatrix.admin_api.destinations import DestinationsResource
from lmatrix.admin_api.evidence import EvidenceResource
from lmatrix.admin_api.interfaces import (
    ExportsEvidence,
    HearsHeads,
    LoadsRooms,
    LooksAfterAliases,
    MovesRooms,
    OperatesMirrors,
    RecoversRooms,
)
from lmatrix.admin_api.mirrors import MirrorsResource
from lmatrix.admin_api.recovery import RecoveryResource
from lmatrix.admin_api.rooms import RoomsResource
from lmatrix.http.routes import Handler, Route, RouteTable
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.overview import OverviewStore

PREFIX = "/_lmatrix/admin/v1"
MAX_BODY = 4096
MAX_IN_FLIGHT = 32
"""A transfer may take minutes; whoever starts more than so many at a time has to wait."""


def admin_table(
    server_name: str,
    token: str,
    *,
    database: Database,
    overview: OverviewStore,
    rooms: LoadsRooms,
    transfer: MovesRooms,
    recovery: RecoversRooms,
    listener: HearsHeads,
    exporter: ExportsEvidence,
    aliases: LooksAfterAliases,
    mirrors: OperatesMirrors | None = None,
) -> RouteTable:
    """Everything under ``/_lmatrix/admin``.

    Args:
        server_name: ours.
        token: what a request must bear.
        database, overview: what is shown.
        rooms, transfer, recovery, listener, exporter: the rooms.
        aliases: what rooms are called.
        mirrors: rooms that are on a full Matrix server as well; ``None`` without one.
    """
    access = AdminAccess(token)
    of_rooms = RoomsResource(server_name, database, overview, rooms, transfer, recovery, listener)
    of_recovery = RecoveryResource(recovery)
    of_aliases = AliasesResource(aliases)
    endpoints: tuple[tuple[str, str, Handler, str], ...] = (
        ("GET", "/rooms", of_rooms.get_all, "rooms"),
        ("GET", "/rooms/{roomId}", of_rooms.get, "room"),
        ("POST", "/rooms/{roomId}/transfer", of_rooms.transfer, "transfer"),
        ("GET", "/rooms/{roomId}/evidence", EvidenceResource(exporter).get, "evidence"),
        ("POST", "/rooms/{roomId}/go_on", of_recovery.go_on, "go_on"),
        ("GET", "/held_rooms", of_recovery.get_all, "held_rooms"),
        ("GET", "/aliases", of_aliases.get_all, "aliases"),
        ("DELETE", "/aliases/{alias}", of_aliases.delete, "delete_alias"),
        ("GET", "/destinations", DestinationsResource(database, overview).get_all, "destinations"),
    )
    if mirrors is not None:
        of_mirrors = MirrorsResource(mirrors)
        endpoints += (
            ("GET", "/mirrors", of_mirrors.get_all, "mirrors"),
            ("POST", "/mirrors", of_mirrors.open, "open_mirror"),
            ("GET", "/mirrors/{roomId}/comparison", of_mirrors.compare, "compare_mirror"),
            ("POST", "/mirrors/{roomId}/stop", of_mirrors.stop, "stop_mirror"),
        )
    routes = tuple(
        Route(method, PREFIX + path, access.guarded(handler), name, MAX_BODY)
        for method, path, handler, name in endpoints
    )
    return RouteTable("admin", routes, max_in_flight=MAX_IN_FLIGHT)
