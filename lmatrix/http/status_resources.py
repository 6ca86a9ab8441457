"""How an operator sees that the server lives.

Owns: ``GET /health`` and ``GET /metrics``. Neither is authenticated; which listeners serve them is the configuration's
choice.
"""

from __future__ import annotations

from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.http.routes import Route, RouteTable
from lmatrix.metrics import Metrics


def health_routes() -> RouteTable:
    """``GET /health``: 200 as long as the server answers at all."""

    async def health(_request: JsonRequest) -> JsonObject:
        return {"status": "ok"}

    return RouteTable("health", (Route("GET", "/health", health, "health", max_body=0),))


def metrics_routes(metrics: Metrics) -> RouteTable:
    """``GET /metrics``: everything that the server counts, in Prometheus's text format.

    Args:
        metrics: what to show.
    """

    async def show(_request: JsonRequest) -> JsonAnswer:
        return JsonAnswer(200, metrics.render(), {"Content-Type": metrics.content_type})

    return RouteTable("metrics", (Route("GET", "/metrics", show, "metrics", max_body=0),))
