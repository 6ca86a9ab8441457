"""Which endpoint a method and a path belong to.

Owns: :class:`Route`, :class:`RouteTable` and the matching of path segments against them. Pure: no request, no clock.

Invariants: a path matches segment by segment, whole, on decoded segments; a parameter never matches an empty segment,
so that a trailing or a double slash makes a path unknown unless a route spells it; a literal segment wins over a
parameter; two routes with the same method and shape are refused when the tree is built.

Implements the I-D's "Unsupported Endpoints".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import attrs

from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest

Handler = Callable[[JsonRequest], Awaitable[JsonObject | JsonAnswer]]

DEFAULT_MAX_BODY = 128 * 1024
"""Bytes of a request body that a route allows when it does not say otherwise: an event of 64 KiB, and some more."""


@attrs.frozen(slots=True)
class Route:
    """One endpoint.

    Attributes:
        method: the HTTP method, in capitals.
        path: its path, a parameter in braces: ``"/_matrix/federation/v2/send/{txnId}"``. It may end with a slash, for
            the few endpoints of the Client-Server API that allow one.
        handler: coroutine function that answers it: an object (for 200) or a :class:`JsonAnswer`.
        name: a short name for logs and metrics, the same for the twins of one endpoint: ``"send"``.
        max_body: bytes of its request body, at most.
        long_poll: whether the answer may take long on purpose (``/sync``). Such a request is counted on its own and
            cancelled when the client goes away. Every other request goes on without its client.
    """

    method: str
    path: str
    handler: Handler = attrs.field(repr=False)
    name: str
    max_body: int = DEFAULT_MAX_BODY
    long_poll: bool = False


@attrs.frozen(slots=True)
class RouteTable:
    """The routes of one API, and what they share.

    Attributes:
        api: short name for logs and metrics: ``"federation"``.
        routes: the routes.
        cors: whether browsers of any origin may call it (Matrix Client-Server API "Web Browser Clients").
        max_in_flight: requests handled at one time, at most; more are answered 429.
        max_long_polls: long polls waiting at one time, at most.
        shared_out: whether nobody may have more than a share of ``max_in_flight``: counted by client address until a
            handler passes a request's place on to whoever made it. For an API that strangers call directly.
    """

    api: str
    routes: Sequence[Route]
    cors: bool = False
    max_in_flight: int = 512
    max_long_polls: int = 10_000
    shared_out: bool = False


@attrs.frozen(slots=True)
class Endpoint:
    """A route in its table, with the names of its path parameters in order."""

    table: RouteTable
    route: Route
    parameters: tuple[str, ...]


@attrs.frozen(slots=True)
class Found:
    """The endpoint for a method and a path.

    Attributes:
        endpoint: the endpoint.
        params: the path's parameters by name.
    """

    endpoint: Endpoint
    params: dict[str, str]


@attrs.frozen(slots=True)
class WrongMethod:
    """A path that exists, but not with this method.

    Attributes:
        allowed: the methods that it has, sorted.
        cors: whether browsers of any origin may call one of them.
    """

    allowed: tuple[str, ...]
    cors: bool


@attrs.define(slots=True)
class _Node:
    literals: dict[str, _Node] = attrs.field(factory=dict)
    parameter: _Node | None = None
    by_method: dict[str, Endpoint] = attrs.field(factory=dict)


class RouteTree:
    """All routes of a listener, by segment.

    Args:
        tables: the tables that the listener serves.

    Raises:
        ValueError: a route's path is malformed, or two routes have the same method and shape.
    """

    def __init__(self, tables: Iterable[RouteTable]) -> None:
        self._root = _Node()
        for table in tables:
            for route in table.routes:
                self._add(table, route)

    def find(self, method: str, segments: Sequence[str]) -> Found | WrongMethod | None:
        """Look a request up.

        Args:
            method: the HTTP method.
            segments: the path's decoded segments.

        Returns:
            The endpoint; or the methods that the path has instead; or ``None`` for an unknown path.
        """
        # Nearly every path is found by going down once, literals first. What is not takes the thorough way.
        node = self._root
        values: list[str] = []
        for segment in segments:
            below = node.literals.get(segment)
            if below is None:
                below = node.parameter if segment else None
                values.append(segment)
            if below is None:
                return self._find_thoroughly(method, segments)
            node = below
        endpoint = node.by_method.get(method)
        if endpoint is None:
            return self._find_thoroughly(method, segments)
        return Found(endpoint, dict(zip(endpoint.parameters, values, strict=True)))

    def _find_thoroughly(self, method: str, segments: Sequence[str]) -> Found | WrongMethod | None:
        others: dict[str, Endpoint] = {}
        for by_method, values in _matches(self._root, segments, 0, ()):
            endpoint = by_method.get(method)
            if endpoint is not None:
                return Found(endpoint, dict(zip(endpoint.parameters, values, strict=True)))
            others.update(by_method)
        if not others:
            return None
        return WrongMethod(tuple(sorted(others)), any(other.table.cors for other in others.values()))

    def _add(self, table: RouteTable, route: Route) -> None:
        if not route.path.startswith("/") or route.method != route.method.upper():
            raise ValueError(f"malformed route: {route.method} {route.path}")
        node = self._root
        parameters: list[str] = []
        segments = route.path[1:].split("/")
        if "" in segments[:-1]:
            raise ValueError(f"a route's path has no empty segments: {route.path}")
        for segment in segments:
            if segment.startswith("{") and segment.endswith("}") and len(segment) > 2:
                parameters.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if route.method in node.by_method:
            raise ValueError(f"two routes for {route.method} {route.path}")
        if len(set(parameters)) != len(parameters):
            raise ValueError(f"a parameter comes twice in {route.path}")
        node.by_method[route.method] = Endpoint(table, route, tuple(parameters))


def _matches(
    node: _Node, segments: Sequence[str], depth: int, values: tuple[str, ...]
) -> Iterator[tuple[dict[str, Endpoint], tuple[str, ...]]]:
    """Everything below a node that the rest of the path matches, the most literal first, with its values."""
    if depth == len(segments):
        if node.by_method:
            yield node.by_method, values
        return
    segment = segments[depth]
    literal = node.literals.get(segment)
    if literal is not None:
        yield from _matches(literal, segments, depth + 1, values)
    if node.parameter is not None and segment:
        yield from _matches(node.parameter, segments, depth + 1, (*values, segment))
