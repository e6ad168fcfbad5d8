"""What is counted while requests pass, for Prometheus. One registry a router.

The series of a model are bound once, when its lane begins, so that a request looks up no labels; they go when the model
goes. Only models that exist become labels: whatever a caller invents is counted without a model. What merely *is* (a
queue's depth, memory) is not kept here but looked at when somebody asks.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from modelmora.spec import ModelDeployment
from modelmora_router import gauges
from modelmora_router.calls import Answer
from modelmora_router.gauges import MODEL, Labels, LaneLike, Seen
from modelmora_router.machine import Machine
from modelmora_router.tracing import trace_id

_OK: Final = "OK"
_SHED: Final = ("QueueFull", "Displaced", "HeldBytes", "RateLimit", "Expired")
_RETRIED: Final = ("Retried", "BudgetSpent")
_COPIED: Final = ("Answered", "Failed", "TooMany", "HeldBytes", "Closing")

# From what a router costs at best to what a person waits for a model to wake.
_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_SHORT_SECONDS: Final = (0.0001, 0.0005, *_SECONDS[:-2])
_HOLD_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class _Families(NamedTuple):
    """Everything that is counted, with its labels open."""

    requests: Counter
    request_seconds: Histogram
    inference_seconds: Histogram
    queue_wait_seconds: Histogram
    batch_size: Histogram
    batch_fill: Histogram
    hold_seconds: Histogram
    shed: Counter
    retries: Counter
    loads: Counter
    unloads: Counter
    rollbacks: Counter
    copies: Counter


class Meters:
    """The numbers of one router."""

    registry: CollectorRegistry

    def __init__(self) -> None:
        self._counted = CollectorRegistry()
        self._families = _families(self._counted)
        ProcessCollector(registry=self._counted)
        self._machine = Machine()
        self._look: Callable[[], Seen] = Seen
        self._more: list[Collector] = []
        self.registry = CollectorRegistry()
        self.registry.register(_Now(lambda: self._everything(self._look())))
        self._models: dict[tuple[str, str], _Known] = {}
        self._refused: dict[str, Counter] = {}

    # ------------------------------------------------------------------------------------------------ counting

    def of(self, deployment: ModelDeployment) -> "ModelMeters":
        """Those of the deployment's model; the same object for as long as the deployment is there."""
        key = (deployment.metadata.namespace, deployment.metadata.name)
        known = self._models.get(key)
        if known is None:
            known = self._models[key] = _Known(deployment, ModelMeters(self._families, gauges.labels_of(deployment)))
        elif known.deployment is not deployment:
            self._rebind(known, gauges.labels_of(deployment))
            known.deployment = deployment
        return known.meters

    def _rebind(self, known: "_Known", labels: Labels) -> None:
        """In a manifest on a laptop even the identity of a model can be edited."""
        before = known.meters.labels
        if labels != before:
            known.meters.bind(labels)
            self._remove_unused(before)

    def forget(self, deployment: ModelDeployment) -> None:
        """The model is gone: its series go, and what is still counted for it is counted for nobody."""
        known = self._models.pop((deployment.metadata.namespace, deployment.metadata.name), None)
        if known:
            known.meters.close()
            self._remove_unused(known.meters.labels)

    def _remove_unused(self, labels: Labels) -> None:
        """Two deployments of one version of a model, of which one serves, have their series together."""
        if all(known.meters.labels != labels for known in self._models.values()):
            of_model = dict(zip(MODEL, labels, strict=True))
            for family in self._families:
                family.remove_by_labels(of_model)

    def refused(self, code: str) -> None:
        """A request that reached no model: one that cannot be read, for no model that there is, or too early."""
        child = self._refused.get(code)
        if child is None:
            child = self._refused[code] = self._families.requests.labels(*("",) * len(MODEL), "error", code)
        child.inc()

    # ------------------------------------------------------------------------------------------------ asking

    def follow(
        self,
        lanes: Callable[[], Iterable[LaneLike]],
        deployments: Callable[[], Iterable[ModelDeployment]] | None = None,
        held_bytes: Callable[[], int] | None = None,
    ) -> None:
        """From now on these are looked at when somebody asks, in the thread of the event loop.

        Without `deployments`, those that have a lane.
        """

        def look() -> Seen:
            seen = tuple((lane.deployment, lane.statistics()) for lane in lanes())
            shown = deployments() if deployments else (deployment for deployment, _ in seen)
            return Seen(seen, tuple(shown), held_bytes() if held_bytes else 0)

        self._look = look

    def add(self, collector: Collector) -> None:
        """Another part of this program whose numbers are asked for together with these."""
        self._more.append(collector)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything in the format that the caller accepts, and the name of the format."""
        encode, content_type = choose_encoder(accept)
        return await self.written(encode), content_type

    async def written(self, write: Callable[[Collector], bytes]) -> bytes:
        """Everything, as this function writes it.

        The state is looked at here, and written in a thread: with a thousand models that takes long.
        """
        seen, more = self._look(), [metric for collector in self._more for metric in collector.collect()]
        return await asyncio.to_thread(write, _Now(lambda: [*self._everything(seen), *more]))

    def _everything(self, seen: Seen) -> Iterator[Metric]:
        yield from map(_without_birthdays, self._counted.collect())
        yield from gauges.families(seen)
        yield from self._machine.families()


class ModelMeters:
    """The numbers of one model."""

    def __init__(self, families: _Families, labels: Labels) -> None:
        self._families = families
        self._closed = False
        self.bind(labels)

    def bind(self, labels: Labels) -> None:
        """From now on these are the values of MODEL."""
        families = self._families
        self.labels = labels
        self._succeeded = families.requests.labels(*labels, "success", _OK)
        self._seconds = families.request_seconds.labels(*labels, "success")
        self._inference = families.inference_seconds.labels(*labels)
        self._waited = families.queue_wait_seconds.labels(*labels)
        self._size = families.batch_size.labels(*labels)
        self._fill = families.batch_fill.labels(*labels)
        self._hold = families.hold_seconds.labels(*labels)
        self._shed = {reason: families.shed.labels(*labels, reason) for reason in _SHED}
        self._retries = {outcome: families.retries.labels(*labels, outcome) for outcome in _RETRIED}
        self._loads = families.loads.labels(*labels)
        self._unloads = families.unloads.labels(*labels)
        self._rollbacks = families.rollbacks.labels(*labels)
        self._copies: dict[str, Counter] = {}
        self._failed: dict[str, Counter] = {}
        self._failed_seconds: Histogram | None = None

    def answered(self, answer: Answer, *, traceparent: str) -> None:
        """A request got its answer. The trace is what a graph's dots lead to."""
        self._succeeded.inc()
        exemplar = {"trace_id": trace_id(traceparent)} if traceparent else None
        self._seconds.observe(answer.total_ms / 1e3, exemplar)
        self._inference.observe(answer.inference_ms / 1e3)

    def failed(self, code: str, seconds: float) -> None:
        """A request for the model got none, for the reason that the code names."""
        if self._closed:
            return  # its series are gone, and must not come back
        child = self._failed.get(code)
        if child is None:
            child = self._failed[code] = self._families.requests.labels(*self.labels, "error", code)
        child.inc()
        if self._failed_seconds is None:
            self._failed_seconds = self._families.request_seconds.labels(*self.labels, "error")
        self._failed_seconds.observe(seconds)

    def dispatched(self, waited_s: Iterable[float]) -> None:
        """Requests went out that had waited so long."""
        for seconds in waited_s:
            self._waited.observe(seconds)

    def ran(self, *, size: int, limit: int) -> None:
        """An engine took a batch of that size, where that many may be."""
        self._size.observe(size)
        self._fill.observe(size / limit)

    def shed(self, reason: str) -> None:
        """A request was turned away to protect others: QueueFull, Displaced, HeldBytes, RateLimit or Expired."""
        self._shed[reason].inc()

    def retried(self, outcome: str) -> None:
        """A request came back unanswered, and was sent elsewhere (Retried) or not (BudgetSpent)."""
        self._retries[outcome].inc()

    def held(self, seconds: float) -> None:
        """A request waited so long for the model to wake."""
        self._hold.observe(seconds)

    def loaded(self) -> None:
        """A replica began to serve."""
        self._loads.inc()

    def unloaded(self) -> None:
        """A replica stopped to serve."""
        self._unloads.inc()

    def rolled_back(self) -> None:
        """This router took the model off its route."""
        self._rollbacks.inc()

    def copied(self, outcome: str) -> None:
        """A copy for the model as a mirror: Answered, Failed, or dropped unsent: TooMany, HeldBytes or Closing."""
        if self._closed:
            return
        if not self._copies:  # most models are no mirror
            self._copies = {each: self._families.copies.labels(*self.labels, each) for each in _COPIED}
        self._copies[outcome].inc()

    def close(self) -> None:
        """The model is gone."""
        self._closed = True


