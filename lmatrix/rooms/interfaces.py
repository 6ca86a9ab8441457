"""What the rooms need from the floors above them, as interfaces, and the values that cross them.

Owns: the protocols that storage (:class:`Database`, :class:`RoomStore`, …) and federation (:class:`Keyring`,
:class:`Peers`, :class:`Delivery`) implement, so that the rooms know neither SQL nor HTTP.

A *store* method takes the transaction as its first argument and never commits: whoever calls
:meth:`Database.write` owns the boundary. What is passed to ``write`` and ``read`` runs off the reactor thread; it may
touch only the transaction and immutable values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred

from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import PathForm, RoomVersion
from lmatrix.events.signatures import KnownKey

T = TypeVar("T")
JsonObject = dict[str, Any]

SEGMENT_STRIDE = 2**32
"""Distance between the first positions of two runs of a room's log that need not join up.

A hub's log starts at position 1. A participant's first run starts at ``SEGMENT_STRIDE`` and each re-join opens another,
a stride after the last: history fetched later goes *below* a run's first position, and never collides.
"""


class Standing(Enum):
    """What became of an event that has a position in the log."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"  # in the chain and the state; not shown to local clients
    REJECTED = "rejected"  # holds its place in the chain; never state, never shown


@attrs.frozen(slots=True)
class StoredEvent:
    """An event as the log holds it.

    Attributes:
        room_id: its room.
        position: its place in this server's log of the room.
        event_id: its event ID.
        stream: its place in this server's stream of all live events; ``None`` for history fetched later.
        canonical: the PDU's canonical JSON (the redacted copy, once redacted).
        standing: what became of it.
        redacted_by: event ID of the redaction that took effect on it.
    """

    room_id: str
    position: int
    event_id: str
    stream: int | None
    canonical: bytes
    standing: Standing
    redacted_by: str | None


@attrs.frozen(slots=True)
class StoredRoom:
    """A room as the store loads it: everything that is needed to take the next event.

    Attributes:
        head_position, head_event_id: the last event of the log; position 0 and ``None`` when there is none yet.
        state: current state, the last event for each (type, state_key).
        first_position: first position of the current run (see :data:`SEGMENT_STRIDE`).
    """

    room_id: str
    room_version: str
    head_position: int
    head_event_id: str | None
    first_position: int
    state: Sequence[StoredEvent]


@attrs.frozen(slots=True)
class AppendedEvent:
    """One event to append, and what it changes besides the log.

    Attributes:
        lpdu_hash: ``hashes.lpdu.sha256`` for the duplicate check; ``None`` when the event has none.
        redacts: event ID of an event that this one redacts. The store calls ``redact`` with the target's canonical
            JSON; it answers with the redacted canonical JSON, or ``None`` when this redaction may not touch that
            target.
    """

    position: int
    pdu: Pdu
    standing: Standing
    lpdu_hash: str | None
    redacts: str | None = None
    redact: Callable[[bytes], bytes | None] | None = None


@attrs.frozen(slots=True)
class SpanChange:
    """A server began (``opened``) or ceased to be owed the room's events, at ``position`` inclusive in both cases."""

    server: str
    position: int
    opened: bool


@attrs.frozen(slots=True)
class RoomAppend:
    """The whole effect of one batch on one room; applied in one transaction or not at all."""

    room_id: str
    events: Sequence[AppendedEvent]
    spans: Sequence[SpanChange] = ()


@attrs.frozen(slots=True)
class ServerSpan:
    """An interval of positions, both ends inclusive (``until`` ``None``: open), during which a server is owed the
    log.
    """

    since: int
    until: int | None


@attrs.frozen(slots=True)
class PendingLpdu:
    """An LPDU of a local user that the hub has not yet answered for.

    Attributes:
        pending_id: increasing; the order in which local users sent.
        lpdu_event_id: the LPDU's own event ID, the key in the hub's ``failed_pdus``.
        canonical: the signed LPDU's canonical JSON.
        hub_server: the hub it was signed for.
    """

    pending_id: int
    room_id: str
    room_version: str
    hub_server: str
    sender: str
    lpdu_event_id: str
    lpdu_hash: str
    canonical: bytes


