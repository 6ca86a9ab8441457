"""``lmatrix rotate-key``: a new signing key, and the old one retired.

Owns: its options and what it prints; :mod:`lmatrix.config.key_rotation` does the work.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.config.key_rotation import rotate
from lmatrix.crypto.retired_keys import retired_keys_path


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "rotate-key",
        help="make a new signing key, and retire the old one",
        description="Make a new signing key in the file that the configuration names, and take the old one out. The "
        "old key's secret is destroyed; its public part goes into a file beside (its name with `.retired` added), so "
        "that what it signed can still be checked. The configuration file stays as it is. The server signs with the "
        "new key once it has been restarted, or sent SIGHUP.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="the configuration file")
    parser.add_argument(
        "--retire",
        metavar="KEY_ID",
        action="append",
        default=[],
        help="the key to retire, such as ed25519:a_Abcd; may be given several times (default: all that sign now)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Rotate, and say what is what now."""
    config = load_config(arguments.config)
    rotated = rotate(config, retire=arguments.retire, rng=random.SystemRandom())
    print(f"new signing key: {rotated.new}, in {config.signing_key_path} (keep a copy in a safe place)")
    for key_id in rotated.kept:
        print(f"signs beside it: {key_id}")
    for key_id in rotated.retired:
        print(f"retired: {key_id}, its public part is in {retired_keys_path(config.signing_key_path)}")
    print("restart the server, or send it SIGHUP: until then it signs with the old key")
    return 0
