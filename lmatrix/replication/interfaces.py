"""The port between the mirrors and a DAG-capable server, and the values that cross it.

Owns: :class:`DagServer`, which an adapter implements; :class:`Mirrors`, which an adapter calls; and the values and
errors between them. *Outward* is from the linearized (LM) room to the DAG room, *inward* the other way.

What an adapter may rely on, and must do:

* Users of the DAG server have the same user ID on both sides. A remote LM user is written on the DAG side as a *ghost*,
  a user ID of the DAG server whose localpart begins with :data:`DAG_GHOST_PREFIX`; a user of another DAG server is, on
  the LM side, a user of ours whose localpart begins with :data:`LM_GHOST_PREFIX`. The adapter reserves both prefixes
  and the bot's user ID (on Synapse: an application service's exclusive namespace). Only the mirrors make up these
  names.
* The *bot* is one ghost more, :attr:`DagServer.bot`. It makes mirror rooms, lets ghosts in, and corrects.
* A write is carried out once for a transaction ID, as far as the DAG server can promise it across its own crashes. The
  mirrors do not rely on that alone: what they write carries :data:`SOURCE` in its content, and before they write
  anything after a start they read the stream to its end and recognise what they have written.
* The stream is read with :meth:`DagServer.read`. Wake-ups (:meth:`Mirrors.stream_advanced`) may be lost or too many.

:class:`lmatrix.replication.service.MirrorService` is the :class:`Mirrors` to be built. The rooms floor of the same
process is built with its :attr:`Mirrors.audience`, its :attr:`Mirrors.edus` and itself as the directory of local users
(see :class:`lmatrix.rooms.floor.RoomsFloor`), and then given to ``MirrorService.attach``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

import attrs

from lmatrix.devices.interfaces import SyncWaker
from lmatrix.errors import LMatrixError
from lmatrix.rooms.interfaces import EduReceiver

JsonObject = dict[str, Any]

SOURCE: Final = "org.lmatrix.source"
"""In the content of every event that a mirror writes, on either side: where it came from.

