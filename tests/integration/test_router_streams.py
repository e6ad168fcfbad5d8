"""InferStream through a real router: answers as they are ready, one failure is one failure, and back-pressure."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from modelmora import errors
from modelmora.errors import ModelMoraError
from modelmora.v1 import types_pb2, worker_pb2
from modelmora.wire.status import from_rpc, from_rpc_error
from tests.support.entries import output_of
from tests.support.fake_worker import FakeWorker, fake_worker
from tests.support.routing import Router, deployment, eventually, request, running_router
from tests.support.waiting import eventually_async

UNANSWERED = 8


@pytest.fixture
async def router(worker: FakeWorker) -> AsyncIterator[Router]:
    """At its end nothing waits or runs, whatever the test did to it."""
    async with running_router(deployment(), max_unanswered=UNANSWERED) as router:
        router.work(worker)
        yield router
        worker.release()
        await router.waiting()


async def ended(stream: Any) -> ModelMoraError:
    """The error with which a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await all_of(stream)
    return from_rpc_error(caught.value)


async def all_of(stream: Any) -> list[types_pb2.InferenceResponse]:
    return [answer async for answer in stream]


@pytest.mark.req("API-GRPC-3")
async def test_a_hundred_in_and_a_hundred_out_matched_by_their_ids(router: Router) -> None:
    requests = [request(f"text {number}", request_id=f"r{number}") for number in range(100)]
    answers = [answer async for answer in router.inference.InferStream(iter(requests))]
    assert {answer.request_id: answer.output["text"].text.items[0] for answer in answers} == {
        f"r{number}": f"text {number}" for number in range(100)
    }
    assert all(answer.version == "1.0.0" for answer in answers)


@pytest.mark.req("API-GRPC-3")
async def test_one_failed_request_is_an_error_among_the_answers(router: Router) -> None:
    requests = [
        request("a", request_id="good"),
        request("b", model_id="none", request_id="unknown"),
        request("c", priority=9, request_id="priority"),
        request("d", request_id="spa ce"),
        request("e", request_id="fine"),
    ]
    answers = {answer.request_id: answer async for answer in router.inference.InferStream(iter(requests))}
    failed = {request_id: from_rpc(answer.error) for request_id, answer in answers.items() if answer.HasField("error")}
    assert {request_id: type(error) for request_id, error in failed.items()} == {
        "unknown": errors.ModelNotFound,
        "priority": errors.InvalidRequest,
        "spa ce": errors.InvalidRequest,
    }
    assert failed["unknown"].context.request_id == "unknown"
    assert answers.keys() - failed.keys() == {"good", "fine"}


async def test_answers_come_as_they_are_ready_not_as_they_were_asked(router: Router) -> None:
    stream: Any = router.inference.InferStream()
    router.deploy(deployment(), deployment("asleep"))
    await stream.write(request("sleeps", model_id="asleep", request_id="first"))
    await stream.write(request("awake", request_id="second"))
    assert (await stream.read()).request_id == "second"
    stream.cancel()


