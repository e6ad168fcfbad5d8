"""What callers at the sockets of workers want. No router hears of them, but their use is demand like any other."""

from collections.abc import Iterable
from dataclasses import replace

from modelmora.control import Demand
from modelmora.spec import ModelDeploymentSpec, Priority
from modelmora_operator.cluster import ObservedWorker

_NOBODY = Demand(0.0, 0.0)


def together(
    routers: Demand | None, workers: Iterable[ObservedWorker], spec: ModelDeploymentSpec, now: float
) -> Demand | None:
    """The demand of routers and of direct callers; the latter lasts as long after their last call as a router's does.

    They have a worker, so nobody waits for one; while they call, the model is as urgent as its requests are by default.
    """
    recent = [worker for worker in workers if _lasts_s(worker, spec, now) is not None]
    if not recent:
        return routers
    load = sum(worker.direct_load for worker in recent)
    known = routers or _NOBODY
    urgencies = [urgency for urgency in (known.urgency, _urgency(spec) if load else 0) if urgency]
    return replace(
        known,
        load=known.load + load,
        last_used_at=max([known.last_used_at, *(worker.direct_used_at or 0.0 for worker in recent)]),
        urgency=min(urgencies, default=0),
    )


def lasts_s(workers: Iterable[ObservedWorker], spec: ModelDeploymentSpec, now: float) -> float | None:
    """When the demand of direct callers may be over, seconds from now; None: there is none, or it is going on."""
    return min((left for worker in workers if (left := _lasts_s(worker, spec, now))), default=None)


def _lasts_s(worker: ObservedWorker, spec: ModelDeploymentSpec, now: float) -> float | None:
    """0: calls are going on; their end is a change."""
    if worker.terminating or worker.direct_used_at is None:
        return None
    if worker.direct_load:
        return 0.0
    left_s = worker.direct_used_at + spec.scaling.scale_to_zero_after_seconds - now
    return left_s if left_s > 0 else None


def _urgency(spec: ModelDeploymentSpec) -> int:
    return Priority[spec.queue.default_priority].value
