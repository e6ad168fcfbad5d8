"""The operator on a real cluster, as a process of the test's machine: from apply to delete, and its own death."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Kubectl
from tests.support.days import Models
from tests.support.images import Images
from tests.support.operator_process import OperatorProcess, operator_process

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

AWAKE = {"minReplicas": 1}


@pytest.fixture
def mine(kubectl: Kubectl, namespace: str) -> Models:
    """Models of a namespace that nobody else's operator looks at."""
    return Models(kubectl, namespace)


@pytest.fixture
def operator(mine: Models, images: Images, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator_process(mine.namespace, images.worker_bare, tmp_path) as running:
        yield running


@pytest.mark.req("RM-4.1a", "AC-MVP-6", "REQ-DEPLOY-001")
def test_apply_makes_a_pod_that_serves_and_delete_leaves_none(mine: Models, operator: OperatorProcess) -> None:
    mine.apply("first", scaling=AWAKE)
    mine.wait("first", "Serving")
    status = mine.get("first")["status"]
    [pod] = mine.pods("first")
    assert (status["state"], status["readyOfDesired"], status["node"]) == ("Loaded", "1/1", pod["spec"]["nodeName"])
    assert status["endpoints"] == [f"{pod['status']['podIP']}:9100"]
    assert status["lastLoad"]["kind"] == "Cold"
    assert status["artifact"]["digest"]
    events = mine.run("get", "events", "--field-selector", "involvedObject.name=first", "-o", "name").split()
    assert len(events) == 1
    mine.run("delete", "mmd", "first")
    mine.wait_gone("first")
    assert operator.end() == 0


def test_at_rest_nothing_is_written_and_an_edit_of_scaling_restarts_nothing(
    mine: Models, operator: OperatorProcess
) -> None:
    mine.apply("rests", scaling=AWAKE)
    mine.wait("rests", "Serving")
    before = mine.live_pods("rests")
    mine.apply("rests", scaling={"minReplicas": 1, "scaleDownDelaySeconds": 31})
    _until_observed(mine, "rests")
    _until_at_rest(operator)
    assert mine.live_pods("rests") == before


@pytest.mark.req("REQ-REL-002", "REQ-LIFE-011")
def test_an_operator_killed_while_it_works_converges_after_its_restart(mine: Models, operator: OperatorProcess) -> None:
    names = [f"many-{number}" for number in range(4)]
    for name in names:
        mine.apply(name, scaling=AWAKE, parameters={"loadSeconds": 2})
        operator.kill()
        operator.begin()
    mine.run("delete", "mmd", names[0], "--wait=false")
    operator.kill()
    operator.start()
    for name in names[1:]:
        mine.wait(name, "Serving")
        assert mine.live_pods(name) == [pod["metadata"]["name"] for pod in mine.pods(name)]
        assert len(mine.pods(name)) == 1
    mine.wait_gone(names[0])


@pytest.mark.req("REQ-REL-002")
def test_delete_needs_no_operator(mine: Models, operator: OperatorProcess) -> None:
    mine.apply("orphan", scaling=AWAKE)
    mine.wait("orphan", "Serving")
    operator.kill()
    mine.run("delete", "mmd", "orphan", "--timeout=10s")
    mine.wait_gone("orphan")


@pytest.mark.req("REQ-LIFE-009")
def test_a_wrong_source_is_told_before_anybody_asks(mine: Models, operator: OperatorProcess) -> None:
    mine.apply("lost", model={"source": {"uri": "file:///mnt/nothing/here"}})
    told = mine.wait("lost", "SourceNotFound")
    assert told["status"] == "False"
    assert "/mnt/nothing/here" in told["message"]
    assert mine.condition("lost", "ModelAvailable")["status"] == "False"


def test_a_changed_spec_keeps_the_old_pod_until_the_new_one_serves(mine: Models, operator: OperatorProcess) -> None:
    mine.apply("rolled", scaling=AWAKE)
    mine.wait("rolled", "Serving")
    [old] = mine.live_pods("rolled")
    mine.apply("rolled", scaling=AWAKE, parameters={"loadSeconds": 8})
    _until_observed(mine, "rolled")
    assert old in mine.live_pods("rolled")
    mine.wait("rolled", "Serving")
    mine.run("wait", "--for=delete", f"pod/{old}", "--timeout=60s")
    assert len(mine.live_pods("rolled")) == 1


def test_a_quota_is_told_in_the_servers_words_and_heals(mine: Models, operator: OperatorProcess) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    mine.run("apply", "-f", "-", objects=quota)
    mine.apply("poor", scaling=AWAKE)
    told = mine.wait("poor", "QuotaExceeded")
    assert "exceeded quota: none" in told["message"]
    mine.run("delete", "quota", "none")
    mine.wait("poor", "Serving")


def _until_at_rest(operator: OperatorProcess, rest_s: float = 10) -> None:
    """It has written nothing for a while: Events are written when there is time, and a worker grows a little at first.

    Fails if it goes on writing.
    """
    writes, since, end = operator.writes(), time.monotonic(), time.monotonic() + 90
    while time.monotonic() - since < rest_s:
        assert time.monotonic() < end, "it goes on writing"
        time.sleep(0.2)
        if (now := operator.writes()) != writes:
            writes, since = now, time.monotonic()


def _until_observed(mine: Models, name: str) -> None:
    """The operator has seen the present generation."""
    generation = mine.get(name)["metadata"]["generation"]
    mine.run("wait", f"--for=jsonpath={{.status.observedGeneration}}={generation}", f"mmd/{name}", "--timeout=30s")
