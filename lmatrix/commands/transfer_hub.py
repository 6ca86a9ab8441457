"""``lmatrix transfer-hub``: make another server the hub of a room."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmatrix.commands.admin_client import AdminClient, AdminRefused
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError

SECONDS = 330.0
"""A little longer than the server waits for the other server."""


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "transfer-hub",
        help="move a room to another hub",
        description="Ask a running server, which must be the room's hub, to make another server the hub. That server "
        "must have a joined user in the room, and be willing. It may have to fetch and check the room's whole history "
        "first, so that this can take some minutes; the room goes on meanwhile. When anything fails the room stays "
        "where it is, nothing is lost, and the command can be repeated.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the configuration file of the present hub")
    parser.add_argument("room", metavar="ROOM", help="the room's ID")
    parser.add_argument("server", metavar="SERVER", help="the name of the server that is to be the hub")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Move the room, and say what came of it."""
    client = AdminClient(load_config(arguments.config))
    try:
        answer = client.post("rooms", arguments.room, "transfer", content={"server": arguments.server}, seconds=SECONDS)
    except AdminRefused as error:
        hub = error.answer.get("hub_server")
        if error.answer.get("errcode") == "M_WRONG_SERVER" and isinstance(hub, str):
            raise LMatrixError(f"{error} (only {hub} can move the room)") from error
        raise LMatrixError(f"the room was not moved: {error}") from error
    print(f"the hub of {arguments.room} is {arguments.server} now (by event {answer['event_id']})")
    return 0
