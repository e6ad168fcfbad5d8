"""Both clients on a stream of a real router."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterable, Iterator

import numpy as np
import pytest

from modelmora import errors
from modelmora.client import AsyncClient, Client, InferenceRequest, InferenceResult
from modelmora.client.streams import StreamResult
from modelmora.errors import ModelMoraError
from modelmora.v1 import worker_pb2
from tests.support.entries import output_of
from tests.support.fake_worker import FakeWorker
from tests.support.routing import Router, deployment, eventually, running_router


@pytest.fixture
async def router(worker: FakeWorker) -> AsyncIterator[Router]:
    async with running_router(deployment()) as router:
        router.work(worker)
        yield router
        worker.release()
        await router.waiting()


def target(router: Router) -> str:
    return f"{router.bound.host}:{router.bound.grpc_port}"


def many(count: int) -> list[InferenceRequest]:
    return [InferenceRequest("one", f"text {n}", request_id=f"r{n}") for n in range(count)]


def texts(results: list[StreamResult]) -> dict[str, object]:
    return {result.request_id: result.output["text"] for result in results if isinstance(result, InferenceResult)}


async def over_either(
    router: Router, kind: str, requests: Iterable[InferenceRequest], into: list[StreamResult] | None = None
) -> list[StreamResult]:
    results: list[StreamResult] = [] if into is None else into
    if kind == "async":
        async with AsyncClient(target(router)) as client:
            async for result in client.infer_stream(requests):
                results.append(result)  # noqa: PERF401 - what came before an error counts
        return results

    def ask() -> None:
        with Client(target(router)) as client:
            for result in client.infer_stream(requests):
                results.append(result)  # noqa: PERF402 - as above

    await asyncio.to_thread(ask)
    return results


@pytest.mark.req("API-GRPC-3", "RM-2.3d")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_results_and_errors_come_back_by_their_ids(router: Router, kind: str) -> None:
    wrong = [
        InferenceRequest("none", "a", request_id="unknown"),
        InferenceRequest("one", "\ud800", request_id="no text"),
    ]
    results = await over_either(router, kind, [*many(300), *wrong])
    assert texts(results) == {f"r{n}": [f"text {n}"] for n in range(300)}
    failed = {error.context.request_id: type(error) for error in results if isinstance(error, ModelMoraError)}
    assert failed == {"unknown": errors.ModelNotFound, "no text": errors.InvalidRequest}


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_who_asks_one_after_the_other_hears_at_once_of_a_request_that_cannot_travel(
    router: Router, kind: str
) -> None:
    heard = threading.Event()
    got: list[StreamResult] = []

    def one_by_one() -> Iterator[InferenceRequest]:
        yield InferenceRequest("one", "\ud800", request_id="no text")
        assert heard.wait(timeout=10)
        yield from many(1)

    def ask() -> None:
        with Client(target(router)) as client:
            for result in client.infer_stream(one_by_one()):
                got.append(result)
                heard.set()

    async def ask_async() -> None:
        async def off_the_loop() -> AsyncIterator[InferenceRequest]:
            requests = one_by_one()
            while request := await asyncio.to_thread(next, requests, None):
                yield request

        async with AsyncClient(target(router)) as client:
            async for result in client.infer_stream(off_the_loop()):
                got.append(result)
                heard.set()

    await (ask_async() if kind == "async" else asyncio.to_thread(ask))
    assert isinstance(got[0], errors.InvalidRequest)
    assert got[0].context.request_id == "no text"
    assert texts(got) == {"r0": ["text 0"]}


@pytest.mark.req("RM-2.3c", "DEC-4")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_answer_of_30_mb_is_whole_again(router: Router, worker: FakeWorker, kind: str) -> None:
    data = np.random.default_rng(7).bytes(30_000_000)
    output = output_of(tensor=np.frombuffer(data, dtype=np.uint8))
    worker.respond = lambda entry: worker_pb2.EntryResult(entry_id=entry.entry_id, output=output)
    (result,) = await over_either(router, kind, many(1))
    assert isinstance(result, InferenceResult)
    assert hashlib.sha256(result.array("tensor").tobytes()).digest() == hashlib.sha256(data).digest()


@pytest.mark.req("API-GRPC-3")
async def test_no_more_requests_are_taken_than_answers_are(router: Router, worker: FakeWorker) -> None:
    taken = 0

    def endless() -> Iterator[InferenceRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield InferenceRequest("one", "x" * 200_000)

    async with AsyncClient(target(router)) as client:
        results = client.infer_stream(endless())
        await anext(results)
        before, still = -1, 0
        while still < 20:  # until it stands still although the worker is free
            still = still + 1 if taken == before else 0
            before = taken
            await asyncio.sleep(0.02)
        assert taken < 1000
        for _ in range(500):
            await anext(results)
        assert taken > before
        await results.aclose()  # type: ignore[attr-defined]  # a generator


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_iterable_that_fails_is_heard_of_after_the_answers(router: Router, kind: str) -> None:
    def failing() -> Iterator[InferenceRequest]:
        yield from many(3)
        raise ZeroDivisionError

    got: list[StreamResult] = []
    with pytest.raises(ZeroDivisionError):
        await over_either(router, kind, failing(), got)
    assert len(got) == 3


async def test_leaving_the_stream_withdraws_what_is_unanswered(router: Router, worker: FakeWorker) -> None:
    async def asked() -> AsyncIterator[InferenceRequest]:
        for request in many(3):
            yield request
            if request.request_id == "r0":
                await first.wait()
                worker.hold()

    first = asyncio.Event()
    async with AsyncClient(target(router)) as client:
        async for _ in client.infer_stream(asked()):
            first.set()
            break
        await eventually(lambda: len(worker.received) >= 1)
    await router.waiting()


async def test_a_server_that_is_not_there_is_an_error_of_ours() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(errors.ServerUnavailable):
            async for _ in client.infer_stream(many(1)):
                pass
