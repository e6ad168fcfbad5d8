"""The rules between fields of a ModelDeployment."""

from collections.abc import Iterator
from typing import Protocol

from modelmora.spec.identity import RESERVED_SEGMENTS, Task
from modelmora.spec.metadata import ObjectMeta
from modelmora.spec.parts import ModelDeploymentSpec
from modelmora.spec.rules import ChangeRule, Rule, repeated
from modelmora.spec.schema import quantity_value


class Deployment(Protocol):
    """What the rules look at."""

    @property
    def metadata(self) -> ObjectMeta: ...
    @property
    def spec(self) -> ModelDeploymentSpec: ...
    @property
    def model_id(self) -> str: ...
    @property
    def version(self) -> str: ...


def _reserved_name(deployment: Deployment) -> bool:
    return deployment.spec.model.id is None and deployment.metadata.name in RESERVED_SEGMENTS


def _own_task_without_own_engine(deployment: Deployment) -> bool:
    engine = deployment.spec.runtime.engine or ""
    return deployment.spec.model.task not in set(Task) and not engine.startswith("python:")


def _above_limit(deployment: Deployment) -> Iterator[str]:
    requests = deployment.spec.resources.requests
    limits = deployment.spec.resources.limits
    for name in requests.keys() & limits.keys():
        if quantity_value(requests[name]) > quantity_value(limits[name]):
            yield f"spec.resources.requests.{name}"


def _initial_above_maximum(deployment: Deployment) -> bool:
    scaling = deployment.spec.scaling
    return scaling.initial_replicas is not None and scaling.initial_replicas > scaling.max_replicas


def _quota_above_limit(deployment: Deployment) -> bool:
    shared = deployment.spec.shared_memory
    return shared is not None and quantity_value(shared.session_quota) > quantity_value(shared.size_limit)


def _sidecars_may_lose_worker(deployment: Deployment) -> bool:
    spec = deployment.spec
    return bool(spec.sidecars) and (spec.scaling.min_replicas < 1 or spec.eviction.policy != "Never")


def _two_values(deployment: Deployment) -> Iterator[str]:
    for index, variable in enumerate(deployment.spec.runtime.env):
        if variable.value is not None and variable.value_from is not None:
            yield f"spec.runtime.env[{index}].valueFrom"


def _our_variables(deployment: Deployment) -> Iterator[str]:
    for index, variable in enumerate(deployment.spec.runtime.env):
        if variable.name.startswith("MODELMORA_"):
            yield f"spec.runtime.env[{index}].name"


_RESERVED_IN_CEL = ", ".join(f"'{segment}'" for segment in RESERVED_SEGMENTS)
_TASKS_IN_CEL = ", ".join(f"'{task}'" for task in Task)

