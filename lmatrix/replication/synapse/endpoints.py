"""Our federation endpoints on Synapse's own federation ports.

Owns: where a request goes that comes in on one of Synapse's ports: to us, or to Synapse's own endpoint of the same
path. The rules:

* a path that Synapse does not serve is ours;
* a path that both serve and that names a room is ours for the rooms that we hold, and Synapse's for all others;
* any other path that both serve (a user's devices, the version) stays Synapse's.

Requests are authenticated by us, not by Synapse's code: what is signed is the request target and the body byte for
byte, a request without a body is good in both forms (``content: {}``, which Synapse would refuse, and no ``content``),
every ``Authorization`` header must verify, and a repeated transaction is known by the bytes of its body.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.python.failure import Failure

from lmatrix.http.errors import refusal
from lmatrix.http.router import Router
from lmatrix.http.routes import Route, RouteTable
from lmatrix.replication.synapse.internals import Internals

GROUP = "lmatrix"
"""Our key among Synapse's groups of federation endpoints."""

_ROOM = "roomId"

Holds = Callable[[str], Awaitable[bool]]
"""Whether we hold a linearized room of this ID."""

_Callback = Callable[..., Awaitable[Any]]


class PathRegistry(Protocol):
    """Synapse's ``HttpServer``: what endpoints register with."""

    def register_paths(self, method: str, path_patterns: Any, callback: Any, servlet_classname: str) -> None: ...


@attrs.frozen(slots=True)
class Shared:
    """A path that Synapse serves, too.

    Attributes:
        servlet: Synapse's class.
        pattern: its pattern of paths.
    """

    servlet: Any
    pattern: re.Pattern[str]


def shared_with_synapse(route: Route, servlets: Sequence[Any]) -> Shared | None:
    """Which of Synapse's own endpoints serves a path of ours, if any."""
    example = re.sub(r"\{\w+\}", "x", route.path)
    for servlet in servlets:
        pattern = re.compile(f"^{servlet.PREFIX}{servlet.PATH}$")
        if pattern.match(example) and hasattr(servlet, f"on_{route.method}"):
            return Shared(servlet, pattern)
    return None


class FederationEndpoints:
    """Our endpoints, to be served by Synapse.

    Args:
        internals: the way into Synapse.
        table: our routes.
        router: answers requests for them.
        holds: which rooms are ours.

    Requests wait until :meth:`begin` was called, and go to Synapse or are refused once :meth:`give_up` was.
    """

    def __init__(self, internals: Internals, table: RouteTable, router: Router, holds: Holds) -> None:
        self._ready: bool | None = None
        self._waiting: list[Deferred[None]] = []
        self._internals = internals
        self._table = table
        self._router = router
        self._holds = holds

    def install(self) -> None:
        """Have Synapse serve them on every federation port that it opens from now on."""
        self._internals.serve_first(GROUP, self._servlet)

    def begin(self) -> None:
        """Requests can be answered from now on."""
        self._decide(True)

    def give_up(self) -> None:
        """Requests cannot be answered, and will not be."""
        if self._ready is None:
            self._decide(False)

    def _decide(self, ready: bool) -> None:
        self._ready = ready
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    async def _is_ready(self) -> bool:
        if self._ready is None:
            decided: Deferred[None] = Deferred()
            self._waiting.append(decided)
            await decided
        return bool(self._ready)

    def _servlet(self, **made_with: Any) -> _Servlet:
        return _Servlet(self, made_with)

    def register(self, resource: PathRegistry, made_with: dict[str, Any]) -> None:
        """Register every route with one of Synapse's ports.

        Args:
            made_with: what Synapse makes its own endpoints with.
        """
        for route in self._table.routes:
            callback: Any = self._answer
            shared = shared_with_synapse(route, self._internals.federation_servlets)
            if shared is not None:
                if _ROOM not in route.path:
                    continue
                callback = _ByRoom(self._answer, self._is_ours, _callback_of(shared, route.method, made_with), shared)
            pattern = re.compile("^" + re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route.path)) + "$")
            resource.register_paths(route.method, (pattern,), callback, f"lmatrix_{route.name}")

    async def _is_ours(self, room_id: str) -> bool:
        async def look() -> bool:
            return await self._is_ready() and await self._holds(room_id)

        return await self._internals.outside(look)

    async def _answer(self, request: Any, **_params: str) -> None:
        """Answer one of Synapse's requests; returns when the answer is out, which Synapse takes as "has been dealt
        with".
        """
        await self._internals.outside(lambda: self._rendered(request))

    async def _rendered(self, request: Any) -> None:
        over: Deferred[None] = request.notifyFinish()
        over.addErrback(_client_gone)
        ready = await self._is_ready()
        if over.called:
            return
        if ready:
            self._router.render(request)
        else:
            self._router.refuse(request, refusal(503, "M_UNKNOWN", "This server cannot do that now."))
        await over


def _client_gone(failure: Failure) -> Failure | None:
    return None if isinstance(failure.value, ConnectionClosed) else failure


class _Servlet:
    """One of Synapse's ports asks for our endpoints."""

    def __init__(self, endpoints: FederationEndpoints, made_with: dict[str, Any]) -> None:
        self._endpoints = endpoints
        self._made_with = made_with

    def register(self, resource: PathRegistry) -> None:
        """Called by Synapse."""
        self._endpoints.register(resource, self._made_with)


class _ByRoom:
    """Answers at a path that Synapse serves, too.

    Args:
        ours: our answer.
        holds: which rooms are ours.
        theirs: Synapse's own answer.
        shared: how Synapse reads the path.
    """

    def __init__(self, ours: _Callback, holds: Holds, theirs: _Callback, shared: Shared) -> None:
        self._ours = ours
        self._holds = holds
        self._theirs = theirs
        self._pattern = shared.pattern

    async def __call__(self, request: Any, **params: str) -> Any:
        if await self._holds(params[_ROOM]):
            return await self._ours(request)
        found = self._pattern.match(request.path.decode("ascii"))
        theirs = {} if found is None else found.groupdict()
        return await self._theirs(request, **{name: unquote(value) for name, value in theirs.items() if value})


class _Recorder:
    """Stands in for one of Synapse's ports, to learn which function answers there."""

    def __init__(self) -> None:
        self.callbacks: dict[str, _Callback] = {}

    def register_paths(self, method: str, _patterns: Any, callback: _Callback, _name: str) -> None:
        self.callbacks[method] = callback


def _callback_of(shared: Shared, method: str, made_with: dict[str, Any]) -> _Callback:
    recorder = _Recorder()
    shared.servlet(**made_with).register(recorder)
    return recorder.callbacks[method]
