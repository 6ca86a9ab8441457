"""``lmatrix generate-config``: a commented configuration file, and the signing key that it names.

Owns: its options and what it prints; :mod:`lmatrix.config.generate` does the work.
"""

from __future__ import annotations

import argparse
import datetime
import random
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config.generate import DEFAULT_FEDERATION_PORT, generate

DEFAULT_OUTPUT = "lmatrix.yaml"
DEFAULT_CLIENT_PORT = 8008


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "generate-config",
        help="write a commented configuration file and a signing key",
        description="Write a commented YAML configuration file for a new server, and a signing key that only its owner "
        "can read. Nothing that exists is overwritten.",
    )
    parser.add_argument(
        "--server-name",
        required=True,
        metavar="NAME",
        help="who the server is, for ever: a host name, with a port if it is not to be looked up (chat.example.org, "
        "localhost:18448)",
    )
    parser.add_argument(
        "--output", default=DEFAULT_OUTPUT, metavar="FILE", help="the file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where key, certificate and database go (default: the directory of FILE)"
    )
    parser.add_argument(
        "--federation-port",
        type=port,
        metavar="PORT",
        help=f"port for other servers (default: the port in NAME, else {DEFAULT_FEDERATION_PORT})",
    )
    parser.add_argument(
        "--client-port",
        type=port,
        default=DEFAULT_CLIENT_PORT,
        metavar="PORT",
        help="port for clients (default: %(default)s)",
    )
    parser.add_argument(
        "--no-tls",
        action="store_true",
        help="the federation port speaks plain HTTP on loopback, for a reverse proxy that adds TLS",
    )
    parser.add_argument(
        "--development",
        action="store_true",
        help="for one machine only: makes a self-signed certificate, does not verify other servers' certificates, "
        "allows loopback addresses and IP addresses as names, opens registration, switches rate limits off",
    )
    parser.set_defaults(run=run)


def port(text: str) -> int:
    """A TCP port, for argparse."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port number")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and say what was written and what to do next."""
    generated = generate(
        server_name=arguments.server_name,
        output=Path(arguments.output),
        data_dir=Path(arguments.data_dir) if arguments.data_dir else None,
        federation_port=arguments.federation_port,
        client_port=arguments.client_port,
        tls=not arguments.no_tls,
        development=arguments.development,
        rng=random.SystemRandom(),
        now=datetime.datetime.now(datetime.UTC),
    )
    print(f"wrote {generated.output}")
    for note in generated.notes:
        print(note)
    print(f"signing key: {generated.signing_key_id}")
    print(f"start with: twistd -n lmatrix -c {generated.output}")
    return 0