@attrs.frozen(slots=True)
class PendingInvite:
    """An invite (or knock) of a local user for a room that this server is not in.

    Attributes:
        canonical: the invite PDU's canonical JSON; a knock's LPDU, since nobody tells us the event that it became.
        stripped_state: list of stripped state events, unverified.
        hub_server: the server that sent it.
        stream: where it stands in the stream, for ``/sync``.
    """

    user_id: str
    room_id: str
    room_version: str
    hub_server: str
    canonical: bytes
    stripped_state: Sequence[JsonObject]
    stream: int


@attrs.frozen(slots=True)
class Evidence:
    """What a participant keeps when the hub does something that it must not.

    Attributes:
        kind: ``"fork"``, ``"rejected"``, ``"dropped"``, ``"altered"``, ``"gap"``, ``"withheld"``.
        event_id: the offending event, when it has an ID.
        event: the event as it came, canonical JSON.
        against: canonical JSON of what contradicts it, when there is such a thing; for ``"withheld"``, of
            ``{"statements": [<head statement>, …]}``.
        reason: in words.
        seen_ts: milliseconds since the epoch.
    """

    room_id: str
    kind: str
    event_id: str | None
    event: bytes
    against: bytes | None
    reason: str
    seen_ts: int


@attrs.frozen(slots=True)
class StoredAnswer:
    """The answer to a finished transaction of a peer.

    Attributes:
        body_hash: unpadded base64 SHA-256 of the request's canonical body: "same" means same origin, ID and body.
        status: HTTP status.
        answer: canonical JSON of the answer.
    """

    body_hash: str
    status: int
    answer: bytes


class Database(Protocol):
    """Where transactions come from."""

    def write(self, work: Callable[[Any], T], *, patient: bool = False) -> Deferred[T]:
        """Run ``work(transaction)`` on the one writer; fires after the commit is on disk, fails if it was not.

        ``patient``: nobody waits for it, so that it may wait a little for another work whose commit it can share."""

    def read(self, work: Callable[[Any], T]) -> Deferred[T]:
        """Run ``work(transaction)`` on a snapshot that sees all commits so far."""


