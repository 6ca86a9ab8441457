"""From an exception to an answer.

Owns: the one mapping from the error family of :mod:`lmatrix.errors` to HTTP status, ``errcode`` and the extra fields
that an error object carries (``retry_after_ms``, ``hub_server``, ``room_version``).

Invariants: every answer made here is a JSON object with ``errcode`` and ``error`` (I-D "Errors"); messages are bounded;
an exception that is not ours is logged in full and answered without a word of what it was; nothing that a peer answers
can make a local client believe that *its own* credentials were refused.

Implements the I-D's "Errors", "Unsupported Endpoints", "Malformed Requests" and "Rate Limiting".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import errors
from lmatrix.http.messages import JsonAnswer, JsonObject

MAX_MESSAGE = 500
"""Characters of an ``error`` message, at most."""

_MAX_RETRY_AFTER_MS = 24 * 60 * 60 * 1000
_MAX_NAME = 255

_RESTART_MS = 5000
"""When a server that is stopping may be back."""
_ERRCODE = re.compile(r"[A-Za-z0-9_.]{1,64}\Z")

# Answers of a peer that speak of *our* standing with it. Passed on, they would tell a local client that its own access
# token is no good (clients log out on that), or that this server lacks the endpoint.
_ABOUT_US_STATUSES = frozenset({401, 405, 407})
_ABOUT_US_ERRCODES = frozenset(
    {"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_CONSENT_NOT_GIVEN", "M_UNRECOGNIZED"}
)

_log = Logger()


@attrs.frozen(slots=True)
class _Row:
    """How one class of errors is answered.

    Attributes:
        status: HTTP status.
        errcode: the error code.
        fields: more fields of the error object, from the exception.
        message: its words, from the exception.
    """

    status: int
    errcode: str
    fields: Callable[[Any], JsonObject] = lambda _error: {}
    message: Callable[[Any], str] = str


def _known(**fields: object) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


def _row_for_unknown_token(error: errors.UnknownToken) -> _Row:
    return _Row(401, "M_MISSING_TOKEN" if error.missing else "M_UNKNOWN_TOKEN")


def _row_for_send_failed(error: errors.SendFailed) -> _Row:
    # Not refused means still pending: the hub did not answer in time, which is what 504 says.
    return _Row(403, "M_FORBIDDEN") if error.refused else _Row(504, "M_UNKNOWN")


def _row_for_storage_failed(error: errors.StorageFailed) -> _Row:
    # The caller learns nothing of disks and files; the operator has to.
    _log.error("a request failed in the database: {reason}", reason=error.reason)
    return _Row(500, "M_UNKNOWN")


def _row_for_peer_refused(error: errors.PeerRefused) -> _Row:
    status = error.status if 400 <= error.status <= 599 and error.status not in _ABOUT_US_STATUSES else 502
    errcode = error.errcode if _ERRCODE.match(error.errcode) else "M_UNKNOWN"
    if errcode in _ABOUT_US_ERRCODES:
        return _Row(502, "M_UNKNOWN")
    # In the peer's own words: an invite's refusal is the target's to explain (I-D "POST /invite").
    return _Row(status, errcode, _passed_on, lambda refused: str(refused.error))


def _passed_on(error: errors.PeerRefused) -> JsonObject:
    """The fields of a peer's error object that a caller can use, when they are what they should be."""
    fields: JsonObject = {}
    if 0 < error.retry_after_ms <= _MAX_RETRY_AFTER_MS:
        fields["retry_after_ms"] = error.retry_after_ms
    for name in ("hub_server", "room_version"):
        value = error.body.get(name)
        if isinstance(value, str) and len(value) <= _MAX_NAME:
            fields[name] = _bounded(value)
    return fields


