"""A request through a real router to a worker on a socket and back, over REST and over gRPC."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from modelmora.wire.values import from_values
from tests.support.entries import request_of
from tests.support.fake_worker import FakeWorker
from tests.support.routing import Router, deployment, request, running_router


@pytest.fixture
async def router(worker: FakeWorker) -> AsyncIterator[Router]:
    async with running_router(deployment(model={"id": "org/one"})) as router:
        router.work(worker)
        yield router


@pytest.mark.req("API-REST-08", "REQ-INFER-005", "REQ-INFER-006", "RM-1.MVP-4")
async def test_rest_answers_with_output_and_timing(router: Router) -> None:
    answer = await router.http.post("/api/v1/infer/org/one", json={"input": {"text": ["a", "bcd"]}, "priority": "HIGH"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["output"] == {"text": ["a", "bcd"], "embeddings": [[1.0], [3.0]]}
    assert (body["modelId"], body["version"]) == ("org/one", "1.0.0")
    assert body["timing"]["inferenceMs"] == 1.5
    assert body["timing"]["totalMs"] >= body["timing"]["queueMs"] >= 0
    assert body["requestId"] == answer.headers["x-request-id"]


@pytest.mark.req("API-GRPC-1", "REQ-GRPC-001a", "RM-2.3b")
async def test_grpc_answers_the_same_as_rest(router: Router) -> None:
    message = await router.inference.Infer(request(["a", "bcd"], model_id="org/one@1.0.0", request_id="mine"))
    output = from_values(message.output)
    assert output["text"] == ["a", "bcd"]
    assert np.asarray(output["embeddings"]).tolist() == [[1.0], [3.0]]
    assert (message.model_id, message.version, message.request_id) == ("org/one", "1.0.0", "mine")
    assert message.timing.inference_ms == 1.5
    assert message.timing.total_ms >= message.timing.queue_ms >= 0


@pytest.mark.req("API-REST-03")
@pytest.mark.parametrize("path", ["org/one", "org%2Fone", "org/one@1.0.0", "org%2Fone%401.0.0"])
async def test_an_id_with_slashes_is_found_raw_and_encoded(router: Router, path: str) -> None:
    answer = await router.http.post(f"/api/v1/infer/{path}", json={"input": {"text": "a"}})
    assert answer.status_code == 200, answer.text
    shown = await router.http.get(f"/api/v1/models/{path}")
    assert shown.json()["modelId"] == "org/one"


@pytest.mark.req("RM-1.4c")
async def test_the_short_path_infers_too(router: Router) -> None:
    answer = await router.http.post("/infer/org/one", json={"input": {"text": "a"}})
    assert answer.json()["output"]["text"] == ["a"]


@pytest.mark.req("REQ-QUEUE-001a", "RM-2.1a")
@pytest.mark.parametrize("priority", ["CRITICAL", "HIGH", "NORMAL", "LOW", "medium"])
async def test_every_priority_is_accepted(router: Router, priority: str) -> None:
    answer = await router.http.post("/api/v1/infer/org/one", json={"input": {"text": "a"}, "priority": priority})
    assert answer.status_code == 200, answer.text
    number = {"CRITICAL": 1, "HIGH": 2, "NORMAL": 3, "LOW": 4, "medium": 3}[priority]
    assert (await router.inference.Infer(request("a", model_id="org/one", priority=number))).model_id == "org/one"


async def test_parameters_and_bytes_reach_the_worker_untouched(router: Router, worker: FakeWorker) -> None:
    made = request("a", model_id="org/one", request_id="mine")
    made.parameters.update({"normalize": True, "list": [1, {"deep": "x"}]})
    made.input["tensor"].tensor.data = bytes(range(256))
    await router.inference.Infer(made)
    (entry,) = worker.received
    assert request_of(entry) == made
    assert entry.request_id == "mine"


async def test_a_result_of_30_mb_comes_through(router: Router, worker: FakeWorker) -> None:
    text = "x" * 900_000
    message = await router.inference.Infer(request([text] * 30, model_id="org/one"))
    assert list(message.output["text"].text.items) == [text] * 30


@pytest.mark.req("US2-AS2")
async def test_many_callers_at_once_all_get_their_own_answer(router: Router, worker: FakeWorker) -> None:
    answers = await asyncio.gather(
        *(router.inference.Infer(request(f"text {number}", model_id="org/one")) for number in range(300))
    )
    assert [answer.output["text"].text.items[0] for answer in answers] == [f"text {number}" for number in range(300)]
    assert worker.streams == 1
