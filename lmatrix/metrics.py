"""What the server counts, for Prometheus.

Owns: the names, labels and buckets of all metrics, and the registry that they live in. One :class:`Metrics` belongs to
one server: several servers in one process (tests, simulation) do not share anything.

Invariant: the number of label values is bounded. ``reason`` is a rule's number or a fixed word, never a sentence or
anything that a peer chose; ``endpoint`` is a route's name, never a path; a ``destination`` is forgotten
(:meth:`Metrics.forget_destination`) when it has everything that it is owed.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_FAST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_NETWORK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All metrics of one server.

    Args:
        registry: where they are registered; a new registry of their own by default.

    Attributes:
        registry: that registry.
        events_accepted: events that entered a room's log; ``role`` is ``hub`` or ``participant``.
        events_refused: events that did not, or not whole; ``outcome`` is ``dropped``, ``rejected``, ``redacted`` or
            ``failed``, ``reason`` a rule's number or a fixed word.
        queue_length: what waits in an internal queue, by the queue's name.
        shed: what was refused because a bound had been reached, by the name of what was full.
        batch_size: how many things were done as one, by what they were (``sequencer``, ``commit``, …).
        commit_seconds: time that a database commit took.
        delivery_lag_events: events that a destination is owed and has not acknowledged.
        delivery_failures: failed attempts to deliver, by destination.
        delivery_seconds: time from sending a transaction to its answer.
        requests: requests answered; ``api`` is ``federation``, ``client``, …, ``endpoint`` a route's name.
        request_seconds: time from a request's last byte to its answer.
        edus: EDUs of other servers, and things within them; ``type`` is one of the known types or ``other``,
            ``outcome`` is ``accepted``, or the fixed word for why it was not.
        policy_refusals: what policies refused; ``hook`` is ``room``, ``invite``, ``action`` or ``event``, ``why`` is
            ``refused``, or ``failed`` where a policy gave no answer.
        evidence: contradictions by a hub that were recorded, by kind.
        mirrors: mirrors, by stage.
        mirror_events: events that were carried over, by direction (``outward``: to the DAG side, ``inward``).
        mirror_losses: events that could not be, by direction and cause (a fixed word).
        mirror_corrections: events that were written to bring one side back in line, by direction.
        mirror_lag_events, mirror_lag_seconds: what waits, over all mirrors, and how long the oldest has been waiting.
        head_statements: statements of how far a room is held, by outcome: ``sent``; ``agrees``, ``differs`` or a fixed
            word for why it does not count; and ``found_…`` for what became of a difference.
        held_rooms: rooms that take nothing new before it is known whether others hold more of them.
        federation_requests_out: requests to other servers, by outcome (``ok``, ``refused``, ``unreachable``,
            ``misbehaved``).
    """

    content_type = CONTENT_TYPE_LATEST
    """Media type of what :meth:`render` returns."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=True) if registry is None else registry
        self.events_accepted = self._counter("events_accepted", "Events that entered a room's log.", "role")
        self.events_refused = self._counter(
            "events_refused", "Events that did not enter a room's log, or not whole.", "outcome", "reason"
        )
        self.queue_length = Gauge(
            "lmatrix_queue_length", "What waits in an internal queue.", ["queue"], registry=self.registry
        )
        self.shed = self._counter("shed", "Work refused because a bound had been reached.", "what")
        self.batch_size = self._histogram("batch_size", "How many things were done as one.", _SIZES, "what")
        self.commit_seconds = self._histogram("commit_seconds", "Time that a database commit took.", _FAST_SECONDS)
        self.delivery_lag_events = Gauge(
            "lmatrix_delivery_lag_events",
            "Events that a destination is owed and has not acknowledged.",
            ["destination"],
            registry=self.registry,
        )
        self.delivery_failures = self._counter("delivery_failures", "Failed attempts to deliver.", "destination")
        self.delivery_seconds = self._histogram(
            "delivery_seconds", "Time from sending a transaction to its answer.", _NETWORK_SECONDS
        )
        self.requests = self._counter("requests", "Requests answered.", "api", "endpoint", "status")
        self.request_seconds = self._histogram(
            "request_seconds",
            "Time from a request's last byte to its answer.",
            _FAST_SECONDS + _NETWORK_SECONDS[-4:],
            "api",
            "endpoint",
        )
        self.edus = self._counter("edus", "EDUs of other servers, and things within them.", "type", "outcome")
        self.policy_refusals = self._counter("policy_refusals", "What policies of this server refused.", "hook", "why")
        self.evidence = self._counter("evidence", "Contradictions by a hub that were recorded.", "kind")
        self.mirrors = self._gauge("mirrors", "Mirrored rooms.", "stage")
        self.mirror_events = self._counter("mirror_events", "Events carried over to the other side.", "direction")
        self.mirror_losses = self._counter(
            "mirror_losses", "Events that could not be carried over.", "direction", "cause"
        )
        self.mirror_corrections = self._counter(
            "mirror_corrections", "Events written to bring one side back in line.", "direction"
        )
        self.mirror_lag_events = self._gauge("mirror_lag_events", "Events that wait to be carried over.", "direction")
        self.mirror_lag_seconds = self._gauge(
            "mirror_lag_seconds", "How long the oldest of them has been waiting.", "direction"
        )
        self.head_statements = self._counter(
            "head_statements", "Statements of how far a room is held, sent, heard and looked into.", "outcome"
        )
        self.held_rooms = self._gauge("held_rooms", "Rooms that are being recovered after a restoration.")
        self.federation_requests_out = self._counter(
            "federation_requests_out", "Requests to other servers, by outcome.", "outcome"
        )

    def forget_destination(self, destination: str) -> None:
        """Drop the series of a destination that is caught up and idle; nothing happens when there are none."""
        for metric in (self.delivery_lag_events, self.delivery_failures):
            metric.remove_by_labels({"destination": destination})

    def render(self) -> bytes:
        """All metrics in Prometheus's text format (see :attr:`content_type`)."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"lmatrix_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"lmatrix_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"lmatrix_{name}", help_text, labels, buckets=buckets, registry=self.registry)
