"""``lmatrix recovery``: rooms that wait because the database was restored, and for whom."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from lmatrix.commands.admin_client import AdminClient
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "recovery",
        help="show rooms that are being recovered after a restoration",
        description="List the rooms that a running server does not know to be whole since its database was restored "
        "from a copy, and for which servers each of them waits. A room whose hub this server is takes nothing new "
        "until every server in it has answered. Exits with status 1 if there is any. With --without: go on without "
        "servers that will not come back; what they alone hold of the room is lost, and if they come back after all, "
        "they hold another history.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.add_argument("room", metavar="ROOM", nargs="?", help="the room's ID")
    parser.add_argument(
        "--without", metavar="SERVER", action="append", default=[], help="do not wait for this server (repeatable)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what waits, or let a room go on."""
    client = AdminClient(load_config(arguments.config))
    if arguments.without:
        if arguments.room is None:
            raise LMatrixError("--without needs the room's ID")
        client.post("rooms", arguments.room, "go_on", content={"without": arguments.without})
        print(f"{arguments.room} does not wait for {', '.join(arguments.without)} any more")
        return 0
    held = [
        one
        for page in client.pages("held_rooms")
        for one in page["held_rooms"]
        if arguments.room in (None, one["room_id"])
    ]
    for one in held:
        _print(one)
    if not held:
        print("nothing is being recovered")
    return 1 if held else 0


def _print(one: dict[str, Any]) -> None:
    since = datetime.datetime.fromtimestamp(one["since_ts"] / 1000, datetime.UTC)
    print(f"{one['room_id']}: since {since.isoformat(sep=' ', timespec='seconds')}: {one['reason']}")
    for server, why in one["waiting_for"].items():
        print(f"   waits for {server}: {why}")
