"""A router and real worker pods, where the test is the operator: held requests, two routers, a pod that is replaced."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modelmora.control import Key
from modelmora.control.leases import demands_of
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.pods import PodOptions, pod
from modelmora_operator.cluster import WorkerSpec
from modelmora_operator.spec_hash import spec_hash
from tests.support.cluster import Kubectl
from tests.support.days import Door, model
from tests.support.images import Images
from tests.support.router_program import RouterProgram, router_program
from tests.support.servers import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

KUBECONFIG = Path(os.environ.get("KUBECONFIG", ""))  # noqa: TID251 - a test run has no settings class
POD_S = 90.0
START_S = 60.0


class Operator:
    """What an operator would do, one step at a time as the test says."""

    def __init__(self, kubectl: Kubectl, namespace: str, image: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        self.image = image

    def deploy(self, name: str) -> None:
        self.kubectl.must("create", "-f", "-", objects=model(name, self.namespace))

    def wanted(self, lease: str) -> set[Key]:
        answer = self.kubectl("get", "lease", lease, "-n", self.namespace, "-o", "json")
        return set(demands_of(json.loads(answer.out))) if answer.ok else set()

    def until_wanted(self, lease: str, name: str) -> None:
        key = Key(self.namespace, name)
        wait_for(lambda: key in self.wanted(lease), within_s=START_S, what=f"{lease} to want {name}")

    def start(self, name: str, worker_id: str) -> None:
        """The pod of a worker."""
        stored = self.kubectl.json("get", "mmd", name, "-n", self.namespace)
        deployment = ModelDeployment.stored(stored)
        worker = WorkerSpec(worker_id, Key(self.namespace, name), spec_hash(deployment.spec), deployment)
        manifest = pod(worker, PodOptions(image=self.image, now=time.time()))
        self.kubectl.must("create", "-n", self.namespace, "-f", "-", objects=manifest)

    def stop(self, worker_id: str, *more: str) -> None:
        self.kubectl.must("delete", "pod", worker_id, "-n", self.namespace, *more)


@pytest.fixture
def operator(kubectl: Kubectl, namespace: str, images: Images) -> Operator:
    return Operator(kubectl, namespace, images.worker_bare)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def settings(namespace: str, name: str = "router-a") -> dict[str, str]:
    return {
        "ROUTER_NAMESPACE": namespace,
        "ROUTER_NAMESPACES": f'["{namespace}"]',
        "ROUTER_POD_NAME": name,
        "ROUTER_KUBECONFIG": str(KUBECONFIG),
        "ROUTER_LOG_LEVEL": "DEBUG",
    }


def until_ready(*programs: RouterProgram) -> None:
    for program in programs:
        wait_for(program.ready, within_s=START_S, what="the router to be ready")


def ask(callers: ThreadPoolExecutor, program: RouterProgram, operator: Operator, name: str) -> Future[httpx.Response]:
    """A request that is held until somebody answers it."""
    return callers.submit(Door(program.rest).infer, operator.namespace, name)


def answered(request: Future[httpx.Response], program: RouterProgram) -> str:
    """By which worker."""
    answer = request.result(POD_S)
    assert answer.status_code == httpx.codes.OK, f"{answer.text}\n{program.log()}"
    return str(answer.json()["output"]["pod"][0])


@pytest.mark.req("US2-AS3", "REQ-LIFE-009")
def test_a_held_request_is_answered_by_the_pod_that_it_woke(
    operator: Operator, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    operator.deploy("one")
    with router_program(tmp_path, **settings(operator.namespace)) as program:
        until_ready(program)
        assert operator.wanted("router-a") == set()
        requests = [ask(callers, program, operator, "one") for _ in range(3)]
        operator.until_wanted("router-a", "one")
        operator.start("one", "one-w-0")
        assert {answered(request, program) for request in requests} == {"one-w-0"}


def test_a_pod_made_anew_under_its_name_is_another_replica(
    operator: Operator, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    operator.deploy("one")
    with router_program(tmp_path, **settings(operator.namespace)) as program:
        until_ready(program)
        request = ask(callers, program, operator, "one")
        operator.start("one", "one-w-0")
        answered(request, program)
        operator.stop("one-w-0", "--grace-period=0", "--force")
        request = ask(callers, program, operator, "one")
        operator.start("one", "one-w-0")
        answered(request, program)


@pytest.mark.req("REQ-REL-002")
def test_one_of_two_routers_is_killed_and_the_requests_of_the_other_go_on(
    operator: Operator, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    operator.deploy("one")
    with (
        router_program(tmp_path, **settings(operator.namespace, "router-a")) as one,
        router_program(tmp_path, **settings(operator.namespace, "router-b")) as other,
    ):
        until_ready(one, other)
        lost, kept = ask(callers, one, operator, "one"), ask(callers, other, operator, "one")
        operator.until_wanted("router-a", "one")
        operator.until_wanted("router-b", "one")
        one.stop(signal.SIGKILL)
        operator.start("one", "one-w-0")
        assert answered(kept, other) == "one-w-0"
        assert lost.exception(POD_S) is not None
