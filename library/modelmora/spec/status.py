"""What the operator reports of a ModelDeployment: written by it alone, read by the router and by people."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from modelmora.spec.schema import MAX_INTEGER, Bytes, Count, Moment, Part, Text

WAITING_FOR_ROOM: Final = "WaitingForRoom"
"""The reason of conditions while others have the places."""

Word = Annotated[str, Field(max_length=256)]


class ModelState(StrEnum):
    """The steps of a model's life, for people. Programs look at the conditions."""

    PENDING = "Pending"
    STANDBY = "Standby"
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED_TO_LOAD = "FailedToLoad"


class ConditionStatus(StrEnum):
    """As in Kubernetes."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class LoadKind(StrEnum):
    """Whether the worker came from a process that had already imported the libraries."""

    WARM = "Warm"
    COLD = "Cold"


class Condition(Part):
    """One aspect of the state, as in Kubernetes."""

    type: Word
    """CamelCase, unique in the list."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Word
    """One CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """A sentence for people."""
    last_transition_time: Moment
    """When status last changed."""
    observed_generation: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """The metadata.generation that this is about."""


class MeasuredResources(Part):
    """What the model's workers use, measured."""

    memory_bytes: Bytes = 0
    """Unique set size of the largest worker."""
    vram_bytes: Bytes = 0
    """Allocated on the accelerator by the largest worker."""


class ArtifactStatus(Part):
    """The files that were loaded."""

    digest: Word
    """sha256 of the sorted manifest of the files' sha256."""
    revision: Word = ""
    """The source's own name of what was fetched, for example a commit."""
    bytes: Bytes = 0
    """Size of all files."""
    verified_at: Moment | None = None
    """When the digest was computed."""


class LoadReport(Part):
    """How long the last good load took."""

    seconds: Annotated[dict[str, float], Field(max_length=32)] = Field(default_factory=dict)
    """By phase: spawn, import, fetch, load, test, …"""
    kind: LoadKind
    """Warm from a pre-imported process, Cold from nothing."""


class FailureReport(Part):
    """Why the last load or worker failed; kept until the next good load."""

    where: Word
    """The step in which it happened: spawn, import, fetch, load, test, serve, …"""
    reason: Word
    """One CamelCase word, also the reason of the conditions."""
    message: Text
    """What happened."""
    remedy: Text = ""
    """What to do."""
    exit_code: Annotated[int, Field(ge=-256, le=256)] | None = None
    """Of the worker's process; negative: the signal that ended it."""
    time: Moment
    """When it happened."""
    retry_at: Moment | None = None
    """From when the next load may be tried; it is, while the model is wanted."""


class ModelDeploymentStatus(Part):
    """What the operator has seen and done."""

    observed_generation: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """The metadata.generation that this status is about."""
    state: ModelState = ModelState.PENDING
    """For people; programs look at the conditions."""
    replicas: Count = 0
    """Workers that exist."""
    ready_replicas: Count = 0
    """Workers that serve."""
    desired_replicas: Count = 0
    """Workers that should exist now."""
    ready_of_desired: Word = ""
    """For people: "1/2"."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Label selector of the workers' pods, for the scale subresource."""
    node: Word = ""
    """Where the workers run, comma-separated; empty on one machine."""
    endpoints: Annotated[tuple[Word, ...], Field(max_length=1024)] = ()
    """Addresses of the workers that serve."""
    resources: MeasuredResources | None = None
    """Measured use."""
    artifact: ArtifactStatus | None = None
    """What was loaded last."""
    verified_spec_hash: Word = ""
    """Of the spec that last passed its test inference; Ready speaks of this one while it is the present one."""
    last_load: LoadReport | None = None
    """The last good load."""
    last_failure: FailureReport | None = None
    """The last failure, until the next good load."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Ready, Available, Scheduled, ModelAvailable; Reconciling and Stalled only when true."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    @property
    def waiting_for_room(self) -> Condition | None:
        """The condition that says so, while others have the places that it wants."""
        scheduled = self.condition("Scheduled")
        return scheduled if scheduled and scheduled.reason == WAITING_FOR_ROOM else None
