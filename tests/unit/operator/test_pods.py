"""The pod of a worker: what it may do, where its files are, what it is told, and what a template changes."""

import json
from dataclasses import replace
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.kube import names
from modelmora.spec import MeasuredResources
from modelmora_operator.backends import pods
from modelmora_operator.backends.pod_error import PodError
from modelmora_operator.backends.pods import PodOptions
from modelmora_operator.cluster import WorkerSpec
from modelmora_worker.settings import read
from tests.support.operator_values import NOW, deployment, hash_of

OPTIONS = PodOptions(image="modelmora/worker:1", now=NOW)
MI = 1024 * 1024


def made(options: PodOptions = OPTIONS, **spec: Any) -> dict[str, Any]:
    return pods.pod(of(**spec), options)


def of(**spec: Any) -> WorkerSpec:
    made = deployment(**spec)
    return WorkerSpec(f"minilm-{hash_of(made)}-0", Key("team", "minilm"), hash_of(made), made)


def container(pod: dict[str, Any], name: str = "worker") -> dict[str, Any]:
    return dict(next(item for item in pod["spec"]["containers"] if item["name"] == name))


def volumes(pod: dict[str, Any]) -> dict[str, Any]:
    return {volume["name"]: volume for volume in pod["spec"]["volumes"]}


def mounts(pod: dict[str, Any], name: str = "worker") -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in container(pod, name)["volumeMounts"]}


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable for variable in container(pod)["env"]}


@pytest.mark.req("REQ-DEPLOY-001")
def test_it_is_found_by_its_labels_and_collected_with_its_deployment() -> None:
    worker = of()
    metadata = pods.pod(worker, OPTIONS)["metadata"]
    assert (metadata["name"], metadata["namespace"]) == (worker.worker_id, "team")
    assert (
        metadata["labels"]
        | {
            names.COMPONENT: names.WORKER,
            names.DEPLOYMENT: "minilm",
            names.SPEC_HASH: worker.spec_hash,
        }
        == (metadata["labels"])
    )
    assert metadata["annotations"][names.MODEL] == "org/minilm@1.0.0"
    [owner] = metadata["ownerReferences"]
    assert owner["uid"] == "minilm"
    assert owner["controller"] is True
    assert owner["blockOwnerDeletion"] is False


