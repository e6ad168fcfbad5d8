"""Several models and room for one of them, under a real `modelmora serve`: they take turns, and do not come and go."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from modelmora import AsyncClient
from tests.support.scripted import events, scripted
from tests.support.servers import Server, serving, wait_for

pytestmark = pytest.mark.slow

ONE_BY_ONE = {"maxSize": 1}
AT_ONCE = {"minResidencySeconds": 0}
TURN_S = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        scripted(tmp_path / "models", name, batching=ONE_BY_ONE, eviction=AT_ONCE)
    return tmp_path / "models"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.parent, "--max-workers", "1") as server:
        yield server


def loads(server: Server) -> dict[str, int]:
    """By model, as the router counts them."""
    with server.http() as http:
        text = http.get("/metrics").text
    found = re.findall(r'^modelmora_model_loads_total\{.*\bmodel="(\w+)".*\} (\d+)', text, re.MULTILINE)
    return {model: int(count) for model, count in found}


def condition(server: Server, name: str, kind: str) -> tuple[str, str]:
    with server.http() as http:
        said = http.get(f"/api/v1/models/{name}").json()["status"]["conditions"]
    return next(((each["reason"], each["message"]) for each in said if each["type"] == kind), ("", ""))


def workers(server: Server) -> int:
    """How many processes of workers there are."""
    found = [child for child in server.descendants() if child.status() != psutil.STATUS_ZOMBIE]
    return sum("modelmora_worker" in " ".join(child.cmdline()) for child in found)


@asynccontextmanager
async def asking(client: AsyncClient, model_id: str, priority: str, *, at_once: int = 4) -> AsyncIterator[None]:
    """So many callers that ask again and again."""

    async def ask() -> None:
        while True:
            await client.infer(model_id, "again", priority=priority, parameters={"sleep": 0.05})

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(ask()) for _ in range(at_once)]
        yield
        for caller in callers:
            caller.cancel()


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
async def test_requests_for_two_models_in_turn_do_not_make_them_come_and_go(server: Server) -> None:
    async with AsyncClient(server.grpc, deadline_seconds=60) as client:
        asked = [client.infer("ab"[number % 2], str(number), parameters={"sleep": 0.1}) for number in range(60)]
        answers = await asyncio.gather(*asked)
    assert [answer.output["text"] for answer in answers] == [[str(number)] for number in range(60)]
    assert loads(server) == {"a": 1, "b": 1}


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b", "REQ-QUEUE-001d")
async def test_a_critical_request_takes_the_place_of_a_model_that_is_busy_with_low_ones(server: Server) -> None:
    async with AsyncClient(server.grpc, deadline_seconds=60) as client:
        await client.infer("a", "first")
        async with asking(client, "a", "LOW"):
            urgent = asyncio.ensure_future(client.infer("b", "urgent", priority="CRITICAL"))
            most = 0
            while not urgent.done():
                most = max(most, await asyncio.to_thread(workers, server))
                await asyncio.sleep(0.02)
            assert (await urgent).output["text"] == ["urgent"]
            assert most == 1
            assert (await client.infer("a", "back", priority="LOW")).output["text"] == ["back"]
    assert "model gives way" in server.log()


@pytest.mark.req("REQ-QUEUE-002")
async def test_who_is_as_urgent_waits_for_its_turn_and_says_for_whom(folder: Path) -> None:
    env = {"MODELMORA_TURN_S": str(TURN_S)}
    with serving(folder, folder.parent, "--max-workers", "1", env=env) as server:
        async with AsyncClient(server.grpc, deadline_seconds=60) as client, asking(client, "a", "NORMAL"):
            begun = time.monotonic()
            await client.infer("a", "first")
            waits = asyncio.ensure_future(client.infer("b", "mine"))
            await asyncio.to_thread(
                wait_for,
                lambda: condition(server, "b", "Scheduled")[0] == "WaitingForRoom",
                within_s=60,
                what="b to say that it waits",
            )
            assert "taken, by a:" in condition(server, "b", "Scheduled")[1]
            assert not waits.done()
            assert (await waits).output["text"] == ["mine"]
            assert time.monotonic() - begun >= TURN_S


@pytest.mark.req("REQ-QUEUE-002")
async def test_an_idle_model_gives_way_whatever_its_idle_time(folder: Path, server: Server) -> None:
    async with AsyncClient(server.grpc, deadline_seconds=60) as client:
        for name in ("a", "b", "a"):
            await client.infer(name, "hello")
    assert [event for event in events(folder, "a") if event == "load"] == ["load"] * 2
    assert workers(server) == 1
