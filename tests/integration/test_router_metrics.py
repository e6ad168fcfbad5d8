"""What a real router shows at /metrics while it works."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from modelmora.spec import Priority
from tests.support.fake_worker import FakeWorker
from tests.support.routing import Router, deployment, running_router

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with running_router(deployment("one"), deployment("two")) as router:
        yield router


async def shown(router: Router, name: str, label: str = "model") -> dict[str, float]:
    """The values of the samples of a name, added up by a label."""
    families = plain((await router.http.get("/metrics")).text)
    values: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == f"modelmora_{name}":
            key = sample.labels.get(label, "")
            values[key] = values.get(key, 0) + sample.value
    return values


async def until(router: Router, name: str, wanted: dict[str, float], label: str = "model") -> None:
    async with asyncio.timeout(30):
        while True:
            if {key: value for key, value in (await shown(router, name, label)).items() if value} == wanted:
                return
            await asyncio.sleep(0.01)


def infer(router: Router, model: str = "one", **body: Any) -> "asyncio.Task[httpx.Response]":
    asked = router.http.post(f"/api/v1/infer/{model}", json={"input": {"text": "a"}, **body})
    return asyncio.create_task(asked, name=f"request for {model}")


@pytest.mark.req("REQ-OBS-001c", "RM-2.6d")
async def test_four_levels_that_wait_are_four_depths(router: Router, worker: FakeWorker) -> None:
    asked = [infer(router, priority=level.name) for level in Priority for _ in range(level)]
    await until(router, "queue_depth", {level.name: float(level) for level in Priority}, "priority")
    router.work(worker)
    assert {(await each).status_code for each in asked} == {200}
    await until(router, "queue_depth", {}, "priority")


@pytest.mark.req("REQ-OBS-001d", "REQ-OBS-001e", "RM-2.6b")
async def test_a_worker_that_comes_and_goes_is_a_load_and_an_unload(router: Router, worker: FakeWorker) -> None:
    assert (await infer(router, "none")).status_code == 404
    router.work(worker)
    await until(router, "model_loads_total", {"one": 1})
    assert await shown(router, "active_models") == {"": 1}
    router.work()
    await until(router, "model_unloads_total", {"one": 1})
    assert await shown(router, "active_models") == {"": 0}


async def test_no_caller_can_make_a_label(router: Router) -> None:
    for model in ("invented", "one@9.9.9", "o" * 100):
        assert (await infer(router, model)).status_code == 404
    assert (await router.http.post("/api/v1/infer/one", content=b"{")).status_code == 400
    text = (await router.http.get("/metrics")).text
    assert "invented" not in text
    assert "9.9.9" not in text
    assert "ooo" not in text
    assert await shown(router, "requests_total", "code") == {"MODEL_NOT_FOUND": 3, "MALFORMED_REQUEST": 1}


async def test_a_model_that_is_deleted_leaves_no_series(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    assert (await infer(router)).status_code == 200
    assert set(await shown(router, "requests_total")) == {"one"}
    router.deploy(deployment("two"))
    await until(router, "replicas_serving", {})
    text = (await router.http.get("/metrics")).text
    assert 'model="one"' not in text
    assert 'model="two"' in text, "its state is known"


@pytest.mark.req("REQ-OBS-004")
async def test_who_asks_for_openmetrics_gets_the_traces_too(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    await router.http.post("/api/v1/infer/one", json={"input": {"text": "a"}}, headers=headers)
    answer = await router.http.get("/metrics", headers={"accept": OPENMETRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    samples = [sample for family in openmetrics(answer.text) for sample in family.samples]
    assert {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar} == {trace}


async def test_many_scrapes_at_once_are_each_answered(router: Router) -> None:
    answers = await asyncio.gather(*(router.http.get("/metrics") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
