"""Under load of two routers a model goes from zero to as many replicas as it may have, and back to zero; a canary."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from modelmora.spec import API_VERSION
from tests.support.days import Door, Models
from tests.support.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@contextmanager
def load(models: Models, name: str, doors: list[Door], *, callers: int) -> Iterator[Counter[int]]:
    """Callers that ask again and again until the block ends; their answers by status code."""
    codes: Counter[int] = Counter()
    ended, lock = threading.Event(), threading.Lock()

    def ask(door: Door) -> None:
        while not ended.is_set():
            answer = door.infer(models.namespace, name, sleep=0.2)
            with lock:
                codes[answer.status_code] += 1

    with ThreadPoolExecutor(callers) as pool:
        asking = [pool.submit(ask, doors[number % len(doors)]) for number in range(callers)]
        try:
            yield codes
        finally:
            ended.set()
        for each in asking:
            each.result()


@pytest.mark.req("RM-2.2g", "REQ-SCALE-003", "REQ-QUEUE-008")
def test_replicas_follow_the_load_of_two_routers_from_zero_up_and_back_to_zero(
    models: Models, installation: Installation
) -> None:
    scaling = {
        "initialReplicas": 0,
        "maxReplicas": 3,
        "targetConcurrency": 2,
        "scaleDownDelaySeconds": 2,
        "scaleToZeroAfterSeconds": 4,
    }
    models.apply("elastic", scaling=scaling, batching={"maxSize": 1})
    models.wait("elastic", "Unverified")
    one, two = installation.router_pods()
    with installation.door(f"pod/{one}") as first, installation.door(f"pod/{two}") as second:
        with load(models, "elastic", [first, second], callers=1):
            models.run("wait", "--for=jsonpath={.status.readyReplicas}=1", "mmd/elastic", "--timeout=60s")
        # Each router alone asks for two: only their sum needs the third.
        with load(models, "elastic", [first, second], callers=8) as codes:
            models.run("wait", "--for=jsonpath={.status.readyReplicas}=3", "mmd/elastic", "--timeout=90s")
            assert len(models.live_pods("elastic")) == 3
        assert set(codes) == {200}
    models.wait("elastic", "ScaledToZero")
    models.wait_gone("elastic")


@pytest.mark.req("RM-4.3b")
def test_a_canary_is_one_edit_and_its_effective_weights_are_told(models: Models, front: Door) -> None:
    for name, version in (("stable", "1.0.0"), ("canary", "1.1.0")):
        models.apply(name, model={"id": "routed", "version": version}, scaling={"minReplicas": 1})
    for name in ("stable", "canary"):
        models.wait(name, "Serving")
    models.run("apply", "--server-side", "-f", "-", objects=route(stable=100, canary=0))
    models.run("wait", "--for=condition=Ready=True", "mmr/routed", "--timeout=30s")
    assert split(models, front, 6) == {"stable": 6}
    models.run("apply", "--server-side", "-f", "-", objects=route(stable=50, canary=50))
    models.run("wait", "--for=jsonpath={.status.observedGeneration}=2", "mmr/routed", "--timeout=30s")
    assert split(models, front, 10) == {"stable": 5, "canary": 5}
    models.run("delete", "mmd", "canary")
    models.run("wait", "--for=jsonpath={.status.backends[1].weight}=0", "mmr/routed", "--timeout=30s")
    assert split(models, front, 4) == {"stable": 4}


def route(**weights: int) -> dict[str, object]:
    """A ModelRoute of these backends."""
    backends = [{"name": name, "weight": weight} for name, weight in weights.items()]
    spec = {"modelId": "routed", "backends": backends}
    return {"apiVersion": API_VERSION, "kind": "ModelRoute", "metadata": {"name": "routed"}, "spec": spec}


def split(models: Models, front: Door, requests: int) -> Counter[str]:
    """Who answered, by the name of the deployment."""
    answers = [front.infer(models.namespace, "routed") for _ in range(requests)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.json()["output"]["pod"][0].rsplit("-", 2)[0] for answer in answers)
