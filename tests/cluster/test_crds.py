"""The definitions on a real API server: it takes them, fills in the defaults, and refuses what Python refuses."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelmora.spec import (
    Condition,
    ConditionStatus,
    FailureReport,
    LoadKind,
    LoadReport,
    ModelDeployment,
    ModelDeploymentStatus,
    ModelState,
)
from tests.support.broken_rules import BROKEN_DEPLOYMENTS, BROKEN_ROUTES
from tests.support.cluster import Answer, Kubectl
from tests.support.manifests import manifest, route

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def definitions(kubectl: Kubectl) -> None:
    """Both definitions, established. They stay: other tests may use them."""
    kubectl.must("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    for name in ("modeldeployments", "modelroutes"):
        kubectl.must("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}.modelmora.io")


@pytest.fixture
def server(kubectl: Kubectl, namespace: str, definitions: None) -> "Server":
    return Server(kubectl, namespace)


class Server:
    """One namespace of the API server."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.run = kubectl
        self.namespace = namespace

    def apply(self, objects: Any, *more: str) -> Answer:
        return self.run("apply", "--server-side", "-n", self.namespace, "-f", "-", *more, objects=objects)

    def create(self, objects: Any) -> dict[str, Any]:
        answer = self.apply(objects, "-o", "json")
        assert answer.ok, answer.err
        created: dict[str, Any] = json.loads(answer.out)
        return created

    def __call__(self, *arguments: str, objects: Any = None) -> Answer:
        return self.run(*arguments, "-n", self.namespace, objects=objects)


