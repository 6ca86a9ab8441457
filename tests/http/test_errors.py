"""From exceptions to answers."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix import errors
from lmatrix.http.errors import MAX_MESSAGE, error_answer, refusal, unrecognised_endpoint, unrecognised_method
from lmatrix.http.messages import JsonAnswer


def _refused(status: int, errcode: str, body: dict[str, object] | None = None) -> errors.PeerRefused:
    return errors.PeerRefused("b.example", status, errcode, "no", body or {})


_TABLE: list[tuple[errors.LMatrixError, int, str, dict[str, object]]] = [
    (errors.LMatrixError("x"), 500, "M_UNKNOWN", {}),
    (errors.InvalidJson("x"), 400, "M_NOT_JSON", {}),
    (errors.NotJson("x"), 400, "M_NOT_JSON", {}),
    (errors.UnsafeJson("x"), 400, "M_BAD_JSON", {}),
    (errors.InvalidIdentifier("user ID", "x", "no @"), 400, "M_BAD_JSON", {}),
    (errors.BadRequest("x"), 400, "M_BAD_JSON", {}),
    (errors.MissingParam("field"), 400, "M_MISSING_PARAM", {}),
    (errors.InvalidParam("field", "x"), 400, "M_INVALID_PARAM", {}),
    (errors.TooLarge("x"), 413, "M_TOO_LARGE", {}),
    (errors.EventDropped("x"), 400, "M_BAD_JSON", {}),
    (errors.SchemaViolation("type", "x"), 400, "M_BAD_JSON", {}),
    (errors.EventTooLarge(70000), 413, "M_TOO_LARGE", {}),
    (errors.BadSignature("a.example", "x"), 403, "M_FORBIDDEN", {}),
    (errors.UnknownKey("a.example", "x"), 503, "M_UNKNOWN", {}),
    (errors.EventRejected("5.1", "x"), 403, "M_FORBIDDEN", {}),
    (errors.UnsupportedRoomVersion("99"), 400, "M_UNSUPPORTED_ROOM_VERSION", {}),
    (errors.IncompatibleRoomVersion("I.1"), 400, "M_INCOMPATIBLE_ROOM_VERSION", {"room_version": "I.1"}),
    (errors.NotFound("x"), 404, "M_NOT_FOUND", {}),
    (errors.Undecided("x"), 403, "M_FORBIDDEN", {}),
    (errors.Forbidden("x"), 403, "M_FORBIDDEN", {}),
    (errors.WrongServer("!r:x", "hub.example"), 400, "M_WRONG_SERVER", {"hub_server": "hub.example"}),
    (errors.WrongServer("!r:x", None), 400, "M_WRONG_SERVER", {}),
    (errors.TransactionInFlight("x"), 400, "M_BAD_STATE", {}),
    (errors.Overloaded(1500), 429, "M_LIMIT_EXCEEDED", {"retry_after_ms": 1500}),
    (errors.RoomRecovering("!r:x", 5000), 503, "M_UNKNOWN", {"retry_after_ms": 5000}),
    (errors.ShuttingDown("x"), 503, "M_UNKNOWN", {"retry_after_ms": 5000}),
    (errors.StorageFailed("disk full"), 500, "M_UNKNOWN", {}),
    (errors.Unauthenticated("x"), 401, "M_FORBIDDEN", {}),
    (errors.PeerError("b.example", "x"), 502, "M_UNKNOWN", {}),
    (errors.PeerUnreachable("b.example", "x"), 502, "M_UNKNOWN", {}),
    (errors.PeerMisbehaved("b.example", "x"), 502, "M_UNKNOWN", {}),
    (_refused(403, "M_FORBIDDEN"), 403, "M_FORBIDDEN", {}),
    (errors.AliasTaken("#a:b"), 409, "M_UNKNOWN", {}),
    (errors.BadAlias("#a:b", "x"), 400, "M_BAD_ALIAS", {}),
    (errors.UnknownToken(missing=True), 401, "M_MISSING_TOKEN", {}),
    (errors.UnknownToken(missing=False), 401, "M_UNKNOWN_TOKEN", {}),
    (errors.SendFailed("x", refused=True), 403, "M_FORBIDDEN", {}),
    (errors.SendFailed("x", refused=False), 504, "M_UNKNOWN", {}),
]


def _family(kind: type[errors.LMatrixError]) -> set[type[errors.LMatrixError]]:
    members = {kind}
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            members |= _family(child)
    return members


def _body(answer: JsonAnswer) -> dict[str, Any]:
    assert isinstance(answer.body, dict)
    return answer.body


class TableTests(SynchronousTestCase):
    """Every class of the error family."""

    def test_each_error_has_its_status_and_code(self) -> None:
        """Status, errcode and extra fields are those of the table; the message is the exception's, or the peer's."""
        for error, status, errcode, extra in _TABLE:
            answer = error_answer(error)
            words = error.error if isinstance(error, errors.PeerRefused) else str(error)
            self.assertEqual(answer.status, status, repr(error))
            self.assertEqual(answer.body, {"errcode": errcode, "error": words, **extra}, repr(error))

    def test_the_table_is_complete(self) -> None:
        """A class that is added to the family is added here, and so to the mapping."""
        self.assertEqual(_family(errors.LMatrixError), {type(error) for error, *_ in _TABLE})

    def test_a_subclass_is_answered_as_its_nearest_relative(self) -> None:
        """Errors of other packages need no row of their own."""

        class Special(errors.NotFound):
            pass

        self.assertEqual(error_answer(Special("x")).status, 404)

    def test_retry_after_is_rounded_up(self) -> None:
        """The header counts whole seconds, and never less than the field says."""
        self.assertEqual(error_answer(errors.Overloaded(1001)).headers["Retry-After"], "2")
        self.assertEqual(error_answer(errors.Overloaded(0)).headers["Retry-After"], "0")


class UnexpectedTests(SynchronousTestCase):
    """What is not ours."""

    def test_internals_are_logged_and_not_told(self) -> None:
        """Any other exception is 500 without its message, and its traceback is in the log."""
        answer = error_answer(RuntimeError("the password is hunter2"))
        self.assertEqual((answer.status, answer.body), (500, refusal(500, "M_UNKNOWN", "Internal server error").body))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_messages_are_bounded_and_can_be_encoded(self) -> None:
        """A message of any length and content becomes a bounded one that is valid UTF-8."""
        for text in ("x" * 10_000, "\ud800" * 10_000, "é" * 501):
            answer = error_answer(errors.BadRequest(text))
            self.assertLessEqual(len(_body(answer)["error"]), MAX_MESSAGE)
            answer.encoded()

    def test_unknown_endpoints_and_methods(self) -> None:
        """404 and 405 are both M_UNRECOGNIZED; the latter says which methods there are."""
        self.assertEqual(unrecognised_endpoint().status, 404)
        answer = unrecognised_method(("GET", "PUT"))
        self.assertEqual((answer.status, answer.headers), (405, {"Allow": "GET, PUT"}))
        for refused in (answer, unrecognised_endpoint()):
            self.assertEqual(_body(refused)["errcode"], "M_UNRECOGNIZED")


class PassedOnTests(SynchronousTestCase):
    """Answers of peers that reach a local client."""

    def test_useful_fields_are_passed_on(self) -> None:
        """retry_after_ms, hub_server and room_version go on to the caller; nothing else does."""
        body = {"retry_after_ms": 5, "hub_server": "h.example", "room_version": "I.1", "soft_logout": True, "x": "y"}
        answer = error_answer(_refused(429, "M_LIMIT_EXCEEDED", dict(body)))
        self.assertEqual(answer.status, 429)
        self.assertEqual(
            {name: value for name, value in _body(answer).items() if name not in ("errcode", "error")},
            {"retry_after_ms": 5, "hub_server": "h.example", "room_version": "I.1"},
        )

    def test_the_peers_own_words_are_passed_on(self) -> None:
        """What the peer says about its refusal is said to the caller, and no more than fits."""
        for words in ("She does not take invites today.", "x" * 10_000):
            error = _body(error_answer(errors.PeerRefused("b.example", 403, "M_FORBIDDEN", words, {})))["error"]
            self.assertEqual(error[: MAX_MESSAGE - 1], words[: MAX_MESSAGE - 1])
            self.assertLessEqual(len(error), MAX_MESSAGE)

    def test_fields_of_the_wrong_kind_are_left_out(self) -> None:
        """A peer's fields are used only when they are what they should be."""
        for body in (
            {"retry_after_ms": True},
            {"retry_after_ms": -1},
            {"retry_after_ms": 10**12},
            {"hub_server": "x" * 256},
            {"room_version": 1},
        ):
            self.assertEqual(
                set(_body(error_answer(_refused(400, "M_X", dict(body))))), {"errcode", "error"}, str(body)
            )

    def test_statuses_and_codes_are_bounded(self) -> None:
        """A status that is no error becomes 502, an errcode that is none becomes M_UNKNOWN."""
        for status in (200, 302, 99, 600):
            self.assertEqual(error_answer(_refused(status, "M_X")).status, 502)
        for errcode in ("", "M X", "M_" + "X" * 100, "M_X\n", "<b>"):
            self.assertEqual(_body(error_answer(_refused(400, errcode)))["errcode"], "M_UNKNOWN", errcode)

    def test_a_peer_cannot_log_a_client_out(self) -> None:
        """What a peer says about our standing with it never looks like a word on the client's own token or endpoint."""
        for error in (
            _refused(401, "M_UNKNOWN_TOKEN"),
            _refused(403, "M_UNKNOWN_TOKEN"),
            _refused(403, "M_MISSING_TOKEN"),
            _refused(404, "M_UNRECOGNIZED"),
            _refused(401, "M_FORBIDDEN"),
        ):
            answer = error_answer(error)
            self.assertEqual(answer.status, 502)
            self.assertNotIn(_body(answer)["errcode"], ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNRECOGNIZED"))
