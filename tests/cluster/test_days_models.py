"""Bad days of one model: each is told in words, heals without a hand, and disturbs nobody else."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.days import Door, Models
from tests.support.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

AWAKE = {"minReplicas": 1}


def test_an_image_that_does_not_exist_is_named_and_an_edit_heals_it(models: Models) -> None:
    models.apply("picture", runtime={"image": "localhost/no-such-image:1"})
    told = models.wait("picture", "ImagePullFailed")
    assert told["status"] == "False"
    assert "localhost/no-such-image:1" in told["message"]
    models.apply("picture")
    models.wait("picture", "Serving")


def test_memory_that_no_node_has_is_told_and_an_edit_heals_it(models: Models) -> None:
    models.apply("giant", resources={"requests": {"memory": "900Ti"}})
    told = models.wait("giant", "Unschedulable")
    assert told["status"] == "False"
    assert "memory" in told["message"]
    assert models.condition("giant", "Scheduled")["status"] == "False"
    models.apply("giant")
    models.wait("giant", "Serving")


def test_a_missing_folder_is_told_before_anybody_asks(models: Models) -> None:
    models.apply("lost", model={"source": {"uri": "file:///mnt/nothing/here"}})
    told = models.wait("lost", "SourceNotFound")
    assert told["status"] == "False"
    assert "/mnt/nothing/here" in told["message"]
    assert models.condition("lost", "ModelAvailable")["status"] == "False"


@pytest.mark.req("REQ-REL-002", "REQ-LIFE-011")
@pytest.mark.parametrize(
    ("parameters", "reason", "words"),
    [
        ({"loadFails": "the weights are from Mars"}, "LoadFailed", "the weights are from Mars"),
        ({"loadExits": 7}, "WorkerCrashed", "7"),
    ],
)
def test_an_engine_that_fails_at_its_load_is_told(
    models: Models,
    parameters: dict[str, object],
    reason: str,
    words: str,
) -> None:
    models.apply("loads", parameters=parameters)
    told = models.wait("loads", reason)
    assert told["status"] == "False"
    assert words in told["message"]
    assert models.get("loads")["status"]["lastFailure"]["reason"] == reason
    models.apply("loads")
    models.wait("loads", "Serving")


def test_an_engine_that_cannot_be_imported_is_told(models: Models) -> None:
    files = [{"path": "broken_engine.py", "content": "import a_package_that_nobody_has\n"}]
    models.apply("import", runtime={"engine": "python:broken_engine:Engine", "files": files})
    told = models.wait("import", "MissingDependency")
    assert "a_package_that_nobody_has" in told["message"]
    assert models.condition("import", "Stalled")["status"] == "True"


@pytest.mark.req("REQ-LIFE-009", "REQ-LIFE-010")
def test_a_model_whose_first_inference_fails_is_never_ready(models: Models, front: Door) -> None:
    models.apply("test", parameters={"testFails": "the answer is not 42"})
    told = models.wait("test", "HealthInferenceFailed")
    assert "the answer is not 42" in told["message"]
    answer = front.infer(models.namespace, "test", timeout_s=20)
    assert answer.status_code == 503
    assert answer.json()["code"] == "MODEL_UNHEALTHY"


def test_an_engine_that_dies_after_a_while_serves_again(models: Models, front: Door) -> None:
    models.apply("mortal", parameters={"exitAfterSeconds": 10}, scaling=AWAKE)
    models.wait("mortal", "Serving")
    assert _last_failure(models, "mortal")["exitCode"] == 41
    models.wait("mortal", "Serving")
    assert front.infer(models.namespace, "mortal").status_code == 200


def test_an_oom_kill_is_told_by_its_name(models: Models) -> None:
    limits = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "200Mi"}}
    models.apply("hungry", parameters={"loadBytes": 2_000_000_000}, resources=limits)
    told = models.wait("hungry", "OOMKilled")
    assert told["status"] == "False"
    assert "memory" in told["message"]


def test_a_worker_that_is_never_ready_is_given_up_and_replaced(models: Models) -> None:
    models.apply("slow", parameters={"loadSeconds": 3600}, rollout={"progressDeadlineSeconds": 10})
    told = models.wait("slow", "ProgressDeadlineExceeded")
    assert told["status"] == "False"
    assert models.condition("slow", "Stalled")["status"] == "True"
    models.apply("slow", rollout={"progressDeadlineSeconds": 10})
    models.wait("slow", "Serving")


def test_a_deleted_pod_is_replaced_and_requests_wait_for_the_next(models: Models, front: Door) -> None:
    models.apply("deleted", scaling=AWAKE)
    models.wait("deleted", "Serving")
    (pod,) = models.live_pods("deleted")
    models.run("delete", "pod", pod, "--wait=false")
    answer = front.infer(models.namespace, "deleted")
    assert answer.status_code == 200, answer.text
    assert models.live_pods("deleted") != [pod]


@pytest.mark.req("US2-AS3", "EDGE-3", "FR-009")
def test_a_killed_worker_process_fails_its_request_in_words_and_serves_again(
    models: Models,
    front: Door,
) -> None:
    models.apply("killed", scaling=AWAKE)
    models.wait("killed", "Serving")
    with ThreadPoolExecutor(1) as pool:
        failure = pool.submit(_last_failure, models, "killed")
        answer = front.infer(models.namespace, "killed", exit=9)
        assert answer.status_code == 503
        assert answer.json()["code"] == "WORKER_UNAVAILABLE"
        assert "killed" in answer.json()["detail"]
        again = front.infer(models.namespace, "killed")
        assert again.status_code == 200, again.text
        assert failure.result()["exitCode"] == 9


def test_five_edits_in_a_second_end_with_the_last_and_one_pod(models: Models, front: Door) -> None:
    models.apply("edited", scaling=AWAKE)
    models.wait("edited", "Serving")
    for number in range(5):
        models.apply("edited", scaling=AWAKE, runtime={"env": [{"name": "EDIT", "value": str(number)}]})
    models.run("wait", "--for=condition=Ready=True", "mmd/edited", "--timeout=90s")
    _settled(models, "edited", pods=1)
    (pod,) = models.pods("edited")
    variables = {v["name"]: v.get("value") for v in pod["spec"]["containers"][0]["env"]}
    assert variables["EDIT"] == "4"
    assert front.infer(models.namespace, "edited").status_code == 200


def test_of_two_with_one_identity_the_older_serves_and_the_younger_takes_over(models: Models) -> None:
    models.apply("older", model={"id": "twins"}, scaling=AWAKE)
    models.wait("older", "Serving")
    time.sleep(1.1)  # creation times have whole seconds
    models.apply("younger", model={"id": "twins"}, scaling=AWAKE)
    told = models.wait("younger", "DuplicateVersion")
    assert "older" in told["message"]
    assert models.condition("younger", "Stalled")["status"] == "True"
    assert models.pods("younger") == []
    assert models.condition("older")["reason"] == "Serving"
    models.run("delete", "mmd", "older")
    models.wait("younger", "Serving")


@pytest.mark.parametrize(
    "label", ["modelmora.io/deployment-", "modelmora.io/spec-hash=wrong", "modelmora.io/component-"]
)
def test_a_pod_that_was_edited_by_hand_is_mended_or_replaced(models: Models, front: Door, label: str) -> None:
    models.apply("handmade", scaling=AWAKE)
    models.wait("handmade", "Serving")
    (pod,) = models.live_pods("handmade")
    models.run("label", "pod", pod, label, "--overwrite")
    _settled(models, "handmade", pods=1)
    assert front.infer(models.namespace, "handmade").status_code == 200


def test_a_neighbour_is_not_disturbed(models: Models, front: Door) -> None:
    models.apply("good", scaling=AWAKE)
    models.wait("good", "Serving")
    pod = models.live_pods("good")
    models.apply("bad", parameters={"loadExits": 3}, scaling=AWAKE)
    models.wait("bad", "WorkerCrashed")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: front.infer(models.namespace, "good").status_code, range(40)))
    assert answers == [200] * 40
    assert models.live_pods("good") == pod


def test_a_deleted_namespace_takes_everything_along(installation: Installation, models: Models) -> None:
    doomed = Models(installation.kubectl, "days-doomed")
    doomed.apply("doomed", scaling=AWAKE)
    doomed.wait("doomed", "Serving")
    installation.kubectl.must("delete", "namespace", "days-doomed", "--timeout=90s")
    models.apply("after", scaling=AWAKE)
    models.wait("after", "Serving")


def _last_failure(models: Models, name: str) -> dict[str, Any]:
    """As it was when it was a crash; the next good load takes it out of the status."""
    crash = "--for=jsonpath={.status.lastFailure.reason}=WorkerCrashed"
    seen = json.loads(models.run("wait", crash, f"mmd/{name}", "--timeout=60s", "-o", "json"))
    failure: dict[str, Any] = seen["status"]["lastFailure"]
    return failure


def _settled(models: Models, name: str, *, pods: int) -> None:
    """So many pods are left, whatever their labels, and they are found and serve."""
    deadline = time.monotonic() + 60
    while True:
        status = models.get(name).get("status", {})
        every = models.kubectl.json("get", "pods", "-n", models.namespace)["items"]
        left = sorted(one["metadata"]["name"] for one in every if one["metadata"]["name"].startswith(f"{name}-"))
        if len(left) == pods and left == models.live_pods(name) and status.get("readyReplicas") == pods:
            return
        assert time.monotonic() < deadline, f"{left}, {status}"
        time.sleep(0.5)
