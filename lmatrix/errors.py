"""The error family of lmatrix.

Owns: every exception that one room of the house raises for another to handle. The classes carry facts (which rule,
which server, how long to wait) and know nothing of HTTP; :mod:`lmatrix.http.errors` is the one place that turns them
into a status and an ``errcode``.

Three ways in which an event can fail are kept apart, as the I-D keeps them apart ("Receiving Events/PDUs",
"Authorization Rules"): :class:`EventDropped` (malformed, or not properly signed: as if it never came),
:class:`EventRejected` (well formed and signed, but the auth rules refuse it), and *redacted* (a content hash that
does not match), which is no error: the event goes on as its redacted copy.
"""

from __future__ import annotations


class LMatrixError(Exception):
    """Base of every error that lmatrix raises on purpose.

    ``str(error)`` is a sentence that may be shown to a peer or a user: it names what was wrong and leaks nothing
        internal.
    """


# -- Input ------------------------------------------------------------------------------------------------------------


class InvalidJson(LMatrixError):
    """Base of the two ways in which bytes fail to be acceptable JSON."""


class NotJson(InvalidJson):
    """The bytes are not JSON at all (RFC 8259), or not UTF-8."""


class UnsafeJson(InvalidJson):
    """JSON that would not survive canonicalisation unchanged (RFC 8785): duplicate keys, unsafe integers, lone
    surrogates.
    """


class InvalidIdentifier(LMatrixError):
    """An identifier outside the I-D's grammar.

    Args:
        kind: what it should have been, in words: ``"user ID"``.
        value: what it was (shortened when shown).
        reason: what is wrong with it.
    """

    def __init__(self, kind: str, value: object, reason: str) -> None:
        super().__init__(f"invalid {kind} {_shown(value)}: {reason}")
        self.kind = kind
        self.value = value
        self.reason = reason


class BadRequest(LMatrixError):
    """A request that is JSON, but lacks something or has something of the wrong type or count."""


class MissingParam(BadRequest):
    """A request without a parameter that it must have.

    Args:
        name: the parameter's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"parameter {name} is required")
        self.name = name


class InvalidParam(BadRequest):
    """A request with a parameter of the right type, but of no use.

    Args:
        name: the parameter's.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class TooLarge(LMatrixError):
    """A request or an answer beyond its size limit."""


# -- Events -----------------------------------------------------------------------------------------------------------


class EventDropped(LMatrixError):
    """An event that is ignored: malformed, too large, or not properly signed (I-D "Receiving Events/PDUs", 1 and 2)."""


class SchemaViolation(EventDropped):
    """An event that does not have the shape that its room version asks for.

    Args:
        field: the field, dotted: ``"hashes.lpdu"``.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class EventTooLarge(EventDropped):
    """More than 65 536 bytes of canonical JSON.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the event has {size} bytes of canonical JSON; 65536 are allowed")
        self.size = size


class BadSignature(EventDropped):
    """A signature that is required is missing, malformed, by an unknown key, or does not verify.

    Args:
        server: the server that should have signed.
        reason: what is wrong.
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"signature of {server}: {reason}")
        self.server = server
        self.reason = reason


class UnknownKey(BadSignature):
    """A signature that is required is there, and none of the keys that made it can be had.

    It may be good: its server does not answer, or has not answered yet. Trying again later makes sense.
    """


class EventRejected(LMatrixError):
    """The auth rules refuse the event.

    Args:
        rule: the rule's number in the I-D's "Auth Rules Algorithm" (``"5.3.2"``), or its name where it is ours.
        reason: why, in words.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class UnsupportedRoomVersion(LMatrixError):
    """A room version that this server does not implement.

    Args:
        identifier: the room version's identifier, as it came.
    """

    def __init__(self, identifier: object) -> None:
        super().__init__(f"unsupported room version {_shown(identifier)}")
        self.identifier = identifier


class IncompatibleRoomVersion(LMatrixError):
    """The room has a version that the asking server did not say it supports.

    Args:
        room_version: the room's own version.
    """

    def __init__(self, room_version: str) -> None:
        super().__init__(f"this room has version {room_version}, which your server does not list as supported")
        self.room_version = room_version


# -- Rooms ------------------------------------------------------------------------------------------------------------


class NotFound(LMatrixError):
    """Something (a room, an event, a user) is unknown, or the caller may not know that it exists."""


class Forbidden(LMatrixError):
    """The caller may not do this."""


class Undecided(Forbidden):
    """Whether the caller may do this could not be found out, so that it may not now."""