class RoomStore(Protocol):
    """Rooms, their logs and their state."""

    def load_room(self, tx: Any, room_id: str) -> StoredRoom | None: ...

    def insert_room(self, tx: Any, room_id: str, room_version: str, first_position: int) -> None:
        """A room without events. For a room that is already there (a re-join): starts a new run at ``first_position``,
        with the current state emptied (the state history stays)."""

    def put_state_snapshot(self, tx: Any, room_id: str, position: int, events: Sequence[Pdu]) -> None:
        """Current state as a joining server received it, valid from ``position`` (one before its run's first event) on.

        The events are kept, but have no place in the log (``events`` rows without one) until history brings it."""

    def append(self, tx: Any, batch: RoomAppend) -> Sequence[int]:
        """Append; returns each event's stream position. Updates head, state history, current state, memberships, spans,
        a delivery cursor for each span opened (at its position − 1), and redaction targets."""

    def prepend(self, tx: Any, room_id: str, events: Sequence[AppendedEvent]) -> None:
        """Add history below a run's first position; it gets no stream position and leaves current state alone."""

    def put_contents(self, tx: Any, events: Sequence[Pdu]) -> None:
        """Replace redacted copies by the events themselves, but for what was redacted by an event that we know."""

    def event(self, tx: Any, event_id: str) -> StoredEvent | None: ...

    def events(self, tx: Any, event_ids: Sequence[str]) -> Mapping[str, StoredEvent]: ...

    def events_between(self, tx: Any, room_id: str, after: int, up_to: int, limit: int) -> Sequence[StoredEvent]:
        """Positions ``after < p <= up_to``, ascending."""

    def oldest_before(self, tx: Any, room_id: str, position: int) -> StoredEvent | None:
        """The oldest event that is reached from ``position`` downwards without crossing a hole between runs."""

    def events_before(self, tx: Any, room_id: str, position: int, limit: int) -> Sequence[StoredEvent]:
        """Positions ``p <= position``, descending, not leaving the run that ``position`` is in unless they join up."""

    def accepted_lpdus(self, tx: Any, room_id: str, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """For (sender, LPDU hash) pairs: the event ID of the PDU made from it, where there is one."""

    def state_before(self, tx: Any, room_id: str, position: int) -> Sequence[StoredEvent]:
        """State just before ``position``, in the room's order."""

    def state_event_before(
        self, tx: Any, room_id: str, position: int, event_type: str, state_key: str
    ) -> StoredEvent | None: ...

    def state_history(self, tx: Any, room_id: str, event_type: str, state_key: str) -> Sequence[StoredEvent]:
        """Every value that this state had, ascending by position."""

    def spans(self, tx: Any, room_id: str, server: str) -> Sequence[ServerSpan]: ...

    def servers_owed(self, tx: Any, room_id: str) -> Sequence[str]:
        """Servers with an open span."""

    def rooms_of_server(self, tx: Any) -> Sequence[str]:
        """Every room that this server holds."""

    def add_evidence(self, tx: Any, evidence: Evidence) -> None: ...

    def has_evidence(self, tx: Any, room_id: str, kind: str, event_id: str) -> bool:
        """Whether such a piece is kept about that event."""

    def evidence(self, tx: Any, room_id: str) -> Sequence[Evidence]: ...


class PendingLpduStore(Protocol):
    """The LPDUs of local users that wait for their hub."""

    def add(self, tx: Any, lpdu: Lpdu, hub_server: str) -> int:
        """Returns its ``pending_id``."""

    def settle(self, tx: Any, lpdu_event_ids: Sequence[str]) -> None: ...

    def has_so_many(self, tx: Any, hub_server: str, count: int) -> bool:
        """Whether at least so many (1 or more) wait for a hub."""

    def for_hub(self, tx: Any, hub_server: str, after: int, limit: int) -> Sequence[PendingLpdu]:
        """Those with ``pending_id > after``, ascending."""

    def get(self, tx: Any, lpdu_event_id: str) -> PendingLpdu | None: ...

    def by_hash(self, tx: Any, room_id: str, sender: str, lpdu_hash: str) -> PendingLpdu | None: ...

    def for_room(self, tx: Any, room_id: str) -> Sequence[PendingLpdu]:
        """All of a room, ascending."""

    def rooms(self, tx: Any) -> Sequence[str]:
        """Every room for which something is pending."""

    def hubs(self, tx: Any) -> Sequence[str]:
        """Every hub for which something is pending."""


class InviteStore(Protocol):
    """Invites and knocks of local users for rooms that this server is not in."""

    def put(
        self,
        tx: Any,
        user_id: str,
        room_id: str,
        room_version: str,
        hub_server: str,
        pdu: Pdu | Lpdu,
        stripped_state: Sequence[JsonObject],
    ) -> int:
        """Replaces what there was for the user and room; returns its stream position."""

    def remove(self, tx: Any, user_id: str, room_id: str, by: Pdu | Lpdu | None = None) -> int | None:
        """``by`` is the membership event that ended it (a leave), shown to the user by ``/sync``; ``None`` on a join.

        Returns the stream position at which it ended; ``None`` when there was nothing to remove."""

    def get(self, tx: Any, user_id: str, room_id: str) -> PendingInvite | None: ...

    def for_user(self, tx: Any, user_id: str) -> Sequence[PendingInvite]: ...

    def pending_count(self, tx: Any, user_id: str, room_id: str) -> int:
        """How many of a user's are pending, not counting one for this room."""

    def all_pending(self, tx: Any) -> Sequence[tuple[str, str]]:
        """(user ID, room ID) of everything that is pending."""


class TransactionStore(Protocol):
    """Answers to peers' finished transactions (I-D "Transaction Identifiers")."""

    def answer(self, tx: Any, origin: str, endpoint: str, transaction_id: str) -> StoredAnswer | None: ...

    def transaction_ids(self, tx: Any, origin: str, endpoint: str) -> Sequence[str]:
        """Of the transactions that have an answer, a bounded number."""

    def put_answer(
        self, tx: Any, origin: str, endpoint: str, transaction_id: str, answer: StoredAnswer, now_ms: int
    ) -> None: ...


class Keyring(Protocol):
    """Other servers' signing keys (and our own)."""

    async def keys_for(self, wanted: Mapping[str, Iterable[str]]) -> Mapping[str, Mapping[str, KnownKey]]:
        """Keys by server name and key ID, fetched where not yet known. A key that cannot be had is left out; never
        raises for an unreachable or lying server.
        """

    def has_spoken(self, server: str, since: float) -> bool:
        """Whether the server itself has told which keys it has, in an answer that was asked for at or after a time.
        Keys of it that are not known then do not exist.

        Args:
            since: seconds since the epoch.
        """


class LogEntry(NamedTuple):
    """An event as it was appended to a room's log."""

    position: int
    event_id: str
    canonical: bytes


@attrs.frozen(slots=True)
class LogGrowth:
    """What a room's log grew by, where that changed nothing else of what anybody is owed.

    Attributes:
        path_form: the form of path that the room's events are sent to.
        events: ascending, without gaps.
    """

    room_id: str
    path_form: PathForm
    events: Sequence[LogEntry]


class Delivery(Protocol):
    """What is owed to other servers, and the sending of it."""

    def room_advanced(self, room_id: str, destinations: Iterable[str], growth: LogGrowth | None = None) -> None:
        """After a commit: the room's log grew, and these servers are owed some of it. Never blocks, never raises.

        ``growth``: what it grew by, when each of them is owed all of that, and just that more than before. Commits of
        a room are told in their order.
        """

    def lpdus_pending(self, hub_server: str) -> None:
        """After a commit: there are new pending LPDUs for this hub."""

    def heard_from(self, destination: str) -> None:
        """The destination shows life: end its back-off early."""

    def offer_edu(self, destination: str, subject: str, edu: JsonObject) -> None:
        """Send an EDU soon, or never. A newer one under the same subject takes its place. Never blocks or raises."""


@attrs.frozen(slots=True)
class MembershipTemplate:
    """A peer's answer to ``make_*``, unwrapped; ``room_version`` is ``None`` where it did not say."""

    event: JsonObject
    room_version: str | None


class Peers(Protocol):
    """Requests to other servers that the rooms make themselves.

    Every method raises :class:`~lmatrix.errors.PeerUnreachable`, :class:`~lmatrix.errors.PeerRefused` or
    :class:`~lmatrix.errors.PeerMisbehaved`. Paths follow ``room_version.outbound_paths``, with the other form tried on
    ``M_UNRECOGNIZED``.
    """

    async def make_membership(
        self, destination: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> MembershipTemplate: ...

    async def send_membership(
        self, destination: str, membership: str, room_version: RoomVersion, lpdu: Lpdu
    ) -> JsonObject: ...

    async def invite(
        self,
        destination: str,
        room_version: RoomVersion,
        event: JsonObject,
        stripped_state: Sequence[JsonObject],
    ) -> JsonObject:
        """The signed event (unwrapped from ``pdu`` or ``event``)."""

    async def backfill(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str, limit: int
    ) -> Sequence[JsonObject]:
        """In whichever order the peer gave them."""

    async def event(self, destination: str, room_version: RoomVersion, event_id: str) -> JsonObject: ...

    async def state(
        self, destination: str, room_version: RoomVersion, room_id: str, event_id: str
    ) -> tuple[Sequence[JsonObject], Sequence[JsonObject]]:
        """``(pdus, auth_chain)``."""

    async def head(self, destination: str, room_id: str) -> JsonObject | None:
        """``GET …/org.lmatrix.head/:roomId``: the peer's head statement, not yet looked at; ``None`` when it does not
        know the question.
        """

    async def offer_hub(self, destination: str, offer: JsonObject) -> JsonObject:
        """``POST …/org.lmatrix.hub/offer/:txnId``: the candidate's LPDU."""

    async def request_hub(self, destination: str, room_id: str, user_id: str) -> str:
        """``POST …/org.lmatrix.hub/request/:txnId``: the event ID of the ``m.room.hub`` event that made us the hub."""


class LocalAudience(Protocol):
    """Who is told, after the commit, that something changed for local users (``/sync`` wakes up)."""

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        """``user_ids`` when it concerns only some (an invite); ``None`` for everybody in the room."""


class ClientTransactionStore(Protocol):
    """What became of local users' client transactions (Client-Server API "Transaction identifiers").

    The *reference* is the event ID, or, while the hub has not answered yet, the event ID of the pending LPDU.
    """

    def client_transaction(self, tx: Any, user_id: str, device_id: str, room_id: str, txn_id: str) -> str | None:
        """The reference. A transaction ID counts for one device in one room."""

    def put_client_transaction(
        self, tx: Any, user_id: str, device_id: str, room_id: str, txn_id: str, reference: str, now_ms: int
    ) -> None: ...

    def resolve_client_transaction(self, tx: Any, lpdu_event_id: str, event_id: str | None) -> None:
        """The LPDU became this event; ``None``: it was refused, and the client may use the transaction ID anew."""


class AccountLookup(Protocol):
    """Which users have an account in the database."""

    def user_exists(self, tx: Any, user_id: str) -> bool: ...


class LocalDirectory(Protocol):
    """Which users are ours, wherever that is known."""

    async def user_exists(self, user_id: str) -> bool:
        """``user_id`` bears our server name."""


class MemberProfiles(Protocol):
    """What our users are called."""

    def member_fields(self, tx: Any, user_id: str) -> JsonObject:
        """What a member event says of its user besides the membership: ``displayname`` and ``avatar_url``, as far as
        the user has set them.
        """


class EduReceiver(Protocol):
    """Where EDUs from other servers go (I-D "Ephemeral Data Units")."""

    async def receive(self, origin: str, edus: Sequence[JsonObject], record: Callable[[Any], None]) -> None:
        """The EDUs of one transaction, not yet looked at; anything that is wrong with one is dropped, never raised.

        Args:
            record: writes down that the transaction was carried out; to be called within the database transaction that
                stores what the EDUs brought, or not at all when nothing is stored.

        Raises:
            StorageFailed, Overloaded, ShuttingDown: nothing was stored.
        """


class MembershipWatcher(Protocol):
    """Who is told, after the commit, that users came or went."""

    def memberships_changed(
        self, room_id: str, joined: Collection[str], left: Collection[str], new_servers: Collection[str]
    ) -> None:
        """Users who are joined now and were not before, or the reverse; and the servers of which nobody was joined
        before. Never blocks, never raises.
        """


class PendingOutcomes(Protocol):
    """Whom the delivery tells what a hub answered for LPDUs."""

    async def hub_answered(
        self,
        hub_server: str,
        lpdus: Sequence[PendingLpdu],
        failed: Mapping[str, str],
        accepted: Mapping[str, str],
        misdirected: Mapping[str, str],
    ) -> None:
        """``failed``: LPDU event ID → reason; ``accepted``: LPDU event ID → event ID; ``misdirected``: LPDU event ID →
        the words of a server that is not the room's hub. Those in none of them stay pending.
        """
