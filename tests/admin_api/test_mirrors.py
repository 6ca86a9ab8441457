"""``/mirrors`` of the admin API, and what an operator is told of mirrors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.admin_api.mirrors import MirrorsResource
from lmatrix.errors import BadRequest, Forbidden, LMatrixError, Overloaded
from lmatrix.http.messages import JsonRequest
from lmatrix.replication.interfaces import (
    Comparison,
    DagRefused,
    DagUnavailable,
    Difference,
    MirrorStatus,
    Stage,
)
from lmatrix.replication.operating import MirrorOperations

STATUS = MirrorStatus("!lm:x", "!dag", Stage.OPEN, None, 3, 0, 1500, 0, {"encryption": 2})
SHOWN = {
    "room_id": "!lm:x",
    "dag_room_id": "!dag",
    "stage": "open",
    "reason": None,
    "outward": {"events": 3, "waited_ms": 1500},
    "inward": {"events": 0, "waited_ms": 0},
    "lost": {"encryption": 2},
}


class Mirrors:
    """Remembers what it was asked for, and fails when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failure: LMatrixError | None = None

    async def statuses(self) -> Sequence[MirrorStatus]:
        return [STATUS]

    async def compare(self, room_id: str) -> Comparison:
        self._called("compare", room_id)
        return Comparison(STATUS, False, [Difference("m.room.topic", {"topic": "a"}, None)])

    async def open_room(self, dag_room_id: str, opener: str, invitees: Sequence[str] = ()) -> str:
        self._called("open", dag_room_id, opener, list(invitees))
        return "!lm:x"

    async def enter_room(self, user_id: str, lm_room_id: str, via: Sequence[str]) -> str:
        self._called("enter", user_id, lm_room_id, list(via))
        return "!dag"

    async def stop_mirror(self, room_id: str, reason: str) -> None:
        self._called("stop", room_id, reason)

    def _called(self, *call: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.calls.append(call)


class MirrorsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mirrors = Mirrors()
        mirrors: Any = self.mirrors
        self.resource = MirrorsResource(MirrorOperations(mirrors))

    def ask(self, method: Any, body: object = None, **params: str) -> Deferred[Any]:
        encoded = b"" if body is None else json.dumps(body).encode()
        return Deferred.fromCoroutine(method(JsonRequest(method="GET", raw_uri=b"/", params=params, body=encoded)))

    def test_shown(self) -> None:
        """All of a mirror's numbers, and where its sides differ."""
        self.assertEqual({"mirrors": [SHOWN]}, self.successResultOf(self.ask(self.resource.get_all)))
        compared = self.successResultOf(self.ask(self.resource.compare, roomId="!dag"))
        difference = {"what": "m.room.topic", "lm": {"topic": "a"}, "dag": None}
        self.assertEqual({"mirror": SHOWN, "settled": False, "differences": [difference]}, compared)

    def test_opened_entered_stopped(self) -> None:
        """Each is carried out with what the operator said, and answered with both rooms."""
        both = {"room_id": "!lm:x", "dag_room_id": "!dag"}
        body: dict[str, Any] = {"dag_room_id": "!dag", "user_id": "@a:x", "invite": ["@b:y"]}
        self.assertEqual(both, self.successResultOf(self.ask(self.resource.open, body)))
        body = {"room_id": "!lm:x", "user_id": "@a:x", "via": ["y"]}
        self.assertEqual(both, self.successResultOf(self.ask(self.resource.open, body)))
        self.assertEqual({}, self.successResultOf(self.ask(self.resource.stop, {"reason": "enough"}, roomId="!dag")))
        wanted = [("open", "!dag", "@a:x", ["@b:y"]), ("enter", "@a:x", "!lm:x", ["y"]), ("stop", "!dag", "enough")]
        self.assertEqual(wanted, self.mirrors.calls)

    def test_bad_requests(self) -> None:
        """What is missing or of the wrong kind is refused, and nothing is done."""
        for body in ({}, {"user_id": "@a:x"}, {"dag_room_id": "!d", "user_id": "@a:x", "invite": "@b:y"}):
            self.failureResultOf(self.ask(self.resource.open, body), BadRequest)
        self.failureResultOf(self.ask(self.resource.stop, {"reason": 3}, roomId="!dag"), BadRequest)
        self.assertEqual([], self.mirrors.calls)

    def test_refusals(self) -> None:
        """What the full server will not do is forbidden, in its words; what it cannot do now is to be tried again."""
        for failure, answered in ((DagRefused("encrypted"), Forbidden), (DagUnavailable("down"), Overloaded)):
            self.mirrors.failure = failure
            error = self.failureResultOf(self.ask(self.resource.compare, roomId="!dag"), answered).value
            self.assertIn(str(failure), str(error))