def test_it_may_do_nothing_that_it_need_not() -> None:
    pod = made()
    spec, context = pod["spec"], container(pod)["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_mount_has_its_volume_and_what_is_written_lies_on_one() -> None:
    pod = made(sharedMemory={}, model={"source": {"uri": "pvc://models/minilm"}})
    assert set(mounts(pod).values()) == volumes(pod).keys()
    told = json.loads(pod["metadata"]["annotations"][names.WORKER_SETTINGS])
    for name in ("cache_dir", "files_dir", "first_start_file", "volumes_dir"):
        assert any(told[name].startswith(path) or path.startswith(told[name]) for path in mounts(pod)), name
    assert environment(pod)["HOME"]["value"] in mounts(pod)


def test_the_worker_understands_what_it_is_told() -> None:
    worker = of(
        runtime={"engine": "python:mine:Engine", "files": [{"path": "mine.py", "content": "x = 'Ä'"}]},
        scaling={"minReplicas": 1},
        eviction={"policy": "Never"},
        sidecars=[{"name": "app", "image": "app:1"}],
        podTemplate={"metadata": {"labels": {"a": "b"}}},
    )
    annotation = pods.pod(worker, replace(OPTIONS, more={"log_level": "debug"}))["metadata"]["annotations"]
    settings = read(annotation[names.WORKER_SETTINGS])
    assert settings.worker_id == worker.worker_id
    assert settings.deployment.metadata.namespace == "default"
    assert settings.deployment.spec.runtime.files[0].content == "x = 'Ä'"
    assert settings.deployment.spec.sidecars == ()
    assert settings.deployment.spec.pod_template is None
    assert settings.deployment.spec.model == worker.deployment.spec.model
    assert settings.started_at == NOW
    assert settings.log_level == "debug"


def test_the_settings_are_mounted_from_the_annotation() -> None:
    pod = made()
    [item] = volumes(pod)["settings"]["downwardAPI"]["items"]
    assert item["fieldRef"]["fieldPath"] == "metadata.annotations['modelmora.io/worker-settings']"
    assert container(pod)["args"] == ["--settings", f"/etc/modelmora/{item['path']}"]


def test_settings_that_a_pod_cannot_hold_are_refused_with_what_to_do() -> None:
    files = [{"path": f"f{n}.py", "content": "x" * 100_000} for n in range(2)]
    assert made(runtime={"files": files})
    with pytest.raises(PodError) as caught:
        made(runtime={"files": [*files, {"path": "more.py", "content": "x" * 5000}]})
    assert caught.value.reason == "SpecTooLarge"
    assert "spec.runtime.image" in caught.value.remedy


def test_the_kubelet_asks_whether_it_serves_and_whether_it_lives() -> None:
    worker = container(made())
    assert worker["readinessProbe"]["grpc"] == {"port": 9101, "service": ""}
    assert worker["readinessProbe"]["periodSeconds"] == 1
    assert worker["livenessProbe"]["grpc"] == {"port": 9101, "service": "live"}


def test_it_has_the_drain_time_and_a_moment_to_end() -> None:
    assert made(replace(OPTIONS, drain_timeout_s=12.5))["spec"]["terminationGracePeriodSeconds"] == 18


@pytest.mark.parametrize(
    ("options", "cache", "volume"),
    [
        ({}, {}, {"emptyDir": {}}),
        ({"cache_size_limit": "5Gi"}, {}, {"emptyDir": {"sizeLimit": "5Gi"}}),
        ({"cache_size_limit": "5Gi"}, {"sizeLimit": "1Gi"}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        ({"cache_claim_name": "ours"}, {}, {"persistentVolumeClaim": {"claimName": "ours"}}),
        ({"cache_claim_name": "ours"}, {"claimName": "mine"}, {"persistentVolumeClaim": {"claimName": "mine"}}),
    ],
)
def test_the_cache_is_a_claim_or_the_nodes_own(options: Any, cache: Any, volume: Any) -> None:
    pod = made(replace(OPTIONS, **options), cache=cache)
    assert volumes(pod)["cache"] == {"name": "cache", **volume}


def test_a_model_on_a_claim_is_mounted_read_only() -> None:
    pod = made(model={"source": {"uri": "pvc://models/org/minilm"}})
    assert volumes(pod)["model"]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert mounts(pod)["/mnt/modelmora/models"] == "model"


def test_a_source_that_cannot_be_understood_is_the_workers_to_tell() -> None:
    assert "model" not in volumes(made(model={"source": {"uri": "pvc://UPPER/x"}}))


def test_the_secret_of_a_source_is_a_variable_of_the_worker() -> None:
    pod = made(model={"source": {"uri": "hf://org/name", "secretRef": {"name": "hub"}}})
    reference = {"name": "hub", "key": "token", "optional": False}
    assert environment(pod)["MODELMORA_WORKER_SOURCE_TOKEN"]["valueFrom"] == {"secretKeyRef": reference}


def test_the_runtime_is_the_deployments() -> None:
    runtime = {
        "image": "mine:1",
        "args": ["--more"],
        "env": [{"name": "HOME", "value": "/mine"}, {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "a.b"}}}],
        "envFrom": [{"secretRef": {"name": "s"}}],
    }
    pod = made(runtime=runtime)
    worker = container(pod)
    assert worker["image"] == "mine:1"
    assert worker["args"][-1] == "--more"
    assert [variable["name"] for variable in worker["env"]].count("HOME") == 1
    assert environment(pod)["HOME"] == {"name": "HOME", "value": "/mine"}
    assert environment(pod)["X"]["valueFrom"] == {"fieldRef": {"fieldPath": "a.b"}}
    assert worker["envFrom"] == [{"secretRef": {"name": "s"}}]


