"""``lmatrix verify-evidence``: what a file of evidence against a hub proves."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path

from lmatrix import canonical_json
from lmatrix.commands.published_keys import Fetched, fetch_keys
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.config.federation import FederationConfig, read_federation
from lmatrix.config.reading import read_document
from lmatrix.errors import BadRequest, InvalidJson, LMatrixError
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.evidence_document import EvidenceDocument, Keys
from lmatrix.rooms.evidence_judgement import Weight, judge

MAX_BYTES = 256 * 1024 * 1024


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "verify-evidence",
        help="check what a file of evidence against a hub proves",
        description="Check a file that `lmatrix audit --export` wrote, on whichever server: whether each piece of "
        "evidence in it holds by itself, that is, by what is signed and by the rules, whoever made the file. It says "
        "for each what is proven, and by what. The public keys are those in the file, unless --fetch is given. Exits "
        "with status 1 unless everything in the file is proven.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file")
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="ask the servers for the keys that they publish, and believe no others where they answer",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="CONFIG",
        type=Path,
        help="a configuration file whose section `federation` says how to reach other servers (default: the Internet)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is proven."""
    document = _read(arguments.file)
    print(f"{arguments.file}: about {document.room_id}, collected by {document.collected_by}")
    keys = document.keys
    if arguments.fetch:
        federation = _defaults() if arguments.config is None else load_config(arguments.config).federation
        fetched = fetch_keys(federation, sorted(keys), random.SystemRandom())
        for server, found in fetched.items():
            print(compared(server, keys[server], found))
        keys = believed(keys, fetched)
    else:
        print("the keys are those in the file; --fetch asks the servers themselves for theirs")
    proven = True
    for item in document.items:
        judgement = judge(item, document.room_id, document.room_version, keys)
        print(f"{item.number}. {item.kind}: {judgement.weight.value}: {judgement.words}")
        proven = proven and judgement.weight is Weight.PROVEN
    if not document.items:
        print("there is no evidence in it")
        return 1
    return 0 if proven else 1


def _read(file: Path) -> EvidenceDocument:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise LMatrixError(f"{file}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise LMatrixError(f"{file}: more than {MAX_BYTES} bytes")
    try:
        return EvidenceDocument.parse(canonical_json.parse_object(data))
    except (InvalidJson, BadRequest) as error:
        raise LMatrixError(f"{file}: {error}") from error


def _defaults() -> FederationConfig:
    return read_document("{}", "the defaults", Path.cwd(), read_federation)


def compared(server: str, known: Mapping[str, KnownKey], found: Mapping[str, KnownKey] | LMatrixError) -> str:
    """What a server's answer says of the keys in the file."""
    if isinstance(found, LMatrixError):
        return f"{server} was not reached, so that its keys are those in the file: {found}"
    words = []
    for key_id, key in known.items():
        published = found.get(key_id)
        if published is None:
            words.append(f"{key_id} is not published any more, and not believed")
        elif published.verify_key != key.verify_key:
            words.append(f"{key_id} is ANOTHER key than the one in the file")
        else:
            words.append(f"{key_id} is as in the file")
    return f"{server} answers: {'; '.join(words) or 'nothing of it is in the file'}"


def believed(known: Keys, fetched: Fetched) -> Keys:
    """The keys that servers publish; those in the file for servers that did not answer."""
    believed = dict(known)
    believed.update((server, found) for server, found in fetched.items() if not isinstance(found, LMatrixError))
    return believed
