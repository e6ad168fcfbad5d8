"""A worker answers its protocol: over a real socket, with an engine that needs no torch."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora import errors
from modelmora.control import WORKER_METADATA
from modelmora.v1 import worker_pb2
from modelmora.wire import values
from modelmora.wire.status import from_rpc, from_rpc_error
from modelmora_worker.lifecycle import Failure
from tests.support.entries import empty_entry, entry_of, outputs_of, values_of
from tests.support.workers import (
    DEADLINE_S,
    batch,
    cancel,
    entry,
    results,
    scripted,
    short_folder,
    until_exists,
    worker_in,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.mark.req("RM-1.3d", "RM-1.3f", "US2-AS1")
async def test_answers_every_entry_of_a_batch_by_its_id(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(7, ["a", "b"]), entry(9)))
        found = await results(call, 2)
        assert embeddings(found[7]).shape == (2, 4)
        assert embeddings(found[9]).shape == (1, 4)
        assert found[7].inference_ms > 0


async def test_says_who_it_is_before_anything_is_sent(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        async with asyncio.timeout(DEADLINE_S):
            said = dict(await worker.stub.Process().initial_metadata())
        assert said[WORKER_METADATA] == "default/w-1"


@pytest.mark.req("US2", "US2-AS2", "US2-IT")
async def test_many_streams_are_served_by_the_one_engine(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()

        async def ask(_: int) -> float:
            call = worker.stub.Process()
            await call.write(batch(entry(1)))
            [result] = (await results(call, 1)).values()
            return float(embeddings(result)[0, 0])

        calls = await asyncio.gather(*(ask(stream) for stream in range(8)))
        # One counter of batches for all of them: several streams may share one. The test inference was call 1.
        assert len(calls) == 8
        assert set(calls) == set(range(2, int(max(calls)) + 1))


@pytest.mark.req("REQ-INFER-003", "EDGE-3")
async def test_an_engine_that_raises_fails_only_that_entry(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1), entry(2, **{"raise": "no such word"}), entry(3)))
        found = await results(call, 3)
        assert [found[n].HasField("error") for n in (1, 2, 3)] == [
            False,
            True,
            False,
        ]
        error = from_rpc(found[2].error)
        assert isinstance(error, errors.InferenceFailed)
        assert error.context.model_id == "org/scripted"
        assert "ValueError: no such word" in error.message
        assert "Traceback" not in error.message


@pytest.mark.parametrize("wish", ["exit", "lock"])
async def test_an_engine_that_misbehaves_does_not_end_the_worker(folder: Path, wish: str) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, "hello", **{wish: True})))
        assert isinstance(from_rpc((await results(call, 1))[1].error), errors.InferenceFailed)
        await call.write(batch(entry(2)))
        assert (await results(call, 1))[2].HasField("output")


async def test_an_entry_without_a_value_names_its_field(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        empty = empty_entry(1)
        await call.write(batch(empty, entry(2)))
        found = await results(call, 2)
        error = from_rpc(found[1].error)
        assert isinstance(error, errors.InvalidRequest)
        assert error.context.field == "input.text"
        assert found[2].HasField("output")


async def test_what_is_cancelled_before_its_turn_never_runs(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await call.write(batch(entry(2, started=f"{folder}/second")))
        await call.write(batch(entry(3)))
        await call.write(cancel(2))
        await _seen(call)
        (folder / "go").touch()
        assert set(await results(call, 2)) == {1, 3}
        assert not (folder / "second").exists()


async def test_what_a_lost_stream_left_behind_never_runs(folder: Path) -> None:
    async with worker_in(folder, max_queued_entries=1) as worker:
        await worker.serving()
        lost, other = worker.stub.Process(), worker.stub.Process()
        await lost.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await lost.write(batch(entry(2, started=f"{folder}/second")))
        await _seen(lost)
        lost.cancel()
        accepted = await _accepted(other)
        (folder / "go").touch()
        assert (await results(other, 1))[accepted].HasField("output")
        assert not (folder / "second").exists()


async def test_more_entries_than_may_wait_are_refused(folder: Path) -> None:
    async with worker_in(folder, max_queued_entries=2) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await call.write(batch(entry(2), entry(3)))
        await call.write(batch(entry(4)))
        refused = await results(call, 1)
        assert isinstance(from_rpc(refused[4].error), errors.QueueFull)
        (folder / "go").touch()
        assert set(await results(call, 3)) == {1, 2, 3}


async def test_an_answer_too_large_for_a_message_fails_alone(folder: Path) -> None:
    async with worker_in(folder, max_message_bytes=1024 * 1024) as worker:
        await worker.serving()
        call = worker.stub.Process()
        large, too_large = 1_000_000, 1_100_000
        await call.write(batch(entry(1, bytes=large), entry(2, bytes=too_large), entry(3, bytes=large)))
        found = await results(call, 3)
        assert isinstance(from_rpc(found[2].error), errors.PayloadTooLarge)
        assert [len(values_of(found[n])["data"].tensor.data) for n in (1, 3)] == [large, large]


async def test_an_entry_id_in_use_is_refused(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await call.write(batch(entry(1)))
        assert isinstance(from_rpc((await results(call, 1))[1].error), errors.MalformedRequest)
        (folder / "go").touch()
        assert (await results(call, 1))[1].HasField("output")


async def test_a_stream_ends_when_the_router_has_everything_it_asked_for(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1)))
        await call.done_writing()
        assert set(await results(call, 1)) == {1}
        async with asyncio.timeout(DEADLINE_S):
            assert await call.read() is grpc.aio.EOF


@pytest.mark.req("REQ-LIFE-009")
async def test_health_says_serving_only_after_the_test_inference(folder: Path) -> None:
    parameters = {"until": f"{folder}/go", "started": f"{folder}/started"}
    health = {"inference": {"input": {"text": "test"}, "parameters": parameters}}
    async with worker_in(folder, deployment=scripted(folder, health=health)) as worker:
        watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await until_exists(folder / "started")
        check = await health_pb2_grpc.HealthStub(worker.channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == NOT_SERVING
        (folder / "go").touch()
        async with asyncio.timeout(DEADLINE_S):
            assert (await watch.read()).status == SERVING
            worker.stopping.drain()
            assert (await watch.read()).status == NOT_SERVING


async def test_a_watcher_that_leaves_takes_no_other_with_it(folder: Path) -> None:
    """The reference implementation of grpc.health.v1 forgets the others."""
    async with worker_in(folder) as worker:
        await worker.serving()
        stub = health_pb2_grpc.HealthStub(worker.channel)
        request = health_pb2.HealthCheckRequest(service="modelmora.v1.WorkerService")
        leaving, staying = stub.Watch(request), stub.Watch(request)
        assert (await leaving.read()).status == (await staying.read()).status == SERVING
        leaving.cancel()
        await asyncio.wait({asyncio.ensure_future(leaving.code())}, timeout=DEADLINE_S)
        worker.stopping.drain()
        async with asyncio.timeout(DEADLINE_S):
            assert (await staying.read()).status == NOT_SERVING


async def test_health_knows_no_other_service(folder: Path) -> None:
    async with worker_in(folder) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(worker.channel).Check(health_pb2.HealthCheckRequest(service="x"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.req("RM-1.3i")
async def test_status_tells_the_phases_the_memory_and_the_artifact(folder: Path) -> None:
    async with worker_in(folder) as worker:
        update = await worker.serving()
        assert update.pid == os.getpid()
        assert set(update.phase_seconds) == {"import", "fetch", "load", "test"}
        assert update.memory_bytes > 0
        assert update.peak_memory_bytes >= update.memory_bytes
        assert update.artifact.files == 1
        assert update.artifact.digest.startswith("sha256:")


@pytest.mark.req("IMP-1")
async def test_drain_finishes_what_was_accepted_and_takes_nothing_new(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        response = await worker.stub.Drain(worker_pb2.DrainRequest(timeout_seconds=DEADLINE_S))
        assert response.pending == 1
        await worker.phase(worker_pb2.WORKER_PHASE_DRAINING)
        await call.write(batch(entry(2)))
        assert isinstance(from_rpc((await results(call, 1))[2].error), errors.WorkerUnavailable)
        (folder / "go").touch()
        assert (await results(call, 1))[1].HasField("output")
        async with asyncio.timeout(DEADLINE_S):
            assert await worker.task is None
        assert not (folder / "w.sock").exists()


async def test_drain_gives_up_what_takes_longer_than_its_timeout(folder: Path) -> None:
    async with worker_in(folder, drain_timeout_s=0.01) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        assert await worker.stop() is None
        error = from_rpc((await results(call, 1))[1].error)
        assert isinstance(error, errors.WorkerUnavailable)
        assert error.context.model_id == "org/scripted"
        (folder / "go").touch()  # lets the device thread end


async def test_entries_before_it_serves_are_refused_in_words(folder: Path) -> None:
    parameters = {"until": f"{folder}/go", "started": f"{folder}/started"}
    health = {"inference": {"input": {"text": "test"}, "parameters": parameters}}
    async with worker_in(folder, deployment=scripted(folder, health=health)) as worker:
        await until_exists(folder / "started")
        call = worker.stub.Process()
        await call.write(batch(entry(1)))
        error = from_rpc((await results(call, 1))[1].error)
        assert isinstance(error, errors.WorkerUnavailable)
        assert "not serving yet" in error.message
        (folder / "go").touch()


async def test_assign_is_refused_in_words(folder: Path) -> None:
    async with worker_in(folder) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.stub.Assign(worker_pb2.AssignRequest())
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert isinstance(from_rpc_error(caught.value), errors.FeatureUnavailable)


@pytest.mark.parametrize(
    ("parameters", "model", "reason", "where", "says"),
    [
        ({"raise": "weights of another world"}, {}, "LoadFailed", "load", "RuntimeError: weights of another world"),
        ({"nan": True}, {}, "HealthInferenceFailed", "test", "not finite"),
        ({}, {"config": {"vectorSize": 5}}, "HealthInferenceFailed", "test", "vectors of 4 numbers"),
        ({}, {"source": {"uri": "file:///nowhere/at/all"}}, "SourceNotFound", "fetch", "does not exist"),
        ({}, {"source": {"uri": "s3://bucket/model"}}, "InvalidSource", "fetch", "s3://"),
        ({}, {"integrity": {"sha256": {"weights.txt": "0" * 64}}}, "ChecksumMismatch", "fetch", "weights.txt"),
    ],
    ids=["load", "nan", "vector-size", "no-folder", "scheme", "checksum"],
)
@pytest.mark.req("REQ-LIFE-009", "REQ-LIFE-010a")
async def test_a_model_that_cannot_serve_says_why_and_ends(
    folder: Path, parameters: dict[str, object], model: dict[str, object], reason: str, where: str, says: str
) -> None:
    config = {"parameters": parameters} | dict(model.pop("config", {}))  # type: ignore[call-overload]
    deployment = scripted(folder, model={**model, "config": config})
    async with worker_in(folder, deployment=deployment) as worker:
        updates = [update async for update in worker.stub.Status(worker_pb2.StatusRequest())]
        async with asyncio.timeout(DEADLINE_S):
            failure = await worker.task
        assert isinstance(failure, Failure)
        assert (failure.reason, failure.where) == (reason, where)
        assert says in failure.message
        assert failure.remedy
        assert updates[-1].phase == worker_pb2.WORKER_PHASE_FAILED
        assert updates[-1].failure.reason == reason


async def test_a_library_that_panics_at_load_is_told_too(folder: Path) -> None:
    engine = "class Panic(BaseException): pass\nclass Engine:\n    def infer(self, batch): pass\n"
    engine += "    def __init__(self, context): raise Panic('index out of bounds')\n"
    async with worker_in(folder, deployment=scripted(folder, engine=engine)) as worker:
        async with asyncio.timeout(DEADLINE_S):
            failure = await worker.task
        assert failure is not None
        assert (failure.reason, failure.where) == ("LoadFailed", "load")
        assert "Panic: index out of bounds" in failure.message


async def test_a_repeated_test_inference_that_fails_ends_the_worker(folder: Path) -> None:
    engine = """
