"""``lmatrix mark-restored``: say of a database that it is an older copy, where nothing else does."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError, StorageFailed
from lmatrix.storage.restoration import mark_in_place


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "mark-restored",
        help="say that the database is an older copy (for copies not made by `lmatrix backup`)",
        description="Mark the database that the configuration names as an older copy: a file that was copied by other "
        "means, or a disk that was set back. Do it while the server is stopped, before it is started on the copy. When "
        "it starts, it asks the other servers for what it has forgotten, before any room goes on. Databases that "
        "`lmatrix backup` made bear the mark already.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Mark it."""
    path = load_config(arguments.config).database.path
    try:
        mark_in_place(path, int(time.time() * 1000))
    except StorageFailed as error:
        raise LMatrixError(f"it was not marked: {error.reason}") from error
    print(f"{path} is marked: what it lacks will be asked for at the next start")
    return 0
