"""Under load of two routers a model goes from zero to as many replicas as it may have, and back to zero; canaries."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from modelmora.spec import API_VERSION
from tests.support.days import Door, Models
from tests.support.installation import Installation
from tests.support.servers import wait_for

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


@pytest.mark.req("RM-4.3b")
def test_a_canary_that_fails_gets_nothing_from_any_router_until_the_route_is_edited(
    models: Models, installation: Installation
) -> None:
    for name, version, parameters in (("stable", "1.0.0", None), ("canary", "1.1.0", {"failsFor": "hello"})):
        models.apply(
            name, model={"id": "routed", "version": version}, parameters=parameters, scaling={"minReplicas": 1}
        )
    for name in ("stable", "canary"):
        models.wait(name, "Serving")
    rollback = {"errorPercent": 50, "minRequests": 4}
    models.run("apply", "--server-side", "-f", "-", objects=route(rollback, stable=50, canary=50))
    models.run("wait", "--for=condition=Ready=True", "mmr/routed", "--timeout=30s")
    one, two = installation.router_pods()
    with installation.door(f"pod/{one}") as first, installation.door(f"pod/{two}") as second:
        assert status_codes(models, first, 20)[500] >= 4
        models.run("wait", "--for=condition=Stalled=True", "mmr/routed", "--timeout=10s")
        status = json.loads(models.run("get", "mmr", "routed", "-o", "json"))["status"]
        assert [(one["name"], one["generation"]) for one in status["rolledBack"]] == [("canary", 1)]
        assert [backend["weight"] for backend in status["backends"]] == [50, 0]
        assert status_codes(models, first, 6) == {200: 6}
        wait_for(lambda: status_codes(models, second, 6) == {200: 6}, within_s=10, what="the other router to follow")
        event = wait_for(lambda: events(models, "RolledBack"), within_s=10, what="an event")
        assert [one["involvedObject"]["kind"] for one in event] == ["ModelRoute"]
        assert "requests of 60 s failed (InferenceFailed)" in event[0]["message"]
        models.run("apply", "--server-side", "-f", "-", objects=route(rollback, stable=60, canary=40))
        wait_for(lambda: status_codes(models, second, 1) == {500: 1}, within_s=30, what="requests for the canary again")


def events(models: Models, reason: str) -> list[dict[str, Any]]:
    """Those of this reason, so far."""
    found = json.loads(models.run("get", "events", f"--field-selector=reason={reason}", "-o", "json"))
    items: list[dict[str, Any]] = found["items"]
    return items


def status_codes(models: Models, door: Door, requests: int) -> Counter[int]:
    """How many answers there were of each status code."""
    return Counter(door.infer(models.namespace, "routed").status_code for _ in range(requests))


def route(rollback: dict[str, int] | None = None, **weights: int) -> dict[str, object]:
    """A ModelRoute of these backends."""
    backends = [{"name": name, "weight": weight} for name, weight in weights.items()]
    spec = {"modelId": "routed", "backends": backends} | ({"rollback": rollback} if rollback else {})
    return {"apiVersion": API_VERSION, "kind": "ModelRoute", "metadata": {"name": "routed"}, "spec": spec}


def split(models: Models, front: Door, requests: int) -> Counter[str]:
    """Who answered, by the name of the deployment."""
    answers = [front.infer(models.namespace, "routed") for _ in range(requests)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.json()["output"]["pod"][0].rsplit("-", 2)[0] for answer in answers)