@pytest.mark.parametrize(
    ("spec", "resources"),
    [
        ({}, {}),
        ({"resources": {"requests": {"memory": "1Gi", "cpu": "1"}}}, ({"memory": "1Gi", "cpu": "1"}, 1536 * MI)),
        ({"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}}, ({"memory": "1Gi"}, "2Gi")),
        (
            {"resources": {"requests": {"memory": "1Gi"}}, "sharedMemory": {"sizeLimit": "512Mi"}},
            ({"memory": str(1536 * MI)}, 2048 * MI),
        ),
        ({"sharedMemory": {"sizeLimit": "512Mi"}}, ({"memory": str(512 * MI)}, None)),
        (
            {"resources": {"limits": {"memory": "1Gi"}}, "sharedMemory": {"sizeLimit": "512Mi"}},
            (None, 1536 * MI),
        ),
    ],
)
def test_memory_has_a_limit_where_something_is_known(spec: Any, resources: Any) -> None:
    got = container(made(**spec))["resources"]
    requests, limit = resources or (None, None)
    expected = {"requests": requests} if requests else {}
    assert got == expected | ({"limits": {"memory": str(limit)}} if limit else {})


@pytest.mark.parametrize(("measured", "limit"), [(1000 * MI, 1500 * MI), (100 * MI, 356 * MI)])
def test_what_was_measured_of_this_very_spec_is_the_ground_of_the_limit(measured: int, limit: int) -> None:
    worker = of()
    status = worker.deployment.status.model_copy(
        update={"resources": MeasuredResources(memory_bytes=measured), "verified_spec_hash": worker.spec_hash}
    )

    def resources(**update: Any) -> Any:
        known = worker.deployment.model_copy(update={"status": status.model_copy(update=update)})
        return container(pods.pod(replace(worker, deployment=known), OPTIONS))["resources"]

    assert resources() == {"requests": {"memory": str(measured)}, "limits": {"memory": str(limit)}}
    assert resources(verified_spec_hash="another") == {}


def test_whole_gpus_are_asked_of_the_scheduler() -> None:
    assert container(made(gpu={"mode": "Exclusive"}))["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    some = {"mode": "Exclusive", "count": 2, "resourceName": "amd.com/gpu"}
    assert container(made(gpu=some))["resources"]["limits"] == {"amd.com/gpu": "2"}


def test_a_shared_gpu_is_refused_rather_than_served_from_the_cpu() -> None:
    with pytest.raises(PodError, match="share a GPU"):
        made(gpu={"mode": "Shared", "memory": "1Gi"})


def test_a_template_is_laid_over_it() -> None:
    template = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "priorityClassName": "high",
            "containers": [{"name": "worker", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }
    pod = made(podTemplate=template)
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"]["note"] == "b"
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert mounts(pod)["/data"] == "data"
    assert volumes(pod)["data"]["persistentVolumeClaim"] == {"claimName": "data"}
    assert container(pod)["image"] == OPTIONS.image


def test_a_template_cannot_take_our_pods_from_us() -> None:
    template = {
        "metadata": {
            "name": "mine",
            "namespace": "other",
            "generateName": "x-",
            "labels": {names.COMPONENT: "mine", names.SPEC_HASH: None, "mine": "1"},
            "annotations": {"$patch": "replace"},
            "ownerReferences": [{"uid": "u"}],
        }
    }
    worker = of(podTemplate=template)
    metadata = pods.pod(worker, OPTIONS)["metadata"]
    assert (metadata["name"], metadata["namespace"]) == (worker.worker_id, "team")
    assert metadata["labels"][names.COMPONENT] == names.WORKER
    assert metadata["labels"][names.SPEC_HASH] == worker.spec_hash
    assert metadata["labels"]["mine"] == "1"
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == ["minilm"]
    assert read(metadata["annotations"][names.WORKER_SETTINGS]).worker_id == worker.worker_id
    assert "generateName" not in metadata


@pytest.mark.req("REQ-REL-002")
def test_a_dead_node_is_left_within_seconds_unless_the_template_says_when() -> None:
    unreachable, not_ready = "node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"

    def seconds(*tolerations: dict[str, Any]) -> dict[str, int | None]:
        template = {"spec": {"tolerations": list(tolerations)}} if tolerations else {}
        found = made(podTemplate=template)["spec"]["tolerations"]
        return {toleration["key"]: toleration.get("tolerationSeconds") for toleration in found}

    assert seconds() == {not_ready: 15, unreachable: 15}
    assert seconds({"key": "gpu", "operator": "Exists"}) == {"gpu": None, not_ready: 15, unreachable: 15}
    longer = {"key": unreachable, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}
    assert seconds(longer) == {unreachable: 600, not_ready: 15}


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ({"containers": [{"image": "x"}]}, "spec.podTemplate.spec.containers[0]"),
        ({"containers": [{"name": "worker", "$patch": "delete"}]}, "spec.podTemplate"),
        ({"volumes": "none"}, "spec.podTemplate.spec.volumes"),
    ],
)
def test_a_template_that_cannot_be_applied_is_refused_with_the_place(template: Any, where: str) -> None:
    with pytest.raises(PodError) as caught:
        made(podTemplate={"spec": template})
    assert caught.value.reason == "InvalidPodTemplate"
    assert where in caught.value.message
