"""What a worker says of itself, understood: updates of its status while it lives, its last words when it has ended."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals
from typing import Final

from modelmora.spec import ArtifactStatus
from modelmora.v1 import worker_pb2
from modelmora_operator.cluster import Failure, ObservedWorker, Phase

CRASHED: Final = "WorkerCrashed"

_PHASES: Final = {
    worker_pb2.WORKER_PHASE_STARTING: Phase.STARTING,
    worker_pb2.WORKER_PHASE_FETCHING: Phase.FETCHING,
    worker_pb2.WORKER_PHASE_LOADING: Phase.LOADING,
    worker_pb2.WORKER_PHASE_TESTING: Phase.TESTING,
    worker_pb2.WORKER_PHASE_SERVING: Phase.SERVING,
    worker_pb2.WORKER_PHASE_DRAINING: Phase.DRAINING,
    worker_pb2.WORKER_PHASE_FAILED: Phase.FAILED,
}
WHILE: Final = {
    Phase.STARTING: "spawn",
    Phase.FETCHING: "fetch",
    Phase.LOADING: "load",
    Phase.TESTING: "test",
    Phase.SERVING: "serve",
    Phase.DRAINING: "serve",
    Phase.FAILED: "load",
}
_LONGEST_WORD: Final = 256
_MOST_PHASES: Final = 32
_LONGEST_TEXT: Final = 4096
_LONGEST_MESSAGE: Final = 64 * 1024
_NOTEWORTHY: Final = 0.05  # of the size that was reported before


def updated(worker: ObservedWorker, update: worker_pb2.StatusUpdate, now: float) -> ObservedWorker:
    """The worker as the update describes it. Sizes move only when they change by more than noise."""
    return replace(
        worker,
        phase=_PHASES.get(update.phase, worker.phase),
        phase_seconds=_seconds(update.phase_seconds),
        memory_bytes=_measured(worker.memory_bytes, update.memory_bytes),
        vram_bytes=_measured(worker.vram_bytes, update.vram_bytes),
        artifact=_artifact(worker, update, now),
        failure=_failure(update),
        direct_load=_load(update),
        direct_requests=update.direct_requests,
        direct_used_at=now if _is_used(worker, update) else worker.direct_used_at,
    )


def why_it_ended(worker: ObservedWorker, exit_code: int, termination_message: Path) -> Failure:
    """From its last words; from the way it ended where there are none."""
    said = last_words(_text(termination_message))
    if said is not None:
        return replace(said, exit_code=exit_code)
    if worker.failure is not None:
        return replace(worker.failure, exit_code=exit_code)
    return Failure(
        where=WHILE[worker.phase],
        reason=CRASHED,
        message=f"the worker {worker.worker_id} {how_it_ended(exit_code)} while it was {worker.phase.lower()}",
        remedy=_crash_remedy(exit_code),
        exit_code=exit_code,
        reported=False,
    )


def last_words(termination_message: str | bytes) -> Failure | None:
    """Why a worker said that it ends; None: it left nothing that it could have written."""
    try:
        said = json.loads(termination_message)
    except ValueError:
        return None
    if not isinstance(said, dict) or not said.get("reason"):
        return None
    where, reason, message, remedy = (str(said.get(name) or "") for name in ("where", "reason", "message", "remedy"))
    return _bounded(where, reason, message, remedy)


def how_it_ended(exit_code: int) -> str:
    """In words, after the name of the worker; a negative exit code is the signal."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by signal {-exit_code} ({Signals(-exit_code).name})"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def _is_used(worker: ObservedWorker, update: worker_pb2.StatusUpdate) -> bool:
    """By callers at its own socket. Counts are compared, not clocks: the worker's may be on another machine."""
    return _load(update) > 0 or update.direct_requests != worker.direct_requests


def _load(update: worker_pb2.StatusUpdate) -> float:
    return max(0.0, update.direct_load) if math.isfinite(update.direct_load) else 0.0


def _text(termination_message: Path) -> bytes:
    try:
        with termination_message.open("rb") as file:
            return file.read(_LONGEST_MESSAGE)
    except OSError:
        return b""


def _failure(update: worker_pb2.StatusUpdate) -> Failure | None:
    if update.phase != worker_pb2.WORKER_PHASE_FAILED:
        return None
    said = update.failure
    reason, message = said.reason or CRASHED, said.message or "the worker failed and did not say why"
    return _bounded(said.where, reason, message, said.remedy)


def _bounded(where: str, reason: str, message: str, remedy: str) -> Failure:
    """A worker runs code of others, whose errors may be of any length; what a status may hold is bounded."""
    return Failure(
        where=where[:_LONGEST_WORD] or "load",
        reason=reason[:_LONGEST_WORD],
        message=message[:_LONGEST_TEXT],
        remedy=remedy[:_LONGEST_TEXT],
    )


def _artifact(worker: ObservedWorker, update: worker_pb2.StatusUpdate, now: float) -> ArtifactStatus | None:
    said, known = update.artifact, worker.artifact
    if not said.digest or (known is not None and known.digest == said.digest[:_LONGEST_WORD]):
        return known
    moment = datetime.fromtimestamp(now, UTC)
    return ArtifactStatus(
        digest=said.digest[:_LONGEST_WORD],
        revision=said.revision[:_LONGEST_WORD],
        bytes=max(0, said.bytes),
        verified_at=moment,
    )


def _seconds(said: Mapping[str, float]) -> dict[str, float]:
    """As many as a status may hold, of which JSON can tell."""
    finite = {phase[:_LONGEST_WORD]: spent for phase, spent in sorted(said.items()) if math.isfinite(spent)}
    return dict(itertools.islice(finite.items(), _MOST_PHASES))


def _measured(before: int, now: int) -> int:
    return before if abs(now - before) <= _NOTEWORTHY * before else max(0, now)


def _crash_remedy(exit_code: int) -> str:
    if exit_code == -Signals.SIGKILL:
        return "if nobody killed it, the system was out of memory: give it more, or serve fewer models at a time"
    return "the log of the worker, above, says more"
