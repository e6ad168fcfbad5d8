"""Manifests that break one rule between fields each, and the field that is to be blamed.

The library and a real API server are asked the same.
"""

import pytest

from tests.support.manifests import manifest, route

_SIDECAR = {"name": "app", "image": "app:1"}
_VARIABLE = {"name": "A", "value": "b"}

BROKEN_DEPLOYMENTS = [
    pytest.param(manifest("load", model={"id": None}), "metadata.name", id="name of an action"),
    pytest.param(manifest(model={"task": "txt2speech"}), "spec.model.task", id="own task, no engine"),
    pytest.param(
        manifest(model={"task": "x"}, runtime={"engine": "sentence-transformers"}),
        "spec.model.task",
        id="own task, built-in engine",
    ),
    pytest.param(manifest(scaling={"minReplicas": 2}), "spec.scaling.minReplicas", id="min above default max"),
    pytest.param(
        manifest(scaling={"minReplicas": 3, "maxReplicas": 2}), "spec.scaling.minReplicas", id="min above max"
    ),
    pytest.param(manifest(scaling={"initialReplicas": 2}), "spec.scaling.initialReplicas", id="initial above max"),
    pytest.param(manifest(gpu={"mode": "Shared"}), "spec.gpu.memory", id="Shared without memory"),
    pytest.param(manifest(gpu={"memory": "6Gi"}), "spec.gpu.memory", id="memory without GPU"),
    pytest.param(manifest(gpu={"mode": "Exclusive", "memory": 5}), "spec.gpu.memory", id="memory with Exclusive"),
    pytest.param(
        manifest(gpu={"mode": "Shared", "memory": "6Gi", "count": 1}), "spec.gpu.count", id="count with Shared"
    ),
    pytest.param(
        manifest(resources={"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1G"}}),
        "spec.resources.requests.memory",
        id="request above limit",
    ),
    pytest.param(
        manifest(resources={"requests": {"cpu": 2}, "limits": {"cpu": "1900m"}}),
        "spec.resources.requests.cpu",
        id="request as a number above limit",
    ),
    pytest.param(
        manifest(sharedMemory={"sizeLimit": "128Mi"}), "spec.sharedMemory.sessionQuota", id="default quota above limit"
    ),
    pytest.param(manifest(sidecars=[_SIDECAR]), "spec.sidecars", id="sidecars at zero"),
    pytest.param(
        manifest(sidecars=[_SIDECAR], scaling={"minReplicas": 1}), "spec.sidecars", id="sidecars with eviction"
    ),
    pytest.param(
        manifest(sidecars=[_SIDECAR, _SIDECAR], scaling={"minReplicas": 1}, eviction={"policy": "Never"}),
        "spec.sidecars[1].name",
        id="two sidecars of one name",
    ),
    pytest.param(manifest(cache={"claimName": "a", "sizeLimit": "1Gi"}), "spec.cache.sizeLimit", id="claim and size"),
    pytest.param(
        manifest(runtime={"env": [_VARIABLE | {"valueFrom": {"fieldRef": {}}}]}),
        "spec.runtime.env[0].valueFrom",
        id="value twice",
    ),
    pytest.param(
        manifest(runtime={"env": [{"name": "MODELMORA_X", "value": ""}]}), "spec.runtime.env[0].name", id="our variable"
    ),
    pytest.param(manifest(runtime={"env": [_VARIABLE, _VARIABLE]}), "spec.runtime.env[1].name", id="variable twice"),
    pytest.param(
        manifest(runtime={"files": [{"path": "a.py", "content": ""}, {"path": "a.py", "content": "x"}]}),
        "spec.runtime.files[1].path",
        id="file twice",
    ),
]

BROKEN_ROUTES = [
    pytest.param(route(backends=[{"name": "a", "weight": 0}]), "spec.backends", id="no weight"),
    pytest.param(route(mirror={"name": "minilm"}), "spec.mirror", id="mirror is a backend"),
    pytest.param(route(backends=[{"name": "a"}, {"name": "a"}]), "spec.backends[1].name", id="backend twice"),
    pytest.param(route(rollback={"errorPercent": 5}), "spec.rollback", id="rollback of the only backend"),
]
