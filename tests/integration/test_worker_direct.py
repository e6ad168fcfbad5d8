"""Callers at a worker's own socket: with bytes and with shared memory, in the same batches as those of a router."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from modelmora import AsyncClient
from modelmora.client.sharing import Passage, lent
from modelmora.errors import (
    DeadlineExceeded,
    FeatureUnavailable,
    InferenceFailed,
    InvalidRequest,
    ModelMoraError,
    ModelNotFound,
    PayloadTooLarge,
    PeerGone,
    QuotaExceeded,
    ServerUnavailable,
    WorkerUnavailable,
)
from modelmora.tensors import Session, connect, counters
from modelmora.tensors.looks import behind
from modelmora.v1 import inference_pb2_grpc
from modelmora.v1.types_pb2 import DATA_TYPE_FP32, InferenceRequest, Region, SharedMemory, Tensor, Value
from modelmora.wire.status import from_rpc_error
from tests.support.waiting import eventually
from tests.support.workers import RunningWorker, scripted, short_folder, worker_in

# Says what it got, and gives some of it back. What it keeps, it should not.
ENGINE = """
import time
from pathlib import Path

import numpy as np


class Engine:
    def __init__(self, context):
        self.kept = None

    def infer(self, batch):
        return [self.answer(entry, len(batch)) for entry in batch]

    def answer(self, entry, size):
        wishes = entry.parameters
        if "started" in wishes:
            Path(wishes["started"]).touch()
        until = Path(wishes.get("until", "/"))
        while not until.exists():
            time.sleep(0.002)
        if "raise" in wishes:
            raise ValueError(wishes["raise"])
        if "large" in wishes:
            return {"large": np.ones(int(wishes["large"]), np.uint8)}
        if "tensor" not in entry.values:
            return {"batch": np.array([size])}
        array = entry.values["tensor"]
        answer = {
            "batch": np.array([size]),
            "sum": np.array([array.sum(dtype=np.float64)]),
            "shape": np.array(array.shape),
            "writable": np.array([array.flags.writeable]),
            "copied": np.array([array.flags.owndata]),
            "fortran": np.array([array.flags.f_contiguous]),
        }
        if "back" in wishes:
            answer["back"] = np.asfortranarray(array) if wishes["back"] == "F" else array
        return answer
