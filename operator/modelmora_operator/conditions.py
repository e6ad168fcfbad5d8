"""The conditions of a deployment: what is true of it, why, and since when.

`Ready` speaks of the present spec hash, not of the generation: an edit of a scaling number changes nothing in it. It is
True only when a worker of exactly this spec has passed its test inference, now (Serving) or before (ScaledToZero), and
Unknown as long as nobody has tried. `Available`, `Scheduled` and `ModelAvailable` are the steps, always there.
`Reconciling` and `Stalled` are there only while they are true (kstatus).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from modelmora.spec import WAITING_FOR_ROOM, Condition, ConditionStatus, ModelDeployment, ModelRoute
from modelmora_operator.cluster import Failure, ObservedWorker, Phase, Snapshot

READY: Final = "Ready"
AVAILABLE: Final = "Available"
SCHEDULED: Final = "Scheduled"
MODEL_AVAILABLE: Final = "ModelAvailable"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"

SERVING: Final = "Serving"
SCALED_TO_ZERO: Final = "ScaledToZero"
UNVERIFIED: Final = "Unverified"
SUSPENDED: Final = "Suspended"
DUPLICATE_VERSION: Final = "DuplicateVersion"
WAITING_TO_RETRY: Final = "WaitingToRetry"

# What only an edit heals: of the manifest, or of the installation; and what had the time that the manifest gave it.
_BEYOND_TIME: Final = frozenset(
    {"ChecksumMismatch", "InvalidEngine", "InvalidSource", "MissingDependency", "UnsafeWeights"}
    | {"ProgressDeadlineExceeded"}
)
_MORE_PLACES: Final = "raise the operator's setting max_workers (serve --max-workers, operator.maxWorkers in the chart)"
_MOST_NAMES: Final = 3
_BEFORE_FETCHED: Final = frozenset({Phase.STARTING, Phase.FETCHING})

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen and what was decided about one deployment."""

    snapshot: Snapshot
    deployment: ModelDeployment
    spec_hash: str
    desired: int
    older_twin: ModelDeployment | None = None
    retry_in_s: float | None = None  # the next attempt waits so long
    retry_at: float | None = None  # Unix time of it
    waits_in_vain: bool = False  # requests, for a place, for longer than they may
    vain_changes_in_s: float | None = None  # that begins or ends by time alone

    @property
    def waits_s(self) -> tuple[float | None, ...]:
        """After which times it is to be looked at again."""
        return self.retry_in_s, self.vain_changes_in_s, self.snapshot.recheck_after_s

    @property
    def granted(self) -> int:
        """Of those that are desired, so many may exist: others have the rest of the places."""
        granted = self.snapshot.granted
        return self.desired if granted is None else min(self.desired, granted)

    @property
    def live(self) -> tuple[ObservedWorker, ...]:
        """Workers that are not ending."""
        return tuple(worker for worker in self.snapshot.workers if not worker.terminating)

    @property
    def current(self) -> tuple[ObservedWorker, ...]:
        """Live workers of the present spec."""
        return tuple(worker for worker in self.live if worker.spec_hash == self.spec_hash)

    @property
    def serving(self) -> tuple[ObservedWorker, ...]:
        """Workers that take requests, of whatever spec."""
        return tuple(worker for worker in self.live if worker.serving)

    @property
    def proven(self) -> bool:
        """A worker of the present spec serves."""
        return any(worker.serving for worker in self.current)

    @property
    def verified(self) -> bool:
        """A worker of the present spec serves, or has served."""
        return self.proven or self.deployment.status.verified_spec_hash == self.spec_hash

    @property
    def failure(self) -> Failure | None:
        """Why the present spec cannot serve, as far as the last attempt tells."""
        if self.proven:
            return None
        said = next((worker.failure for worker in self.current if worker.failure), None)
        return said or self._recorded_failure

    @property
    def _recorded_failure(self) -> Failure | None:
        record = self.snapshot.failure
        if record is None or record.spec_hash != self.spec_hash or record.healed:
            return None
        # One end without a word is no verdict on a model that nobody wants now: the next wake will tell.
        return None if self.desired == 0 and record.in_a_row == 0 else record.last


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def conditions(facts: Facts, now: float) -> tuple[Condition, ...]:
    """All of them, with the times of those that did not change kept."""
    verdicts = [_ready(facts), _available(facts), _scheduled(facts), _model_available(facts), *_progress(facts)]
    return dated(verdicts, facts.deployment, now)


