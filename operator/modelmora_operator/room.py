"""What one model is to those that compete with it for places, and how it stands while it has none."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from modelmora.control import Demand
from modelmora.spec import WAITING_FOR_ROOM, ConditionStatus, ModelDeployment
from modelmora_operator.cluster import ObservedWorker, Phase, Snapshot
from modelmora_operator.sharing import Contender

_UNWANTED: Final = Demand(0.0, 0.0)
_COME_BACK_WITHIN_S: Final = 120.0  # callers that were refused and try again


@dataclass(frozen=True, slots=True)
class Turn:
    """What is decided about one model. `awaited`: workers that are missing and may be started, if there is room."""

    wanted: int
    stopped: Collection[str]
    started: int
    awaited: int


def contender_of(snapshot: Snapshot, deployment: ModelDeployment, turn: Turn, now: float) -> Contender:
    """The model as it is once what is decided has begun."""
    demand = snapshot.demand or _UNWANTED
    stays = [w for w in snapshot.workers if not w.terminating and w.worker_id not in turn.stopped]
    live = len(stays) + turn.started
    serving = [now if w.serving_since is None else w.serving_since for w in stays if w.serving]
    arriving = turn.started > 0 or any(_on_its_way(w, deployment, now) for w in stays)
    # After a failure nothing is started for a while: what it would be for is no reason to keep others waiting.
    wants = min(turn.wanted, live + turn.awaited)
    return Contender(
        key=snapshot.key,
        wants=wants,
        live=live,
        ending=len(snapshot.workers) - len(stays),
        surge=max(0, live + turn.awaited - wants),
        firm=min(wants, _firm(deployment, len(serving))),
        loading=not serving and arriving,
        arriving=arriving,
        serving_since=min(serving, default=None),
        urgency=demand.urgency,
        waiting_since=0.0 if serving else demand.waiting_since,
        last_used_at=demand.last_used_at,
        min_residency_s=deployment.spec.eviction.min_residency_seconds,
    )


def shown(snapshot: Snapshot, deployment: ModelDeployment, wanted: int, *, verified: bool, vain: bool) -> int:
    """The workers that its status says are wanted: one that gave way, and that nobody waits for, is at rest."""
    waits = vain or bool(snapshot.demand and snapshot.demand.urgency)
    at_rest = snapshot.granted == 0 and not waits and verified
    return deployment.spec.scaling.min_replicas if at_rest else wanted


def waiting_in_vain(snapshot: Snapshot, deployment: ModelDeployment, now: float) -> tuple[bool, float | None]:
    """Whether requests wait for a place for longer than they may, and in how many seconds that changes by time alone.

    Those that failed are told to come back, and while they are away nobody waits: it stays so until they stay away.
    """
    demand = snapshot.demand
    if snapshot.granted != 0 or demand is None:
        return False, None
    already = _waited_in_vain(deployment)
    if demand.waiting_since:
        left_s = demand.waiting_since + deployment.spec.queue.cold_start_timeout_seconds - now
        return (True, None) if already or left_s <= 0 else (False, left_s)
    left_s = demand.last_used_at + _COME_BACK_WITHIN_S - now
    return (True, left_s) if already and left_s > 0 else (False, None)


def _waited_in_vain(deployment: ModelDeployment) -> bool:
    ready = deployment.status.condition("Ready")
    return ready is not None and (ready.status, ready.reason) == (ConditionStatus.FALSE, WAITING_FOR_ROOM)


def _firm(deployment: ModelDeployment, serving: int) -> int:
    floor = deployment.spec.scaling.min_replicas
    return max(floor, serving) if deployment.spec.eviction.policy == "Never" else floor


def _on_its_way(worker: ObservedWorker, deployment: ModelDeployment, now: float) -> bool:
    """It may yet serve; one that lost its readiness, and does not get it back, protects its place no more."""
    well = worker.phase is not Phase.FAILED and worker.failure is None and not worker.no_room
    in_time = now - worker.started_at < deployment.spec.rollout.progress_deadline_seconds
    return not worker.serving and well and in_time
