"""What Prometheus can read."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from planner.server.crew import Crew

REQUEST_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30)
JOB_BUCKETS_S = (0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cleave_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "cleave_http_request_seconds",
            "Time to answer a request, waits for jobs included.",
            ("route",),
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self.jobs = Counter("cleave_jobs", "Jobs finished.", ("kind", "status"), registry=self.registry)
        self.job_seconds = Histogram(
            "cleave_job_seconds",
            "Time from the start of a job to its end.",
            ("kind",),
            buckets=JOB_BUCKETS_S,
            registry=self.registry,
        )
        self.replaced = Counter(
            "cleave_workers_replaced", "Worker processes that were replaced.", ("reason",), registry=self.registry
        )

    def watch(self, crew: Crew) -> None:
        """Add what the crew is doing at the time of reading."""
        self.registry.register(_CrewGauges(crew))

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)


class _CrewGauges(Collector):
    """Gauges that are read from the crew."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges now."""
        yield GaugeMetricFamily("cleave_workers", "Worker processes that are ready.", value=self._crew.alive)
        yield GaugeMetricFamily("cleave_workers_busy", "Worker processes at work.", value=self._crew.busy)
        queued = GaugeMetricFamily("cleave_queued", "Tasks that wait for a worker.", labels=["lane"])
        for lane in self._crew.lanes.values():
            queued.add_metric([lane.name], len(lane))
        yield queued
