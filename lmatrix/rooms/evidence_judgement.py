"""Whether a piece of evidence proves what it says, to somebody who was not there.

Owns: :func:`judge`. Pure. It looks at nothing but the events themselves and the keys: who signed what, what follows
what, and what the auth rules say. Whatever the collector noted is not evidence.

A hub's signature over a PDU says: *I* put this event *there*. So two PDUs with one predecessor, both signed by one hub,
need no witness. A hub that alters what a participant signed is given away by its own content hash beside the
participant's LPDU hash. That an event is against the rules is proven when the very events that it cites forbid it;
when the rules refuse it because of other state, one has to believe that this was the state, or look at the log.

That a hub keeps an event from somebody is shown by two signatures of its own, over the event with its predecessor, and
over a later statement that the predecessor is the last event; that it was later is what another server says.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import attrs

from lmatrix.errors import BadRequest, BadSignature, EventDropped, EventRejected, UnsupportedRoomVersion
from lmatrix.events.auth_events import are_selected
from lmatrix.events.auth_rules import authorise
from lmatrix.events.forms import Pdu
from lmatrix.events.hashing import content_hash_of, lpdu_hash_of, lpdu_hashes_member
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.signatures import (
    Form,
    RequiredSignature,
    check_signature,
    check_signatures,
    required_signatures,
)
from lmatrix.events.state import StateEvent, StateMap
from lmatrix.rooms.evidence_document import EvidenceItem, JsonObject, Keys
from lmatrix.rooms.head_statements import HeadStatement, check_with

MAX_STATEMENTS = 10


class Weight(Enum):
    """How far a piece of evidence carries."""

    PROVEN = "proven"
    NEEDS_THE_LOG = "proven only together with the room's log"
    NEEDS_A_WITNESS = "proven if the witness tells the truth"
    NOT_PROVEN = "not proven"


@attrs.frozen(slots=True)
class Judgement:
    """What a piece of evidence is worth, and why, in a sentence or two."""

    weight: Weight
    words: str


def judge(item: EvidenceItem, room_id: str, version_name: str, keys: Keys) -> Judgement:
    """Judge one piece of evidence.

    Args:
        item: the evidence.
        room_id, version_name: the room that it is about.
        keys: public keys by server name and key ID; what is concluded holds if they are who they are said to be.
    """
    try:
        version = room_version(version_name)
        pdu = _pdu(item.event, room_id, version)
    except (UnsupportedRoomVersion, EventDropped) as error:
        return Judgement(Weight.NOT_PROVEN, f"the event cannot be read: {error}")
    hub = hub_of(pdu)
    try:
        check_signature(pdu, RequiredSignature(hub, Form.PDU), keys.get(hub, {}))
    except BadSignature as error:
        return Judgement(Weight.NOT_PROVEN, f"anybody could have made {pdu.event_id}: {error}")
    if item.kind == "withheld":
        return _judge_withheld(pdu, item.against or {}, keys)
    if item.against is not None:
        return _judge_fork(pdu, item.against, room_id, keys)
    if item.kind in ("altered", "dropped"):
        return _judge_forgery(pdu, keys)
    if item.kind == "rejected":
        return _judge_rejected(pdu, item, keys)
    if item.kind == "gap":
        words = f"{hub} signed {pdu.event_id}; that it does not give away what comes before cannot be seen in a file"
        return Judgement(Weight.NOT_PROVEN, words)
    return Judgement(Weight.NOT_PROVEN, f"{hub} signed {pdu.event_id}; nothing in the file shows what is wrong with it")


def hub_of(pdu: Pdu) -> str:
    """The server that answers for an event's place in the room."""
    return pdu.hub_server or pdu.sender_server


def _pdu(raw: JsonObject, room_id: str, version: RoomVersion) -> Pdu:
    pdu = Pdu.parse(raw, version)
    if pdu.room_id != room_id:
        raise EventDropped(f"{pdu.event_id} belongs to {pdu.room_id}")
    return pdu


def _judge_fork(pdu: Pdu, raw: JsonObject, room_id: str, keys: Keys) -> Judgement:
    hub = hub_of(pdu)
    try:
        other = _pdu(raw, room_id, pdu.room_version)
        other_hub = hub_of(other)
        check_signature(other, RequiredSignature(other_hub, Form.PDU), keys.get(other_hub, {}))
    except EventDropped as error:
        return Judgement(Weight.NOT_PROVEN, f"what it is held against proves nothing: {error}")
    shared = [event_id for event_id in pdu.prev_events if event_id in other.prev_events]
    both = f"{pdu.event_id} and {other.event_id}"
    if pdu.event_id == other.event_id:
        return Judgement(Weight.NOT_PROVEN, f"both are one event, {pdu.event_id}")
    if not shared:
        return Judgement(Weight.NOT_PROVEN, f"{both} follow different events")
    if not pdu.room_version.enforces_chain:
        return Judgement(Weight.NOT_PROVEN, f"both {both} follow {shared[0]}, which this room version tolerates")
    if hub != other_hub:
        words = f"{hub} signed {pdu.event_id}, {other_hub} signed {other.event_id}, and both follow {shared[0]}"
        return Judgement(Weight.NEEDS_THE_LOG, f"{words}: one of the two was not the hub there")
    return Judgement(Weight.PROVEN, f"{hub} signed both {both}, and both follow {shared[0]}")


