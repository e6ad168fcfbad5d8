"""The state of the worker: one owner, moving forward only; everyone else watches.

STARTING → FETCHING → LOADING → TESTING → SERVING → DRAINING, or FAILED from any of them.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import structlog

from modelmora.errors import LoadError
from modelmora.kube.names import LIVENESS_SERVICE
from modelmora.v1 import worker_pb2
from modelmora.watching import Cell
from modelmora.wire.health import HealthService

STARTING: Final = worker_pb2.WORKER_PHASE_STARTING
FETCHING: Final = worker_pb2.WORKER_PHASE_FETCHING
LOADING: Final = worker_pb2.WORKER_PHASE_LOADING
TESTING: Final = worker_pb2.WORKER_PHASE_TESTING
SERVING: Final = worker_pb2.WORKER_PHASE_SERVING
DRAINING: Final = worker_pb2.WORKER_PHASE_DRAINING
FAILED: Final = worker_pb2.WORKER_PHASE_FAILED
_ENDING: Final = frozenset({DRAINING, FAILED})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What was loaded; size in bytes."""

    digest: str
    revision: str
    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the worker cannot serve."""

    reason: str
    message: str
    remedy: str
    where: str  # the step

    @classmethod
    def of(cls, error: LoadError, where: str) -> "Failure":
        return cls(type(error).__name__, error.message, error.context.remedy, where)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use now, and the most that was seen."""

    used: int = 0
    peak: int = 0
    vram: int = 0


@dataclass(frozen=True, slots=True)
class DirectUse:
    """Of callers at the worker's own socket: how many requests there were, and how many at a time of late."""

    requests: int = 0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Everything that Status tells. Times in seconds."""

    phase: worker_pb2.WorkerPhase.ValueType = STARTING
    phase_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    memory: Memory = Memory()
    device: str = ""
    artifact: Artifact | None = None
    failure: Failure | None = None
    direct: DirectUse = DirectUse()

    @property
    def name(self) -> str:
        """LOADING, …"""
        return worker_pb2.WorkerPhase.Name(self.phase).removeprefix("WORKER_PHASE_")


class Lifecycle:
    """Owns the state; used from the event loop alone. Health says SERVING if and only if the phase does."""

    def __init__(self) -> None:
        self.health = HealthService(["modelmora.v1.WorkerService"], alive=[LIVENESS_SERVICE])
        self._cell: Cell[WorkerState] = Cell()
        self._cell.set(WorkerState())

    @property
    def state(self) -> WorkerState:
        state = self._cell.value
        assert state is not None  # noqa: S101 - set in __init__
        return state

    async def watch(self) -> AsyncIterator[WorkerState]:
        """The state now, then the newest after each change, until the end."""
        async for state in self._cell.watch():
            yield state

    def advance(self, phase: worker_pb2.WorkerPhase.ValueType) -> None:
        """The next step; what would go back, or leave the end, is ignored."""
        if phase <= self.state.phase or self.state.phase in _ENDING:
            return
        self._cell.set(replace(self.state, phase=phase))
        self.health.set(serving=phase == SERVING)
        _log.debug("worker phase", phase=self.state.name, seconds=dict(self.state.phase_seconds))

    def fail(self, failure: Failure) -> None:
        """The worker cannot serve."""
        self._cell.set(replace(self.state, phase=FAILED, failure=failure))
        self.health.set(serving=False)

    def end(self) -> None:
        """Every watch ends with the state as it is now."""
        self._cell.close()
        self.health.end()

    def took(self, step: str, seconds: float) -> None:
        known = {**self.state.phase_seconds, step: round(seconds, 4)}
        self._cell.set(replace(self.state, phase_seconds=MappingProxyType(known)))

    def loaded(self, *, artifact: Artifact, device: str) -> None:
        self._cell.set(replace(self.state, artifact=artifact, device=device))

    def measured(self, *, used: int, vram: int) -> None:
        peak = max(used, self.state.memory.peak)
        self._cell.set(replace(self.state, memory=Memory(used, peak, vram)))

    def used_directly(self, use: DirectUse) -> None:
        self._cell.set(replace(self.state, direct=use))


def to_update(state: WorkerState, *, pid: int) -> worker_pb2.StatusUpdate:
    """The state as the message of WorkerService.Status."""
    update = worker_pb2.StatusUpdate(
        phase=state.phase,
        pid=pid,
        phase_seconds=dict(state.phase_seconds),
        memory_bytes=state.memory.used,
        peak_memory_bytes=state.memory.peak,
        vram_bytes=state.memory.vram,
        device=state.device,
        direct_load=state.direct.load,
        direct_requests=state.direct.requests,
    )
    if state.artifact is not None:
        found = state.artifact
        artifact = worker_pb2.Artifact(
            digest=found.digest, revision=found.revision, bytes=found.bytes, files=found.files
        )
        update.artifact.CopyFrom(artifact)
    if state.failure is not None:
        known = state.failure
        failure = worker_pb2.Failure(reason=known.reason, message=known.message, remedy=known.remedy, where=known.where)
        update.failure.CopyFrom(failure)
    return update
