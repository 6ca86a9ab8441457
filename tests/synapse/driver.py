"""A Synapse module for tests: makes the adapter's methods callable from outside of the process.

``POST /_lmatrix_driver`` with ``{"method", "arguments"}`` calls a method of
:class:`~lmatrix.replication.synapse.dag_server.SynapseDagServer` and answers ``{"result": …}``, or ``{"raised": <name
of the class>, "words": …}``. ``"told"`` gives and forgets what the follower told since the last time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from lmatrix.replication.interfaces import DagWrite, MembershipWrite, NewRoom, Profile, StateWrite
from lmatrix.replication.synapse.dag_server import SynapseDagServer
from lmatrix.replication.synapse.follower import Follower
from lmatrix.replication.synapse.internals import Internals

PATH = "/_lmatrix_driver"


class Told:
    """Notes what it is told, as a :class:`~lmatrix.replication.synapse.follower.Listener`."""

    def __init__(self) -> None:
        self.advanced = 0
        self.notes: list[list[Any]] = []

    def stream_advanced(self) -> None:
        self.advanced += 1

    def typing_changed(self, dag_room_id: str, user_ids: Sequence[str]) -> None:
        self.notes.append(["typing", dag_room_id, sorted(user_ids)])

    def read_up_to(self, dag_room_id: str, user_id: str, event_id: str, ts: int) -> None:
        self.notes.append(["read", dag_room_id, user_id, event_id, ts])


class Driver:
    """The module."""

    def __init__(self, config: dict[str, Any], api: Any) -> None:
        internals = Internals(api)
        self.dag = SynapseDagServer(internals, "lmatrix")
        self.told = Told()
        self.follower = Follower(internals, self.told, internals.reactor)
        internals.reactor.callLater(0, self.follower.start)
        api.register_web_resource(PATH, _Calls(self))

    @staticmethod
    def parse_config(config: dict[str, Any]) -> dict[str, Any]:
        return config

    async def call(self, method: str, arguments: list[Any]) -> Any:
        if method == "told":
            notes, self.told.notes = self.told.notes, []
            return {"advanced": self.told.advanced, "notes": notes}
        if method == "read":
            after, limit, rooms = arguments
            return _plain(await self.dag.read(after, limit, lambda room_id, *_: not rooms or room_id in rooms))
        if method == "room":
            room_id, keys = arguments
            room = await self.dag.room(room_id, keys and [tuple(key) for key in keys])
            return None if room is None else _plain(attrs.evolve(room, state=list(room.state.values())))
        if method == "send":
            return await self.dag.send(DagWrite(**arguments[0]))
        if method == "set_membership":
            return await self.dag.set_membership(MembershipWrite(**arguments[0]))
        if method == "create_room":
            creator, state = arguments
            return await self.dag.create_room(NewRoom(creator, [StateWrite(*one) for one in state]))
        if method == "ensure_ghost":
            user_id, profile = arguments
            return await self.dag.ensure_ghost(user_id, None if profile is None else Profile(*profile))
        if method == "set_typing":
            room_id, user_id, typing = arguments
            return await self.dag.set_typing(room_id, user_id, typing=typing, timeout_ms=30_000)
        return _plain(await getattr(self.dag, method)(*arguments))


class _Calls(Resource):
    isLeaf = True  # noqa: N815 - IResource names it so

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def render_POST(self, request: Any) -> int:
        wanted = json.loads(request.content.read())

        async def answer() -> None:
            try:
                told: dict[str, Any] = {"result": await self._driver.call(wanted["method"], wanted["arguments"])}
            except Exception as error:
                told = {"raised": type(error).__name__, "words": str(error)}
            request.setHeader(b"Content-Type", b"application/json")
            request.write(json.dumps(told).encode())
            request.finish()

        from synapse.logging.context import PreserveLoggingContext

        with PreserveLoggingContext():
            Deferred.fromCoroutine(answer())
        return NOT_DONE_YET


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return _plain(attrs.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    return value