def dated(verdicts: Iterable[Verdict], of: ModelDeployment | ModelRoute, now: float) -> tuple[Condition, ...]:
    """The time of a transition moves only when the status does."""
    moment = datetime.fromtimestamp(now, UTC)
    known = {condition.type: condition for condition in of.status.conditions}

    def since(verdict: Verdict) -> datetime:
        before = known.get(verdict.type)
        return before.last_transition_time if before and before.status == verdict.status else moment

    return tuple(
        Condition(
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
            last_transition_time=since(verdict),
            observed_generation=of.metadata.generation,
        )
        for verdict in verdicts
    )


def sentence(failure: Failure) -> str:
    """What happened, and what to do."""
    happened = failure.message.rstrip(".")
    return f"{happened}: {failure.remedy}" if failure.remedy else happened


def _ready(facts: Facts) -> Verdict:
    if facts.older_twin is not None:
        return Verdict(READY, _FALSE, DUPLICATE_VERSION, _duplicate(facts.deployment, facts.older_twin))
    if facts.deployment.spec.suspend:
        return Verdict(READY, _FALSE, SUSPENDED, "spec.suspend is true: set it to false to serve the model")
    if facts.proven:
        return Verdict(READY, _TRUE, SERVING, _count(facts))
    if failure := facts.failure:
        return Verdict(READY, _FALSE, failure.reason, sentence(failure))
    if facts.verified or facts.waits_in_vain:
        return _asleep(facts)
    return Verdict(READY, _UNKNOWN, UNVERIFIED, _unverified(facts))


def _asleep(facts: Facts) -> Verdict:
    """Others may have the places: that is told as a failure once the requests that wait for it fail."""
    if facts.waits_in_vain:
        return Verdict(READY, _FALSE, WAITING_FOR_ROOM, _no_room(facts))
    waking = "waking" if facts.granted else _no_room(facts)
    return Verdict(READY, _TRUE, SCALED_TO_ZERO, waking if facts.desired else "wakes with the first request")


def _unverified(facts: Facts) -> str:
    if facts.current:
        return "its first test inference of this spec is under way"
    if facts.granted < facts.desired:
        return _no_room(facts)
    if facts.desired > 0:
        return "a worker is being started to test this spec"
    return "nobody has asked for the model since its spec was written, so it has not been tested"


def _available(facts: Facts) -> Verdict:
    if facts.serving:
        return Verdict(AVAILABLE, _TRUE, SERVING, _count(facts))
    if facts.desired == 0:
        return Verdict(AVAILABLE, _FALSE, SCALED_TO_ZERO, "no worker is wanted now")
    return Verdict(AVAILABLE, _FALSE, "NoWorkerServes", f"none of {facts.desired} serves yet")


def _count(facts: Facts) -> str:
    outdated = sum(worker.spec_hash != facts.spec_hash for worker in facts.serving)
    suffix = f", {outdated} of them with an older spec" if outdated else ""
    return f"{len(facts.serving)} of {facts.desired} serve{suffix}"