@pytest.mark.req("REQ-REG-003", "REQ-DEPLOY-002")
def test_an_api_server_takes_the_definitions(kubectl: Kubectl) -> None:
    kubectl.must("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(CRDS))


def test_no_definition_breaks_a_rule_of_structural_schemas(kubectl: Kubectl, definitions: None) -> None:
    for name in ("modeldeployments", "modelroutes"):
        conditions = kubectl.json("get", "crd", f"{name}.modelmora.io")["status"]["conditions"]
        assert {c["type"]: c["status"] for c in conditions}.get("NonStructuralSchema", "False") == "False"


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(("broken", "field"), BROKEN_DEPLOYMENTS)
def test_what_python_refuses_the_server_refuses(server: Server, broken: dict[str, Any], field: str) -> None:
    answer = server.apply(broken, "--dry-run=server")
    assert not answer.ok
    assert field.partition("[")[0].removesuffix(".memory").removesuffix(".cpu") in answer.err


@pytest.mark.parametrize(("broken", "field"), BROKEN_ROUTES)
def test_what_python_refuses_of_a_route_the_server_refuses(server: Server, broken: dict[str, Any], field: str) -> None:
    answer = server.apply(broken, "--dry-run=server")
    assert not answer.ok
    assert field.partition("[")[0] in answer.err


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(
    "part",
    [
        {"model": {"id": "a/../b"}},
        {"model": {"id": "org/load"}},
        {"model": {"version": "1.0"}},
        {"model": {"source": {"uri": "ftp://x"}}},
        {"resources": {"requests": {"memory": "-1Gi"}}},
        {"resources": {"requests": {"memory": -1}}},
        {"runtime": {"engine": "python:x"}},
        {"runtime": {"files": [{"path": "../x", "content": ""}]}},
        {"gpu": {"mode": "Off"}},
        {"queue": {"timeoutSeconds": 0}},
        {"sidecars": [{"name": "a"}]},
        {"scalling": {}},
        {"gpu": {"memory": None}},
        {"runtime": {"env": None}},
        {"sharedMemory": None},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_by_the_server_too(server: Server, part: dict[str, Any]) -> None:
    assert not server.apply(manifest(**part), "--dry-run=server", "--validate=strict").ok


@pytest.mark.req("REQ-REG-001a", "REQ-REG-001b", "REQ-REG-001c")
def test_the_server_fills_in_the_defaults_that_python_has(server: Server) -> None:
    stored = ModelDeployment.stored(server.create(manifest(sharedMemory={})))
    assert stored.spec == ModelDeployment.parse(manifest(sharedMemory={})).spec
    assert stored.metadata.uid
    assert stored.metadata.creation_timestamp is not None


def test_a_field_without_a_value_has_its_default(server: Server) -> None:
    written = manifest(scaling=None, gpu={"mode": None}, runtime=None)
    written["metadata"]["creationTimestamp"] = None
    assert ModelDeployment.stored(server.create(written)).spec == ModelDeployment.parse(written).spec


def test_a_manifest_with_everything_is_stored_as_it_was(server: Server) -> None:
    everything = manifest(
        model={
            "version": "2.1.0-rc.1+build",
            "source": {"uri": "hf://a/b", "secretRef": {"name": "s", "key": "k"}, "caBundleRef": {"name": "c"}},
            "integrity": {"sha256": {"model.safetensors": "a" * 64}, "unpinned": "Refuse"},
            "config": {"vectorSize": 4, "maxLength": 9, "device": "cpu", "parameters": {"a": {"b": [1, "x", None]}}},
        },
        runtime={
            "image": "x:1",
            "engine": "python:a.b:C",
            "args": ["-v"],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "envFrom": [{"secretRef": {"name": "s"}}],
            "files": [{"path": "a/b.py", "content": "x = 1\n"}],
        },
        resources={"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        gpu={"mode": "Shared", "memory": "6Gi"},
        scaling={"minReplicas": 1, "maxReplicas": 3, "initialReplicas": 1},
        eviction={"policy": "Never"},
        sharedMemory={"sizeLimit": "2Gi"},
        sidecars=[{"name": "app", "image": "app:1", "resources": {"limits": {"cpu": 1}}}],
        health={"inference": {"input": {"text": "hello"}}, "intervalSeconds": 30},
        cache={"prefetch": True, "claimName": "models"},
        rateLimit={"requestsPerSecond": 5, "burst": 10, "per": "Model"},
        podTemplate={"metadata": {"labels": {"a": "b"}}, "spec": {"tolerations": [{"operator": "Exists"}]}},
        suspend=True,
    )
    assert ModelDeployment.stored(server.create(everything)).spec == ModelDeployment.parse(everything).spec


@pytest.mark.req("REQ-REG-001a", "REQ-REG-001b")
@pytest.mark.parametrize(
    "changed", [{"id": "org/other"}, {"version": "2.0.0"}, {"id": None, "task": "img2embed"}], ids=str
)
def test_id_and_version_are_immutable(server: Server, changed: dict[str, str]) -> None:
    server.create(manifest())
    answer = server("patch", "mmd", "minilm", "--type=merge", "-p", json.dumps({"spec": {"model": changed}}))
    assert not answer.ok
    assert "is immutable" in answer.err


def test_writing_out_the_default_id_is_no_change(server: Server) -> None:
    server.create(manifest(model={"id": None}))
    patch = json.dumps({"spec": {"model": {"id": "minilm"}}})
    assert server("patch", "mmd", "minilm", "--type=merge", "-p", patch).ok


def test_kubectl_scale_sets_the_floor_and_stays_below_the_ceiling(server: Server) -> None:
    server.create(manifest(scaling={"maxReplicas": 2}))
    answer = server("scale", "mmd/minilm", "--replicas=2")
    assert answer.ok, answer.err
    assert server("get", "mmd", "minilm", "-o", "jsonpath={.spec.scaling.minReplicas}").out == "2"
    refused = server("scale", "mmd/minilm", "--replicas=3")
    assert "must not be above maxReplicas" in refused.err


def test_a_status_survives_the_server_and_is_written_apart_from_the_spec(server: Server) -> None:
    server.create(manifest() | {"status": {"state": "Loaded"}})
    status = ModelDeploymentStatus(
        observed_generation=1,
        state=ModelState.LOADED,
        replicas=2,
        ready_replicas=1,
        ready_of_desired="1/2",
        selector="modelmora.io/deployment=minilm",
        endpoints=("10.0.0.1:9000",),
        last_load=LoadReport(seconds={"fetch": 0.25, "load": 1.0}, kind=LoadKind.WARM),
        last_failure=FailureReport(where="load", reason="LoadFailed", message="no", exit_code=-9, time=NOW),
        conditions=(
            Condition(
                type="Ready",
                status=ConditionStatus.TRUE,
                reason="Serving",
                last_transition_time=NOW,
                observed_generation=1,
            ),
        ),
    )
    patch = json.dumps({"status": status.manifest(), "spec": {"suspend": True}})
    answer = server("patch", "mmd", "minilm", "--subresource=status", "--type=merge", "-p", patch, "-o", "json")
    assert answer.ok, answer.err
    stored = ModelDeployment.stored(json.loads(answer.out))
    assert stored.status == status
    assert stored.spec.suspend is False
    assert server("wait", "--for=condition=Ready", "--timeout=5s", "mmd/minilm").ok
    scale = json.loads(
        server(
            "get", "--raw", f"/apis/modelmora.io/v1alpha1/namespaces/{server.namespace}/modeldeployments/minilm/scale"
        ).out
    )
    assert scale["status"] == {"replicas": 2, "selector": "modelmora.io/deployment=minilm"}


def test_the_table_shows_what_people_look_for(server: Server) -> None:
    server.create(manifest())
    header = server("get", "mmd").out.splitlines()[0].split()
    assert header == ["NAME", "MODEL", "READY", "REASON", "REPLICAS", "VERSION", "AGE"]
    wide = server("get", "mmd", "-o", "wide").out.splitlines()
    assert wide[0].split()[-3:] == ["NODE", "VRAM", "SOURCE"]
    assert "package://minilm/model" in wide[1]
    assert "minilm" in server("get", "modelmora").out


def test_kubectl_explains_every_field(server: Server) -> None:
    explained = server.run.must("explain", "modeldeployment.spec.scaling")
    assert "minReplicas" in explained
    assert "Workers of a new spec before anybody asks" in " ".join(explained.split())


def test_a_route_is_stored_with_its_defaults(server: Server) -> None:
    stored = server.create(route(mirror={"name": "other"}))
    assert stored["spec"]["backends"] == [{"name": "minilm", "weight": 1}]
    assert stored["spec"]["mirror"]["percent"] == 100


@pytest.mark.req("RM-1.2g")
def test_the_examples_are_taken_by_a_cluster(server: Server) -> None:
    answer = server("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(ROOT / "examples"))
    assert answer.ok, answer.err


def test_a_free_map_can_be_emptied_by_server_side_apply(server: Server) -> None:
    for parameters in ({"normalize": True}, {}):
        config = {"parameters": parameters}
        stored = server.create(manifest(model={"config": config}))
        assert stored["spec"]["model"]["config"]["parameters"] == parameters
