"""The operator's own numbers for Prometheus: the queue, the reconciles, the writes, the workers by phase."""

import time
from collections import Counter as Counting
from collections.abc import Awaitable, Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelmora.control import Key
from modelmora_operator.cluster import Phase
from modelmora_operator.workqueue import Statistics

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
Reconcile = Callable[[Key], Awaitable[float | None]]


class Metrics:
    """One registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._writes = Counter(
            "modelmora_operator_api_writes",
            "Writes to the Kubernetes API.",
            ("kind", "verb"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "modelmora_operator_reconcile_duration_seconds",
            "How long one reconcile took.",
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def look_at(self, queue: Callable[[], Statistics], phases: Callable[[], Iterable[Phase]]) -> None:
        """Once: the queue and the workers, when somebody asks for the numbers."""
        self.registry.register(_Looked(queue, phases))

    def count_write(self, kind: str, verb: str) -> None:
        self._writes.labels(kind, verb).inc()

    def timed(self, reconcile: Reconcile) -> Reconcile:
        """The same, and its duration is noted however it ends."""

        async def measured(key: Key) -> float | None:
            begun = time.perf_counter()
            try:
                return await reconcile(key)
            finally:
                self._seconds.observe(time.perf_counter() - begun)

        return measured

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)


class _Looked(Collector):
    def __init__(self, queue: Callable[[], Statistics], phases: Callable[[], Iterable[Phase]]) -> None:
        self._queue = queue
        self._phases = phases

    def collect(self) -> Iterator[Metric]:
        queue = self._queue()
        yield _gauge("queue_depth", "Deployments that wait for their reconcile.", queue.waiting)
        yield _gauge("queue_running", "Reconciles that run now.", queue.running)
        yield _gauge("queue_oldest_seconds", "Age of the oldest deployment that waits or runs.", queue.oldest_s)
        reconciles = CounterMetricFamily("modelmora_operator_reconciles", "Reconciles that ended.", labels=["result"])
        reconciles.add_metric(["finished"], queue.finished)
        reconciles.add_metric(["failed"], queue.failed)
        yield reconciles
        workers = GaugeMetricFamily("modelmora_operator_workers", "Worker pods by phase.", labels=["phase"])
        counted = Counting(self._phases())
        for phase in Phase:
            workers.add_metric([phase.value], counted[phase])
        yield workers


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"modelmora_operator_{name}", words, value=value)