class Engine:
    def __init__(self, context):
        self.asked = 0

    def infer(self, batch):
        self.asked += 1
        return [{"text": "well"} if self.asked == 1 else {} for _ in batch]
"""
    deployment = scripted(folder, engine=engine, health={"intervalSeconds": 1})
    async with worker_in(folder, deployment=deployment) as worker:
        await worker.serving()
        async with asyncio.timeout(DEADLINE_S):
            failure = await worker.task
        assert failure is not None
        assert (failure.reason, failure.where) == ("HealthInferenceFailed", "serve")


async def test_an_address_that_cannot_be_bound_is_named(folder: Path) -> None:
    async with worker_in(folder, address=f"unix:{folder}/no/such/folder/w.sock") as worker:
        with pytest.raises(errors.AddressInUse, match="no/such/folder"):
            await worker.task


def embeddings(result: worker_pb2.EntryResult) -> values.Array:
    found = outputs_of(result)["embeddings"]
    assert isinstance(found, np.ndarray)
    return found


async def _seen(call: Any) -> None:
    """Returns when the worker has read all that was written before: it refuses the id 1, which is in use."""
    await call.write(batch(entry(1)))
    assert 1 in await results(call, 1)


async def _accepted(call: Any) -> int:
    """Sends entries until one is taken; its id. A refusal comes before the answer to the empty entry after it."""
    async with asyncio.timeout(DEADLINE_S):
        for entry_id in itertools.count(10, 2):
            empty = empty_entry(entry_id + 1)
            await call.write(batch(entry(entry_id)))
            await call.write(batch(empty))
            if set(await results(call, 1)) == {entry_id + 1}:
                return entry_id
            await results(call, 1)
    raise AssertionError("count never ends")


async def test_a_request_that_is_no_message_fails_its_entry_and_not_the_stream(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(batch(worker_pb2.BatchEntry(entry_id=1, request=b"\xff\xff"), entry(2)))
        found = await results(call, 2)
        error = from_rpc(found[1].error)
        assert isinstance(error, errors.MalformedRequest)
        assert error.context.field == "request"
        assert found[2].HasField("output")


async def test_parameters_that_are_no_json_fail_their_entry_and_not_the_stream(folder: Path) -> None:
    async with worker_in(folder) as worker:
        await worker.serving()
        call = worker.stub.Process()
        bad = entry_of(1, {"text": "hello"}, scale=float("nan"))
        await call.write(batch(bad, entry(2)))
        found = await results(call, 2)
        error = from_rpc(found[1].error)
        assert isinstance(error, errors.InvalidRequest)
        assert error.context.field == "parameters"
        assert found[2].HasField("output")
