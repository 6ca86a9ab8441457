"""Metrics: names, isolation of servers from each other, and bounded labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.metrics import Metrics


class MetricsTests(SynchronousTestCase):
    """What is counted can be read back from the exposition."""

    def value(self, metrics: Metrics, name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    def test_every_metric(self) -> None:
        """Each metric takes the labels that it is documented with and appears in what Prometheus reads."""
        metrics = Metrics()
        metrics.events_accepted.labels(role="hub").inc()
        metrics.events_refused.labels(outcome="rejected", reason="5.3.2").inc(2)
        metrics.queue_length.labels(queue="sequencer").set(3)
        metrics.batch_size.labels(what="sequencer").observe(7)
        metrics.commit_seconds.observe(0.003)
        metrics.delivery_lag_events.labels(destination="example.org").set(4)
        metrics.delivery_failures.labels(destination="example.org").inc()
        metrics.delivery_seconds.observe(0.2)
        metrics.requests.labels(api="federation", endpoint="send", status="200").inc()
        metrics.request_seconds.labels(api="federation", endpoint="send").observe(0.01)
        metrics.evidence.labels(kind="fork").inc()
        metrics.federation_requests_out.labels(outcome="ok").inc()
        families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode("utf-8"))}
        for name in (
            "events_accepted", "events_refused", "queue_length", "batch_size", "commit_seconds", "delivery_lag_events",
            "delivery_failures", "delivery_seconds", "requests", "request_seconds", "evidence",
            "federation_requests_out",
        ):  # fmt: skip
            self.assertTrue(families[f"lmatrix_{name}"].samples, name)
        self.assertEqual(self.value(metrics, "lmatrix_events_refused_total", outcome="rejected", reason="5.3.2"), 2)
        self.assertEqual(self.value(metrics, "lmatrix_commit_seconds_bucket", le="0.0025"), 0)
        self.assertEqual(self.value(metrics, "lmatrix_commit_seconds_bucket", le="0.005"), 1)
        self.assertIn("text/plain", metrics.content_type)

    def test_servers_do_not_share(self) -> None:
        """Two servers in one process count for themselves, each in its own registry or in the one that it is given."""
        registry = CollectorRegistry()
        one, two = Metrics(), Metrics(registry)
        one.events_accepted.labels("hub").inc()
        self.assertIs(two.registry, registry)
        self.assertEqual(self.value(one, "lmatrix_events_accepted_total", role="hub"), 1)
        self.assertIsNone(self.value(two, "lmatrix_events_accepted_total", role="hub"))

    def test_forget_destination(self) -> None:
        """A forgotten destination has no series any more, the others keep theirs; forgetting twice is harmless."""
        metrics = Metrics()
        for destination in ("idle.example", "busy.example"):
            metrics.delivery_lag_events.labels(destination).set(2)
            metrics.delivery_failures.labels(destination).inc()
        for _ in range(2):
            metrics.forget_destination("idle.example")
        self.assertNotIn(b"idle.example", metrics.render())
        self.assertEqual(self.value(metrics, "lmatrix_delivery_lag_events", destination="busy.example"), 2)
        self.assertEqual(self.value(metrics, "lmatrix_delivery_failures_total", destination="busy.example"), 1)
        metrics.delivery_lag_events.labels("idle.example").set(1)
        self.assertEqual(self.value(metrics, "lmatrix_delivery_lag_events", destination="idle.example"), 1)