def _judge_withheld(pdu: Pdu, raw: JsonObject, keys: Keys) -> Judgement:
    hub = hub_of(pdu)
    statements = {one.server: one for one in _statements(raw, pdu.room_id, keys)}
    witness = next((one for one in statements.values() if one.server != hub and one.head == pdu.event_id), None)
    denial = statements.get(hub)
    if witness is None or denial is None or denial.head not in pdu.prev_events or denial.ts <= witness.ts:
        words = f"{hub} signed {pdu.event_id}; that it did not give it to everybody cannot be seen in a file"
        return Judgement(Weight.NOT_PROVEN, words)
    words = (
        f"{hub} signed {pdu.event_id} as the successor of {denial.head}; {witness.server} had it already when {hub}"
        f" signed that {denial.head} was the last event of the room"
    )
    return Judgement(Weight.NEEDS_A_WITNESS, words)


def _statements(raw: JsonObject, room_id: str, keys: Keys) -> list[HeadStatement]:
    """Those about the room that are properly signed."""
    sound = []
    entries = raw.get("statements")
    for entry in entries[:MAX_STATEMENTS] if isinstance(entries, list) else ():
        try:
            statement = HeadStatement.parse(entry if isinstance(entry, dict) else {})
            check_with(statement, keys.get(statement.server, {}))
        except (BadRequest, BadSignature):
            # Then it proves nothing, as if it were not there.
            continue
        if statement.room_id == room_id:
            sound.append(statement)
    return sound


def _judge_forgery(pdu: Pdu, keys: Keys) -> Judgement:
    hub, sender_server = hub_of(pdu), pdu.sender_server
    lpdu = pdu.fields["hashes"].get("lpdu")
    if not _same(pdu.content_hash, content_hash_of(pdu.members, None if lpdu is None else lpdu_hashes_member(lpdu))):
        words = f"{pdu.event_id} does not have the content that {hub} signed; who changed it cannot be told"
        return Judgement(Weight.NOT_PROVEN, words)
    required = RequiredSignature(sender_server, Form.LPDU)
    if required in required_signatures(pdu):
        if not keys.get(sender_server):
            return Judgement(Weight.NOT_PROVEN, f"no key of {sender_server} is at hand, in whose name {hub} signed")
        try:
            check_signature(pdu, required, keys[sender_server])
        except BadSignature as error:
            return Judgement(
                Weight.PROVEN, f"{hub} signed {pdu.event_id} in the name of {pdu.sender}, which is not so: {error}"
            )
    if pdu.lpdu_hash is not None and not _same(pdu.lpdu_hash, lpdu_hash_of(pdu.members)):
        return Judgement(Weight.PROVEN, f"{hub} signed {pdu.event_id} with another content than {sender_server} did")
    return Judgement(Weight.NOT_PROVEN, f"the signatures and hashes of {pdu.event_id} are right")


def _judge_rejected(pdu: Pdu, item: EvidenceItem, keys: Keys) -> Judgement:
    hub = hub_of(pdu)
    cited = {event.event_id: event for event in _sound(item.auth_events, pdu, keys)}
    if all(event_id in cited for event_id in pdu.auth_events):
        auth_events = [StateEvent.from_pdu(cited[event_id]) for event_id in pdu.auth_events]
        try:
            authorise(pdu, StateMap(auth_events), prev_events=pdu.prev_events, auth_events=auth_events)
        except EventRejected as error:
            words = f"{hub} put {pdu.event_id} into the room, which the events that it cites forbid"
            return Judgement(Weight.PROVEN, f"{words} (rule {error.rule}): {error}")
    state = StateMap(StateEvent.from_pdu(event) for event in _sound(item.state, pdu, keys))
    if state.get("m.room.create") is None:
        return Judgement(Weight.NOT_PROVEN, f"the file does not show why {pdu.event_id} should be refused")
    reason = None
    if pdu.room_version.enforces_chain and not are_selected(pdu.auth_events, pdu, state):
        reason = "it cites other auth events than the state gives"
    try:
        authorise(pdu, state, prev_events=pdu.prev_events)
    except EventRejected as error:
        reason = f"rule {error.rule}: {error}"
    if reason is None:
        return Judgement(Weight.NOT_PROVEN, f"the rules allow {pdu.event_id}, with the state that the file shows")
    words = f"{hub} put {pdu.event_id} into the room, which is refused if the state was what the file shows"
    return Judgement(Weight.NEEDS_THE_LOG, f"{words} ({reason})")


def _sound(raws: Sequence[JsonObject], pdu: Pdu, keys: Keys) -> list[Pdu]:
    """Those that are state events of the room and properly signed."""
    sound = []
    for raw in raws:
        try:
            event = _pdu(raw, pdu.room_id, pdu.room_version)
            check_signatures(event, keys)
        except EventDropped:
            # Then it proves nothing, as if it were not there.
            continue
        if event.state_key is not None:
            sound.append(event)
    return sound


def _same(declared: str, computed: str) -> bool:
    return declared == computed or declared.rstrip("=") == computed
