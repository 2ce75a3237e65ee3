"""The metrics of the service, in Prometheus's format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one service; no label holds a value from a request, which would make the series unbounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.received = Counter(
            "prefect_video_webhooks_received",
            "Deliveries: accepted, duplicate, forged, unknown (account or job), unreadable, too_large, unavailable.",
            ["outcome"],
            registry=self._registry,
        )
        self.handled = Counter(
            "prefect_video_webhooks_handled",
            "Events: completed, failed, cancelled, unknown (not in the ledger), retried, postponed (for a sweep).",
            ["outcome"],
            registry=self._registry,
        )
        self.backlog = Gauge(
            "prefect_video_webhooks_backlog", "Events in memory that are not handled yet.", registry=self._registry
        )
        self.seconds = Histogram(
            "prefect_video_webhook_seconds",
            "From a delivery to its answer.",
            registry=self._registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
        )
        self.jobs = Counter(
            "prefect_video_jobs",
            "Requests of the job API: accepted, joined, stored, refused.",
            ["outcome"],
            registry=self._registry,
        )

        self.throttled = Counter(
            "prefect_video_requests_throttled",
            "Requests of the job API beyond the rate of their token.",
            registry=self._registry,
        )
        self.callbacks = Counter(
            "prefect_video_callbacks",
            "Calls to clients: delivered, retried, given_up.",
            ["outcome"],
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