def _scheduled(facts: Facts) -> Verdict:
    failure = facts.failure
    if failure is not None and failure.where == "schedule":
        return Verdict(SCHEDULED, _FALSE, failure.reason, sentence(failure))
    if facts.retry_in_s is not None:
        return Verdict(SCHEDULED, _FALSE, WAITING_TO_RETRY, "the next attempt waits, longer after every failure")
    if facts.granted < facts.desired:
        return Verdict(SCHEDULED, _FALSE, WAITING_FOR_ROOM, _no_room(facts))
    if len(facts.current) >= facts.desired > 0:
        return Verdict(SCHEDULED, _TRUE, "Placed", "every wanted worker has its place")
    if facts.desired > 0:
        return Verdict(SCHEDULED, _UNKNOWN, "Starting", f"{len(facts.current)} of {facts.desired} workers exist")
    return Verdict(SCHEDULED, _UNKNOWN, "NothingToPlace", "no worker is wanted now")


def _model_available(facts: Facts) -> Verdict:
    failure = facts.failure
    if failure is not None and failure.where == "fetch":
        return Verdict(MODEL_AVAILABLE, _FALSE, failure.reason, sentence(failure))
    fetched = any(worker.phase not in {*_BEFORE_FETCHED, Phase.FAILED} for worker in facts.current)
    if fetched or facts.verified or (failure is not None and failure.where in {"load", "test", "serve"}):
        return Verdict(MODEL_AVAILABLE, _TRUE, "Fetched", "the files of the model are here")
    return Verdict(MODEL_AVAILABLE, _UNKNOWN, "NotFetched", "the files of the model have not been fetched yet")


def _progress(facts: Facts) -> Iterator[Verdict]:
    if facts.older_twin is not None:
        yield Verdict(STALLED, _TRUE, DUPLICATE_VERSION, _duplicate(facts.deployment, facts.older_twin))
        return
    failure = facts.failure
    if failure is not None and failure.reason in _BEYOND_TIME:
        yield Verdict(STALLED, _TRUE, failure.reason, sentence(failure))
    elif reason := _under_way(facts):
        yield Verdict(RECONCILING, _TRUE, *reason)


def _under_way(facts: Facts) -> tuple[str, str] | None:
    outdated = [worker.worker_id for worker in facts.live if worker.spec_hash != facts.spec_hash]
    if facts.retry_in_s is not None and facts.desired > 0:
        return WAITING_TO_RETRY, "the last attempt failed, the next one waits"
    if outdated and facts.desired > 0:
        return "RollingOut", f"{', '.join(outdated)} to be replaced"
    if facts.granted < facts.desired and not facts.verified:
        return WAITING_FOR_ROOM, "it is tested once it has a place"
    if sum(worker.serving for worker in facts.current) < facts.granted:
        return "Starting", "workers are being started"
    if len(facts.snapshot.workers) > facts.granted:
        return "Stopping", "workers are being stopped"
    return None


def _no_room(facts: Facts) -> str:
    """Names only models of its own namespace: what others have there is nobody's business."""
    share = facts.snapshot.share
    if share is None:
        return ""
    namespace = facts.snapshot.key.namespace
    named = sorted(key.name for key in share.holders if key.namespace == namespace)[:_MOST_NAMES]
    others = len(share.holders) - len(named)
    who = ", ".join([*named, *([f"{others} other model{'s' if others > 1 else ''}"] if others else [])])
    waits = bool(facts.snapshot.demand and facts.snapshot.demand.urgency)
    when = _when(for_good=share.for_good, waits=waits)
    return f"all places for workers are taken, by {who or 'workers that end'}: {when} {_MORE_PLACES}"


def _when(*, for_good: bool, waits: bool) -> str:
    if for_good:
        return "which are never to give way: lower their scaling.minReplicas, let eviction.policy be LRU, or"
    if not waits:
        return "it gets one when one is free, or when it is asked for and its turn comes; if that is too late,"
    return "it gets one when one of them is idle, has had its turn, or is less urgent; if that is too late,"


def _duplicate(deployment: ModelDeployment, older: ModelDeployment) -> str:
    return (
        f"{older.metadata.name} is older and serves {deployment.model_id}@{deployment.version} already: "
        "delete one of the two, or give this one another spec.model.version in a new deployment"
    )
