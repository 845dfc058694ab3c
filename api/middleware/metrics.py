"""What Prometheus is told: counts of requests, and what the engines, the queue and the store look like when it asks.

Labels have few values: routes by their templates, engines by the first digits of their base's digest. No name of an
artifact is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.fleet.fleet import Fleet
from graftwork.adapters.fleet.host import FleetHost
from graftwork.adapters.hosting.host import Host
from graftwork.adapters.hosting.serving_host import ServingHost
from graftwork.registry.registry import Registry

LATENCIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds, from a resolved alias to a long generation."""
DIGITS = 12
GAUGES = {
    "waiting": "Sequences without a place.",
    "running": "Sequences with a place.",
    "pages_total": "Pages of the cache that sequences may have.",
    "pages_used": "Pages that running sequences hold.",
    "pages_idle": "Pages that nobody holds and that keep a prefix.",
}
COUNTERS = {
    "steps": "Steps that were computed.",
    "computed_tokens": "Tokens that forwards computed.",
    "generated_tokens": "Tokens that were generated.",
    "prompt_tokens": "Tokens of admitted prompts.",
    "found_tokens": "Prompt tokens that were found in the cache.",
    "preemptions": "Running sequences that had to give their place up.",
    "finished": "Sequences that ended by themselves.",
    "aborted": "Sequences that were aborted.",
    "expired": "Sequences that passed their deadline.",
    "failed": "Sequences that failed.",
}


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            "graftwork_http_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self._requests = Counter(
            "graftwork_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "graftwork_http_request_seconds",
            "From a request's arrival to the end of its answer.",
            ("method", "route"),
            buckets=LATENCIES,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self, registry: Registry, host: ServingHost) -> bytes:
        """Everything in Prometheus' text format, `registry` and `host` as they are now."""
        now = CollectorRegistry(auto_describe=False)
        now.register(_Now(registry, host))
        return generate_latest(self.registry) + generate_latest(now)


class _Now(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, registry: Registry, host: ServingHost) -> None:
        self._registry = registry
        self._host = host

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("graftwork_jobs", "Jobs in the database.", labels=("kind", "state"))
        for (kind, state), count in self._registry.jobs.counts().items():
            jobs.add_metric((kind, state), count)
        yield jobs
        stored = self._registry.quotas.total()
        yield GaugeMetricFamily("graftwork_blob_bytes", "Bytes of distinct files that are stored.", stored.bytes)
        yield GaugeMetricFamily("graftwork_blobs", "Distinct files that are stored.", stored.blobs)
        if isinstance(self._host, Host):
            yield from _engines(self._host)
        elif isinstance(self._host, FleetHost):
            yield from _fleet(self._host.fleet)


def _engines(host: Host) -> Iterator[Metric]:
    engines = {digest[:DIGITS]: engine for digest, engine in host.engines().items()}
    counted = {name: e.statistics() for name, e in engines.items() if isinstance(e, Engine)}
    for field, text in GAUGES.items():
        gauge = GaugeMetricFamily(f"graftwork_engine_{field}", text, labels=("engine",))
        for name, statistics in counted.items():
            gauge.add_metric((name,), getattr(statistics, field))
        if field in ("waiting", "running"):
            for name in engines.keys() - counted.keys():
                gauge.add_metric((name,), getattr(engines[name], field))
        yield gauge
    for field, text in COUNTERS.items():
        counter = CounterMetricFamily(f"graftwork_engine_{field}", text, labels=("engine",))
        for name, statistics in counted.items():
            counter.add_metric((name,), getattr(statistics, field))
        yield counter
    residents = GaugeMetricFamily("graftwork_resident_adapters", "Adapters in an engine.", labels=("engine",))
    free = GaugeMetricFamily("graftwork_adapter_rows_free", "Rank rows that hold nothing.", labels=("engine",))
    memory = GaugeMetricFamily("graftwork_adapter_host_bytes", "Bytes of adapters in host memory.", labels=("engine",))
    for name, engine in engines.items():
        residents.add_metric((name,), len(engine.residency.digests))
        free.add_metric((name,), engine.residency.free_rows)
        memory.add_metric((name,), engine.residency.host_bytes)
    yield from (residents, free, memory)


def _fleet(fleet: Fleet) -> Iterator[Metric]:
    ready = GaugeMetricFamily("graftwork_replicas", "Servers of the fleet.", labels=("state",))
    statuses = fleet.status()
    ready.add_metric(("ready",), sum(status.is_ready for status in statuses))
    ready.add_metric(("out",), sum(not status.is_ready for status in statuses))
    yield ready
    yield GaugeMetricFamily(
        "graftwork_replica_requests",
        "Requests that servers of the fleet are answering.",
        sum(sum(status.in_flight.values()) for status in statuses),
    )