class WrongServer(LMatrixError):
    """The request is for the room's hub, and this server is not it.

    Args:
        room_id: the room.
        hub_server: the current hub's server name, when known.
    """

    def __init__(self, room_id: str, hub_server: str | None) -> None:
        known = f"; its hub is {hub_server}" if hub_server else ""
        super().__init__(f"this server is not the hub of {room_id}{known}")
        self.room_id = room_id
        self.hub_server = hub_server


class TransactionInFlight(LMatrixError):
    """Another transaction of the same origin has not been answered yet (I-D "PUT /send")."""


class Overloaded(LMatrixError):
    """A bounded queue or a rate limit is full.

    Args:
        retry_after_ms: milliseconds after which trying again makes sense.
        reason: in words.
    """

    def __init__(self, retry_after_ms: int, reason: str = "Too many requests. Try again later.") -> None:
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms


class RoomRecovering(Overloaded):
    """This server is the room's hub, may have forgotten some of it, and takes nothing new before it knows.

    Args:
        room_id: the room.
        retry_after_ms: milliseconds after which trying again makes sense.
    """

    def __init__(self, room_id: str, retry_after_ms: int = 5000) -> None:
        super().__init__(retry_after_ms, f"the hub of {room_id} is recovering the room after a restoration; try later")
        self.room_id = room_id


class ShuttingDown(LMatrixError):
    """The server is stopping and takes nothing new."""


class StorageFailed(LMatrixError):
    """The database could not do its part (disk full, I/O error, damaged file); nothing of the request was stored.

    Args:
        reason: in words, for the log; ``str(error)`` does not show it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("The server could not store or read its data. Try again later.")
        self.reason = reason


# -- Peers ------------------------------------------------------------------------------------------------------------


class Unauthenticated(LMatrixError):
    """A federation request that does not prove which server made it (I-D "Request Authentication")."""


class PeerError(LMatrixError):
    """Base of what can go wrong in a request to another server.

    Args:
        destination: the other server's name.
    """

    def __init__(self, destination: str, message: str) -> None:
        super().__init__(message)
        self.destination = destination


class PeerUnreachable(PeerError):
    """No usable answer: name not resolved, connection refused, TLS failure, time-out, or backing off.

    Args:
        destination: the other server's name.
        reason: in words.
    """

    def __init__(self, destination: str, reason: str) -> None:
        super().__init__(destination, f"{destination} could not be reached: {reason}")
        self.reason = reason


class PeerRefused(PeerError):
    """The peer answered with an error status.

    Args:
        destination: the other server's name.
        status: HTTP status.
        errcode: the peer's ``errcode``, ``"M_UNKNOWN"`` when it gave none.
        error: the peer's message, shortened.
        body: the parsed JSON object, empty when the answer was not a JSON object.
        retry_after_ms: how long the peer asks to be left alone, where its header fields say so; by default what
            ``body`` says, and 0 when it says nothing.
    """

    def __init__(
        self,
        destination: str,
        status: int,
        errcode: str,
        error: str,
        body: dict[str, object],
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(destination, f"{destination} answered {status} {errcode}: {error}")
        if retry_after_ms is None:
            said = body.get("retry_after_ms")
            retry_after_ms = int(said) if isinstance(said, int | float) and not isinstance(said, bool) else 0
        self.retry_after_ms = max(0, retry_after_ms)
        self.status = status
        self.errcode = errcode
        self.error = error
        self.body = body


class PeerMisbehaved(PeerError):
    """The peer answered 200, but with something that does not parse or does not verify."""


# -- Local users ------------------------------------------------------------------------------------------------------


class AliasTaken(LMatrixError):
    """A room alias that somebody wants to make exists already.

    Args:
        alias: the alias.
    """

    def __init__(self, alias: str) -> None:
        super().__init__(f"the room alias {alias} exists already")
        self.alias = alias


class BadAlias(LMatrixError):
    """A room is to be known by an alias that does not lead to it (Client-Server API, ``m.room.canonical_alias``).

    Args:
        alias: the alias.
        reason: where it leads instead, or why that cannot be told.
    """

    def __init__(self, alias: str, reason: str) -> None:
        super().__init__(f"the room alias {alias} {reason}")
        self.alias = alias


class UnknownToken(LMatrixError):
    """An access token that is missing or not (or no longer) valid.

    Args:
        missing: whether there was none at all.
    """

    def __init__(self, *, missing: bool) -> None:
        super().__init__("Missing access token" if missing else "Unrecognised access token")
        self.missing = missing


class SendFailed(LMatrixError):
    """A local user's event could not be brought into the room, and why.

    Args:
        reason: the hub's reason, or ours.
        refused: true when the hub refused it for good, false when it is still pending and will be sent later.
    """

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
