"""The life of a model on a cluster: from nothing to an answer, back to zero, through edits, and gone."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.days import Door, Models
from tests.support.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

AWAKE = {"minReplicas": 1}


@pytest.mark.req("REQ-DEPLOY-002", "AC-PROD-5")
def test_a_model_proves_itself_sleeps_wakes_for_a_request_and_sleeps_again(models: Models, front: Door) -> None:
    models.apply("sleeper", scaling={"scaleToZeroAfterSeconds": 3})
    models.wait("sleeper", "ScaledToZero")
    models.wait_gone("sleeper")
    status = models.get("sleeper")["status"]
    assert (status["state"], status["replicas"], status["readyOfDesired"]) == ("Standby", 0, "0/0")
    assert len(status["artifact"]["digest"].removeprefix("sha256:")) == 64
    answer = front.infer(models.namespace, "sleeper")
    assert answer.status_code == 200, answer.text
    models.wait("sleeper", "Serving")
    models.wait("sleeper", "ScaledToZero")
    models.wait_gone("sleeper")
    assert models.condition("sleeper")["status"] == "True"


def test_one_wake_for_any_number_of_callers_of_two_routers(
    models: Models,
    installation: Installation,
) -> None:
    models.apply("crowd", scaling={"initialReplicas": 0, "maxReplicas": 1})
    models.wait("crowd", "Unverified")
    one, two = installation.router_pods()
    with (
        installation.door(f"pod/{one}") as first,
        installation.door(f"pod/{two}") as second,
        ThreadPoolExecutor(20) as pool,
    ):
        doors = [first, second] * 10
        answers = list(pool.map(lambda door: door.infer(models.namespace, "crowd"), doors))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({answer.json()["output"]["pod"][0] for answer in answers}) == 1
    assert len(models.pods("crowd")) == 1


def test_an_edit_of_a_scaling_number_restarts_nothing(models: Models) -> None:
    models.apply("scaled", scaling=AWAKE)
    models.wait("scaled", "Serving")
    (before,) = models.pods("scaled")
    models.apply("scaled", scaling=AWAKE | {"scaleToZeroAfterSeconds": 77, "maxReplicas": 3})
    models.run("wait", "--for=jsonpath={.status.observedGeneration}=2", "mmd/scaled", "--timeout=60s")
    (after,) = models.pods("scaled")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert models.condition("scaled")["reason"] == "Serving"


def test_kubectl_scale_adds_and_takes_away_replicas(models: Models) -> None:
    models.apply("wide", scaling={"minReplicas": 1, "maxReplicas": 3, "scaleDownDelaySeconds": 1})
    models.wait("wide", "Serving")
    models.run("scale", "mmd/wide", "--replicas=2")
    models.run("wait", "--for=jsonpath={.status.readyReplicas}=2", "mmd/wide", "--timeout=90s")
    assert len(models.live_pods("wide")) == 2
    models.run("scale", "mmd/wide", "--replicas=1")
    models.run("wait", "--for=jsonpath={.status.replicas}=1", "mmd/wide", "--timeout=90s")


def test_an_autoscaler_drives_the_floor(models: Models) -> None:
    models.apply("auto", scaling={"minReplicas": 1, "maxReplicas": 3})
    models.wait("auto", "Serving")
    models.run("autoscale", "mmd/auto", "--min=2", "--max=3", "--cpu=50%")
    try:
        models.run("wait", "--for=jsonpath={.spec.scaling.minReplicas}=2", "mmd/auto", "--timeout=90s")
        models.run("wait", "--for=jsonpath={.status.readyReplicas}=2", "mmd/auto", "--timeout=90s")
    finally:
        models.run("delete", "hpa", "auto")


def test_a_rollout_keeps_the_old_pod_until_the_new_one_has_proved_itself(models: Models, front: Door) -> None:
    models.apply("rolled", scaling=AWAKE)
    models.wait("rolled", "Serving")
    (old,) = models.live_pods("rolled")
    models.apply("rolled", scaling=AWAKE, parameters={"testFails": "not this one"})
    models.wait("rolled", "HealthInferenceFailed")
    assert old in models.live_pods("rolled")
    assert front.infer(models.namespace, "rolled").status_code == 200
    models.apply("rolled", scaling=AWAKE, parameters={"loadSeconds": 1})
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(_ask_until_serving, models, front, "rolled")
        models.wait("rolled", "Serving")
        _until(lambda: len(models.pods("rolled")) == 1)
        codes = asking.result()
    assert set(codes) == {200}
    assert models.live_pods("rolled") != [old]


def test_a_deployment_that_is_deleted_leaves_nothing(models: Models) -> None:
    models.apply("gone", scaling=AWAKE)
    models.wait("gone", "Serving")
    models.run("delete", "mmd", "gone", "--timeout=30s")
    models.wait_gone("gone")
    left = models.run("get", "pods,configmaps,secrets,leases", "-l", "modelmora.io/deployment=gone", "-o", "name")
    assert left == ""


def test_suspend_stops_the_pods_and_refuses_in_words(models: Models, front: Door) -> None:
    models.apply("tired", scaling=AWAKE)
    models.wait("tired", "Serving")
    models.apply("tired", scaling=AWAKE, suspend=True)
    models.wait("tired", "Suspended")
    models.wait_gone("tired")
    answer = front.infer(models.namespace, "tired", timeout_s=5)
    assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_SUSPENDED")


def test_the_table_tells_the_truth(models: Models) -> None:
    models.apply("shown", scaling=AWAKE)
    models.wait("shown", "Serving")
    header, row = (line.split() for line in models.run("get", "mmd", "shown").splitlines())
    shown = dict(zip(header, row, strict=False))
    assert shown["READY"] == "True"
    assert shown["REASON"] == "Serving"
    assert shown["REPLICAS"] == "1/1"
    wide = models.run("get", "mmd", "shown", "-o", "wide")
    (pod,) = models.pods("shown")
    assert pod["spec"]["nodeName"] in wide
    models.run("wait", "--for=condition=Ready", "mmd/shown", "--timeout=10s")


def test_a_person_hears_of_it_by_events(models: Models) -> None:
    models.apply("told", parameters={"loadFails": "the weights are from Mars"})
    models.wait("told", "LoadFailed")
    _until(lambda: "LoadFailed" in models.run("describe", "mmd", "told").partition("Events:")[2])
    assert "the weights are from Mars" in models.run("describe", "mmd", "told").partition("Events:")[2]


def test_worker_pods_are_secure(models: Models) -> None:
    models.apply("secure", scaling=AWAKE)
    models.wait("secure", "Serving")
    (pod,) = models.pods("secure")
    spec: dict[str, Any] = pod["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    code = "import os, pathlib; print(os.getuid(), pathlib.Path('/var/run/secrets/kubernetes.io').exists())"
    said = models.run("exec", pod["metadata"]["name"], "-c", "worker", "--", "python", "-c", code)
    uid, token = said.split()
    assert int(uid) > 0
    assert token == "False"
    refused = models.kubectl("exec", "-n", models.namespace, pod["metadata"]["name"], "--", "touch", "/probe")
    assert not refused.ok
    assert "Read-only file system" in refused.err


def test_a_pod_template_is_a_strategic_patch(models: Models) -> None:
    patch = {
        "metadata": {"labels": {"team": "red"}},
        "spec": {"containers": [{"name": "worker", "env": [{"name": "ADDED", "value": "yes"}]}], "priority": None},
    }
    models.apply("patched", scaling=AWAKE, podTemplate=patch)
    models.wait("patched", "Serving")
    (pod,) = models.pods("patched")
    assert pod["metadata"]["labels"]["team"] == "red"
    (container,) = pod["spec"]["containers"]
    assert {"name": "ADDED", "value": "yes"} in container["env"]
    assert container["readinessProbe"]


def test_a_template_that_kubernetes_refuses_is_told(models: Models) -> None:
    models.apply("refused", podTemplate={"spec": {"restartPolicy": "Sometimes"}})
    told = models.wait("refused", "PodRejected")
    assert "Sometimes" in told["message"]


def _ask_until_serving(models: Models, front: Door, name: str) -> list[int]:
    codes: list[int] = []
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (codes and models.condition(name)["reason"] == "Serving"):
        codes.append(front.infer(models.namespace, name).status_code)
    return codes


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come in a minute"
        time.sleep(0.3)
