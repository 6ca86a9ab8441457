"""``lmatrix mirrors``: rooms that are in a Synapse as well, of an lmatrix that runs inside of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lmatrix.commands.admin_client import AdminClient
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config.running import load_running

_SECONDS = 600.0
"""How long the making of a room may take."""


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "mirrors",
        help="list, compare, begin and end mirrors, of an lmatrix inside of Synapse",
        description="List the rooms that are mirrored between Synapse and linearized rooms: both IDs, how far the "
        "mirror has come, what waits in each direction, and what could not be carried over. The configuration needs a "
        "listener that serves `admin`.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="homeserver.yaml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", metavar="ROOM", help="compare both sides of a mirror, and name what differs")
    what.add_argument("--open", metavar="ROOM", help="offer a room of Synapse's to linearized servers (with --user)")
    what.add_argument("--enter", metavar="ROOM", help="invite a user of Synapse's into a linearized room (with --user)")
    what.add_argument("--stop", metavar="ROOM", help="stop mirroring a room (with --reason)")
    parser.add_argument("--user", metavar="USER", help="a user of Synapse's: who opens, or who enters")
    parser.add_argument("--invite", metavar="USER", action="append", default=[], help="with --open: whom to invite")
    parser.add_argument("--via", metavar="SERVER", action="append", default=[], help="with --enter: who knows the room")
    parser.add_argument(
        "--reason", default="The operator has stopped it.", help="with --stop: what both rooms are told"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what came of it; 1 when the two sides differ."""
    client = AdminClient(load_running(arguments.config))
    if arguments.compare:
        return _compare(client.get("mirrors", arguments.compare, "comparison"))
    if arguments.open:
        content = {"dag_room_id": arguments.open, "user_id": arguments.user, "invite": arguments.invite}
        print(client.post("mirrors", content=content, seconds=_SECONDS)["room_id"])
    elif arguments.enter:
        content = {"room_id": arguments.enter, "user_id": arguments.user, "via": arguments.via}
        print(client.post("mirrors", content=content, seconds=_SECONDS)["dag_room_id"])
    elif arguments.stop:
        client.post("mirrors", arguments.stop, "stop", content={"reason": arguments.reason})
    else:
        for mirror in client.get("mirrors")["mirrors"]:
            print(_line(mirror))
    return 0


def _line(mirror: dict[str, Any]) -> str:
    parts = [f"{mirror['room_id']} = {mirror['dag_room_id']}", str(mirror["stage"])]
    if mirror["reason"]:
        parts.append(str(mirror["reason"]))
    for direction in ("outward", "inward"):
        waiting = mirror[direction]
        if waiting["events"]:
            parts.append(f"{direction}: {waiting['events']} wait, since {waiting['waited_ms'] / 1000:.0f} s")
    if mirror["lost"]:
        parts.append("not carried over: " + ", ".join(f"{count} {cause}" for cause, count in mirror["lost"].items()))
    return "  ".join(parts)


def _compare(answer: dict[str, Any]) -> int:
    print(_line(answer["mirror"]))
    if not answer["settled"]:
        print("something is on its way: differences are to be expected")
    for one in answer["differences"]:
        print(f"{one['what']}: linearized {_short(one['lm'])}, Synapse {_short(one['dag'])}")
    if not answer["differences"]:
        print("both sides agree")
    return 1 if answer["differences"] and answer["settled"] else 0


def _short(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
