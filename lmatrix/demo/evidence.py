"""What each of the demo's servers has stored, checked again from the outside.

Owns: reading a room's log out of a server's database, asking every server for its public keys, and verifying each event
with them. Nothing here trusts what the servers say about their own checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from treq.client import HTTPClient
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from lmatrix.canonical_json import parse_object
from lmatrix.crypto.keys import VerifyKey
from lmatrix.crypto.signed_json import check_object
from lmatrix.demo.servers import Place
from lmatrix.errors import LMatrixError, NotFound
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.events.signatures import KnownKey, RequiredSignature
from lmatrix.events.verification import verify
from lmatrix.federation.tls import ClientTls
from lmatrix.rooms.interfaces import Standing
from lmatrix.rooms.positions import Position
from lmatrix.storage.group_commit import run_read
from lmatrix.storage.room_log import SqlRoomStore
from lmatrix.storage.sqlite_engine import SqliteEngine

Keys = Mapping[str, Mapping[str, KnownKey]]

_ALL = 2**62
_MOST_EVENTS = 1_000_000


@attrs.frozen(slots=True)
class HeldEvent:
    """One event as a server holds it.

    Attributes:
        standing: what became of it there.
        signed_by: the signatures that were required, and were verified with the keys that the servers publish.
        redacted: whether its hashes hold only for the redacted copy.
    """

    position: Position
    pdu: Pdu
    standing: Standing
    signed_by: tuple[RequiredSignature, ...]
    redacted: bool


@attrs.frozen(slots=True)
class HeldRoom:
    """A room as one server holds it, in its order."""

    place: Place
    events: tuple[HeldEvent, ...]


async def published_keys(places: Sequence[Place], https: HTTPClient) -> Keys:
    """Ask every server for its public keys.

    Args:
        https: a client that takes self-signed certificates; see :class:`AnyCertificate`.

    Raises:
        LMatrixError: an answer is not signed with the keys in it.
    """
    keys: dict[str, dict[str, KnownKey]] = {}
    for place in places:
        response = await https.get(f"https://{place.server_name}/_matrix/key/v2/server", timeout=10)
        answer = parse_object(await response.content())
        listed = {key_id: VerifyKey.from_base64(key_id, key["key"]) for key_id, key in answer["verify_keys"].items()}
        check_object(answer, place.server_name, listed)
        keys[place.server_name] = {key_id: KnownKey(key_id, key) for key_id, key in listed.items()}
    return keys


def held_room(place: Place, room_id: str, keys: Keys) -> HeldRoom:
    """Read a room out of a server's database (which the server may have open) and verify every event.

    Blocks: to be called off the reactor thread.

    Raises:
        BadSignature: a required signature is missing or wrong.
        NotFound: the server does not hold the room.
    """
    engine = SqliteEngine(place.database)
    connection = engine.connect(read_only=True)
    store = SqlRoomStore()

    def work(tx: Any) -> HeldRoom:
        room = store.load_room(tx, room_id)
        if room is None:
            raise NotFound(f"{place.label} does not hold {room_id}")
        version = room_version(room.room_version)
        events = []
        for stored in store.events_between(tx, room_id, 0, _ALL, _MOST_EVENTS):
            pdu = Pdu.from_canonical(stored.canonical, version)
            checked = verify(pdu, keys)
            position = Position.of(stored.position)
            events.append(HeldEvent(position, pdu, stored.standing, checked.signed_by, checked.redacted))
        return HeldRoom(place, tuple(events))

    try:
        result: HeldRoom = run_read(connection, engine, work)
    finally:
        connection.close()
    return result


def disagreements(hub: HeldRoom, others: Sequence[HeldRoom]) -> list[str]:
    """Where servers differ about the room, in words; empty when they agree.

    They agree when the hub's log is one chain, and every other server holds a part of it: the same bytes in the same
    order, without a gap within a stay, up to the hub's last event.
    """
    found = list(_breaks_in_chain(hub))
    order = {held.pdu.event_id: index for index, held in enumerate(hub.events)}
    for other in others:
        label = other.place.label
        before: HeldEvent | None = None
        for held in other.events:
            event_id = held.pdu.event_id
            if event_id not in order:
                found.append(f"{label} holds {event_id}, which the hub does not")
                continue
            if held.pdu.canonical != hub.events[order[event_id]].pdu.canonical:
                found.append(f"{label} holds other bytes of {event_id} than the hub")
            if before is not None and before.pdu.event_id in order:
                step = order[event_id] - order[before.pdu.event_id]
                if step < 1:
                    found.append(f"{label} has {event_id} after {before.pdu.event_id}, the hub before it")
                elif step > 1 and before.position.run == held.position.run:
                    found.append(f"{label} lacks {step - 1} events before {event_id}")
            before = held
        last = hub.events[-1].pdu.event_id if hub.events else None
        if before is None or before.pdu.event_id != last:
            found.append(f"{label} does not end where the hub does, with {last}")
    return found


def _breaks_in_chain(hub: HeldRoom) -> list[str]:
    found = []
    expected: tuple[str, ...] = ()
    for held in hub.events:
        if held.pdu.prev_events != expected:
            found.append(f"{held.pdu.event_id} does not follow {expected[0] if expected else 'nothing'}")
        expected = (held.pdu.event_id,)
    return found


@implementer(IPolicyForHTTPS)
class AnyCertificate:
    """Takes whatever certificate a server shows: the demo's are self-signed."""

    def __init__(self) -> None:
        self._tls = ClientTls(verify=False)

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return self._tls.creator_for(hostname.decode("ascii"))


class Disagreement(LMatrixError):
    """The servers do not agree about a room."""
