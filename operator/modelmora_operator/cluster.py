"""The one seam of the operator: what can be seen and done where workers run, be it pods or processes.

What is seen of a deployment is a Snapshot, values only, so that the decisions about it need no I/O. What is done is
level-based and repeatable: starting a worker that exists and stopping one that is gone are no errors. A worker's name
is `<deployment>-<spec hash>-<n>`, unique within its namespace; two operators that decide the same collide on it.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from modelmora.control import Demand, Key
from modelmora.spec import ArtifactStatus, ModelDeployment, ModelDeploymentStatus
from modelmora_operator.sharing import Share


class Phase(StrEnum):
    """The steps of a worker's life, as in WorkerService.Status."""

    STARTING = "Starting"
    FETCHING = "Fetching"
    LOADING = "Loading"
    TESTING = "Testing"
    SERVING = "Serving"
    DRAINING = "Draining"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker that should exist."""

    worker_id: str
    key: Key
    spec_hash: str
    deployment: ModelDeployment


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker cannot serve, as it said itself or as its end says."""

    where: str  # the step: schedule, spawn, import, fetch, load, test, serve
    reason: str  # CamelCase, becomes the reason of conditions
    message: str
    remedy: str = ""
    exit_code: int | None = None  # negative: the signal
    reported: bool = True  # False: the worker ended without a word


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """The failures in a row of workers of one spec hash."""

    spec_hash: str
    count: int
    at: float  # Unix time of the last one, seconds
    last: Failure
    chance: float = 0.0  # in [0, 1), drawn once: the jitter of the next attempt
    started_at: float = 0.0  # Unix time at which the worker that failed last was started
    healed: bool = False  # a worker of this spec has served since
    restarts_in_place: bool = False  # the kubelet tries again in the same pod, with a back-off of its own

    @property
    def in_a_row(self) -> int:
        """Failures that make the next attempt wait; 0: only an end without a word so far, replaced at once."""
        return self.count if self.last.reported else self.count - 1


@dataclass(frozen=True, slots=True)
class ObservedWorker:
    """A worker that exists. Times are Unix seconds, sizes bytes."""

    worker_id: str
    spec_hash: str
    started_at: float
    address: str = ""
    phase: Phase = Phase.STARTING
    terminating: bool = False
    warm: bool = False  # forked from a process that had already imported the libraries
    node: str = ""
    serving_since: float | None = None  # None: it does not serve, or nobody can tell yet
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    vram_bytes: int = 0
    artifact: ArtifactStatus | None = None
    failure: Failure | None = None  # only in phase FAILED
    failed_at: float | None = None  # since when it is held back after its failure; None: it is not, or nobody can tell
    superseded: bool = False  # made with an older default image, and it is this deployment's turn to be rolled
    requests: Mapping[str, float] = field(default_factory=dict)  # of the scheduler, by the name of the resource
    direct_load: float = 0.0  # requests of callers at its own socket, waiting and running, averaged over seconds
    direct_requests: int = 0  # of them, until now
    direct_used_at: float | None = None  # when one of them was last seen; None: never
    no_room: bool = False  # the scheduler finds no node with enough left of what it requests

    @property
    def serving(self) -> bool:
        """It passed its test inference and takes requests."""
        return self.phase is Phase.SERVING and not self.terminating


@dataclass(frozen=True, slots=True)
class Recommendation:
    """So many replicas were right at that time; remembered for the stabilisation of scaling down."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that decisions about one deployment need."""

    key: Key
    deployment: ModelDeployment | None  # None: deleted, its workers are left
    workers: tuple[ObservedWorker, ...] = ()
    demand: Demand | None = None  # the sum of the live routers'; None: nobody wants it
    routers_alive: bool = True  # False: `demand` says nothing
    failure: FailureRecord | None = None
    twins: tuple[ModelDeployment, ...] = ()  # others with the same namespace, model id and version
    recommendations: tuple[Recommendation, ...] = ()
    share: Share | None = None  # of the places that several models compete for; None: there is no such bound
    recheck_after_s: float | None = None  # something about these workers becomes true by time alone

    @property
    def granted(self) -> int | None:
        """So many workers it may have, since others have the rest of the places; None: there is no bound.

        A model that has none, and may start none until another's has ended, has no place yet.
        """
        if self.share is None:
            return None
        live = any(not worker.terminating for worker in self.workers)
        return self.share.granted if live or self.share.may_start else 0


class Cluster(Protocol):
    """Where workers run."""

    def changes(self) -> AsyncIterator[Key]:
        """The keys about which something changed, each soon and at least once, and all of them at the start."""
        ...

    def known_keys(self) -> Collection[Key]:
        """All keys of which there is a deployment or a worker."""
        ...

    async def observe(self, key: Key) -> Snapshot | None:
        """What there is now; None: nothing any more."""
        ...

    async def start(self, worker: WorkerSpec) -> bool:
        """Begins to start a worker; what becomes of it is a change. False: the name is taken, look again."""
        ...

    async def stop(self, key: Key, worker_id: str) -> None:
        """Begins to drain and end a worker; that it ended is a change. Nothing happens if it is gone or ending."""
        ...

    async def publish_status(self, key: Key, status: ModelDeploymentStatus) -> None:
        """Writes the status of a deployment, unless it is gone."""
        ...
