"""As many workers as the load asks for, under a real `modelmora serve`; and what becomes of requests when one ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest

from modelmora import AsyncClient
from modelmora.errors import ModelMoraError, QueueFull, WorkerUnavailable
from tests.support.scripted import scripted
from tests.support.servers import Server, serving

pytestmark = pytest.mark.slow

SCALING = {"maxReplicas": 3, "targetConcurrency": 2, "scaleDownDelaySeconds": 1, "scaleToZeroAfterSeconds": 2}
ONE_BY_ONE = {"maxSize": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("replicas") / "models"
    scripted(folder, "elastic", scaling=SCALING, batching=ONE_BY_ONE)
    scripted(folder, "pair", scaling={"minReplicas": 2, "maxReplicas": 2}, batching=ONE_BY_ONE)
    scripted(folder, "flooded", scaling={"minReplicas": 1}, batching=ONE_BY_ONE, queue={"maxLength": 20})
    with serving(folder, folder.parent) as server:
        yield server


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc) as client:
        yield client


async def replicas(server: Server, name: str) -> int:
    def count() -> int:
        with server.http() as http:
            return int(http.get(f"/api/v1/models/{name}").json()["status"]["readyReplicas"])

    return await asyncio.to_thread(count)


async def until_replicas(server: Server, name: str, wanted: int) -> None:
    async with asyncio.timeout(40):
        while await replicas(server, name) != wanted:  # noqa: ASYNC110 - the status is asked for, it does not call
            await asyncio.sleep(0.1)


@asynccontextmanager
async def load(client: AsyncClient, model_id: str, *, at_once: int, seconds: float) -> AsyncIterator[list[str]]:
    """So many callers that ask again and again; the codes of what failed."""
    failures: list[str] = []

    async def ask() -> None:
        while True:
            try:
                await client.infer(model_id, "hello", parameters={"sleep": seconds})
            except ModelMoraError as error:
                failures.append(error.code)

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(ask()) for _ in range(at_once)]
        try:
            yield failures
        finally:
            for caller in callers:
                caller.cancel()


@pytest.mark.req("RM-2.2g", "REQ-SCALE-003", "REQ-QUEUE-008")
async def test_replicas_follow_the_load_up_and_down_to_zero(server: Server) -> None:
    async with connected(server) as client:
        assert await replicas(server, "elastic") == 0
        async with load(client, "elastic", at_once=1, seconds=0.2):
            await until_replicas(server, "elastic", 1)
        async with load(client, "elastic", at_once=8, seconds=0.2) as failures:
            await until_replicas(server, "elastic", 3)
            answers = [client.infer("elastic", "who", parameters={"sleep": 0.2}) for _ in range(12)]
            pids = {int(answer.output["pid"][0]) for answer in await asyncio.gather(*answers)}
            assert len(pids) == 3
        assert failures == []
        await until_replicas(server, "elastic", 0)


@pytest.mark.req("REQ-PERF-002", "SUCC-MVP-3")
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
async def test_ten_clients_with_a_hundred_requests_each_all_get_their_own_answers(
    server: Server, protocol: str
) -> None:
    async def over_grpc(name: str) -> list[str]:
        async with connected(server) as client:
            return [str((await client.infer("pair", f"{name}-{n}")).output["text"][0]) for n in range(100)]

    async def over_rest(name: str) -> list[str]:
        async with httpx.AsyncClient(base_url=server.rest, timeout=30) as http:
            bodies = [{"input": {"text": f"{name}-{n}"}} for n in range(100)]
            return [(await http.post("/infer/pair", json=body)).json()["output"]["text"][0] for body in bodies]

    await until_replicas(server, "pair", 2)
    ask = over_grpc if protocol == "grpc" else over_rest
    answers = await asyncio.gather(*(ask(f"client-{number}") for number in range(10)))
    assert answers == [[f"client-{number}-{n}" for n in range(100)] for number in range(10)]


@pytest.mark.req("EDGE-3", "REQ-REL-003", "US2-AS3")
async def test_a_worker_that_is_killed_fails_nobody_while_another_serves(server: Server) -> None:
    async with connected(server) as client:
        await until_replicas(server, "pair", 2)
        async with load(client, "pair", at_once=4, seconds=0.05) as failures:
            first = await client.infer("pair", "who")
            psutil.Process(int(first.output["pid"][0])).kill()
            second = await client.infer("pair", "who")
            assert second.output["pid"][0] != first.output["pid"][0]
            await until_replicas(server, "pair", 2)
        assert failures == []


@pytest.mark.req("EDGE-3")
async def test_a_request_that_kills_is_tried_once_more_and_then_fails_in_words(server: Server) -> None:
    async with connected(server) as client:
        await until_replicas(server, "pair", 2)
        with pytest.raises(WorkerUnavailable) as caught:
            await client.infer("pair", "deadly", parameters={"die": True})
        assert "pair" in str(caught.value)
        await until_replicas(server, "pair", 2)
        assert (await client.infer("pair", "next")).output["text"] == ["next"]


@pytest.mark.req("REQ-QUEUE-001d")
async def test_a_flood_of_low_does_not_keep_critical_from_being_answered(server: Server) -> None:
    async with connected(server) as client:
        await until_replicas(server, "flooded", 1)

        async def low() -> str:
            try:
                await client.infer("flooded", "low", priority="LOW", parameters={"sleep": 0.05})
            except QueueFull as error:
                return error.code
            return "answered"

        flood = [asyncio.ensure_future(low()) for _ in range(60)]
        urgent = [client.infer("flooded", "urgent", priority="CRITICAL", timeout_seconds=5) for _ in range(5)]
        assert [answer.output["text"] for answer in await asyncio.gather(*urgent)] == [["urgent"]] * 5
        outcomes = await asyncio.gather(*flood)
        assert set(outcomes) == {"answered", QueueFull("").code}
