"""The ``lmatrix`` command.

Owns: the top-level parser and exit statuses: 0 when all is well, 1 when a command says no, 2 for wrong usage. Each
subcommand is a module of :mod:`lmatrix.commands`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lmatrix import __version__
from lmatrix.commands import (
    audit,
    backup,
    check_config,
    demo,
    destinations,
    generate_config,
    mark_restored,
    mirrors,
    recovery,
    rooms,
    rotate_key,
    transfer_hub,
    verify,
    verify_evidence,
)
from lmatrix.errors import LMatrixError


def build_parser() -> argparse.ArgumentParser:
    """The parser, with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="lmatrix",
        description="A Linearized Matrix server. To run one: `lmatrix generate-config`, then "
        "`twistd -n lmatrix -c FILE`; to see three at work: `lmatrix demo`.",
    )
    parser.add_argument("--version", action="version", version=f"lmatrix {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    generate_config.add_to(subparsers)
    check_config.add_to(subparsers)
    rotate_key.add_to(subparsers)
    rooms.add_to(subparsers)
    transfer_hub.add_to(subparsers)
    destinations.add_to(subparsers)
    mirrors.add_to(subparsers)
    audit.add_to(subparsers)
    verify.add_to(subparsers)
    verify_evidence.add_to(subparsers)
    backup.add_to(subparsers)
    mark_restored.add_to(subparsers)
    recovery.add_to(subparsers)
    demo.add_to(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status.

    Args:
        arguments: without the program's name; ``None`` for this process's own.
    """
    parsed = build_parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except LMatrixError as error:
        print(f"lmatrix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, and with it everybody who would want to know.
        return 141
    return status
