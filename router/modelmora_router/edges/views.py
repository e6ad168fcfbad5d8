"""How a model and the system look from outside: as messages of `modelmora.v1`, and as JSON with the same names."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from modelmora.spec import Condition, ModelDeployment, ModelState
from modelmora.v1 import management_pb2, registry_pb2
from modelmora_router.dataplane import ModelView, SystemView

_STATES: Final[Mapping[ModelState, registry_pb2.ModelState.ValueType]] = {
    ModelState.PENDING: registry_pb2.MODEL_STATE_PENDING,
    ModelState.STANDBY: registry_pb2.MODEL_STATE_STANDBY,
    ModelState.LOADING: registry_pb2.MODEL_STATE_LOADING,
    ModelState.LOADED: registry_pb2.MODEL_STATE_LOADED,
    ModelState.FAILED_TO_LOAD: registry_pb2.MODEL_STATE_FAILED_TO_LOAD,
}


def model_message(view: ModelView, *, full: bool = False) -> registry_pb2.Model:
    """A model; `full` adds its spec and status."""
    deployment, status = view.deployment, view.deployment.status
    message = registry_pb2.Model(
        namespace=deployment.metadata.namespace,
        name=deployment.metadata.name,
        model_id=deployment.model_id,
        version=deployment.version,
        task=str(deployment.spec.model.task),
        source=deployment.spec.model.source.uri,
        state=_STATES[status.state],
        replicas=status.replicas,
        ready_replicas=status.ready_replicas,
        desired_replicas=status.desired_replicas,
        conditions=[_condition_message(condition) for condition in status.conditions],
        queued=view.lane.queued,
        running=view.lane.running,
        last_used_at=None if view.lane.last_used_at is None else _timestamp(view.lane.last_used_at),
    )
    if full:
        message.spec.CopyFrom(_struct(_plain(deployment)["spec"]))
        message.status.CopyFrom(_struct(_plain(deployment)["status"]))
    return message


def model_json(view: ModelView, *, full: bool = False) -> dict[str, Any]:
    """A model; `full` adds its spec and status."""
    deployment, plain = view.deployment, _plain(view.deployment)
    used_at = view.lane.last_used_at
    shown: dict[str, Any] = {
        "namespace": deployment.metadata.namespace,
        "name": deployment.metadata.name,
        "modelId": deployment.model_id,
        "version": deployment.version,
        "task": str(deployment.spec.model.task),
        "source": deployment.spec.model.source.uri,
        "state": str(deployment.status.state),
        "replicas": deployment.status.replicas,
        "readyReplicas": deployment.status.ready_replicas,
        "desiredReplicas": deployment.status.desired_replicas,
        "conditions": plain["status"].get("conditions", []),
        "queued": view.lane.queued,
        "running": view.lane.running,
        "lastUsedAt": None if used_at is None else _shown(datetime.fromtimestamp(used_at, UTC)),
    }
    return shown | ({"spec": plain["spec"], "status": plain["status"]} if full else {})


def system_message(view: SystemView) -> management_pb2.SystemStatus:
    """The router and what it serves."""
    return management_pb2.SystemStatus(
        version=view.version,
        started_at=_timestamp(view.started_at.timestamp()),
        ready=view.ready,
        models=[model_message(model) for model in view.models],
        loaded_models=_loaded(view),
        queued=sum(model.lane.queued for model in view.models),
        running=sum(model.lane.running for model in view.models),
    )


def system_json(view: SystemView) -> dict[str, Any]:
    """The router and what it serves."""
    return {
        "version": view.version,
        "startedAt": _shown(view.started_at),
        "ready": view.ready,
        "components": view.components,
        "models": [model_json(model) for model in view.models],
        "loadedModels": _loaded(view),
        "queued": sum(model.lane.queued for model in view.models),
        "running": sum(model.lane.running for model in view.models),
    }


def health_json(deployment: ModelDeployment) -> dict[str, Any]:
    """Whether a model can be used, and if not, why. One that sleeps, or was never woken, is not unhealthy."""
    ready = deployment.status.condition("Ready")
    failed = deployment.status.state == ModelState.FAILED_TO_LOAD or (ready is not None and ready.status == "False")
    return {
        "namespace": deployment.metadata.namespace,
        "modelId": deployment.model_id,
        "version": deployment.version,
        "healthy": not failed,
        "state": str(deployment.status.state),
        "ready": str(ready.status) if ready else "Unknown",
        "reason": ready.reason if ready else "Unverified",
        "message": ready.message if ready else "",
    }


def _loaded(view: SystemView) -> int:
    return sum(model.deployment.status.state == ModelState.LOADED for model in view.models)


def _plain(deployment: ModelDeployment) -> dict[str, Any]:
    return deployment.model_dump(by_alias=True, exclude_none=True, mode="json")


def _condition_message(condition: Condition) -> registry_pb2.Condition:
    return registry_pb2.Condition(
        type=condition.type,
        status=str(condition.status),
        reason=condition.reason,
        message=condition.message,
        last_transition_time=_timestamp(condition.last_transition_time.timestamp()),
        observed_generation=condition.observed_generation,
    )


def _struct(plain: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(dict(plain))
    return struct


def _timestamp(unix_s: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(unix_s * 1e6))
    return timestamp


def _shown(moment: datetime) -> str:
    """As Kubernetes writes times."""
    return moment.isoformat().replace("+00:00", "Z")
