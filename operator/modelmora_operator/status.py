"""The status of a deployment, derived from what was seen and what was decided.

What is measured changes all the time; small changes are left out, so that a status is written only when it says
something new.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from modelmora.spec import (
    ArtifactStatus,
    FailureReport,
    LoadKind,
    LoadReport,
    MeasuredResources,
    ModelDeploymentStatus,
    ModelState,
)
from modelmora_operator.cluster import Failure, ObservedWorker
from modelmora_operator.conditions import Facts, conditions

LABEL: Final = "modelmora.io/deployment"

_RISE: Final = 0.05  # of the value before: it is what the next start will need
_FALL: Final = 0.5  # memory that a worker shares with others on its node comes and goes with them
_MOST_TEXT: Final = 4096


def status_of(facts: Facts, now: float) -> ModelDeploymentStatus:
    """All of it."""
    before, name = facts.deployment.status, facts.deployment.metadata.name
    serving, desired = facts.serving, facts.desired
    return ModelDeploymentStatus(
        observed_generation=facts.deployment.metadata.generation,
        state=state_of(facts),
        replicas=len(facts.live),
        ready_replicas=len(serving),
        desired_replicas=desired,
        ready_of_desired=f"{len(serving)}/{desired}",
        selector=f"{LABEL}={name}",
        node=",".join(sorted({worker.node for worker in facts.live if worker.node}))[:256],
        endpoints=tuple(sorted(worker.address for worker in serving)),
        resources=_resources(before.resources, serving),
        artifact=_artifact(facts) or before.artifact,
        verified_spec_hash=facts.spec_hash if facts.proven else before.verified_spec_hash,
        last_load=_last_load(facts) or before.last_load,
        last_failure=_last_failure(facts, now),
        conditions=conditions(facts, now),
    )


def state_of(facts: Facts) -> ModelState:
    """For people, and for a router that asks whether to hold a request."""
    if facts.serving:
        return ModelState.LOADED
    if facts.deployment.spec.suspend or facts.older_twin is not None:
        return ModelState.STANDBY if facts.verified else ModelState.PENDING
    if facts.failure is not None and not _trying_again(facts):
        return ModelState.FAILED_TO_LOAD
    if facts.desired > 0 and (facts.granted or facts.live):
        return ModelState.LOADING
    return ModelState.STANDBY if facts.verified else ModelState.PENDING


def _trying_again(facts: Facts) -> bool:
    """A worker is on its way, or about to be, after a failure."""
    if any(worker.failure is None for worker in facts.current):
        return True
    record = facts.snapshot.failure
    if record is None or record.in_a_row > 0:
        return False
    return not facts.current or record.restarts_in_place  # the first end without a word is made good at once


def _newest(workers: Iterable[ObservedWorker]) -> ObservedWorker | None:
    return max(workers, key=lambda worker: worker.started_at, default=None)


def _artifact(facts: Facts) -> ArtifactStatus | None:
    newest = _newest(worker for worker in facts.current if worker.serving and worker.artifact)
    return newest.artifact if newest else None


def _last_load(facts: Facts) -> LoadReport | None:
    newest = _newest(worker for worker in facts.current if worker.serving and worker.phase_seconds)
    if newest is None:  # or it has not said yet how long it took
        return None
    seconds = {phase: round(spent, 3) for phase, spent in sorted(newest.phase_seconds.items())}
    return LoadReport(seconds=seconds, kind=LoadKind.WARM if newest.warm else LoadKind.COLD)


def _last_failure(facts: Facts, now: float) -> FailureReport | None:
    before, failure = facts.deployment.status.last_failure, facts.failure
    if failure is None:
        return None if facts.proven else before
    record = facts.snapshot.failure
    if record is not None and record.last == failure:
        return _report(failure, record.at, facts.retry_at)
    if before is not None and _report(failure, before.time.timestamp()) == before:
        return before
    return _report(failure, now)


def _report(failure: Failure, at: float, retry_at: float | None = None) -> FailureReport:
    return FailureReport(
        where=failure.where,
        reason=failure.reason,
        message=failure.message[:_MOST_TEXT],
        remedy=failure.remedy[:_MOST_TEXT],
        exit_code=failure.exit_code,
        time=datetime.fromtimestamp(at, UTC),
        retry_at=datetime.fromtimestamp(retry_at, UTC) if retry_at is not None else None,
    )


def _resources(before: MeasuredResources | None, serving: Iterable[ObservedWorker]) -> MeasuredResources | None:
    """What was measured last is kept at zero: it is what the next start will need."""
    measured = [worker for worker in serving if worker.memory_bytes]
    if not measured:
        return before
    memory = max(worker.memory_bytes for worker in measured)
    vram = max(worker.vram_bytes for worker in measured)
    if before and _same(before.memory_bytes, memory) and _same(before.vram_bytes, vram):
        return before
    return MeasuredResources(memory_bytes=memory, vram_bytes=vram)


def _same(before: int, now: int) -> bool:
    return (1 - _FALL) * before <= now <= (1 + _RISE) * before
