from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from modelmora.errors import InvalidManifest
from modelmora.spec import Condition, ConditionStatus, ModelDeployment, ModelDeploymentStatus, quantity_value
from tests.support.manifests import manifest


@pytest.mark.req("REQ-REG-001a", "REQ-REG-001b", "REQ-REG-001c")
def test_a_short_manifest_gets_the_documented_defaults() -> None:
    deployment = ModelDeployment.parse(manifest(model={"id": None}))
    spec = deployment.spec
    assert deployment.model_id == "minilm"
    assert deployment.version == "1.0.0"
    assert deployment.metadata.namespace == "default"
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas, spec.scaling.scale_to_zero_after_seconds) == (
        0,
        1,
        300,
    )
    assert (spec.queue.timeout_seconds, spec.queue.max_length, spec.queue.cold_start_timeout_seconds) == (60, 1000, 120)
    assert (spec.batching.max_size, spec.batching.max_wait_milliseconds) == (32, 5)
    assert (spec.eviction.policy, spec.gpu.mode, spec.suspend) == ("LRU", "None", False)
    assert spec.shared_memory is None


@pytest.mark.req("REQ-REG-001a", "REQ-REG-001b", "REQ-REG-001c")
def test_a_manifest_is_the_same_after_a_round_trip() -> None:
    deployment = ModelDeployment.parse(
        manifest(
            model={"id": "org/name", "version": "2.1.0", "config": {"parameters": {"a": {"b": [1, None]}}}},
            runtime={"engine": "python:own.engine:Engine", "env": [{"name": "A", "value": "1"}]},
            resources={"requests": {"cpu": 2, "memory": "1Gi"}},
            sidecars=[{"name": "app", "image": "app:1", "ports": [{"containerPort": 80}]}],
            scaling={"minReplicas": 1},
            eviction={"policy": "Never"},
        )
    )
    assert ModelDeployment.parse(deployment.manifest()) == deployment
    assert ModelDeployment.stored(deployment.manifest()) == deployment


@pytest.mark.req("REQ-REG-003", "RM-1.2f")
@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"scaling": {"minReplica": 1}}, "spec.scaling.minReplica"),
        ({"scaling": {"minReplicas": -1}}, "spec.scaling.minReplicas"),
        ({"scaling": {"minReplicas": "1"}}, "spec.scaling.minReplicas"),
        ({"scaling": {"minReplicas": True}}, "spec.scaling.minReplicas"),
        ({"model": {"config": {"parameters": {"a": [1, float("nan")]}}}}, "spec.model.config.parameters.a[1]"),
        ({"health": {"inference": {"input": {"x": float("-inf")}}}}, "spec.health.inference.input.x"),
        ({"scaling": {"minReplicas": float("nan")}}, "spec.scaling.minReplicas"),
        ({"scaling": []}, "spec.scaling"),
        ({"resources": {"requests": {"memory": "-1Gi"}}}, "spec.resources.requests.memory"),
        ({"resources": {"requests": {"memory": -1}}}, "spec.resources.requests.memory"),
        ({"resources": {"requests": {"memory": "1GB"}}}, "spec.resources.requests.memory"),
        ({"resources": {"requests": {"memory": 1.5}}}, "spec.resources.requests.memory"),
        ({"model": {"version": 1.0}}, "spec.model.version"),
        ({"model": {"version": "1.0"}}, "spec.model.version"),
        ({"model": {"id": "a/../b"}}, "spec.model.id"),
        ({"model": {"id": "org/load"}}, "spec.model.id"),
        ({"model": {"task": "txt2emb"}}, "spec.model.task"),
        ({"model": {"task": "txt2emb"}, "runtime": {"engine": "sentence-transformers"}}, "spec.model.task"),
        ({"runtime": {"engine": "vllm"}}, "spec.runtime.engine"),
        ({"model": {"source": {}}}, "spec.model.source.uri"),
        ({"model": {"source": {"uri": "ftp://host/x"}}}, "spec.model.source.uri"),
        ({"model": {"source": {"uri": "hf://a b"}}}, "spec.model.source.uri"),
        (
            {"model": {"integrity": {"sha256": {"model.safetensors": "abc"}}}},
            "spec.model.integrity.sha256['model.safetensors']",
        ),
        ({"runtime": {"engine": "python:engine"}}, "spec.runtime.engine"),
        ({"runtime": {"files": [{"path": "../x.py", "content": ""}]}}, "spec.runtime.files[0].path"),
        ({"runtime": {"files": [{"path": "/x.py", "content": ""}]}}, "spec.runtime.files[0].path"),
        ({"gpu": {"mode": False}}, "spec.gpu.mode"),
        ({"queue": {"timeoutSeconds": 0}}, "spec.queue.timeoutSeconds"),
        ({"sidecars": [{"name": "app"}]}, "spec.sidecars[0]"),
        ({"suspend": "yes"}, "spec.suspend"),
        ({"modle": {}}, "spec.modle"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_by_its_path(part: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelDeployment.parse(manifest(**part), file="minilm.yaml")
    context = caught.value.context
    assert context.field == field
    assert field in str(caught.value)
    assert context.file == "minilm.yaml"
    assert context.remedy
    assert "minilm" in str(caught.value)
    assert "input_value" not in str(caught.value)


@pytest.mark.req("REQ-REG-003")
def test_all_wrong_fields_come_in_one_error() -> None:
    wrong = manifest(scaling={"minReplicas": -1}, queue={"maxLength": 0}, oops=1)
    with pytest.raises(InvalidManifest) as caught:
        ModelDeployment.parse(wrong)
    assert caught.value.context.field == "spec.scaling.minReplicas, spec.queue.maxLength, spec.oops"
    assert caught.value.context.model_id == "org/minilm"


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(("value", "said"), [(1.0, "the number 1.0"), (False, "the boolean false")])
def test_what_yaml_made_of_a_bare_word_is_told_with_the_advice_to_quote_it(value: object, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelDeployment.parse(manifest(model={"version": value}))
    assert said in str(caught.value)
    assert "quote it" in caught.value.context.remedy


@pytest.mark.parametrize("value", [None, [], "text", 3], ids=str)
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(InvalidManifest, match="a manifest is a mapping"):
        ModelDeployment.parse(value, file="x.yaml")


def test_a_hundred_mistakes_stay_readable() -> None:
    with pytest.raises(InvalidManifest, match="and 80 more") as caught:
        ModelDeployment.parse(manifest() | {f"wrong{n}": 1 for n in range(100)})
    assert len(str(caught.value)) < 2000


def test_a_field_without_a_value_has_its_default_like_with_an_api_server() -> None:
    written = manifest(scaling=None, gpu={"mode": None}, runtime=None)
    written["metadata"] |= {"creationTimestamp": None, "labels": None}
    assert ModelDeployment.parse(written) == ModelDeployment.parse(manifest())


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"gpu": {"memory": None}}, "spec.gpu.memory"),
        ({"runtime": {"env": None}}, "spec.runtime.env"),
        ({"runtime": {"env": [{"name": "A", "value": None}]}}, "spec.runtime.env[0].value"),
        ({"sharedMemory": None}, "spec.sharedMemory"),
    ],
    ids=str,
)
def test_a_field_without_a_value_and_without_a_default_is_refused_like_with_an_api_server(
    part: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelDeployment.parse(manifest(**part))
    assert caught.value.context.field == field


def test_what_kubectl_get_wrote_can_be_read_again() -> None:
    fetched = manifest() | {"status": {"state": "Loaded", "of": "a newer release"}}
    fetched["metadata"] |= {
        "uid": "1-2",
        "generation": 3,
        "resourceVersion": "77",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{}],
        "finalizers": [],
    }
    deployment = ModelDeployment.parse(fetched)
    assert deployment.metadata.creation_timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert deployment.status == ModelDeploymentStatus()