``{"event_id", "room_id", "sender", "origin_server_ts", "hashes", "signatures"}`` of the original; with ``"correction":
true`` in place of all but ``event_id`` and ``room_id`` when the event only brings this side's state back in line.
"""

MIRROR: Final = "org.lmatrix.mirror"
"""Type of the state event (state key empty, by the bot) that says what a DAG room mirrors: ``{"room_id": <LM room>,
"via": [<server that may know it>, …]}``.
"""

DAG_GHOST_PREFIX: Final = "lm."
LM_GHOST_PREFIX: Final = "dag."


class DagRefused(LMatrixError):
    """The DAG server will not do it: the rules of its room, or of its client API, are against it. Trying again is in
    vain.

    Args:
        reason: in words, fit for a log and for users.
    """


class DagUnavailable(LMatrixError):
    """The DAG server cannot do it now (shutting down, overloaded, database gone). Trying again makes sense."""


@attrs.frozen(slots=True)
class DagEvent:
    """An accepted event of the DAG server.

    Attributes:
        stream: its place in the stream of :meth:`DagServer.read`; meaningless in a room's state.
        content: as the DAG server has it now (pruned, when it was redacted). Never altered by anybody.
        state_key: ``None`` for what is not state.
        origin_server_ts: milliseconds since the epoch.
        prev_events: event IDs, in any order.
        redacts: for ``m.room.redaction``: its target, wherever the DAG room's version keeps it.
        redacted: whether a redaction has taken effect on it.
        hashes, signatures: as in the PDU.
    """

    event_id: str
    room_id: str
    stream: int
    type: str
    sender: str
    content: Mapping[str, Any]
    state_key: str | None
    origin_server_ts: int
    prev_events: tuple[str, ...] = ()
    redacts: str | None = None
    redacted: bool = False
    hashes: Mapping[str, Any] = attrs.field(factory=dict)
    signatures: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(slots=True)
class StreamPage:
    """A piece of the stream.

    Attributes:
        events: ascending by ``stream``; all that were asked for at ``after < stream <= position``.
        position: from where to read on. Equal to the ``after`` that was asked for when the end is reached.
    """

    events: Sequence[DagEvent]
    position: int


@attrs.frozen(slots=True)
class DagRoom:
    """A DAG room as it is now.

    Attributes:
        position: a stream position whose events are all taken into account in ``state`` (later ones may be).
        room_version: the identifier of its Matrix room version.
        creators: user IDs with a power level above all others by the room version's own rules (version 12: the sender
            of the create event and its ``additional_creators``); empty in room versions without that.
        state: resolved state.
    """

    room_id: str
    position: int
    room_version: str
    creators: frozenset[str]
    state: Mapping[tuple[str, str], DagEvent]


@attrs.frozen(slots=True)
class Profile:
    """What a ghost is called. ``None``: nothing."""

    displayname: str | None = None
    avatar_url: str | None = None


@attrs.frozen(slots=True)
class StateWrite:
    """State to begin a room with."""

    type: str
    state_key: str
    content: JsonObject


@attrs.frozen(slots=True)
class DagWrite:
    """One event to write on the DAG side.

    Attributes:
        sender: the bot, or a ghost that :meth:`DagServer.ensure_ghost` was called for.
        state_key: ``None`` for what is not state. ``m.room.member`` never comes this way, but as a
            :class:`MembershipWrite`.
        content: of a redaction, too, names its target as ``redacts``, also where the room's version wants it elsewhere.
        origin_server_ts: milliseconds since the epoch to be put into the event, if the server can; ``None`` for now.
        transaction_id: at most 100 characters of ``a-zA-Z0-9._=-``. The same one with the same sender and room means
            the same write.
    """

    room_id: str
    sender: str
    type: str
    content: JsonObject
    transaction_id: str
    state_key: str | None = None
    origin_server_ts: int | None = None


@attrs.frozen(slots=True)
class MembershipWrite:
    """One change of a membership on the DAG side.

    Attributes:
        sender: the bot or a ghost.
        target: any user ID.
        membership: ``"join"``, ``"invite"``, ``"leave"``, ``"ban"``, ``"knock"``. ``"leave"`` of another user is a
            kick, the lifting of a ban, or the withdrawal of an invite, whichever applies.
        content: further content (``displayname``, ``avatar_url``, ``reason``, :data:`SOURCE`), to be used as it is.
    """

    room_id: str
    sender: str
    target: str
    membership: str
    content: JsonObject
    transaction_id: str
    origin_server_ts: int | None = None


@attrs.frozen(slots=True)
class NewRoom:
    """A DAG room to make.

    Attributes:
        creator: the bot. The room's version is the adapter's choice; the creator's level must be above all others'.
        state: written after create, the creator's join and power levels, and in place of the server's own defaults for
            the same state; :data:`MIRROR` and ``m.room.power_levels`` are among it. The latter lists the creator; where
            the room's version has no place for that, the adapter leaves it out. No encryption by default, not
            published in a directory.
    """

    creator: str
    state: Sequence[StateWrite]


Interest = Callable[[str, str, str | None], bool]
"""Whether an event is wanted: called with room ID, type and state key."""


class DagServer(Protocol):
    """A DAG-capable server, as the mirrors use it. Implemented by an adapter.

    Every ``async`` method may raise :class:`DagUnavailable`, and those that write :class:`DagRefused`; nothing else.
    What is returned from a write is in the room.
    """

    @property
    def server_name(self) -> str:
        """The same as this library's own server name."""

    @property
    def bot(self) -> str:
        """The bridge bot's user ID, under our server name, with neither prefix."""

    async def position(self) -> int:
        """The end of the stream: everything up to it can be read."""

    async def read(self, after: int, limit: int, interest: Interest) -> StreamPage:
        """Read on in the stream of all accepted live events (also this server's own and the ghosts'), in the order in
        which the server accepted them.

        Rejected, soft-failed and backfilled events and outliers are not in it. Nothing can later appear at or below a
        position that was given out.

        Args:
            limit: how many events at most are looked at.
            interest: events for which it is false need not be loaded, and are left out.
        """

    async def events(self, event_ids: Sequence[str]) -> Mapping[str, DagEvent]:
        """Events that the stream gave before, as they are now; those that are gone (purged) are left out.

        ``event_ids``: at most 100.
        """

    async def room(self, room_id: str, keys: Collection[tuple[str, str]] | None = None) -> DagRoom | None:
        """A room with a joined user of this server (ghosts and bot included); ``None`` for any other.

        Args:
            keys: (type, state key) of the state that is asked for; ``None``: all of it. More may be given.
        """

    async def user_exists(self, user_id: str) -> bool:
        """Whether this is an active local account of a person: no ghost, not the bot, not deactivated."""

    async def ensure_ghost(self, user_id: str, profile: Profile | None) -> None:
        """Make sure that a ghost (or the bot) exists, and, when a profile is given, has it. Cheap when nothing
        changes.
        """

    async def create_room(self, new: NewRoom) -> str:
        """Make a room; returns its room ID. Not idempotent: the mirrors recognise rooms by their :data:`MIRROR`
        state.
        """

    async def set_membership(self, write: MembershipWrite) -> str:
        """Change a membership; returns the event ID."""

    async def send(self, write: DagWrite) -> str:
        """Write an event that is not a membership; returns the event ID.

        When the room's state says already what is to be written, the answer may be the event ID of that state.
        """

    async def let_in(self, room_id: str, inviter: str) -> None:
        """Bring the bot into a room of local users: invite it as ``inviter``, a local user who has just asked for the
        room to be opened, where the join rule needs that, and join. Where the inviter may, raise the bot's power level
        to what the inviter may give, so that it can correct. No-op for what is so already.
        """

    async def set_typing(self, room_id: str, user_id: str, *, typing: bool, timeout_ms: int) -> None:
        """A ghost types, or does not. Best effort."""

    async def set_read(self, room_id: str, user_id: str, event_id: str) -> None:
        """A ghost has read up to an event (``m.read``). Best effort."""

    async def tell_user(self, user_id: str, text: str) -> None:
        """Tell a local user something that belongs to no room (a server notice, or a message of the bot). Best
        effort.
        """