@pytest.mark.req("API-GRPC-3")
async def test_the_router_reads_no_further_than_so_many_unanswered(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    stream: Any = router.inference.InferStream()
    writing = asyncio.ensure_future(write_all(stream, [request(f"{n}", request_id=f"r{n}") for n in range(50)]))
    await eventually(writing.done)  # small ones: in the buffers of the connection
    await waiting_in_all(router, UNANSWERED)
    worker.release()
    answers = [answer async for answer in stream]
    assert len(answers) == 50


async def waiting_in_all(router: Router, count: int) -> None:
    """Returns once so many of model `one` wait or run; never are it more."""
    async with asyncio.timeout(30):
        while True:
            shown = await router.status()
            assert shown["queued"] + shown["running"] <= count
            if shown["queued"] + shown["running"] == count:
                return


async def write_all(stream: Any, requests: list[types_pb2.InferenceRequest]) -> None:
    for each in requests:
        await stream.write(each)
    await stream.done_writing()


@pytest.mark.req("API-GRPC-3")
async def test_a_caller_that_does_not_read_its_answers_is_not_read_from(router: Router, worker: FakeWorker) -> None:
    stream, written = router.inference.InferStream(), 0
    text = "x" * 500_000

    async def write() -> None:
        nonlocal written
        for number in range(200):
            await stream.write(request(text, request_id=f"r{number}"))
            written += 1
        await stream.done_writing()

    writing = asyncio.create_task(write())
    # It stops by itself: the count stands still although the worker is free.
    before, still = -1, 0
    while still < 20:
        still = still + 1 if written == before else 0
        before = written
        await asyncio.sleep(0.02)
    assert 0 < written < 100
    assert len(worker.finished) <= written
    answers = [answer async for answer in stream]
    await writing
    assert len({answer.request_id for answer in answers}) == 200


def large(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    """Two million bytes, which no buffer of a connection takes."""
    return worker_pb2.EntryResult(entry_id=entry.entry_id, output=output_of(tensor=np.zeros(2_000_000, np.uint8)))


async def held_bytes(router: Router) -> float:
    shown = (await router.http.get("/metrics")).text
    return next(float(line.split()[1]) for line in shown.splitlines() if line.startswith("modelmora_held_bytes "))


@pytest.mark.req("API-GRPC-3")
async def test_a_caller_that_takes_no_answer_is_given_up_and_what_it_held_is_free(worker: FakeWorker) -> None:
    worker.respond = large
    async with running_router(deployment(), write_timeout_s=1) as router:
        router.work(worker)
        stream: Any = router.inference.InferStream()
        for number in range(10):
            await stream.write(request(f"{number}", request_id=f"r{number}"))

        async def holds() -> bool:
            return await held_bytes(router) >= 8 * 2_000_000

        async def free() -> bool:
            return await held_bytes(router) == 0

        await eventually_async(holds, what="the answers to wait")
        await eventually_async(free, what="the caller to be given up")
        error = await ended(stream)  # once it reads again
        assert type(error) is errors.DeadlineExceeded
        assert "took no answer" in error.message
        async with asyncio.timeout(30):
            assert [each async for each in router.inference.InferStream(iter([request("a")]))]


async def test_a_caller_that_reads_slowly_is_not_given_up(worker: FakeWorker) -> None:
    worker.respond = large
    async with running_router(deployment(), write_timeout_s=2) as router:
        router.work(worker)
        stream: Any = router.inference.InferStream()
        await write_all(stream, [request(f"{number}", request_id=f"r{number}") for number in range(20)])
        last = 0
        async for message in stream:
            last += message.part.last
            await asyncio.sleep(0.075)  # 3 s in all
        assert last == 20


async def test_answers_for_which_there_is_no_room_are_errors(worker: FakeWorker) -> None:
    worker.respond = large
    async with running_router(deployment(), max_held_bytes=8 * 1024 * 1024) as router:
        router.work(worker)
        stream: Any = router.inference.InferStream()
        await write_all(stream, [request(f"{number}", request_id=f"r{number}") for number in range(10)])

        async def done() -> bool:
            shown = await router.status()
            return len(worker.finished) == 10 and not shown["queued"] + shown["running"]

        await eventually_async(done, what="all answers")
        messages = await all_of(stream)
        failed = [from_rpc(message.error) for message in messages if message.HasField("error")]
        assert {type(error) for error in failed} == {errors.MemoryFull}
        assert all("to be read" in error.message and error.context.retry_after_s for error in failed)
        assert sum(message.part.last for message in messages) == 10 - len(failed) >= 4


@pytest.mark.req("API-GRPC-3")
async def test_cancelling_the_stream_withdraws_what_waits(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    stream: Any = router.inference.InferStream()
    for number in range(5):
        await stream.write(request(f"{number}", request_id=f"r{number}"))
    await eventually(lambda: worker.received)
    await waiting_in_all(router, 5)
    stream.cancel()
    await router.waiting()
    await eventually(lambda: set(worker.cancelled) == {entry.entry_id for entry in worker.received})


async def test_a_broken_connection_withdraws_what_waits(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"{router.bound.host}:{router.bound.grpc_port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        other = Router(router.bound, router.control, router.http, channel)
        stream = other.inference.InferStream()
        for number in range(5):
            await stream.write(request(f"{number}", request_id=f"r{number}"))
        await waiting_in_all(router, 5)
    await router.waiting()


async def test_a_half_closed_stream_still_gets_its_answers(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    stream: Any = router.inference.InferStream()
    await write_all(stream, [request("a", request_id="one"), request("b", request_id="two")])
    await eventually(lambda: worker.received)
    worker.release()
    assert {answer.request_id async for answer in stream} == {"one", "two"}
    assert await stream.code() == grpc.StatusCode.OK


async def test_bytes_that_are_no_message_end_the_stream_with_a_clear_error(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    call: Any = router.channel.stream_stream(
        "/modelmora.v1.InferenceService/InferStream", None, types_pb2.InferenceResponse.FromString
    )
    stream = call()
    await stream.write(request("a", request_id="one").SerializeToString())
    await eventually(lambda: worker.received)
    await stream.write(b"\xff\xff\xff")
    error = await ended(stream)
    assert type(error) is errors.MalformedRequest
    assert error.context.request_id
    await router.waiting()  # the first is withdrawn


async def test_a_message_that_is_too_large_ends_the_stream() -> None:
    async with fake_worker("w1") as worker, running_router(deployment(), max_request_bytes=100_000) as router:
        router.work(worker)
        stream = router.inference.InferStream(iter([request("x" * 100_001)]))
        assert type(await ended(stream)) is errors.PayloadTooLarge
        await router.waiting()


async def test_an_id_that_is_in_use_on_the_stream_is_refused(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    stream: Any = router.inference.InferStream()
    await stream.write(request("a", request_id="same"))
    await stream.write(request("b", request_id="same"))
    refused = await stream.read()
    error = from_rpc(refused.error)
    assert (refused.request_id, type(error), error.context.field) == ("same", errors.InvalidRequest, "requestId")
    worker.release()
    assert (await stream.read()).output["text"].text.items == ["a"]
    await stream.write(request("c", request_id="same"))  # it is free again
    assert (await stream.read()).output["text"].text.items == ["c"]
    await stream.done_writing()


@pytest.mark.req("RM-2.3c")
async def test_a_large_answer_comes_in_parts_and_others_in_between(router: Router, worker: FakeWorker) -> None:
    data = np.random.default_rng(7).bytes(30_000_000)

    def large(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
        many = np.frombuffer(data if entry.request_id == "large" else b"small", dtype=np.uint8)
        return worker_pb2.EntryResult(entry_id=entry.entry_id, output=output_of(tensor=many))

    worker.respond = large
    requests = [request("a", request_id="large"), request("b", request_id="small")]
    messages = [message async for message in router.inference.InferStream(iter(requests))]
    parts = [message.part for message in messages if message.HasField("part")]
    assert [part.index for part in parts] == list(range(len(parts)))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert max(len(part.data) for part in parts) <= 1024 * 1024
    whole = types_pb2.InferenceResponse.FromString(b"".join(part.data for part in parts))
    assert hashlib.sha256(whole.output["tensor"].tensor.data).digest() == hashlib.sha256(data).digest()
    assert [message.request_id for message in messages if not message.HasField("part")] == ["small"]


async def test_wrong_metadata_ends_the_stream_at_once(router: Router) -> None:
    for wrong in (("modelmora-namespace", "A B"), ("modelmora-client", "a b")):
        stream = router.inference.InferStream(iter([request()]), metadata=(wrong,))
        assert (await ended(stream)).context.field == wrong[0]


async def test_a_stream_that_breaks_while_it_is_written_to_ends_with_its_error(router: Router) -> None:
    call: Any = router.channel.stream_stream(
        "/modelmora.v1.InferenceService/InferStream", None, types_pb2.InferenceResponse.FromString
    )
    # Answered at once, so that often its answer is under way when what follows is read.
    unknown = request(model_id="none").SerializeToString()
    for _ in range(50):
        stream = call(iter([unknown, b"\xff"]))
        async with asyncio.timeout(30):
            assert type(await ended(stream)) is errors.MalformedRequest
