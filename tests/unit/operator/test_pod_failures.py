"""Why a pod does not serve, in words."""

import json

import pytest

from modelmora_operator.backends.pod_failures import exit_code, failure_of, lacks_room
from modelmora_operator.cluster import Failure
from tests.support.operator_pods import IMAGE, Object, pod, running, terminated, unscheduled, waiting
from tests.support.operator_values import NOW


def failure(of: Object) -> Failure:
    found = failure_of(of)
    assert found is not None
    return found


def test_a_pod_that_starts_or_runs_has_not_failed() -> None:
    for state in ({}, waiting("ContainerCreating"), waiting("PodInitializing"), running()):
        assert failure_of(pod(state=state)) is None


def test_the_scheduler_is_quoted() -> None:
    found = failure(unscheduled("0/2 nodes are available: 2 Insufficient memory. preemption: 0/2 nodes are available."))
    assert (found.where, found.reason) == ("schedule", "Unschedulable")
    assert found.message == "no node takes the pod: 2 Insufficient memory"
    assert "requests" in found.remedy


PULLED = 'failed to pull and unpack image "x/y:1": not found'


@pytest.mark.parametrize(
    "state",
    [
        waiting("ErrImagePull", PULLED),
        waiting("ImagePullBackOff", f'Back-off pulling image "x/y:1": ErrImagePull: {PULLED}'),
    ],
    ids=["pull", "back-off"],
)
def test_one_image_that_cannot_be_pulled_is_one_failure(state: Object) -> None:
    found = failure(pod(state=state))
    assert found.reason == "ImagePullFailed"
    assert found.message == f"the image {IMAGE} of the container worker cannot be had: {PULLED}"


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_can_never_be_pulled_is_the_same_failure(reason: str) -> None:
    assert failure(pod(state=waiting(reason, "why"))).reason == "ImagePullFailed"


def test_what_a_container_refers_to_and_how_it_is_started() -> None:
    config = failure(pod(state=waiting("CreateContainerConfigError", 'secret "hub" not found')))
    assert (config.reason, config.where) == ("CreateContainerConfigError", "spawn")
    assert 'secret "hub" not found' in config.message
    created = failure(pod(state=waiting("CreateContainerError", "no such file")))
    run = failure(pod(state=waiting("RunContainerError", "no such file")))
    assert created == run
    looping = terminated(128, reason="StartError", message="no such file")
    again = failure(pod(state=waiting("CrashLoopBackOff"), last=looping))
    assert (again.reason, again.message) == (created.reason, created.message)


@pytest.mark.req("REQ-LIFE-009")
def test_a_worker_is_believed_about_its_own_end() -> None:
    words = json.dumps({"reason": "ChecksumMismatch", "message": "weights differ", "remedy": "m", "where": "fetch"})
    found = failure(pod(state=waiting("CrashLoopBackOff"), last=terminated(1, message=words)))
    assert (found.where, found.reason, found.message, found.exit_code) == (
        "fetch",
        "ChecksumMismatch",
        "weights differ",
        1,
    )
    assert found.reported


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (terminated(7), 7, "exit code 7"),
        (terminated(137), -9, "SIGKILL"),
        (terminated(139), -11, "SIGSEGV"),
        (terminated(0, reason="Completed"), 0, "exit code 0"),
        (terminated(3, message="no JSON"), 3, "exit code 3"),
    ],
)
def test_an_end_without_a_word_is_told_by_how_it_ended(end: Object, code: int, words: str) -> None:
    found = failure(pod(state=end))
    assert (found.reason, found.exit_code, found.reported) == ("WorkerCrashed", code, False)
    assert words in found.message


def test_out_of_memory_names_the_limit() -> None:
    containers = [{"name": "worker", "resources": {"limits": {"memory": "200Mi"}}}]
    found = failure(pod(state=terminated(137, reason="OOMKilled"), spec={"containers": containers}))
    assert (found.reason, found.remedy) == ("OOMKilled", "raise spec.resources.limits.memory")
    assert "200Mi" in found.message


def test_a_crash_while_it_served_and_one_before_that_are_told_apart() -> None:
    end = terminated(7, started=NOW + 1, finished=NOW + 50)
    assert failure(pod(state=end, turned=NOW + 50)).where == "serve"
    assert failure(pod(state=end, turned=NOW)).where == "spawn"


def test_containers_beside_the_worker_fail_it_too() -> None:
    beside = [{"name": "proxy", "state": waiting("CrashLoopBackOff"), "lastState": terminated(2)}]
    found = failure(pod(state=running(), beside=beside))
    assert found.reason == "SidecarFailed"
    assert "proxy" in found.message
    no_image = [{"name": "proxy", "image": "p:1", "state": waiting("ErrImagePull", "why")}]
    assert "p:1" in failure(pod(state=running(), beside=no_image)).message


def test_an_init_container_that_did_its_work_is_no_failure() -> None:
    first = {"initContainers": [{"name": "prepare"}], "containers": [{"name": "worker"}]}
    done = pod(
        state=running(), spec=first, status={"initContainerStatuses": [{"name": "prepare", "state": terminated(0)}]}
    )
    assert failure_of(done) is None
    failed = pod(spec=first, status={"initContainerStatuses": [{"name": "prepare", "state": terminated(4)}]})
    assert "prepare" in failure(failed).message


@pytest.mark.parametrize(
    ("message", "lacking"),
    [
        ("0/1 nodes are available: 1 Insufficient memory.", True),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/2 nodes are: …",
            True,
        ),
        ("0/1 nodes are available: 1 Too many pods.", True),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node-role.kubernetes.io/x}.",
            True,
        ),
        ("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.", False),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", False),
        ("something that a later scheduler says", False),
    ],
)
def test_room_is_lacking_only_if_nothing_else_is(message: str, lacking: bool) -> None:
    assert lacks_room(unscheduled(message)) is lacking


def test_an_exit_code_of_a_shell_is_a_signal_and_others_are_not() -> None:
    assert [exit_code({"exitCode": code}) for code in (0, 1, 128, 143, 255)] == [0, 1, 128, -15, 255]
    assert exit_code({"exitCode": 137, "signal": 9}) == -9
