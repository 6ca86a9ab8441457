"""``lmatrix rooms``: the rooms of a running server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lmatrix.commands.admin_client import AdminClient
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config.running import load_running


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "rooms",
        help="list the rooms of a running server",
        description="List the rooms of a running server: the room's ID and version, what this server is in it (hub, "
        "participant, or left), its hub, where its log ends, and how many users of which server are in it.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.add_argument("room", metavar="ROOM", nargs="?", help="a room's ID, to be told more of this one only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the rooms, one a line, or one room."""
    client = AdminClient(load_running(arguments.config))
    if arguments.room is not None:
        _print_one(client.get("rooms", arguments.room))
        return 0
    for page in client.pages("rooms"):
        for room in page["rooms"]:
            where = f"of {room['hub'] or 'an unknown hub'}" if room["role"] != "hub" else "here"
            print(f"{room['room_id']}  {room['room_version']}  {room['role']} {where}  {_head(room)}  {_joined(room)}")
    return 0


def _print_one(room: dict[str, Any]) -> None:
    lines = {
        "room": room["room_id"],
        "version": room["room_version"],
        "this server is": room["role"],
        "hub": room["hub"] or "unknown",
        "log ends with": _head(room),
        "joined": _joined(room),
        "waiting for the hub": f"{room['pending_lpdus']} events of this server's users",
        "evidence kept": f"{room['evidence']} (see `lmatrix audit`)" if room["evidence"] else "none",
    }
    if room.get("recovery"):
        lines["held"] = f"waits for {', '.join(room['recovery']['waiting_for']) or 'others'} (see `lmatrix recovery`)"
    if room.get("forked"):
        lines["TWO HISTORIES"] = f"{room['forked']} (see `lmatrix audit`)"
    if room["role"] == "hub":
        lines["could be moved to"] = ", ".join(room["candidates"]) or "nobody"
    for heard in room.get("heads", ()):
        agrees = {True: "as here", False: "which is not held here"}.get(heard["agrees"], "which is looked for")
        lines[f"said by {heard['server']}"] = f"its log ends with {heard['head']}, {agrees}"
    for name, value in lines.items():
        print(f"{name + ':':<21}{value}")


def _head(room: dict[str, Any]) -> str:
    head = room["head"]
    return "nothing" if head["event_id"] is None else f"{head['event_id']} at {head['place']}"


def _joined(room: dict[str, Any]) -> str:
    return ", ".join(f"{count} of {server}" for server, count in room["joined"].items()) or "nobody"
