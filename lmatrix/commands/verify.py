"""``lmatrix verify``: check stored rooms again, from the first event on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import Config, load_config
from lmatrix.config.files import load_own_keys
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import LMatrixError, StorageFailed
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.room_examination import Examined, examine_room
from lmatrix.storage.beside import Reading, reading
from lmatrix.storage.examination import SqlExaminationStore
from lmatrix.storage.server_keys import SqlServerKeyStore

MOST_SHOWN = 50
"""Findings of one room that are printed unless told otherwise."""


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "verify",
        help="check stored rooms again: hashes, signatures, chain, rules, state",
        description="Check rooms as they are stored, from the first event that is held: that every event is canonical "
        "JSON, bears its ID, its hashes and every signature it needs, follows the one before it, and is allowed by the "
        "state before it; that the stored state is what the events make it; that redactions were allowed. The database "
        "is only read; the server may run. Exits with status 1 if anything is wrong, and says what and where.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("room", metavar="ROOM", nargs="?", help="the room's ID")
    what.add_argument("--all", action="store_true", help="check every room, and the database file itself")
    parser.add_argument(
        "--most",
        type=int,
        default=MOST_SHOWN,
        metavar="N",
        help="print no more than N findings of one room (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, and print a line for each room and for everything that is wrong."""
    config = load_config(arguments.config)
    keys = _own_keys(config)
    try:
        with reading(config.database.path) as database:
            sound = _check_file(database) if arguments.all else True
            room_ids = database.read(SqlExaminationStore().room_ids) if arguments.all else [arguments.room]
            for room_id in room_ids:
                sound = _check_room(database, room_id, config.server_name, keys, arguments.most) and sound
    except StorageFailed as error:
        raise LMatrixError(error.reason) from error
    return 0 if sound else 1


def _check_file(database: Reading) -> bool:
    problems = database.integrity_problems()
    for problem in problems:
        print(f"the database file: {problem}")
    return not problems


def _check_room(database: Reading, room_id: str, server_name: str, own: Mapping[str, KnownKey], most: int) -> bool:
    examined = Examined(room_id)
    found = 0

    def work(tx: Any) -> None:
        nonlocal found
        keys = _StoredKeys(tx, server_name, own)
        for finding in examine_room(tx, SqlExaminationStore(), room_id, server_name, keys.of, examined):
            found += 1
            if found <= most:
                print(f"{room_id}: {finding}")

    database.read(work)
    if found > most:
        print(f"{room_id}: and {found - most} more")
    began = "from its beginning" if examined.from_the_beginning else "from where this server's log of it begins"
    verdict = "all is well" if found == 0 else f"{found} things are wrong"
    print(f"{room_id}: {examined.events} events, {began}: {verdict}")
    if examined.unjudged:
        print(f"{room_id}: the rules could not be asked about {examined.unjudged} events: the state before is not held")
    sys.stdout.flush()
    return found == 0


class _StoredKeys:
    """The keys that the server knows: its own from the files, those of others from the database."""

    def __init__(self, tx: Any, server_name: str, own: Mapping[str, KnownKey]) -> None:
        self._tx = tx
        self._keys = {server_name: own}

    def of(self, server: str) -> Mapping[str, KnownKey]:
        """All keys of a server, by key ID."""
        if server not in self._keys:
            stored = SqlServerKeyStore().get(self._tx, server)
            self._keys[server] = {
                key.key_id: KnownKey(key.key_id, VerifyKey.from_base64(key.key_id, key.public), key.expired_ts)
                for key in (() if stored is None else stored.keys)
            }
        return self._keys[server]


def _own_keys(config: Config) -> Mapping[str, KnownKey]:
    own = load_own_keys(config)
    keys = {key.key_id: KnownKey(key.key_id, key.public) for key in own.active}
    keys.update((key.key_id, KnownKey(key.key_id, key)) for key in own.leaving)
    keys.update(
        (one.verify_key.key_id, KnownKey(one.verify_key.key_id, one.verify_key, one.expired_ts)) for one in own.retired
    )
    return keys
