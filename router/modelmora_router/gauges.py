"""What is, for Prometheus: queues, replicas, and what the operator says of the models. Computed when somebody asks.

Values in, metric families out, no I/O. A label set occurs once: of two deployments of one version of a model the
numbers are added, and the state is that of the first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from prometheus_client.core import GaugeMetricFamily, Metric

from modelmora.spec import ConditionStatus, ModelDeployment, ModelDeploymentStatus, ModelState, Priority

MODEL: Final = ("model_namespace", "model", "version", "task")
_BREAKER: Final = ("Closed", "HalfOpen", "Open")

Labels: TypeAlias = tuple[str, ...]
Values: TypeAlias = Iterable[tuple[Labels, float]]


class LaneNumbers(Protocol):
    """A lane at one moment."""

    @property
    def queued_by_priority(self) -> Mapping[Priority, int]: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting_for_load(self) -> int: ...
    @property
    def serving(self) -> int: ...
    @property
    def breakers(self) -> Mapping[str, str]: ...


class LaneLike(Protocol):
    """Where the requests of a deployment wait."""

    @property
    def deployment(self) -> ModelDeployment: ...
    def statistics(self) -> LaneNumbers: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A router at one moment."""

    lanes: tuple[tuple[ModelDeployment, LaneNumbers], ...] = ()
    deployments: tuple[ModelDeployment, ...] = ()
    held_bytes: int = 0


def labels_of(deployment: ModelDeployment) -> Labels:
    """The values of MODEL."""
    return (deployment.metadata.namespace, deployment.model_id, deployment.version, str(deployment.spec.model.task))


# ---------------------------------------------------------------------------------------------------- of a lane


def _depths(lane: LaneNumbers) -> Values:
    return [((priority.name,), lane.queued_by_priority.get(priority, 0)) for priority in Priority]


def _breakers(lane: LaneNumbers) -> Values:
    states = Counter(lane.breakers.values())
    return [((state,), states[state]) for state in _BREAKER]


# ---------------------------------------------------------------------------------------------------- of a deployment


def _replicas(status: ModelDeploymentStatus) -> Values:
    return [(("Desired",), status.desired_replicas), (("Ready",), status.ready_replicas)]


def _conditions(status: ModelDeploymentStatus) -> Values:
    return [
        ((condition.type, each.value), float(condition.status is each))
        for condition in status.conditions
        for each in ConditionStatus
    ]


def _cold_start(status: ModelDeploymentStatus) -> Values:
    load = status.last_load
    return [((phase, load.kind.value), seconds) for phase, seconds in load.seconds.items()] if load else []


def _memory(status: ModelDeploymentStatus) -> Values:
    return [((), status.resources.memory_bytes)] if status.resources else []


def _vram(status: ModelDeploymentStatus) -> Values:
    return [((), status.resources.vram_bytes)] if status.resources else []


# ---------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Gauge:
    """One family. Of these functions, one is set."""

    name: str
    words: str
    labels: Labels
    of_lane: Callable[[LaneNumbers], Values] | None = None
    of_status: Callable[[ModelDeploymentStatus], Values] | None = None
    of_all: Callable[[Seen], Values] | None = None

    def family(self, seen: Seen) -> Metric:
        """With what it shows at this moment."""
        family = GaugeMetricFamily(f"modelmora_{self.name}", self.words, labels=self.labels)
        for labels, value in self._values(seen).items():
            family.add_metric(labels, value)
        return family

    def _values(self, seen: Seen) -> dict[Labels, float]:
        values: dict[Labels, float] = {}
        if self.of_all:
            values.update(self.of_all(seen))
        if self.of_lane:
            for deployment, lane in seen.lanes:
                for labels, value in self.of_lane(lane):
                    full = (*labels_of(deployment), *labels)
                    values[full] = values.get(full, 0) + value
        if self.of_status:
            for deployment in seen.deployments:
                for labels, value in self.of_status(deployment.status):
                    values.setdefault((*labels_of(deployment), *labels), value)
        return values


def _active(seen: Seen) -> Values:
    return [((), sum(lane.serving > 0 for _, lane in seen.lanes))]


def _states(seen: Seen) -> Values:
    states = Counter(deployment.status.state for deployment in seen.deployments)
    return [((state.value,), states[state]) for state in ModelState]


def _queue_limits(seen: Seen) -> Values:
    return [(labels_of(deployment), deployment.spec.queue.max_length) for deployment, _ in seen.lanes]


GAUGES: Final = (
    Gauge("active_models", "Models that have a replica which serves.", (), of_all=_active),
    Gauge("models", "Models by the step of their life.", ("state",), of_all=_states),
    Gauge(
        "held_bytes",
        "Requests that this router holds, and answers that wait for their readers.",
        (),
        of_all=lambda seen: [((), seen.held_bytes)],
    ),
    Gauge("queue_depth", "Requests that wait for a replica.", (*MODEL, "priority"), of_lane=_depths),
    Gauge("queue_limit", "Requests that may wait: spec.queue.maxLength.", MODEL, of_all=_queue_limits),
    Gauge("requests_running", "Requests that a worker has.", MODEL, of_lane=lambda lane: [((), lane.running)]),
    Gauge(
        "loads_awaited",
        "Callers that wait for a load they asked for.",
        MODEL,
        of_lane=lambda lane: [((), lane.waiting_for_load)],
    ),
    Gauge(
        "replicas_serving",
        "Replicas that take requests of this router.",
        MODEL,
        of_lane=lambda lane: [((), lane.serving)],
    ),
    Gauge("breaker_state", "Replicas by the state of their circuit breaker.", (*MODEL, "state"), of_lane=_breakers),
    Gauge(
        "replicas",
        "Replicas that the operator wants, and that it knows to be ready.",
        (*MODEL, "state"),
        of_status=_replicas,
    ),
    Gauge(
        "condition",
        "1 for the status that a condition of the model has.",
        (*MODEL, "type", "status"),
        of_status=_conditions,
    ),
    Gauge("cold_start_seconds", "The phases of the last good load.", (*MODEL, "phase", "kind"), of_status=_cold_start),
    Gauge("memory_bytes", "Unique set size of the model's largest worker.", MODEL, of_status=_memory),
    Gauge("vram_bytes", "Allocated on the accelerator by the model's largest worker.", MODEL, of_status=_vram),
)


def families(seen: Seen) -> Iterator[Metric]:
    """Everything that is."""
    for gauge in GAUGES:
        yield gauge.family(seen)
