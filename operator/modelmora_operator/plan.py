"""The decision: from what was seen of one deployment to what is to be done about it, without any I/O."""

from dataclasses import dataclass, field, replace

from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator import direct_use, failures, replicas, rollout, room
from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import Recommendation, Snapshot, WorkerSpec
from modelmora_operator.conditions import Facts
from modelmora_operator.duplicates import older_twin
from modelmora_operator.replicas import Wish
from modelmora_operator.rollout import Steps
from modelmora_operator.room import Turn
from modelmora_operator.sharing import Contender, Rules
from modelmora_operator.spec_hash import spec_hash
from modelmora_operator.status import status_of


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's own numbers that decisions depend on."""

    initial_replicas: int = 0  # of deployments that do not say
    backoff: Backoff = field(default_factory=Backoff)  # between attempts to load a model
    sharing: Rules | None = None  # None: as many workers may exist as are wanted


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, what to say, and when to look again."""

    start: tuple[WorkerSpec, ...] = ()
    stop: tuple[str, ...] = ()
    status: ModelDeploymentStatus | None = None  # None: the deployment is gone
    requeue_after_s: float | None = None
    recommendations: tuple[Recommendation, ...] = ()  # for the next snapshot
    contender: Contender | None = None  # what this model is to others once the plan is begun; None: it is no bother


def plan(snapshot: Snapshot, now: float, policy: Policy) -> Plan:
    """What is to be done now."""
    deployment = snapshot.deployment
    if deployment is None:
        every = tuple(worker.worker_id for worker in snapshot.workers if not worker.terminating)
        return Plan(stop=every, contender=Contender(snapshot.key, 0, ending=len(snapshot.workers)))
    direct_lasts_s = direct_use.lasts_s(snapshot.workers, deployment.spec, now)
    demand = direct_use.together(snapshot.demand, snapshot.workers, deployment.spec, now)
    snapshot, hashed = replace(snapshot, demand=demand), spec_hash(deployment.spec)
    older = older_twin(deployment, snapshot.twins)
    wish = replicas.NOBODY if older or deployment.spec.suspend else _wish(snapshot, deployment, hashed, now, policy)
    retry_at = _retry_at(snapshot, hashed, policy)
    wait_s = _wait_s(retry_at, now, policy)
    held_back = wait_s is not None
    steps = _steps(snapshot, hashed, wish.replicas, held_back=held_back)
    start = () if held_back else _new_workers(snapshot, deployment, hashed, steps.missing)
    vain, vain_changes_in_s = room.waiting_in_vain(snapshot, deployment, now)
    facts = Facts(
        snapshot=snapshot,
        deployment=deployment,
        spec_hash=hashed,
        desired=_shown(snapshot, deployment, hashed, wish.replicas, vain=vain),
        older_twin=older,
        retry_in_s=wait_s if steps.missing else None,
        retry_at=retry_at,
        waits_in_vain=vain,
        vain_changes_in_s=vain_changes_in_s,
    )
    turn = _turn(snapshot, hashed, wish.replicas, steps, started=len(start), held_back=held_back)
    return Plan(
        start=start,
        stop=steps.surplus,
        status=status_of(facts, now),
        requeue_after_s=_soonest(*facts.waits_s, wish.recheck_after_s, _share_lasts_s(snapshot, now), direct_lasts_s),
        recommendations=wish.recommendations,
        contender=room.contender_of(snapshot, deployment, turn, now) if policy.sharing else None,
    )


def _wish(snapshot: Snapshot, deployment: ModelDeployment, hashed: str, now: float, policy: Policy) -> Wish:
    scaling = deployment.spec.scaling
    initial = policy.initial_replicas if scaling.initial_replicas is None else scaling.initial_replicas
    live = [worker for worker in snapshot.workers if not worker.terminating]
    current = [worker for worker in live if rollout.up_to_date(worker, hashed)]
    proven = any(worker.serving for worker in live if worker.spec_hash == hashed)
    return replicas.desired(
        scaling,
        snapshot.demand,
        now=now,
        live=max(len(current), len(live) - len(current)),  # in a rollout, a worker and the one that it replaces are one
        routers_alive=snapshot.routers_alive,
        to_prove=0 if proven or deployment.status.verified_spec_hash == hashed else initial,
        recommendations=snapshot.recommendations,
    )


def _steps(snapshot: Snapshot, hashed: str, wanted: int, *, held_back: bool) -> Steps:
    """Within what others leave. While no new worker may be started, no old one makes room for it."""
    share, given_up = snapshot.share, _given_up(snapshot)
    if share is None:
        return rollout.steps(snapshot.workers, hashed, wanted, given_up)
    places = None if held_back else share.granted
    steps = rollout.steps(snapshot.workers, hashed, min(wanted, share.granted), given_up, places=places)
    return replace(steps, missing=steps.missing if held_back else min(steps.missing, share.may_start))


def _turn(snapshot: Snapshot, hashed: str, wanted: int, steps: Steps, *, started: int, held_back: bool) -> Turn:
    """Counts on all that is missing, whatever others leave; but not on what must not be started yet."""
    stays = [w for w in snapshot.workers if not w.terminating and w.worker_id not in steps.surplus]
    current = sum(rollout.up_to_date(worker, hashed) for worker in stays)
    return Turn(wanted, steps.surplus, started, 0 if held_back else max(0, wanted - current - started))


def _shown(snapshot: Snapshot, deployment: ModelDeployment, hashed: str, wanted: int, *, vain: bool) -> int:
    verified = deployment.status.verified_spec_hash == hashed
    return room.shown(snapshot, deployment, wanted, verified=verified, vain=vain)


def _share_lasts_s(snapshot: Snapshot, now: float) -> float | None:
    changes_at = snapshot.share.changes_at if snapshot.share else None
    return None if changes_at is None else max(0.0, changes_at - now)


def _given_up(snapshot: Snapshot) -> frozenset[str]:
    """Workers that are held back after a failure, when somebody has asked for a load since: it is to be tried now."""
    asked_at = snapshot.demand.load_asked_at if snapshot.demand else 0.0
    held = (worker for worker in snapshot.workers if worker.failure and worker.failed_at is not None)
    return frozenset(worker.worker_id for worker in held if asked_at > (worker.failed_at or 0.0))


def _retry_at(snapshot: Snapshot, hashed: str, policy: Policy) -> float | None:
    """Unix time from which a worker of this spec may be started again; None: it has not failed, or is asked for."""
    record, demand = snapshot.failure, snapshot.demand
    if record is None or record.spec_hash != hashed or (demand and demand.load_asked_at > record.started_at):
        return None
    if record.restarts_in_place:
        return None
    return failures.retry_at(record, policy.backoff)


def _wait_s(retry_at: float | None, now: float, policy: Policy) -> float | None:
    """Seconds until a worker may be started; None: now."""
    wait_s = 0.0 if retry_at is None else retry_at - now
    return wait_s if 0 < wait_s <= policy.backoff.cap_s else None  # longer: the clock was set back since


def _soonest(*waits_s: float | None) -> float | None:
    return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)


def _new_workers(snapshot: Snapshot, deployment: ModelDeployment, hashed: str, missing: int) -> tuple[WorkerSpec, ...]:
    taken = {worker.worker_id for worker in snapshot.workers}
    names = rollout.free_names(f"{deployment.metadata.name}-{hashed}", taken, missing)
    return tuple(WorkerSpec(name, snapshot.key, hashed, deployment) for name in names)
