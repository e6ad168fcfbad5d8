"""The operator before an API server that has bad days: it keeps what it knows, says what is wrong, and comes back."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.api_proxy import ApiProxy, api_proxy
from tests.support.cluster import Kubectl
from tests.support.days import Models
from tests.support.images import Images
from tests.support.operator_process import OperatorProcess, operator_process

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

AWAKE = {"minReplicas": 1}
PATIENCE_S = 60.0


@dataclass
class Scene:
    models: Models
    operator: OperatorProcess
    api: ApiProxy


@pytest.fixture
def scene(kubectl: Kubectl, namespace: str, images: Images, tmp_path: Path) -> Iterator[Scene]:
    kubeconfig = Path(os.environ["KUBECONFIG"])  # noqa: TID251 - a test run has no settings class
    with (
        api_proxy(kubeconfig, tmp_path) as api,
        operator_process(namespace, images.worker_bare, tmp_path, KUBECONFIG=str(api.kubeconfig)) as operator,
    ):
        yield Scene(Models(kubectl, namespace), operator, api)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def says(operator: OperatorProcess, path: str, status: int, words: str = "") -> bool:
    answer = operator.ask(path)
    return answer is not None and answer.status_code == status and words in answer.text


@pytest.mark.req("REQ-REL-002")
def test_an_api_that_is_gone_neither_ends_the_operator_nor_a_worker(scene: Scene) -> None:
    scene.models.apply("kept", scaling=AWAKE)
    scene.models.wait("kept", "Serving")
    before = scene.models.live_pods("kept")
    scene.api.refuse()
    until(lambda: says(scene.operator, "/readyz", 503, "cannot be reached"), "it says so")
    assert says(scene.operator, "/healthz", 200)
    scene.models.apply("meanwhile", scaling=AWAKE)
    scene.api.resume()
    scene.models.wait("meanwhile", "Serving")
    assert scene.models.live_pods("kept") == before
    until(lambda: says(scene.operator, "/readyz", 200), "it is ready again")


def test_a_watch_that_is_too_old_is_begun_anew(scene: Scene) -> None:
    scene.models.apply("before", scaling=AWAKE)
    scene.models.wait("before", "Serving")
    scene.api.inject_gone()
    scene.models.apply("after", scaling=AWAKE)
    scene.models.wait("after", "Serving")


@pytest.mark.req("REQ-DEPLOY-004")
def test_a_missing_right_is_named_and_waited_for(scene: Scene) -> None:
    words = 'User "system:serviceaccount:m:operator" cannot create resource "pods" in API group "" in the namespace "n"'
    scene.api.deny("POST", "/pods", message=f"pods is forbidden: {words}")
    scene.models.apply("refused", scaling=AWAKE)
    told = scene.models.wait("refused", "Forbidden")
    assert "lacks the right to create pods" in told["message"]
    scene.api.allow()
    scene.models.wait("refused", "Serving")


def test_without_a_definition_it_waits_says_what_to_do_and_begins_when_it_comes(scene: Scene) -> None:
    scene.operator.kill()
    scene.api.deny("GET", "/modeldeployments", status=404, message="the server could not find the requested resource")
    scene.operator.begin()
    until(lambda: says(scene.operator, "/readyz", 503, "apply the definitions"), "it says what to do")
    scene.api.allow()
    scene.operator.until_ready()
    scene.models.apply("late", scaling=AWAKE)
    scene.models.wait("late", "Serving")


def test_a_list_that_is_refused_is_told_with_the_right_that_is_missing(scene: Scene) -> None:
    scene.operator.kill()
    words = 'User "system:serviceaccount:m:operator" cannot list resource "pods" in API group "" in the namespace "n"'
    scene.api.deny("GET", "/pods", message=f"pods is forbidden: {words}")
    scene.operator.begin()
    until(lambda: says(scene.operator, "/readyz", 503, "lacks the right to list pods"), "it names the right")
    assert "lacks the right to list pods" in scene.operator.log.read_text()
    scene.api.allow()
    scene.operator.until_ready()