"""
MODEL = "org/scripted"
LARGE = np.arange(1_000_000, dtype=np.float32).reshape(1000, 1000)


@asynccontextmanager
async def direct(**settings: Any) -> AsyncIterator[tuple[Path, RunningWorker]]:
    """A worker that serves, and the path at which its callers find it."""
    with short_folder() as folder:
        health = {"inference": {"input": {"text": "x"}}}
        deployment = scripted(folder, engine=ENGINE, health=health)
        known = {"client_socket": str(folder / "model.sock"), "session_quota_bytes": 64 * 2**20} | settings
        async with worker_in(folder, deployment=deployment, **known) as worker:
            await worker.serving()
            yield folder / "model.sock", worker


def client_of(path: Path) -> AsyncClient:
    return AsyncClient(f"unix:{path}")


def session_of(client: AsyncClient) -> Session:
    assert client._sharing
    assert client._sharing._session
    return client._sharing._session


@pytest.mark.req("US2-AS1", "FR-004", "FR-005", "US3")
async def test_a_large_array_goes_in_shared_memory_and_so_does_its_answer() -> None:
    async with direct() as (path, _), client_of(path) as client:
        before = counters.statistics().shm
        for _ in range(3):  # the first answer tells how much room the next one may take
            result = await client.infer(MODEL, LARGE, parameters={"back": "C"})
            assert result.output["sum"] == LARGE.sum(dtype=np.float64)
            assert not result.array("writable")
            np.testing.assert_array_equal(result.array("back"), LARGE)
        assert counters.statistics().shm == before + 3
        session = session_of(client)
        assert session.lent == 0
        assert session.foreign_bytes == 0
        assert behind(result.array("back"))  # it is in the caller's own arena
        assert not result.array("back").flags.writeable
        kept = result.array("back")
        del result
        await client.infer(MODEL, LARGE + 1, parameters={"back": "C"})
        np.testing.assert_array_equal(kept, LARGE)


@pytest.mark.req("EDGE-5")
async def test_the_order_of_an_array_is_kept_both_ways() -> None:
    columns = np.asfortranarray(LARGE)
    async with direct() as (path, _), client_of(path) as client:
        await client.infer(MODEL, columns, parameters={"back": "F"})
        result = await client.infer(MODEL, columns, parameters={"back": "F"})
        assert result.output["fortran"]
        assert result.array("back").flags.f_contiguous
        np.testing.assert_array_equal(result.array("back"), LARGE)


async def test_what_was_made_in_place_is_not_copied() -> None:
    async with direct() as (path, _), client_of(path) as client:
        await client.infer(MODEL, LARGE)
        session = session_of(client)
        tensor = session.empty((1000, 1000))
        tensor.numpy()[...] = LARGE
        before = session.own_bytes
        for part in (tensor.numpy(), tensor.numpy()[100:900, ::2]):
            result = await client.infer(MODEL, part)
            assert result.output["sum"] == part.sum(dtype=np.float64)
            assert result.array("shape").tolist() == list(part.shape)
        assert session.own_bytes == before


async def test_what_may_be_an_index_is_copied_and_all_else_is_looked_at() -> None:
    async with direct() as (path, _), client_of(path) as client:
        for dtype, copied in ((np.int64, True), (np.uint8, False)):
            output = (await client.infer(MODEL, np.ones(100_000, dtype))).output
            assert (bool(output["copied"]), bool(output["writable"])) == (copied, False)


async def test_small_things_travel_as_bytes_and_open_no_session() -> None:
    async with direct() as (path, _), client_of(path) as client:
        assert (await client.infer(MODEL, np.ones(10, np.float32))).output["sum"] == 10
        assert (await client.infer(MODEL, "a text")).output["batch"] == 1
        assert client._sharing
        assert client._sharing._session is None


@pytest.mark.req("US3-AS2", "FR-006")
@pytest.mark.parametrize("settings", [{"session_quota_bytes": 0}, {"session_quota_bytes": 2**20}])
async def test_without_shared_memory_or_without_enough_of_it_the_same_call_sends_bytes(
    settings: dict[str, int],
) -> None:
    async with direct(**settings) as (path, _), client_of(path) as client:
        before = sum(counters.statistics().fallbacks.values())
        result = await client.infer(MODEL, LARGE, parameters={"back": "C"})
        np.testing.assert_array_equal(result.array("back"), LARGE)
        assert sum(counters.statistics().fallbacks.values()) > before


@pytest.mark.req("US3-AS2", "FR-006")
async def test_bytes_that_are_too_large_say_why_they_were_bytes() -> None:
    async with direct(session_quota_bytes=2**20, max_message_bytes=2**20) as (path, _), client_of(path) as client:
        with pytest.raises(PayloadTooLarge, match="above what the session may have") as caught:
            await client.infer(MODEL, LARGE)
        assert caught.value.context.field == "sharedMemory.sessionQuota"
        assert "sessionQuota" in caught.value.context.remedy


async def test_an_answer_that_is_too_large_for_bytes_is_made_again_with_room_for_it() -> None:
    async with direct(max_message_bytes=2**20) as (path, _), client_of(path) as client:
        for _ in range(2):
            result = await client.infer(MODEL, np.ones(100), parameters={"large": 8_000_000})
            assert result.array("large").nbytes == 8_000_000
            assert not result.array("large").flags.writeable
        with pytest.raises(PayloadTooLarge, match="above what the session may have") as caught:
            await client.infer(MODEL, np.ones(100), parameters={"large": 80_000_000})
        assert caught.value.context.field == "sharedMemory.sessionQuota"
        assert (await client.infer(MODEL, LARGE)).output["sum"] == LARGE.sum(dtype=np.float64)


async def test_an_answer_that_is_too_large_without_shared_memory_is_refused_in_words() -> None:
    async with direct(max_message_bytes=2**20, session_quota_bytes=0) as (path, _), client_of(path) as client:
        with pytest.raises(PayloadTooLarge, match="the answer of model org/scripted has 8000") as caught:
            await client.infer(MODEL, np.ones(100), parameters={"large": 8_000_000})
        assert (caught.value.context.needed_bytes or 0) >= 8_000_000
        assert "room in shared memory" in caught.value.context.remedy


async def test_an_array_can_be_made_in_place_also_where_there_is_no_shared_memory() -> None:
    for settings in ({}, {"session_quota_bytes": 0}):
        async with direct(**settings) as (path, _), client_of(path) as client:
            array = await client.empty((1000, 1000), np.float64, order="F")
            assert array.flags.f_contiguous
            array[...] = 2
            before = counters.statistics()
            assert (await client.infer(MODEL, array)).output["sum"] == 2_000_000
            after = counters.statistics()
            assert after.shm - before.shm == (0 if settings else 1)
            assert after.puts_bytes == before.puts_bytes
            with pytest.raises(InvalidRequest, match="dtype object"):
                await client.empty(3, object)


async def test_a_masked_array_is_refused_whatever_its_size() -> None:
    async with direct() as (path, _), client_of(path) as client:
        for size in (10, 1_000_000):
            with pytest.raises(InvalidRequest, match="masked array") as caught:
                await client.infer(MODEL, np.ma.masked_array(np.ones(size), mask=np.arange(size) % 2 == 0))
            assert "filled" in caught.value.context.remedy


@pytest.mark.req("US2-AS3")
async def test_after_a_worker_that_was_killed_the_next_call_shares_memory_with_the_next_one() -> None:
    async with direct() as (path, _), client_of(path) as client:
        await client.infer(MODEL, LARGE)
        real = path.readlink()
        session_of(client).close()
        path.unlink()
        path.symlink_to("of-one-that-was-killed")
        before = counters.statistics().shm
        with pytest.raises(WorkerUnavailable):
            client._sharing._opened()  # type: ignore[union-attr]
        path.unlink()
        path.symlink_to(real)
        await client.infer(MODEL, LARGE)
        assert counters.statistics().shm == before + 1


@pytest.mark.req("US2-AS3")
@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (PeerGone("it is gone"), WorkerUnavailable),
        (QuotaExceeded("too much", remedy="allow more"), PayloadTooLarge),
        (WorkerUnavailable("nobody shares memory there"), PayloadTooLarge),  # and nobody will
        (None, PayloadTooLarge),
    ],
)
def test_what_may_be_sent_again_says_so(why: ModelMoraError | None, expected: type[ModelMoraError]) -> None:
    with pytest.raises(ModelMoraError) as caught, lent(Passage(why_bytes=why)):
        raise PayloadTooLarge("larger than a message")
    assert type(caught.value) is expected
    assert "larger than a message" in caught.value.message
    assert (why.message if why else "") in caught.value.message


@pytest.mark.req("US2-AS2", "FR-012")
async def test_callers_here_and_those_of_a_router_share_a_batch(tmp_path: Path) -> None:
    async with direct() as (path, _), client_of(path) as client, client_of(path) as other:
        started, until = tmp_path / "started", tmp_path / "until"
        async with asyncio.TaskGroup() as group:
            group.create_task(client.infer(MODEL, "first", parameters={"started": str(started), "until": str(until)}))
            await eventually(started.exists, what="the first to run")
            waiting = [group.create_task(each.infer(MODEL, LARGE)) for each in (client, other, client)]
            await asyncio.sleep(0.2)  # they wait behind the first
            until.touch()
        assert [task.result().array("batch").tolist() for task in waiting] == [[3]] * 3


async def test_a_call_that_is_given_up_gives_its_memory_back_when_the_engine_is_done(tmp_path: Path) -> None:
    async with direct() as (path, _), client_of(path) as client:
        until, started = tmp_path / "until", tmp_path / "started"
        wishes = {"started": str(started), "until": str(until)}
        await client.infer(MODEL, LARGE)
        session = session_of(client)
        given_up = asyncio.ensure_future(client.infer(MODEL, LARGE, parameters=wishes))
        await eventually(started.exists, what="it to run")
        given_up.cancel()
        await asyncio.wait([given_up])
        assert session.lent == 1
        until.touch()
        await eventually(lambda: session.lent == 0, what="the memory to be given back")
        assert (await client.infer(MODEL, LARGE)).output["sum"] == LARGE.sum(dtype=np.float64)


async def test_a_call_whose_time_is_over_says_so_and_keeps_its_memory_until_the_engine_is_done(tmp_path: Path) -> None:
    async with direct() as (path, _), client_of(path) as client:
        until = tmp_path / "until"
        await client.infer(MODEL, LARGE)
        with pytest.raises(DeadlineExceeded):
            await client.infer(MODEL, LARGE, parameters={"until": str(until)}, timeout_seconds=0.1)
        session = session_of(client)
        assert session.lent == 1
        until.touch()
        await eventually(lambda: session.lent == 0, what="the memory to be given back")


@pytest.mark.req("FR-009")
async def test_what_the_engine_says_is_heard_and_the_memory_is_back() -> None:
    async with direct() as (path, _), client_of(path) as client:
        with pytest.raises(InferenceFailed, match="bad word") as caught:
            await client.infer(MODEL, LARGE, parameters={"raise": "bad word"}, request_id="mine")
        assert caught.value.context.request_id == "mine"
        await eventually(lambda: session_of(client).lent == 0, what="the memory to be given back")


async def test_a_worker_answers_for_its_own_model_alone() -> None:
    async with direct() as (path, _), client_of(path) as client:
        assert (await client.infer("org/scripted@1.0.0", "x")).version == "1.0.0"
        for wrong in ("org/other", "org/scripted@2.0.0"):
            with pytest.raises(ModelNotFound, match="not at this socket"):
                await client.infer(wrong, "x")
        for value in ({}, {"tensor": object()}):
            with pytest.raises(InvalidRequest):
                await client.infer(MODEL, value)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(InvalidRequest):
            await client.infer(MODEL, "x", timeout_seconds=-1)
        with pytest.raises(FeatureUnavailable):
            await client.list_models()
        assert await client.healthy()


@pytest.mark.req("US2-AS3")
async def test_nobody_at_the_socket_is_a_clear_error(tmp_path: Path) -> None:
    async with client_of(tmp_path / "none.sock") as client:
        with pytest.raises(ServerUnavailable, match=r"none\.sock"):
            await client.infer(MODEL, LARGE)


# ---------------------------------------------------------------------------------------------------- strangers


def asked(by: Session | None, tensor: Tensor, **shared: Any) -> InferenceRequest:
    known = ({"lease": 1} | ({"session": by.token} if by else {})) | shared
    return InferenceRequest(model_id=MODEL, input={"tensor": Value(tensor=tensor)}, shared_memory=SharedMemory(**known))


async def refused(channel: grpc.aio.Channel, request: InferenceRequest) -> InvalidRequest:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference_pb2_grpc.InferenceServiceStub(channel).Infer(request, timeout=30)
    error = from_rpc_error(caught.value, endpoint="")
    assert isinstance(error, InvalidRequest), error
    return error


@pytest.mark.req("FR-014")
async def test_forged_handles_and_those_of_others_are_refused_and_nothing_else_happens() -> None:
    async with direct() as (path, _), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        tensors_path = f"{path.resolve()}.tensors"
        with connect(tensors_path) as mine, connect(tensors_path) as other:
            lease, [handle] = mine.lend([LARGE])
            stranger = await refused(channel, asked(other, handle, lease=lease))
            assert "no arena" in stranger.message
            assert (await refused(channel, asked(None, handle))).context.field == "input.tensor.region"
            unknown = asked(None, handle, session="x" * 32, lease=lease)
            assert (await refused(channel, unknown)).context.field == "sharedMemory.session"
            forged = Tensor(datatype=DATA_TYPE_FP32, shape=[10**9], region=Region(arena=1, offset=0))
            assert (
                await refused(channel, asked(mine, forged, lease=lease))
            ).context.field == "input.tensor.region.offset"
            outside = asked(mine, handle, lease=lease, results_arena=1, results_offset=2**40, results_bytes=8)
            assert (await refused(channel, outside)).context.field == "sharedMemory.resultsOffset"
            assert (await refused(channel, asked(mine, handle, lease=0))).context.field == "sharedMemory.lease"
            mine.revoke(lease)
            await eventually(lambda: mine.lent == 0, what="the memory to be given back")
            assert "revoked" in (await refused(channel, asked(mine, handle, lease=lease))).message
        async with client_of(path) as client:
            assert (await client.infer(MODEL, LARGE)).output["sum"] == LARGE.sum(dtype=np.float64)


async def test_a_client_whose_worker_was_replaced_finds_the_next_one() -> None:
    async with direct() as (path, _), client_of(path) as client:
        await client.infer(MODEL, LARGE)
        session_of(client).token = "of another worker"
        assert (await client.infer(MODEL, LARGE)).output["sum"] == LARGE.sum(dtype=np.float64)
        assert (await client.infer(MODEL, LARGE)).output["sum"] == LARGE.sum(dtype=np.float64)
        assert session_of(client).token != "of another worker"


async def test_when_the_worker_ends_nothing_of_it_is_left_and_its_callers_hear_of_it() -> None:
    async with direct() as (path, worker):
        async with client_of(path) as client:
            result = await client.infer(MODEL, LARGE, parameters={"back": "C"})
            session = session_of(client)
            worker.stopping.drain(1.0)
            await worker.task
            await eventually(lambda: session.over, what="the end of the session")
            with pytest.raises(ServerUnavailable):
                await client.infer(MODEL, LARGE, deadline_seconds=5)
            np.testing.assert_array_equal(result.array("back"), LARGE)
        assert not [each.name for each in path.parent.iterdir() if each.name.startswith("model.sock")]
    gc.collect()
