"""``lmatrix check-config``: everything that start-up would complain about, without starting."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import Config, load_config
from lmatrix.config.files import FileProblem, load_admin_token, load_own_keys, load_tls
from lmatrix.config.policies import make_modules
from lmatrix.policies.modules import ModuleProblem


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "check-config",
        help="check a configuration file and the files that it names",
        description="Check a configuration file: unknown keys, wrong values, and the key, certificate and data "
        "directory that it names. Exits with status 1 if there is anything that would keep the server from starting.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print problems, or what the server would be."""
    config = load_config(arguments.file)
    problems = list(file_problems(config))
    for problem in problems:
        print(f"error: {problem}")
    for warning in config.warnings():
        print(f"warning: {warning}")
    if problems:
        return 1
    print(f"{arguments.file} is fine: {config.server_name}, data in {config.database.path}")
    for listener in config.listeners:
        print(f"  listens on {listener}")
    return 0


def file_problems(config: Config) -> Iterator[str]:
    """What is wrong with the files and modules that the configuration names, in words."""
    try:
        load_own_keys(config)
    except FileProblem as problem:
        yield str(problem)
    try:
        load_admin_token(config)
    except FileProblem as problem:
        yield str(problem)
    for files in dict.fromkeys(listener.tls for listener in config.listeners if listener.tls):
        try:
            load_tls(files)
        except FileProblem as problem:
            yield str(problem)
    try:
        make_modules(config.policies, config.server_name)
    except ModuleProblem as problem:
        yield f"policies.modules: {problem}"
    database = config.database.path
    place = database if database.exists() else database.parent
    if not database.parent.is_dir():
        yield f"{database}: its directory does not exist"
    elif not os.access(place, os.W_OK) or not os.access(database.parent, os.W_OK):
        yield f"{place}: cannot be written to"
