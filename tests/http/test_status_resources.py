"""Health and metrics."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.router import Router
from lmatrix.http.site import ApiSite
from lmatrix.http.status_resources import health_routes, metrics_routes
from lmatrix.metrics import Metrics

from .memory_http import Wire


class StatusTests(SynchronousTestCase):
    """What an operator's tools ask for."""

    def setUp(self) -> None:
        clock = Clock()
        self.metrics = Metrics()
        router = Router([health_routes(), metrics_routes(self.metrics)], clock=clock, metrics=self.metrics)
        self.wire = Wire(ApiSite(router, reactor=clock))

    def test_health(self) -> None:
        """The server answers: it is well."""
        self.wire.request("GET", "/health")
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.json), (200, {"status": "ok"}))

    def test_metrics(self) -> None:
        """Prometheus's own content type, and what has been counted so far."""
        self.wire.request("GET", "/health")
        self.wire.answer()
        self.wire.request("GET", "/metrics")
        answer = self.wire.answer()
        self.assertEqual(answer.headers["content-type"], Metrics.content_type)
        self.assertIn(b'lmatrix_requests_total{api="health",endpoint="health",status="200"} 1.0', answer.body)
