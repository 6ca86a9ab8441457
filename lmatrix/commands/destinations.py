"""``lmatrix destinations``: what a running server owes to others."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from lmatrix.commands.admin_client import AdminClient
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config.running import load_running


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "destinations",
        help="show which other servers have not received everything yet",
        description="List the other servers that are owed something by a running server, or do not answer it: how many "
        "events of how many rooms they lack, what of this server's users waits for them as hubs, since when they have "
        "been failing, and when they are tried again. A server that is up to date is not listed.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the destinations, one a line."""
    client = AdminClient(load_running(arguments.config))
    for page in client.pages("destinations"):
        for one in page["destinations"]:
            print(f"{one['server']}: {_described(one)}")
    return 0


def _described(one: dict[str, Any]) -> str:
    parts = [f"lacks {one['owed_events']} events of {one['owed_rooms']} rooms"]
    if one["pending_lpdus"]:
        parts.append(f"{one['pending_lpdus']} events of our users wait for it")
    if one["edus"]:
        parts.append(f"{one['edus']} EDUs")
    if one["failing_since_ts"] is not None:
        parts.append(f"failing since {_time(one['failing_since_ts'])}")
    if one["retry_at_ts"] is not None:
        parts.append(f"tried again at {_time(one['retry_at_ts'])}")
    return ", ".join(parts)


def _time(ts: int) -> str:
    return datetime.datetime.fromtimestamp(ts / 1000, datetime.UTC).isoformat(sep=" ", timespec="seconds")
