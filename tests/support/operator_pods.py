"""Pods and Leases as an API server tells of them, with only what a test is about."""

from datetime import UTC, datetime
from typing import Any

from modelmora.kube import names
from tests.support.operator_values import NOW

HASH = "aaaa1111"
IMAGE = "modelmora/worker:1"
Object = dict[str, Any]


def moment(unix: float) -> str:
    """As Kubernetes writes a time: whole seconds."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    name: str = "minilm-aaaa1111-0",
    *,
    ready: bool = False,
    turned: float | None = None,
    state: Object | None = None,
    last: Object | None = None,
    restarts: int = 0,
    spec_hash: str = HASH,
    version: int = 1,
    **more: Any,
) -> Object:
    """Created at NOW. `state` and `last` are the worker container's; `turned` is when its readiness did."""
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": moment(turned or NOW)}]
    status = {"name": names.WORKER_CONTAINER, "image": IMAGE, "restartCount": restarts, "state": state or {}}
    if last is not None:
        status["lastState"] = last
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": moment(NOW),
            "labels": {names.DEPLOYMENT: "minilm", names.SPEC_HASH: spec_hash, names.COMPONENT: names.WORKER},
            "ownerReferences": [OWNER],
            **more.pop("metadata", {}),
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": names.WORKER_CONTAINER, "image": IMAGE}]}
        | more.pop("spec", {}),
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [*conditions, *more.pop("conditions", [])],
            "containerStatuses": [status, *more.pop("beside", [])],
            **more.pop("status", {}),
        },
    }


OWNER = {"kind": "ModelDeployment", "name": "minilm", "uid": "uid-minilm", "controller": True}


def running(since: float = NOW + 1) -> Object:
    return {"running": {"startedAt": moment(since)}}


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int = 1, *, started: float = NOW + 1, finished: float = NOW + 5, **more: Any) -> Object:
    times = {"startedAt": moment(started), "finishedAt": moment(finished)}
    return {"terminated": {"exitCode": code, "reason": "Error", **times, **more}}


def unscheduled(message: str) -> Object:
    """A pod that the scheduler finds no node for."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(conditions=[condition], status={"phase": "Pending", "podIP": ""}, spec={"nodeName": ""})


def lease(name: str, renewed: float, demand: str = "{}", *, duration_s: int = 15, version: int = 1) -> Object:
    return {
        "metadata": {
            "name": name,
            "labels": {names.COMPONENT: names.ROUTER_DEMAND},
            "annotations": {names.DEMAND: demand},
            "resourceVersion": str(version),
        },
        "spec": {"renewTime": moment(renewed), "leaseDurationSeconds": duration_s},
    }
