"""Bad days of the cluster itself: they disturb everything there, so they run one after the other, and last."""

import json
import os
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import Kubectl
from tests.support.days import Door, Models, model
from tests.support.installation import SYSTEM, Installation

pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, pytest.mark.timeout(400)]

CRDS = Path(__file__).parents[2] / "crds"
AWAKE = {"minReplicas": 1}
OPERATOR, ROUTER = "deployment/modelmora-operator", "deployment/modelmora-router"


class Control:
    """The command that stops and starts parts of the cluster: MODELMORA_CLUSTER_CONTROL."""

    def __init__(self, program: list[str]) -> None:
        self._program = program

    def __call__(self, *arguments: str) -> None:
        subprocess.run([*self._program, *arguments], check=True, capture_output=True, timeout=180)


@pytest.fixture
def control() -> Control:
    """Calls it with `stop COMPONENT`, `up`, `up --nodes 2`, `cut NODE`, `heal NODE`."""
    command = os.environ.get("MODELMORA_CLUSTER_CONTROL", "")  # noqa: TID251 - a test run has no settings class
    if not command:
        pytest.skip("no MODELMORA_CLUSTER_CONTROL: nothing here can stop parts of the cluster")
    return Control(shlex.split(command))


@pytest.fixture
def front(installation: Installation) -> Iterator[Door]:
    """Of each test its own: what happens here breaks port-forwards."""
    with installation.door() as opened:
        yield opened


def system(kubectl: Kubectl, *arguments: str) -> str:
    return kubectl.must(*arguments, "-n", SYSTEM)


def test_an_operator_that_is_killed_while_it_works_converges_without_a_duplicate(models: Models) -> None:
    names = [f"kill-{number}" for number in range(4)]
    for name in names:
        models.apply(name, scaling=AWAKE)
        _kill(models.kubectl, "operator")
    for name in names:
        models.wait(name, "Serving", within_s=180)
    assert {name: len(models.pods(name)) for name in names} == dict.fromkeys(names, 1)


def test_without_an_operator_a_delete_returns_at_once_and_the_pods_go(models: Models, front: Door) -> None:
    models.apply("orphan", scaling=AWAKE)
    models.apply("stays", scaling=AWAKE)
    models.wait("orphan", "Serving")
    models.wait("stays", "Serving")
    system(models.kubectl, "scale", OPERATOR, "--replicas=0")
    try:
        system(models.kubectl, "wait", "--for=delete", "pod", "-l", _component("operator"), "--timeout=60s")
        models.run("delete", "mmd", "orphan", "--timeout=5s")
        models.wait_gone("orphan")
        assert front.infer(models.namespace, "stays").status_code == 200
    finally:
        system(models.kubectl, "scale", OPERATOR, "--replicas=1")
        system(models.kubectl, "rollout", "status", OPERATOR, "--timeout=90s")


def test_a_killed_router_takes_only_its_own_requests_along(models: Models, installation: Installation) -> None:
    models.apply("held", parameters={"loadSeconds": 6}, scaling={"initialReplicas": 0})
    models.wait("held", "Unverified")
    one, two = installation.router_pods()
    with (
        installation.door(f"pod/{one}") as first,
        installation.door(f"pod/{two}") as second,
        ThreadPoolExecutor(8) as pool,
    ):
        lost = [pool.submit(_infer_or_none, first, models.namespace, "held") for _ in range(3)]
        kept = [pool.submit(second.infer, models.namespace, "held") for _ in range(3)]
        _until(lambda: bool(models.pods("held")))
        system(models.kubectl, "delete", "pod", one, "--force", "--grace-period=0")
        assert [answer.result().status_code for answer in kept] == [200] * 3
        assert len(models.pods("held")) == 1
        assert all(answer.result() in {None, 200} for answer in lost)
    system(models.kubectl, "rollout", "status", ROUTER, "--timeout=90s")


def test_an_api_server_that_is_gone_for_20_s_scales_nothing_down(
    models: Models,
    front: Door,
    control: Control,
) -> None:
    models.apply("calm", scaling={"scaleToZeroAfterSeconds": 600})
    models.apply("floor", scaling=AWAKE)
    models.wait("calm", "Serving")
    models.wait("floor", "Serving")
    assert front.infer(models.namespace, "calm").status_code == 200  # wanted from now on
    before = {name: _uids(models, name) for name in ("calm", "floor")}
    control("stop", "kube-apiserver")
    try:
        time.sleep(20)  # as long as the issue says
    finally:
        control("up")
    _until(lambda: models.kubectl("get", "--raw", "/readyz").ok)
    time.sleep(20)  # longer than a Lease lives: what would be scaled down wrongly is by now
    assert {name: _uids(models, name) for name in ("calm", "floor")} == before
    models.apply("afterwards", scaling=AWAKE)
    models.wait("afterwards", "Serving")


def test_a_right_that_is_missing_is_named(models: Models) -> None:
    role = _operators_role(models)
    without = json.loads(json.dumps(role))
    for rule in without["rules"]:
        if "pods" in rule["resources"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != "create"]
    _replace(models, without)
    try:
        models.apply("rightless", scaling=AWAKE)
        told = models.wait("rightless", "Forbidden")
        assert "cannot create resource" in told["message"]
        assert "pods" in told["message"]
    finally:
        _replace(models, role)
    models.wait("rightless", "Serving", within_s=180)