def test_a_stored_object_of_a_newer_release_is_read_without_what_is_unknown() -> None:
    stored = manifest(tomorrow={"a": 1}, scaling={"maxReplicas": 2, "forecast": True}) | {
        "status": {"state": "Loaded", "x": 1}
    }
    stored["metadata"]["managedFields"] = []
    deployment = ModelDeployment.stored(stored)
    assert deployment.spec.scaling.max_replicas == 2
    assert deployment.status.state == "Loaded"


def test_a_stored_object_that_breaks_a_rule_of_today_is_read() -> None:
    stored = ModelDeployment.stored(manifest(scaling={"minReplicas": 5, "maxReplicas": 1}))
    assert stored.spec.scaling.min_replicas == 5


def test_free_form_fields_survive_the_lenient_reading() -> None:
    sidecar = {"name": "app", "image": "app:1", "env": [{"name": "A", "value": "b"}]}
    stored = ModelDeployment.stored(manifest(sidecars=[sidecar], podTemplate={"spec": {"nodeSelector": {"a": "b"}}}))
    assert stored.spec.sidecars == (sidecar,)
    assert stored.spec.pod_template is not None
    assert stored.spec.pod_template.spec == {"nodeSelector": {"a": "b"}}


def test_a_status_is_found_again_in_the_manifest() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ready = Condition(type="Ready", status=ConditionStatus.TRUE, reason="Serving", last_transition_time=now)
    status = ModelDeploymentStatus(ready_of_desired="1/2", conditions=(ready,))
    deployment = ModelDeployment.parse(manifest()).model_copy(update={"status": status})
    written = deployment.manifest()["status"]
    assert written["readyOfDesired"] == "1/2"
    assert written["conditions"][0]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    again = ModelDeployment.stored(deployment.manifest())
    assert again.status.condition("Ready") == ready
    assert again.status.condition("Stalled") is None


def test_a_deployment_cannot_be_changed_in_place() -> None:
    deployment = ModelDeployment.parse(manifest())
    with pytest.raises(ValueError, match="frozen"):
        deployment.spec.scaling.min_replicas = 3  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("0", "0"),
        ("2", "2"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("250m", "0.25"),
        ("1k", "1000"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("2E", "2000000000000000000"),
        ("1Ei", "1152921504606846976"),
        ("1e3", "1000"),
        ("12E2", "1200"),
        ("3n", "3e-9"),
    ],
)
def test_quantities_mean_what_kubernetes_means(quantity: str, value: str) -> None:
    assert quantity_value(quantity) == Decimal(value)


@pytest.mark.parametrize(
    "quantity", ["", "-1", "+1", "1K", "1GB", "Gi", "1 Gi", "1e", "0x10", "1.2.3", "1\n", "inf", "NaN"]
)
def test_what_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity_value(quantity)
