"""``lmatrix demo``: see it work, on this machine, in one command."""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import tempfile
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.demo.main import Wishes, run_demo
from lmatrix.demo.servers import IReactorForDemo
from lmatrix.errors import LMatrixError

INTERRUPTED = 130
"""Exit status, as shells give it to a program that was ended by Ctrl-C."""


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "demo",
        help="run three servers on this machine whose users talk in one room",
        description="Start one hub and two participants as real twistd processes on loopback with TLS and temporary "
        "databases; let a user of each talk in one room; print the room as each server holds it, and check that they "
        "agree. Nothing is left behind, unless --directory says where.",
    )
    parser.add_argument("--keep", action="store_true", help="keep the servers running afterwards, until Ctrl-C")
    parser.add_argument(
        "--messages",
        type=_count,
        default=0,
        metavar="N",
        help="then send N messages more, and print how fast that went",
    )
    parser.add_argument(
        "--senders",
        type=_count,
        default=3,
        metavar="M",
        help="how many users send those messages (default: %(default)s)",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the servers' files go, and stay (default: temporary)"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{number} is not from 1 to 1000000")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the demo in a reactor of its own."""
    if arguments.directory is not None:
        return _run_in(arguments.directory.absolute(), arguments)
    with tempfile.TemporaryDirectory(prefix="lmatrix-demo-") as directory:
        return _run_in(Path(directory), arguments)


def _run_in(directory: Path, arguments: argparse.Namespace) -> int:
    # Imported here, because importing the reactor installs it, and no other command needs one.
    from twisted.internet.task import react

    wishes = Wishes(directory, arguments.keep, arguments.messages, arguments.senders)
    status = INTERRUPTED

    async def main(reactor: IReactorForDemo) -> None:
        nonlocal status
        try:
            now = datetime.datetime.now(datetime.UTC)
            if await run_demo(reactor, wishes, random.SystemRandom(), now, _tell):
                status = 0
        except LMatrixError as error:
            print(f"lmatrix: {error}", file=sys.stderr)
            status = 1

    try:
        react(main)
    except SystemExit as left:
        # What react says of itself: 1 when something went wrong that nobody expected, with a traceback.
        return int(left.code or status)


def _tell(line: str) -> None:
    print(line, flush=True)
