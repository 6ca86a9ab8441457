"""``lmatrix audit``: what a running server keeps against the hubs of a room."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import Any

from lmatrix import canonical_json
from lmatrix.commands.admin_client import AdminClient
from lmatrix.commands.subcommand import Subparsers
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError
from lmatrix.rooms.evidence_document import EvidenceDocument, EvidenceItem
from lmatrix.rooms.evidence_judgement import judge


def add_to(subparsers: Subparsers) -> None:
    """Add this command and its options."""
    parser = subparsers.add_parser(
        "audit",
        help="show what a server keeps against the hub of a room",
        description="Show the evidence that a running server keeps about a room: two events with which its hub gave "
        "one event two successors, events that it altered, or that the rules of the room refuse. For each: when it "
        "came, what it is, and how far it proves anything to somebody else. Exits with status 1 if there is any.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the server's configuration file")
    parser.add_argument("room", metavar="ROOM", help="the room's ID")
    parser.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="also write the evidence to a new file, which anybody can check with `lmatrix verify-evidence`. It holds "
        "the events whole: think of who may read them",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what there is, and export it."""
    raw = _fetch(AdminClient(load_config(arguments.config)), arguments.room)
    document = EvidenceDocument.parse(raw)
    for item in document.items:
        judgement = judge(item, document.room_id, document.room_version, document.keys)
        seen = datetime.datetime.fromtimestamp(item.seen_ts / 1000, datetime.UTC)
        print(f"{item.number}. {item.kind}, seen {seen.isoformat(sep=' ', timespec='seconds')}: {item.reason}")
        print(f"   {judgement.weight.value}: {judgement.words}")
    if arguments.export is not None:
        _write(arguments.export, canonical_json.encode(raw))
        print(f"wrote {arguments.export}")
    if any(item.kind == "fork" and _signed_by_us(item, document) for item in document.items):
        print(
            "THIS SERVER itself gave the room two histories, most likely because it was started on an older copy of its"
            " database that was not marked as one. Read `When it is too late` in docs/operations.rst."
        )
    if not document.items:
        print(f"no evidence is kept about {arguments.room}")
        return 0
    return 1


def _signed_by_us(item: EvidenceItem, document: EvidenceDocument) -> bool:
    """Whether the evidence is against the server that collected it."""
    return document.collected_by in (item.event.get("hub_server"), (item.against or {}).get("hub_server"))


def _fetch(client: AdminClient, room_id: str) -> dict[str, Any]:
    """All pages as one document."""
    whole: dict[str, Any] = {}
    for page in client.pages("rooms", room_id, "evidence"):
        page.pop("next_batch", None)
        if not whole:
            whole = page
            continue
        whole["evidence"] += page["evidence"]
        for server, keys in page["keys"].items():
            whole["keys"].setdefault(server, {}).update(keys)
    return whole


def _write(file: Path, content: bytes) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content + b"\n")
    except FileExistsError as error:
        raise LMatrixError(f"{file} exists already; it is not overwritten") from error
    except OSError as error:
        raise LMatrixError(f"{file}: {error.strerror}") from error
