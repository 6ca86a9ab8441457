"""One log line and two measurements for each request.

Owns: what is written down about a request that was answered, or whose client went away first.

Invariants: the query string is never logged, because clients may put their access token there; paths are logged as they
came, cut to a bounded length; metric labels come from route names only, never from what a peer sent.
"""

from __future__ import annotations

import re

from twisted.logger import Logger

from lmatrix.http.messages import JsonRequest
from lmatrix.http.routes import Endpoint
from lmatrix.metrics import Metrics

MAX_PATH = 300
"""Bytes of a path in a log line, at most."""

_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")

CLIENT_CLOSED = 499
"""Status under which a request is counted whose client did not wait for the answer. It is never sent."""


class AccessLog:
    """Writes requests down.

    Args:
        metrics: counters and histograms to add to, or ``None``.
    """

    _log = Logger()

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics

    def finished(self, request: JsonRequest, endpoint: Endpoint | None, status: int, seconds: float) -> None:
        """Record one request.

        Args:
            request: the request.
            endpoint: where it went; ``None`` when no endpoint was found.
            status: HTTP status of the answer, or :data:`CLIENT_CLOSED`.
            seconds: from the request's arrival to its answer.
        """
        api = endpoint.table.api if endpoint else "none"
        name = endpoint.route.name if endpoint else "unrecognised"
        if self._metrics is not None:
            self._metrics.requests.labels(api=api, endpoint=name, status=str(status)).inc()
            self._metrics.request_seconds.labels(api=api, endpoint=name).observe(seconds)
        self._log.info(
            "{method} {path} {status} {ms:.1f}ms {client} {origin}",
            method=request.method[:16],
            path=loggable_path(request.raw_uri),
            status=status,
            ms=seconds * 1000,
            client=request.client_address,
            origin=request.origin or "-",
        )


def loggable_path(raw_uri: bytes) -> str:
    """The path of a request target without its query, as printable ASCII of bounded length."""
    path = raw_uri.partition(b"?")[0]
    text = _UNPRINTABLE.sub(lambda match: f"%{ord(match[0]):02X}", path[:MAX_PATH].decode("latin-1"))
    return text if len(path) <= MAX_PATH else text + "..."