@dataclass(slots=True)
class _Known:
    """A deployment as it last was, and its meters."""

    deployment: ModelDeployment
    meters: ModelMeters


class _Now(Collector):
    """What a function gives when somebody asks."""

    def __init__(self, ask: Callable[[], Iterable[Metric]]) -> None:
        self._ask = ask

    def describe(self) -> list[Metric]:
        return []  # names are ours alone: nothing can clash

    def collect(self) -> Iterable[Metric]:
        return self._ask()


def _without_birthdays(metric: Metric) -> Metric:
    """Prometheus has no use for when a series began, and with many models it is an eighth of all."""
    metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
    return metric


def _families(registry: CollectorRegistry) -> _Families:
    def counter(name: str, words: str, *more: str) -> Counter:
        return Counter(f"modelmora_{name}", words, (*MODEL, *more), registry=registry)

    def histogram(name: str, words: str, buckets: tuple[float, ...], *more: str) -> Histogram:
        return Histogram(f"modelmora_{name}", words, (*MODEL, *more), buckets=buckets, registry=registry)

    return _Families(
        requests=counter(
            "requests_total", "Inference requests that ended; model is empty where none was reached.", "status", "code"
        ),
        request_seconds=histogram(
            "request_duration_seconds", "From the arrival of a request to its end.", _SECONDS, "status"
        ),
        inference_seconds=histogram(
            "inference_duration_seconds", "In the engine, for the batch of a request.", _SHORT_SECONDS
        ),
        queue_wait_seconds=histogram(
            "queue_wait_seconds", "From the arrival of a request to its dispatch.", _SHORT_SECONDS
        ),
        batch_size=histogram("batch_size", "Requests that went through the engine together.", _SIZES),
        batch_fill=histogram("batch_fill_ratio", "Size of a batch, of the largest that was allowed.", _RATIOS),
        hold_seconds=histogram(
            "hold_duration_seconds", "How long a request waited for its model to wake.", _HOLD_SECONDS
        ),
        shed=counter("shed_total", "Requests turned away, or given up unserved, under load.", "reason"),
        retries=counter("retries_total", "Requests that a worker was lost with, and what became of them.", "outcome"),
        loads=counter("model_loads_total", "Replicas that began to serve, as this router saw."),
        unloads=counter("model_unloads_total", "Replicas that stopped to serve, as this router saw."),
        rollbacks=counter("route_rollbacks_total", "Times that this router took the model off its route."),
        copies=counter("mirror_copies_total", "Copies for the model as a mirror, and what became of them.", "outcome"),
    )