DEPLOYMENT_RULES: tuple[Rule[Deployment], ...] = (
    Rule(
        at="",
        field="metadata.name",
        message="this name is an action of the REST interface, so spec.model.id must be set",
        remedy="set spec.model.id or choose another name",
        broken=_reserved_name,
        cel=f"has(self.spec.model.id) || !(self.metadata.name in [{_RESERVED_IN_CEL}])",
    ),
    Rule(
        at="spec",
        field="model.task",
        message=f"must be one of {', '.join(Task)}; another name needs an engine of your own",
        remedy="correct the task, or set spec.runtime.engine to python:module:Class",
        broken=_own_task_without_own_engine,
        cel=f"self.model.task in [{_TASKS_IN_CEL}] || "
        "(has(self.runtime.engine) && self.runtime.engine.startsWith('python:'))",
    ),
    Rule(
        at="spec.scaling",
        field="minReplicas",
        message="must not be above maxReplicas",
        remedy="lower spec.scaling.minReplicas or raise spec.scaling.maxReplicas",
        broken=lambda deployment: deployment.spec.scaling.min_replicas > deployment.spec.scaling.max_replicas,
        cel="self.minReplicas <= self.maxReplicas",
    ),
    Rule(
        at="spec.scaling",
        field="initialReplicas",
        message="must not be above maxReplicas",
        remedy="lower spec.scaling.initialReplicas or raise spec.scaling.maxReplicas",
        broken=_initial_above_maximum,
        cel="!has(self.initialReplicas) || self.initialReplicas <= self.maxReplicas",
    ),
    Rule(
        at="spec.gpu",
        field="memory",
        message="is needed where gpu.mode is Shared",
        remedy="set spec.gpu.memory to what the model needs on the GPU, for example 6Gi",
        broken=lambda deployment: deployment.spec.gpu.mode == "Shared" and deployment.spec.gpu.memory is None,
        cel="self.mode != 'Shared' || has(self.memory)",
    ),
    Rule(
        at="spec.gpu",
        field="memory",
        message="has a meaning only where gpu.mode is Shared",
        remedy="remove spec.gpu.memory or set spec.gpu.mode: Shared",
        broken=lambda deployment: deployment.spec.gpu.mode != "Shared" and deployment.spec.gpu.memory is not None,
        cel="self.mode == 'Shared' || !has(self.memory)",
    ),
    Rule(
        at="spec.gpu",
        field="count",
        message="has a meaning only where gpu.mode is Exclusive",
        remedy="remove spec.gpu.count or set spec.gpu.mode: Exclusive",
        broken=lambda deployment: deployment.spec.gpu.mode != "Exclusive" and deployment.spec.gpu.count is not None,
        cel="self.mode == 'Exclusive' || !has(self.count)",
    ),
    Rule(
        at="spec.resources",
        field="requests",
        message="must not be above the limit of the same name",
        remedy="lower the request or raise the limit",
        broken=_above_limit,
        cel="!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
        "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
    ),
    Rule(
        at="spec.sharedMemory",
        field="sessionQuota",
        message="must not be above sizeLimit",
        remedy="lower spec.sharedMemory.sessionQuota or raise spec.sharedMemory.sizeLimit",
        broken=_quota_above_limit,
        cel="quantity(string(self.sessionQuota)).compareTo(quantity(string(self.sizeLimit))) <= 0",
    ),
    Rule(
        at="spec",
        field="sidecars",
        message="need scaling.minReplicas of at least 1 and eviction.policy Never: they live in the worker's pod",
        remedy="set spec.scaling.minReplicas: 1 and spec.eviction.policy: Never",
        broken=_sidecars_may_lose_worker,
        cel="!has(self.sidecars) || size(self.sidecars) == 0 || "
        "(self.scaling.minReplicas >= 1 && self.eviction.policy == 'Never')",
    ),
    Rule(
        at="spec.cache",
        field="sizeLimit",
        message="and claimName exclude each other",
        remedy="keep the claim or the size",
        broken=lambda deployment: (
            deployment.spec.cache.claim_name is not None and deployment.spec.cache.size_limit is not None
        ),
        cel="!has(self.claimName) || !has(self.sizeLimit)",
    ),
    Rule(
        at="spec.runtime.env[]",
        field="valueFrom",
        message="and value exclude each other",
        remedy="keep one of them",
        broken=_two_values,
        cel="!has(self.value) || !has(self.valueFrom)",
    ),
    Rule(
        at="spec.runtime.env[]",
        field="name",
        message="must not start with MODELMORA_: these are the worker's own settings",
        remedy="choose another name",
        broken=_our_variables,
        cel="!self.name.startsWith('MODELMORA_')",
    ),
    Rule(
        at="spec.runtime",
        field="env",
        message="is there twice",
        remedy="keep one of them",
        broken=lambda deployment: repeated("spec.runtime.env", "name", (v.name for v in deployment.spec.runtime.env)),
    ),
    Rule(
        at="spec.runtime",
        field="files",
        message="is there twice",
        remedy="keep one of them",
        broken=lambda deployment: repeated(
            "spec.runtime.files", "path", (f.path for f in deployment.spec.runtime.files)
        ),
    ),
    Rule(
        at="spec",
        field="sidecars",
        message="is there twice",
        remedy="give each container a name of its own",
        broken=lambda deployment: repeated("spec.sidecars", "name", (s["name"] for s in deployment.spec.sidecars)),
    ),
)

CHANGE_RULES: tuple[ChangeRule[Deployment], ...] = (
    ChangeRule(
        at="",
        field="spec.model.id",
        message="is immutable",
        remedy="make another ModelDeployment for another model",
        broken=lambda old, new: old.model_id != new.model_id,
        cel="(has(self.spec.model.id) ? self.spec.model.id : self.metadata.name) == "
        "(has(oldSelf.spec.model.id) ? oldSelf.spec.model.id : oldSelf.metadata.name)",
    ),
    ChangeRule(
        at="spec.model",
        field="version",
        message="is immutable",
        remedy="make another ModelDeployment for another version",
        broken=lambda old, new: old.version != new.version,
        cel="self.version == oldSelf.version",
    ),
)
