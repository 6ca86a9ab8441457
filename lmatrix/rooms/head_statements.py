"""Head statements: what a server says, and signs, of how far it holds a room.

Owns: :class:`HeadStatement`, its JSON, its signing and its checking. The JSON::

    {"type": "org.lmatrix.head", "room_id": …, "server": <who says it>, "head": <event ID>, "position": <number>,
     "ts": <milliseconds since the epoch>, "signatures": {<server>: {<key ID>: …}}}

It is signed as an object of its own, so that whoever has it can show it to others as its server's word. It accuses
nobody by itself: the hub's own signature on the event that it names is what counts.

``position`` is the place of the head in the log of the server that says it. Servers do not count alike (who joined
late does not know how many events there were before), so it only orders what one server says: a later statement with
a lower position comes from a server that has lost something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from lmatrix import ids
from lmatrix.canonical_json import MAX_SAFE_INTEGER, encode
from lmatrix.crypto.signed_json import check_object, sign_object, signatures_of
from lmatrix.errors import BadRequest, BadSignature, InvalidIdentifier, LMatrixError
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, Keyring

HEAD: Final = "org.lmatrix.head"
"""The type of the statement, and of the EDU that carries it."""

MAX_BYTES = 4096
"""Canonical JSON of a statement, at most."""

_FIELDS = frozenset({"type", "room_id", "server", "head", "position", "ts", "signatures"})


@attrs.frozen(slots=True)
class HeadStatement:
    """A statement; where it came from another server, :func:`check` says whether it is that server's.

    Attributes:
        server: who says it.
        head: event ID of the last event that it holds.
        position: see the module.
        ts: milliseconds since the epoch.
        json: the whole of it, with its signatures.
    """

    room_id: str
    server: str
    head: str
    position: int
    ts: int
    json: JsonObject = attrs.field(repr=False, eq=False)

    @classmethod
    def make(cls, identity: ServerIdentity, room_id: str, head: str, position: int, ts: int) -> HeadStatement:
        """Our own, signed."""
        unsigned = {
            "type": HEAD,
            "room_id": room_id,
            "server": identity.server_name,
            "head": head,
            "position": position,
            "ts": ts,
        }
        signed = sign_object(unsigned, identity.server_name, identity.keys)
        return cls(room_id, identity.server_name, head, position, ts, signed)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> HeadStatement:
        """From JSON of whatever origin; the signature is not looked at.

        Raises:
            BadRequest: it is no statement.
        """
        try:
            if raw.get("type") != HEAD or not raw.keys() <= _FIELDS or len(encode(dict(raw))) > MAX_BYTES:
                raise BadRequest("it is no head statement")
            return cls(
                room_id=ids.room_id(raw.get("room_id")),
                server=ids.server_name(raw.get("server")),
                head=ids.event_id(raw.get("head")),
                position=_number(raw.get("position")),
                ts=_number(raw.get("ts")),
                json=dict(raw),
            )
        except InvalidIdentifier as error:
            raise BadRequest(f"a head statement: {error}") from error


async def check(statement: HeadStatement, keyring: Keyring) -> None:
    """Return if a statement is signed by the server whose it is said to be.

    Raises:
        BadSignature: it is not, or the keys cannot be had.
    """
    server = statement.server
    signed_with = signatures_of(statement.json, server)
    known = (await keyring.keys_for({server: signed_with})).get(server, {})
    check_with(statement, known)


def check_with(statement: HeadStatement, known: Mapping[str, KnownKey]) -> None:
    """As :func:`check`, with keys that are at hand, by key ID."""
    usable = {
        key_id: key.verify_key
        for key_id, key in known.items()
        if key.expired_ts is None or statement.ts <= key.expired_ts
    }
    try:
        check_object(statement.json, statement.server, usable)
    except LMatrixError as error:
        if isinstance(error, BadSignature):
            raise
        raise BadSignature(statement.server, str(error)) from error


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SAFE_INTEGER:
        raise BadRequest("a head statement: position and ts must be integers that are not negative")
    return value
