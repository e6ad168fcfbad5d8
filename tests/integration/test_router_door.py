"""The door of a real router: rate limits, the bytes that it holds, and what goes with a request from its caller on."""

import asyncio
import json
import logging

import grpc
import pytest
import structlog.testing

from modelmora import errors
from modelmora.wire.status import from_rpc, from_rpc_error
from tests.support.entries import request_of
from tests.support.fake_worker import FakeWorker
from tests.support.routing import Router, deployment, eventually, refused, request, running_router
from tests.support.waiting import eventually_async

GOOD = {"input": {"text": "a"}}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MEBIBYTE = 1024 * 1024


async def counted(router: Router, name: str) -> float:
    """The value of one line of /metrics, 0 where there is none."""
    shown = (await router.http.get("/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith(name))


async def holding(router: Router, size: int) -> None:
    """Returns once the router holds at least so many bytes."""

    async def found() -> bool:
        return await counted(router, "modelmora_held_bytes") >= size

    await eventually_async(found, what=f"{size} bytes to be held")


async def nothing_held(router: Router) -> bool:
    return await counted(router, "modelmora_held_bytes") == 0


# ------------------------------------------------------------------------------------------------ rate limits


@pytest.mark.req("RM-4.3d")
async def test_a_client_over_its_rate_is_told_when_to_come_again_on_every_protocol(worker: FakeWorker) -> None:
    limited = deployment(rateLimit={"requestsPerSecond": 1, "burst": 2})
    async with running_router(limited) as router:
        router.work(worker)
        mine = {"modelmora-client": "mine"}
        codes = [(await router.http.post("/infer/one", json=GOOD, headers=mine)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        answer = await router.http.post("/infer/one", json=GOOD, headers=mine)
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("RATE_LIMITED", "1")
        assert 0 < answer.json()["retryAfterSeconds"] <= 1
        error = await refused(router.inference.Infer(request(), metadata=(("modelmora-client", "mine"),)))
        assert type(error) is errors.RateLimited
        assert 0 < (error.context.retry_after_s or 0) <= 1
        stream = router.inference.InferStream(iter([request()]), metadata=(("modelmora-client", "mine"),))
        assert [type(from_rpc(answer.error)) async for answer in stream] == [errors.RateLimited]
        others = [router.inference.Infer(request(), metadata=(("modelmora-client", f"c{n}"),)) for n in range(5)]
        assert len(await asyncio.gather(*others)) == 5
        assert len(worker.received) == 2 + 5
        assert await counted(router, "modelmora_shed_total{") == 4


async def test_without_a_name_a_client_is_its_address_whatever_its_port(worker: FakeWorker) -> None:
    async with running_router(deployment(rateLimit={"requestsPerSecond": 1, "burst": 1})) as router:
        router.work(worker)
        assert (await router.http.post("/infer/one", json=GOOD)).status_code == 200
        assert type(await refused(router.inference.Infer(request()))) is errors.RateLimited


@pytest.mark.req("RM-4.3d")
async def test_a_limit_per_model_counts_all_clients_together(worker: FakeWorker) -> None:
    async with running_router(deployment(rateLimit={"requestsPerSecond": 1, "burst": 3, "per": "Model"})) as router:
        router.work(worker)
        calls = [router.inference.Infer(request(), metadata=(("modelmora-client", f"c{n}"),)) for n in range(10)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, grpc.aio.AioRpcError) for each in done) == 7


async def test_a_suspended_model_says_so_before_it_counts(worker: FakeWorker) -> None:
    async with running_router(deployment(suspend=True, rateLimit={"requestsPerSecond": 1, "burst": 1})) as router:
        for _ in range(3):
            assert type(await refused(router.inference.Infer(request()))) is errors.ModelSuspended


# ------------------------------------------------------------------------------------------------ held bytes


async def test_low_is_refused_first_when_memory_is_short_and_critical_last(worker: FakeWorker) -> None:
    async with running_router(deployment(), max_held_bytes=MEBIBYTE) as router:
        router.work(worker)
        worker.hold()
        held = [asyncio.ensure_future(router.inference.Infer(request("x" * 80_000))) for _ in range(8)]  # 61 %
        await eventually(lambda: worker.received)
        await holding(router, 8 * 80_000)
        text = "x" * 100_000  # up to 71 %
        error = await refused(router.inference.Infer(request(text, priority=4)))
        assert type(error) is errors.MemoryFull
        assert error.context.retry_after_s
        held.append(asyncio.ensure_future(router.inference.Infer(request("x" * 230_000, priority=3))))  # 83 %
        await holding(router, 8 * 80_000 + 230_000)
        body = {"input": {"text": text}, "priority": "NORMAL"}
        answer = await router.http.post("/infer/one", json=body)  # 93 %
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "MEMORY_FULL", "5")
        held.append(asyncio.ensure_future(router.inference.Infer(request(text, priority=1))))
        await holding(router, 8 * 80_000 + 230_000 + 100_000)
        worker.release()
        await asyncio.gather(*held)
        assert await counted(router, "modelmora_held_bytes") == 0


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000001\r\n\r\n" + b" " * 1_000_000,
        b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n" + b" " * 1_000_000,
    ],
    ids=["of a stated length", "in chunks"],
)
async def test_bodies_that_arrive_slowly_are_held_too(worker: FakeWorker, body: bytes) -> None:
    async with running_router(deployment(), max_held_bytes=MEBIBYTE) as router:
        router.work(worker)
        _, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
        writer.write(b"POST /infer/one HTTP/1.1\r\nHost: x\r\n" + body)
        await holding(router, 1_000_000)
        error = await refused(router.inference.Infer(request("x" * 100_000, priority=1)))
        assert type(error) is errors.MemoryFull
        writer.close()
        await eventually_async(lambda: nothing_held(router), what="the caller's bytes to be given back")
        assert (await router.inference.Infer(request("x" * 100_000))).request_id