class Stage(Enum):
    """How far a pair of rooms has come.

    ``INVITED``: the DAG room stands for an invite; this server is not in the LM room yet, or not any more.
    ``OPENING``: the LM room is being made from the DAG room.
    ``OPEN``: events flow both ways.
    ``STOPPED``: they do not any more, for a reason that both rooms were told where possible.
    """

    INVITED = "invited"
    OPENING = "opening"
    OPEN = "open"
    STOPPED = "stopped"


@attrs.frozen(slots=True)
class MirrorStatus:
    """One pair of rooms, for operators.

    Attributes:
        reason: why it stopped; else ``None``.
        outward_lag, inward_lag: events that wait to be carried over.
        outward_lag_ms, inward_lag_ms: how long the oldest of them has been waiting; 0 when there is none.
        lost: cause → how many events could not be carried over, both ways together, since the mirror began.
    """

    lm_room_id: str
    dag_room_id: str
    stage: Stage
    reason: str | None
    outward_lag: int
    inward_lag: int
    outward_lag_ms: int
    inward_lag_ms: int
    lost: Mapping[str, int]


@attrs.frozen(slots=True)
class Difference:
    """Something in which the two sides of a mirror differ.

    Attributes:
        what: for example ``"m.room.topic"``, ``"m.room.member @bob:example.org"`` (an LM user ID).
        lm, dag: what each side has, as the LM side would say it; ``None`` where there is nothing.
    """

    what: str
    lm: object
    dag: object


@attrs.frozen(slots=True)
class Comparison:
    """Both sides of a mirror, compared.

    Attributes:
        settled: whether nothing was on its way: otherwise differences are to be expected.
    """

    status: MirrorStatus
    settled: bool
    differences: Sequence[Difference]


class Mirrors(Protocol):
    """All mirrors of this server, as an adapter calls them; :mod:`lmatrix.replication.service` implements it."""

    @property
    def audience(self) -> SyncWaker:
        """To be given to the rooms floor, and to the devices beside it: wakes the outward direction."""

    @property
    def edus(self) -> EduReceiver:
        """To be given to the rooms floor: typing and receipts of remote LM users."""

    async def user_exists(self, user_id: str) -> bool:
        """Whether an invite from the LM side may name this user: a person on the DAG server."""

    async def start(self) -> None:
        """Begin. Fires when everything is set in motion; waits for no other server."""

    async def stop(self) -> None:
        """End. What is being written is written first; nothing is written after it fires."""

    def stream_advanced(self) -> None:
        """The DAG server's stream has grown. Never blocks or raises; may be called from the reactor thread only."""

    def typing_changed(self, dag_room_id: str, user_ids: Sequence[str]) -> None:
        """These users, and no others, are typing in a DAG room now. Never blocks or raises."""

    def read_up_to(self, dag_room_id: str, user_id: str, event_id: str, ts: int) -> None:
        """A user has read (``m.read``) up to an event of a DAG room, at a time in ms. Never blocks or raises."""

    async def open_room(self, dag_room_id: str, opener: str, invitees: Sequence[str] = ()) -> str:
        """Offer a DAG room to LM servers: make its LM room (this server is the hub) and invite LM users into it.

        The same happens by itself when a local user invites a ghost in a DAG room.

        Args:
            opener: a local user who is joined there.
            invitees: user IDs of remote LM users.

        Returns:
            the LM room's ID; of the present one when the room is open already.

        Raises:
            DagRefused: encrypted, unknown, or otherwise not to be mirrored; the message says why.
            LMatrixError: what the rooms say.
        """

    async def enter_room(self, user_id: str, lm_room_id: str, via: Sequence[str]) -> str:
        """Bring a local user into an LM room without an invite; returns the DAG room's ID, into which the user is then
        invited by the bot, or is already.

        Raises:
            DagRefused, LMatrixError: the message says why not.
        """

    async def stop_mirror(self, room_id: str, reason: str) -> None:
        """Stop mirroring a room (either side's ID), and say so in the DAG room. Raises :class:`DagRefused` for an
        unknown one.
        """

    async def statuses(self) -> Sequence[MirrorStatus]:
        """Every mirror."""

    async def compare(self, room_id: str) -> Comparison:
        """Compare both sides of a mirror, by either side's room ID. Raises :class:`DagRefused` for an unknown one."""
