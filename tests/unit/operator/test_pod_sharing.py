"""A worker's pod with containers beside it: how they find it, what they share, and what they cannot do to it."""

import json
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.kube import names
from modelmora_operator.backends import pods
from modelmora_operator.backends.pod_error import PodError
from modelmora_operator.backends.pods import PodOptions
from modelmora_operator.cluster import WorkerSpec
from modelmora_worker.settings import WorkerSettings, read
from tests.support.operator_values import NOW, deployment, hash_of

APP = {"name": "app", "image": "app:1"}
SHARED = {"sizeLimit": "2Gi", "sessionQuota": "64Mi"}
OURS = {"MODELMORA_SOCKET": "/run/modelmora/model.sock", "MODELMORA_SHARED_MEMORY_DIR": "/dev/shm"}


def made(*sidecars: dict[str, Any], **spec: Any) -> dict[str, Any]:
    described = deployment(sidecars=list(sidecars), **spec)
    hashed = hash_of(described)
    worker = WorkerSpec(f"minilm-{hashed}-0", Key("team", "minilm"), hashed, described)
    return pods.pod(worker, PodOptions(image="modelmora/worker:1", now=NOW))


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(next(item for item in pod["spec"]["containers"] if item["name"] == name))


def mounts(pod: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in container(pod, name)["volumeMounts"]}


def volumes(pod: dict[str, Any]) -> dict[str, Any]:
    return {volume["name"]: volume for volume in pod["spec"]["volumes"]}


def variables(pod: dict[str, Any], name: str) -> dict[str, str]:
    return {variable["name"]: variable.get("value") for variable in container(pod, name)["env"]}


def told(pod: dict[str, Any]) -> WorkerSettings:
    return read(pod["metadata"]["annotations"][names.WORKER_SETTINGS])


@pytest.mark.req("US2", "ENT-3")
def test_a_volume_in_memory_is_the_workers_and_its_neighbours() -> None:
    pod = made(APP, sharedMemory=SHARED)
    assert volumes(pod)["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    for name in ("worker", "app"):
        assert mounts(pod, name)["/dev/shm"] == {"name": "shared-memory", "mountPath": "/dev/shm"}


@pytest.mark.req("US2")
def test_a_neighbour_finds_the_workers_socket_and_cannot_replace_it() -> None:
    pod = made(APP, sharedMemory=SHARED)
    folder, _, name = variables(pod, "app")["MODELMORA_SOCKET"].rpartition("/")
    assert variables(pod, "app") == OURS
    assert mounts(pod, "app")[folder]["readOnly"] is True
    assert "readOnly" not in mounts(pod, "worker")[folder]
    assert mounts(pod, "app")[folder]["name"] == mounts(pod, "worker")[folder]["name"]
    assert str(told(pod).client_socket) == f"{folder}/{name}"


def test_the_worker_is_told_what_a_session_may_have_and_that_all_may_call() -> None:
    settings = told(made(APP, sharedMemory=SHARED))
    assert settings.session_quota_bytes == 64 * 2**20
    assert settings.client_socket_mode == 0o666


def test_without_shared_memory_a_neighbour_calls_with_bytes() -> None:
    pod = made(APP)
    assert variables(pod, "app") == {"MODELMORA_SOCKET": OURS["MODELMORA_SOCKET"]}
    assert told(pod).session_quota_bytes == 0
    assert "shared-memory" not in volumes(pod)
    assert "/dev/shm" not in mounts(pod, "app")


def test_a_worker_without_neighbours_has_no_socket() -> None:
    pod = made()
    assert "socket" not in volumes(pod)
    assert "client_socket" not in json.loads(pod["metadata"]["annotations"][names.WORKER_SETTINGS])


def test_for_a_container_of_a_template_there_are_the_same_places() -> None:
    pod = made(sharedMemory=SHARED)
    assert {"socket", "shared-memory"} <= volumes(pod).keys()
    assert told(pod).client_socket


def test_what_a_neighbour_says_itself_is_kept() -> None:
    sidecar = {
        **APP,
        "env": [{"name": "MODELMORA_SOCKET", "value": "/mine.sock"}, {"name": "A", "value": "$(MODELMORA_SOCKET)"}],
        "volumeMounts": [{"name": "own", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {"runAsUser": 7, "readOnlyRootFilesystem": True},
        "resources": {"limits": {"memory": "1Gi"}},
    }
    pod = made(sidecar, sharedMemory=SHARED)
    app = container(pod, "app")
    assert variables(pod, "app") == OURS | {"MODELMORA_SOCKET": "/mine.sock", "A": "$(MODELMORA_SOCKET)"}
    assert mounts(pod, "app")["/dev/shm"]["name"] == "own"
    assert app["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsUser": 7,
    }
    assert app["resources"] == {"limits": {"memory": "1Gi"}}
    assert variables(pod, "app").keys() == {variable["name"] for variable in app["env"]}
    assert len(mounts(pod, "app")) == len(app["volumeMounts"])


def test_each_container_is_another_user_and_may_do_no_more_than_the_worker() -> None:
    pod = made(APP, {**APP, "name": "other"}, sharedMemory=SHARED)
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    users = {pod["spec"]["securityContext"]["runAsUser"]}
    for name in ("app", "other"):
        context = container(pod, name)["securityContext"]
        users.add(context.pop("runAsUser"))
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert len(users) == 3
    assert not users & {0, 65534, 65535}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "worker"}, "spec.sidecars"),
        ({"securityContext": 3}, "securityContext"),
        ({"env": {"A": "b"}}, "env"),
        ({"env": ["A=b"]}, "env"),
        ({"volumeMounts": "/data"}, "volumeMounts"),
    ],
)
def test_a_neighbour_that_cannot_be_is_refused_with_the_place(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(PodError) as caught:
        made({**APP, **wrong}, sharedMemory=SHARED)
    assert caught.value.reason == "InvalidSidecar"
    assert field in caught.value.remedy


@pytest.mark.parametrize("edit", [{"sizeLimit": "3Gi"}, {"sessionQuota": "65Mi"}])
def test_another_size_is_another_pod(edit: dict[str, str]) -> None:
    described = deployment(sidecars=[APP], sharedMemory=SHARED)
    assert hash_of(deployment(sidecars=[APP], sharedMemory=SHARED | edit)) != hash_of(described)
    assert hash_of(deployment(sidecars=[APP | {"image": "app:2"}], sharedMemory=SHARED)) != hash_of(described)