async def test_what_a_caller_only_promises_to_send_takes_no_room(worker: FakeWorker) -> None:
    async with running_router(deployment(), max_held_bytes=MEBIBYTE) as router:
        router.work(worker)
        writers = []
        for _ in range(3):
            _, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
            writer.write(b"POST /infer/one HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
            writers.append(writer)
        await holding(router, 3)
        assert await counted(router, "modelmora_held_bytes") == 3
        assert (await router.inference.Infer(request("x" * 700_000))).request_id
        for each in writers:
            each.close()


async def test_a_large_body_is_read_and_refused_as_a_small_one_is(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        large = [[0.5] * 1000] * 200
        answer = await router.http.post("/infer/one", json={"input": {"tensor": large, "text": "a"}})
        assert answer.status_code == 200, answer.text
        assert list(request_of(worker.received[0]).input["tensor"].tensor.shape) == [200, 1000]
        answer = await router.http.post("/infer/one", json={"input": {"tensor": [*large, ["x"]]}})
        assert (answer.status_code, answer.json()["field"]) == (422, "input.tensor")
        answer = await router.http.post("/infer/one", content=json.dumps({"input": {"tensor": large}})[:-1])
        assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_REQUEST")


# ------------------------------------------------------------------------------------------------ what goes along


@pytest.mark.req("REQ-OBS-004", "RM-2.6g")
async def test_the_trace_of_the_caller_goes_to_the_worker_and_back(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        answer = await router.http.post("/infer/one", json=GOOD, headers={"traceparent": TRACE})
        call = router.inference.Infer(request(), metadata=(("traceparent", TRACE),))
        await call
        trailing = dict(await call.trailing_metadata() or ())
        stream = router.inference.InferStream(iter([request(), request()]), metadata=(("traceparent", TRACE),))
        assert len([each async for each in stream]) == 2
        told = [entry.traceparent for entry in worker.received]
        assert told[:2] == [answer.headers["traceparent"], trailing["traceparent"]]
        assert {each[3:35] for each in told} == {TRACE[3:35]}
        assert len({each[36:52] for each in told} | {TRACE[36:52]}) == 5  # each a parent of its own


async def test_without_a_trace_or_with_a_broken_one_a_new_one_begins(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        for headers in ({}, {"traceparent": "broken"}):
            answer = await router.http.post("/infer/one", json=GOOD, headers=headers)
            assert len(answer.headers["traceparent"]) == len(TRACE)
        error = await router.http.post("/infer/none", json=GOOD, headers={"traceparent": TRACE})
        assert error.headers["traceparent"][3:35] == TRACE[3:35]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.inference.Infer(request(model_id="none"), metadata=(("traceparent", TRACE),))
        assert dict(caught.value.trailing_metadata() or ())["traceparent"][3:35] == TRACE[3:35]
        assert type(from_rpc_error(caught.value)) is errors.ModelNotFound


@pytest.mark.req("REQ-OBS-003b")
async def test_a_request_is_followed_from_received_to_completed_by_one_id(
    worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        with caplog.at_level(logging.DEBUG, "modelmora_router"), structlog.testing.capture_logs() as lines:
            await router.inference.Infer(request(request_id="mine"), metadata=(("traceparent", TRACE),))
            await refused(router.inference.Infer(request(request_id="other", model_id="none")))
        mine = [line for line in lines if line.get("request_id") == "mine"]
        assert (mine[0]["event"], mine[-1]["event"]) == ("request received", "request completed")
        assert all((line["model"], line["trace_id"]) == ("one", TRACE[3:35]) for line in mine)
        other = [line["event"] for line in lines if line.get("request_id") == "other"]
        assert other == ["request received", "request failed"]


@pytest.mark.req("REQ-OBS-003d")
async def test_a_request_that_was_slow_is_a_warning_with_its_times(worker: FakeWorker) -> None:
    async with running_router(deployment(), slow_request_s=0.001) as router:
        router.work(worker)
        worker.hold()
        with structlog.testing.capture_logs() as lines:
            call = router.inference.Infer(request(request_id="mine"))
            await eventually(lambda: worker.received)
            await asyncio.sleep(0.01)
            worker.release()
            await call
        slow = [line for line in lines if line["event"] == "request was slow"]
        assert [(line["log_level"], line["model"], line["request_id"]) for line in slow] == [("warning", "one", "mine")]
        assert slow[0]["queue_ms"] > 1


async def test_requests_are_counted_once_by_what_became_of_them(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        await router.inference.Infer(request())
        await router.http.post("/infer/one", json=GOOD)
        await refused(router.inference.Infer(request(model_id="nobody-has-this")))
        await refused(router.inference.Infer(request(priority=9)))
        await router.http.post("/infer/one", content=b"{")
        worker.hold()
        call = router.inference.Infer(request())
        await eventually(lambda: len(worker.received) == 3)
        call.cancel()
        await router.waiting()
        assert await counted(router, 'modelmora_requests_total{code="OK"') == 2
        for code in ("MODEL_NOT_FOUND", "INVALID_REQUEST", "MALFORMED_REQUEST", "REQUEST_CANCELLED"):
            assert await counted(router, f'modelmora_requests_total{{code="{code}"') == 1, code
        assert "nobody-has-this" not in (await router.http.get("/metrics")).text


@pytest.mark.parametrize("header", ["modelmora-client", "modelmora-idempotent"])
async def test_a_header_that_is_wrong_is_named(worker: FakeWorker, header: str) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        answer = await router.http.post("/infer/one", json=GOOD, headers={header: "a b"})
        assert (answer.status_code, answer.json()["field"]) == (422, header)
        assert (await refused(router.inference.Infer(request(), metadata=((header, "a b"),)))).context.field == header