def test_an_object_from_before_a_schema_change_is_told_and_hurts_nobody(models: Models) -> None:
    name = "modeldeployments.modelmora.io"
    definition = models.kubectl.json("get", "crd", name)
    loose = json.loads(json.dumps(definition))
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    models.kubectl.must("replace", "-f", "-", objects=_bare(loose))
    try:
        old = model("ancient", models.namespace)
        old["spec"]["model"] |= {"version": "one"}
        old["spec"]["queue"] = {"maxLength": "many"}
        _until(lambda: models.kubectl("apply", "--server-side", "-f", "-", objects=old).ok)
    finally:
        models.kubectl.must("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    told = models.wait("ancient", "InvalidSpec")
    assert told["status"] == "False"
    assert "spec.queue.maxLength" in told["message"]
    models.apply("modern", scaling=AWAKE)
    models.wait("modern", "Serving")
    models.run("delete", "mmd", "ancient", "--timeout=10s")


def test_a_definition_that_is_deleted_leaves_no_orphan_and_comes_back(models: Models, front: Door) -> None:
    models.apply("bereft", scaling=AWAKE)
    models.wait("bereft", "Serving")
    models.kubectl.must("delete", "crd", "modeldeployments.modelmora.io", "--timeout=60s")
    try:
        models.wait_gone("bereft")
        _kill(models.kubectl, "operator")  # and so it is missing at the operator's start too
        _until(lambda: "modeldeployments" in _logs(models.kubectl))
    finally:
        models.kubectl.must("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
        models.kubectl.must("wait", "--for=condition=Established", "--timeout=30s", "crd/modeldeployments.modelmora.io")
    models.apply("bereft", scaling=AWAKE)
    models.wait("bereft", "Serving", within_s=240)
    # The router looks for the definition every few seconds: it may hear of the model after the operator.
    _until(lambda: front.infer(models.namespace, "bereft").status_code == 200)


def test_a_new_default_image_rolls_one_model_at_a_time(models: Models, installation: Installation) -> None:
    names = [f"image-{number}" for number in range(3)]
    for name in names:
        models.apply(name, scaling=AWAKE, parameters={"loadSeconds": 2})
    for name in names:
        models.wait(name, "Serving")
    another = installation.images.renamed("worker-bare")
    try:
        installation.install(worker={"image": another})
        deadline = time.monotonic() + 180
        while any(_image(models, name) != {another} for name in names):
            assert len(_rolling(models, names)) <= 1
            assert all(models.get(name)["status"]["readyReplicas"] for name in names)
            assert time.monotonic() < deadline, "the image did not roll"
            time.sleep(0.3)
    finally:
        installation.install()


@pytest.fixture
def second_node(installation: Installation, control: Control) -> Iterator[str]:
    control("up", "--nodes", "2")
    installation.images.again("worker-bare")  # onto the new node too
    yield "node-2"
    control("heal", "node-2")
    for component in ("kubelet-2", "kube-proxy-2", "containerd-2"):
        control("stop", component)
    installation.kubectl("delete", "node", "node-2", "--timeout=60s")


def test_a_node_that_is_cut_off_loses_its_model_and_returns_without_a_double(
    models: Models,
    front: Door,
    control: Control,
    second_node: str,
) -> None:
    preference = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [second_node]}]}
    affinity = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": preference}]}
    models.apply("moved", scaling=AWAKE, podTemplate={"spec": {"affinity": {"nodeAffinity": affinity}}})
    models.wait("moved", "Serving")
    (before,) = models.pods("moved")
    assert before["spec"]["nodeName"] == second_node
    control("cut", second_node)
    try:
        _until(lambda: bool(set(models.live_pods("moved")) - {before["metadata"]["name"]}), within_s=120)
        assert front.infer(models.namespace, "moved").status_code == 200
    finally:
        control("heal", second_node)
    _until(lambda: len(models.pods("moved")) == 1, within_s=120)
    assert models.live_pods("moved") != [before["metadata"]["name"]]
    assert front.infer(models.namespace, "moved").status_code == 200


def _component(name: str) -> str:
    return f"app.kubernetes.io/component={name}"


def _kill(kubectl: Kubectl, component: str) -> None:
    """As kill -9: no grace at all."""
    system(kubectl, "delete", "pod", "-l", _component(component), "--force", "--grace-period=0", "--wait=false")


def _logs(kubectl: Kubectl) -> str:
    return kubectl("logs", "-n", SYSTEM, OPERATOR, "--tail=50").out


def _infer_or_none(door: Door, namespace: str, name: str) -> int | None:
    try:
        return door.infer(namespace, name).status_code
    except httpx.HTTPError:  # its router was killed
        return None


def _uids(models: Models, name: str) -> list[str]:
    return [pod["metadata"]["uid"] for pod in models.pods(name) if "deletionTimestamp" not in pod["metadata"]]


def _image(models: Models, name: str) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in models.pods(name)}


def _rolling(models: Models, names: list[str]) -> list[str]:
    """Those that have more than one live pod, all seen at one moment."""
    pods = [p["metadata"] for p in models.kubectl.json("get", "pods", "-n", models.namespace)["items"]]
    of = Counter(p["labels"].get("modelmora.io/deployment") for p in pods if "deletionTimestamp" not in p)
    return [name for name in names if of[name] > 1]


def _operators_role(models: Models) -> dict[str, Any]:
    roles = models.kubectl.json("get", "roles", "-n", models.namespace)["items"]
    (role,) = [role for role in roles if "operator" in role["metadata"]["name"]]
    found: dict[str, Any] = _bare(role)
    return found


def _replace(models: Models, role: dict[str, Any]) -> None:
    models.kubectl.must("replace", "-f", "-", objects=role)


def _bare(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {k: v for k, v in item["metadata"].items() if k not in {"resourceVersion", "managedFields", "uid"}}
    return {**item, "metadata": metadata}


def _until(condition: Callable[[], bool], *, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come in {within_s} s"
        time.sleep(0.3)
