"""A short run of what `make fuzz` does at length, and callers and workers that misbehave in ways of their own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from modelmora import errors
from modelmora.control import Key
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc_error
from tests.support import fuzzing
from tests.support.fake_worker import FakeWorker, echo, fake_worker
from tests.support.routing import Router, deployment, eventually, post_raw, refused, request, running_router
from tests.support.waiting import eventually_async

CASES = 300
GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router(worker: FakeWorker) -> AsyncIterator[Router]:
    """At its end it still answers on both protocols, and nothing waits, whatever the test did to it."""
    models = fuzzing.models()
    async with running_router(*models, unload_timeout_s=0.2, report_s=0.05, max_request_bytes=1_000_000) as router:
        router.work(worker)
        yield router
        worker.release()
        worker.respond = echo
        await router.waiting()
        assert (await router.inference.Infer(request("goes on"))).output["text"].text.items == ["goes on"]
        assert (await router.http.post("/infer/one", json=GOOD)).status_code == 200


# ------------------------------------------------------------------------------------------------ every field, wrong


@pytest.mark.timeout(300)
async def test_no_message_and_no_bytes_over_grpc_are_anything_but_the_callers_fault(
    router: Router, worker: FakeWorker
) -> None:
    worker.respond = fuzzing.steady
    with grpc.insecure_channel(f"{router.bound.host}:{router.bound.grpc_port}") as channel:
        await asyncio.to_thread(fuzzing.over_grpc(channel).run, CASES)
    assert worker.streams == 1  # none of it ended the stream to the worker


@pytest.mark.timeout(300)
async def test_no_request_over_rest_is_anything_but_the_callers_fault(router: Router, worker: FakeWorker) -> None:
    worker.respond = fuzzing.steady
    base_url = f"http://{router.bound.host}:{router.bound.rest_port}"
    fuzz = await asyncio.to_thread(fuzzing.over_rest, base_url)
    await asyncio.to_thread(fuzz.run, CASES)
    assert worker.streams == 1


# ------------------------------------------------------------------------------------------------ callers


async def test_a_caller_that_sends_byte_by_byte_gets_its_answer(router: Router) -> None:
    body = json.dumps(GOOD).encode()
    reader, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
    for byte in b"POST /infer/one HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert b"200 OK" in await reader.readline()
    writer.close()


async def test_a_caller_that_half_closes_gets_its_answer_or_is_withdrawn(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    reader, writer = await post_raw(router, json.dumps(GOOD).encode())
    await eventually(lambda: worker.received)
    writer.write_eof()
    worker.release()
    async with asyncio.timeout(30):
        assert b"200 OK" in await reader.readline() or reader.at_eof()
    await router.waiting()
    writer.close()


@pytest.mark.timeout(600)
async def test_a_caller_that_sends_ten_thousand_requests_and_leaves_leaves_nothing(
    router: Router, worker: FakeWorker
) -> None:
    router.deploy(deployment(queue={"maxLength": 20_000}))
    worker.hold()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"{router.bound.host}:{router.bound.grpc_port}", options=options) as channel:
        leaver = Router(router.bound, router.control, router.http, channel)
        calls = [leaver.inference.Infer(request(f"{n}")) for n in range(10_000)]
        await outstanding(router, lambda count: count == 10_000)
        for call in calls:
            call.cancel()
    await outstanding(router, lambda count: count == 0)


async def outstanding(router: Router, wanted: Callable[[int], bool]) -> None:
    """Returns once so many requests of model `one` wait or run."""

    async def found() -> bool:
        shown = await router.status()
        return wanted(shown["queued"] + shown["running"])

    await eventually_async(found, what="so many requests to wait and run", within_s=240)


@pytest.mark.timeout(300)
async def test_a_flood_of_one_model_does_not_reach_the_other(router: Router, worker: FakeWorker) -> None:
    router.deploy(deployment(queue={"maxLength": 50}), deployment("two", model={"id": "org/two"}))
    async with fake_worker("w2") as other:
        served = {
            each.worker_id: each.listed(key)
            for each, key in ((worker, Key("default", "one")), (other, Key("default", "two")))
        }
        router.control.workers.set(served)
        worker.hold()
        flood = [asyncio.ensure_future(router.inference.Infer(request("x", priority=4))) for _ in range(2_000)]
        answers = [await router.inference.Infer(request(f"{n}", model_id="org/two")) for n in range(50)]
        assert [answer.output["text"].text.items[0] for answer in answers] == [f"{n}" for n in range(50)]
        worker.release()
        done = await asyncio.gather(*flood, return_exceptions=True)
        failed = [from_rpc_error(each) for each in done if isinstance(each, grpc.aio.AioRpcError)]
        assert len(failed) > 1_000
        assert {type(error) for error in failed} == {errors.QueueFull}


# ------------------------------------------------------------------------------------------------ workers


def no_kind(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    return worker_pb2.EntryResult(entry_id=entry.entry_id)


def no_message(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    return worker_pb2.EntryResult(entry_id=entry.entry_id, output=b"\xff\xff")


def wrong_id(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    result = echo(entry)
    result.entry_id = 2**63
    return result


def strange_error(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    result = worker_pb2.EntryResult(entry_id=entry.entry_id)
    result.error.code = 77
    result.error.message = "\x00" * 5_000
    result.error.details.add(type_url="type.googleapis.com/none", value=b"\xff")
    return result


def no_numbers(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    result = echo(entry)
    result.inference_ms = float("nan")
    return result


@pytest.mark.parametrize(
    "respond", [no_kind, no_message, wrong_id, strange_error, no_numbers], ids=lambda each: each.__name__
)
async def test_garbage_from_a_worker_is_an_answer_or_an_error_and_never_a_hang(
    router: Router, worker: FakeWorker, respond: Callable[[Any], Any]
) -> None:
    worker.respond = respond
    answer = await router.http.post("/infer/one", json=GOOD | {"timeoutSeconds": 1})
    assert answer.status_code in {200, 500, 502, 503, 504}
    assert answer.json()["requestId"]
    async with asyncio.timeout(30):
        outcome: Any
        (outcome,) = await asyncio.gather(router.inference.Infer(request(timeout_seconds=1)), return_exceptions=True)
    assert outcome.request_id if respond is no_numbers else from_rpc_error(outcome).context.request_id


async def test_an_answer_that_comes_twice_is_given_once(router: Router, worker: FakeWorker) -> None:
    first: dict[int, worker_pb2.EntryResult] = {}

    def again(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
        """To every second entry the answer of the one before, once more."""
        earlier = first.popitem()[1] if first else None
        first[entry.entry_id] = echo(entry)
        return earlier or echo(entry)

    worker.respond = again
    answered = await router.inference.Infer(request("one", timeout_seconds=5))
    assert answered.output["text"].text.items == ["one"]
    error = await refused(router.inference.Infer(request("two", timeout_seconds=0.3)))
    assert type(error) is errors.DeadlineExceeded


async def test_an_answer_that_comes_late_disturbs_nobody(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    assert type(await refused(router.inference.Infer(request("late", timeout_seconds=0.1)))) is errors.DeadlineExceeded
    worker.release()
    answers = await asyncio.gather(*(router.inference.Infer(request(f"{n}")) for n in range(20)))
    assert [answer.output["text"].text.items[0] for answer in answers] == [f"{n}" for n in range(20)]


async def test_an_answer_that_never_comes_ends_with_the_timeout_and_frees_its_place(
    router: Router, worker: FakeWorker
) -> None:
    worker.hold()
    for _ in range(5):
        error = await refused(router.inference.Infer(request(timeout_seconds=0.1)))
        assert type(error) is errors.DeadlineExceeded
    await router.waiting()
