"""``lmatrix backup``: a copy of the database, made while the server runs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError, StorageFailed
from lmatrix.storage.backup import backup


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "backup",
        help="copy the database, while the server runs or not",
        description="Copy a server's database into a new file that only its owner can read, while the server runs or "
        "not, and check the copy. It holds everything that was committed when the copying began. It does not hold the "
        "signing keys, the admin token and the configuration: copy those files too, and keep them apart. Read about "
        "restoring in docs/operations.rst before you have to.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to make; it must not exist")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the copy, and say how large it is."""
    config = load_config(arguments.config)
    file: Path = arguments.file
    try:
        made = backup(config.database.path, file, int(time.time() * 1000))
    except StorageFailed as error:
        raise LMatrixError(f"no backup was made: {error.reason}") from error
    except OSError as error:
        raise LMatrixError(f"no backup was made: {error.filename or file}: {error.strerror}") from error
    print(f"wrote {file}: {made.size} bytes, checked and sound")
    if not made.marked:
        print("it is of an earlier version, and bears no mark: after restoring it, run `lmatrix mark-restored` first")
    print(f"it does not hold the signing keys ({config.signing_key_path}) and the configuration ({arguments.config})")
    return 0
