"""Deployments, workers and snapshots for tests of the operator, with only what a test is about."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from modelmora.control import Demand, Key
from modelmora.spec import ModelDeployment
from modelmora_operator.cluster import Failure, FailureRecord, ObservedWorker, Phase, Snapshot
from modelmora_operator.plan import Policy, plan
from modelmora_operator.spec_hash import spec_hash

NOW = 1_800_000_000.0
KEY = Key("default", "minilm")


def deployment(
    name: str = "minilm", *, created: float | None = NOW, generation: int = 1, **spec: Any
) -> ModelDeployment:
    """A good deployment; `spec` replaces or adds parts of its spec."""
    model = {"id": "org/minilm", "task": "txt2embed", "source": {"uri": "package://minilm/model"}}
    read = ModelDeployment.stored(
        {
            "apiVersion": "modelmora.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "generation": generation, "uid": name},
            "spec": {"model": model | spec.pop("model", {})} | spec,
        }
    )
    if created is None:
        return read
    metadata = read.metadata.model_copy(update={"creation_timestamp": datetime.fromtimestamp(created, UTC)})
    return read.model_copy(update={"metadata": metadata})


def hash_of(of: ModelDeployment) -> str:
    return spec_hash(of.spec)


def worker(of: ModelDeployment, number: int = 0, *, phase: Phase = Phase.SERVING, **fields: Any) -> ObservedWorker:
    """A worker of that spec; serving unless said otherwise."""
    hashed = hash_of(of)
    made = ObservedWorker(f"{of.metadata.name}-{hashed}-{number}", hashed, NOW - 100 + number, phase=phase)
    return replace(made, **fields)


def snapshot(
    of: ModelDeployment | None, *workers: ObservedWorker, load: float | None = None, **fields: Any
) -> Snapshot:
    """`load` is the demand; without it nobody wants the model."""
    demand = None if load is None else Demand(load, NOW)
    made = Snapshot(Key("default", of.metadata.name) if of else KEY, of, workers, demand)
    return replace(made, **fields)


def failed(
    of: ModelDeployment, count: int = 1, *, at: float = NOW, reported: bool = True, **fields: Any
) -> FailureRecord:
    """A record of failures of that spec."""
    reason = "LoadFailed" if reported else "WorkerCrashed"
    failure = Failure("load", reason, "the file model.safetensors is broken", "fetch it again", 1, reported)
    return replace(FailureRecord(hash_of(of), count, at, failure, started_at=at), **fields)


def reported(of: ModelDeployment, *workers: ObservedWorker, now: float = NOW, **fields: Any) -> ModelDeployment:
    """The deployment with the status that the operator would write of what it sees."""
    decided = plan(snapshot(of, *workers, **fields), now, Policy())
    return of.model_copy(update={"status": decided.status})