_ROWS: Mapping[type[errors.LMatrixError], _Row | Callable[[Any], _Row]] = {
    errors.LMatrixError: _Row(500, "M_UNKNOWN"),
    errors.InvalidJson: _Row(400, "M_NOT_JSON"),
    errors.NotJson: _Row(400, "M_NOT_JSON"),
    errors.UnsafeJson: _Row(400, "M_BAD_JSON"),
    errors.InvalidIdentifier: _Row(400, "M_BAD_JSON"),
    errors.BadRequest: _Row(400, "M_BAD_JSON"),
    errors.MissingParam: _Row(400, "M_MISSING_PARAM"),
    errors.InvalidParam: _Row(400, "M_INVALID_PARAM"),
    errors.TooLarge: _Row(413, "M_TOO_LARGE"),
    errors.EventDropped: _Row(400, "M_BAD_JSON"),
    errors.SchemaViolation: _Row(400, "M_BAD_JSON"),
    errors.EventTooLarge: _Row(413, "M_TOO_LARGE"),
    errors.BadSignature: _Row(403, "M_FORBIDDEN"),
    errors.UnknownKey: _Row(503, "M_UNKNOWN"),
    errors.EventRejected: _Row(403, "M_FORBIDDEN"),
    errors.UnsupportedRoomVersion: _Row(400, "M_UNSUPPORTED_ROOM_VERSION"),
    errors.IncompatibleRoomVersion: _Row(
        400, "M_INCOMPATIBLE_ROOM_VERSION", lambda error: {"room_version": error.room_version}
    ),
    errors.NotFound: _Row(404, "M_NOT_FOUND"),
    errors.Forbidden: _Row(403, "M_FORBIDDEN"),
    errors.WrongServer: _Row(400, "M_WRONG_SERVER", lambda error: _known(hub_server=error.hub_server)),
    errors.TransactionInFlight: _Row(400, "M_BAD_STATE"),
    errors.Overloaded: _Row(429, "M_LIMIT_EXCEEDED", lambda error: {"retry_after_ms": error.retry_after_ms}),
    errors.RoomRecovering: _Row(503, "M_UNKNOWN", lambda error: {"retry_after_ms": error.retry_after_ms}),
    errors.ShuttingDown: _Row(503, "M_UNKNOWN", lambda _error: {"retry_after_ms": _RESTART_MS}),
    errors.StorageFailed: _row_for_storage_failed,
    errors.Unauthenticated: _Row(401, "M_FORBIDDEN"),
    errors.PeerError: _Row(502, "M_UNKNOWN"),
    errors.PeerUnreachable: _Row(502, "M_UNKNOWN"),
    errors.PeerRefused: _row_for_peer_refused,
    errors.PeerMisbehaved: _Row(502, "M_UNKNOWN"),
    errors.AliasTaken: _Row(409, "M_UNKNOWN"),
    errors.BadAlias: _Row(400, "M_BAD_ALIAS"),
    errors.UnknownToken: _row_for_unknown_token,
    errors.SendFailed: _row_for_send_failed,
}


def error_answer(error: BaseException) -> JsonAnswer:
    """The answer for an exception that a handler let through.

    Args:
        error: what was raised. One of :mod:`lmatrix.errors` (or a subclass) is answered as its row says; anything else
            is logged with its traceback and answered 500 ``M_UNKNOWN``.

    Returns:
        The answer; never raises.
    """
    for kind in type(error).__mro__:
        row = _ROWS.get(kind)
        if row is not None:
            break
    else:
        _log.failure("a request failed unexpectedly", failure=Failure(error))  # type: ignore[no-untyped-call]
        return refusal(500, "M_UNKNOWN", "Internal server error")
    if not isinstance(row, _Row):
        row = row(error)
    return refusal(row.status, row.errcode, row.message(error), **row.fields(error))


def refusal(status: int, errcode: str, message: str, **extra: object) -> JsonAnswer:
    """An error answer for a code that has no exception of its own (``M_USER_IN_USE``, ``M_UNRECOGNIZED``, …).

    Args:
        status: HTTP status, 4xx or 5xx.
        errcode: the error code.
        message: a sentence for people; cut to :data:`MAX_MESSAGE` characters.
        **extra: more fields of the error object. ``retry_after_ms`` is also given as a ``Retry-After`` header.
    """
    headers: dict[str, str] = {}
    retry_after_ms = extra.get("retry_after_ms")
    if isinstance(retry_after_ms, int):
        # Retry-After counts whole seconds (RFC 9110, 10.2.3): round up, so that nobody comes back too early.
        headers["Retry-After"] = str(max(0, -(-retry_after_ms // 1000)))
    return JsonAnswer(status, {"errcode": errcode, "error": _bounded(message), **extra}, headers)


def unrecognised_endpoint() -> JsonAnswer:
    """404 for a path that is not ours (I-D "Unsupported Endpoints")."""
    return refusal(404, "M_UNRECOGNIZED", "Unrecognized request")


def unrecognised_method(allowed: tuple[str, ...]) -> JsonAnswer:
    """405 for a path that is ours, asked with another method (I-D "Unsupported Endpoints").

    Args:
        allowed: the methods that the path has.
    """
    answer = refusal(405, "M_UNRECOGNIZED", "Unrecognized request method")
    return attrs.evolve(answer, headers={"Allow": ", ".join(allowed)})


def _bounded(text: str) -> str:
    """At most :data:`MAX_MESSAGE` characters that can be written as UTF-8."""
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
