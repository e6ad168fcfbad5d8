"""`python -m modelmora_router` with two processes on its ports, before an API server in memory and a fake worker."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from modelmora.control import Key
from modelmora.control.leases import demands_of
from modelmora.kube import names
from modelmora.v1 import inference_pb2_grpc
from tests.support.fake_worker import FakeWorker, echo
from tests.support.kube_server import KubeServer, kube_server
from tests.support.router_program import RouterProgram, router_program
from tests.support.routing import deployment, request
from tests.support.servers import wait_for
from tests.support.waiting import eventually

START_S = 45.0
BODY = {"input": {"text": "a"}}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[KubeServer]:
    with kube_server(tmp_path) as server:
        server.put_deployment(deployment("one"))
        yield server


@pytest.fixture
async def worker(kube: KubeServer) -> AsyncIterator[FakeWorker]:
    """Of model `one`: a pod, whose ports are always the same, on an address of its own."""
    host = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
    worker = FakeWorker("default/w", f"{host}:{names.CALL_PORT}", echo)
    health = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(worker.health, health)
    health.add_insecure_port(f"{host}:{names.HEALTH_PORT}")
    await worker.listen()
    await health.start()
    worker.serve()
    kube.put_worker("w", "one", host)
    try:
        yield worker
    finally:
        worker.release()
        await worker.die()
        await health.stop(None)


def settings(kube: KubeServer, **more: str) -> dict[str, str]:
    given = {"ROUTER_KUBECONFIG": str(kube.kubeconfig), "ROUTER_POD_NAME": "router-a", "ROUTER_POD_UID": "uid-a"}
    return {"PROCESSES": "2", "DRAIN_TIMEOUT_S": "60", "MAX_HELD_BYTES": str(2 << 20), **given, **more}


@pytest.fixture
def program(kube: KubeServer, tmp_path: Path) -> Iterator[RouterProgram]:
    with router_program(tmp_path, **settings(kube)) as program:
        yield program


async def until_ready(program: RouterProgram) -> None:
    def all_of_it() -> bool:
        components = program.components()
        return bool(components) and set(components.values()) == {"ready"}

    try:
        await asyncio.to_thread(wait_for, all_of_it, within_s=START_S, what="all processes of the router to be ready")
    except AssertionError:
        raise AssertionError(f"the router is not ready:\n{program.log()}") from None


def processes(program: RouterProgram) -> dict[int, psutil.Process]:
    """By their numbers."""
    found = psutil.Process(program.process.pid).children()
    return {int(one.environ()["MODELMORA_ROUTER_PROCESS_NUMBER"]): one for one in found}


@asynccontextmanager
async def connection_to(program: RouterProgram, number: int) -> AsyncIterator[httpx.AsyncClient]:
    """One connection, to the process of this number; which one has it is told by which other it speaks of."""
    other = f"process {3 - number}"
    limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
    for _ in range(100):
        async with httpx.AsyncClient(base_url=program.rest, timeout=20, limits=limits) as http:
            if other in (await http.get("/health")).json()["components"]:
                yield http
                return
    raise AssertionError(f"100 connections, and none to process {number}")


async def samples(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Those of a name, by process: the last one of each."""
    answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    found = [sample for family in openmetrics(answer.text) for sample in family.samples if sample.name == name]
    return {sample.labels["process"]: sample for sample in found}


async def values(http: httpx.AsyncClient, name: str) -> dict[str, float]:
    return {process: sample.value for process, sample in (await samples(http, name)).items()}


async def infer(program: RouterProgram) -> None:
    """On a connection of its own."""
    async with httpx.AsyncClient(base_url=program.rest, timeout=20) as http:
        answer = await http.post("/api/v1/infer/one", json=BODY, headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"})
    assert answer.status_code == 200, answer.text


async def infer_by_grpc(program: RouterProgram, port: int) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        await inference_pb2_grpc.InferenceServiceStub(channel).Infer(request(), timeout=20)


async def test_both_processes_take_requests_and_together_they_look_like_two_routers(
    kube: KubeServer, worker: FakeWorker, program: RouterProgram
) -> None:
    await until_ready(program)
    async with connection_to(program, 1) as http, connection_to(program, 2) as other:
        for connection in (http, other):
            assert (await connection.post("/api/v1/infer/one", json=BODY)).status_code == 200
        for _ in range(40):
            await infer(program)
        counted = await values(http, "modelmora_requests_total")
        assert counted.keys() == {"1", "2"}
        assert sum(counted.values()) == 40 + 2
        assert await values(other, "modelmora_requests_total") == counted
        buckets = await samples(http, "modelmora_request_duration_seconds_bucket")
        assert await values(http, "modelmora_router_process_up") == {"1": 1, "2": 1}
        assert buckets.keys() == {"1", "2"}
        exemplars = (await http.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
        assert exemplars.count(f'# {{trace_id="{TRACE}"}}') >= 2
    assert kube.leases.keys() == {"router-a-1", "router-a-2"}
    for lease in kube.leases.values():
        assert demands_of(lease).keys() == {Key("default", "one")}
        assert lease["metadata"]["ownerReferences"][0]["name"] == "router-a"


async def test_what_all_may_hold_is_shared_out(kube: KubeServer, worker: FakeWorker, program: RouterProgram) -> None:
    await until_ready(program)
    worker.hold()
    large = {"input": {"text": "a" * 700_000}}  # of 2 MiB, which are 1 MiB for each
    async with (
        connection_to(program, 1) as one,
        connection_to(program, 1) as same,
        connection_to(program, 2) as other,
    ):
        first = asyncio.create_task(one.post("/api/v1/infer/one", json=large))
        await eventually(lambda: worker.received, what="the first to be at the worker", within_s=START_S)
        assert (await same.post("/api/v1/infer/one", json=large)).json()["code"] == "MEMORY_FULL"
        last = asyncio.create_task(other.post("/api/v1/infer/one", json=large))
        await eventually(lambda: len(worker.received) == 2, what="the last to be at the worker", within_s=START_S)
        worker.release()
        assert [(await first).status_code, (await last).status_code] == [200, 200]


async def test_a_signal_drains_them_all(kube: KubeServer, worker: FakeWorker, program: RouterProgram) -> None:
    await until_ready(program)
    worker.hold()
    async with connection_to(program, 1) as http, connection_to(program, 2) as other:
        asked = [asyncio.create_task(one.post("/api/v1/infer/one", json=BODY)) for one in (http, other)]
        await eventually(lambda: len(worker.received) == 2, what="both requests to be at the worker", within_s=START_S)
        program.process.send_signal(signal.SIGTERM)
        await eventually(lambda: program.log().count("draining") >= 5, what="all to drain")
        worker.release()
        assert [(await one).status_code for one in asked] == [200, 200]
    assert await asyncio.to_thread(program.process.wait, 30) == 0, program.log()
    assert kube.leases == {}


async def test_a_second_signal_ends_them_all_at_once(
    kube: KubeServer, worker: FakeWorker, program: RouterProgram
) -> None:
    await until_ready(program)
    worker.hold()
    async with connection_to(program, 1) as http:
        asked = asyncio.create_task(http.post("/api/v1/infer/one", json=BODY))
        await eventually(lambda: worker.received, what="the request to be at the worker", within_s=START_S)
        family = list(processes(program).values())
        program.process.send_signal(signal.SIGTERM)
        await eventually(lambda: program.log().count("draining") >= 5, what="all to drain")
        program.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.process.wait, 30) == 130
        await eventually(lambda: not any(_alive(one) for one in family), what="all to have ended")
        with pytest.raises(httpx.TransportError):
            await asked


async def test_one_that_is_killed_comes_back_and_the_other_goes_on(
    kube: KubeServer, worker: FakeWorker, program: RouterProgram
) -> None:
    await until_ready(program)
    before = processes(program)
    async with connection_to(program, 2) as http:
        assert (await http.post("/api/v1/infer/one", json=BODY)).status_code == 200
        os.kill(before[1].pid, signal.SIGKILL)
        await eventually(lambda: not _alive(before[1]), what="the process to be killed")
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["components"]["process 1"]) == (200, "starting")  # nothing comes to it
        assert (await http.get("/health/live")).status_code == 200
        assert await values(http, "modelmora_router_process_up") == {"1": 0, "2": 1}
        await infer(program)  # new connections go to those that listen
        while (await http.get("/health/ready")).json()["components"]["process 1"] != "ready":
            assert (await http.post("/api/v1/infer/one", json=BODY)).status_code == 200
        after = processes(program)
        assert after[2] == before[2]
        assert after[1] != before[1]
    assert "killed by SIGKILL" in program.log()
    async with connection_to(program, 1) as http:
        assert (await http.post("/api/v1/infer/one", json=BODY)).status_code == 200


async def test_one_that_is_stuck_makes_the_whole_neither_live_nor_ready(
    kube: KubeServer, worker: FakeWorker, program: RouterProgram
) -> None:
    await until_ready(program)
    stuck = processes(program)[1]
    async with connection_to(program, 2) as http:
        stuck.suspend()
        try:
            live, ready = await http.get("/health/live"), await http.get("/health/ready")
            assert (live.status_code, live.json()["processes"]) == (503, [1])
            assert (ready.status_code, ready.json()["components"]["process 1"]) == (503, "does not answer")
            assert await values(http, "modelmora_router_process_up") == {"1": 0, "2": 1}
            assert "numbers of a router process are missing" in program.log()
        finally:
            stuck.resume()
        assert (await http.get("/health/live")).status_code == 200


async def test_who_starts_them_takes_them_along_whatever_ends_it(kube: KubeServer, program: RouterProgram) -> None:
    await until_ready(program)
    family = list(processes(program).values())
    folder = Path(family[0].environ()["MODELMORA_ROUTER_PROCESS_FOLDER"])
    assert _is_there(folder)
    program.process.kill()
    await eventually(lambda: not any(_alive(one) for one in family), what="all to have ended")
    assert kube.leases == {}, "they ended in order"
    assert not _is_there(folder)


def _is_there(folder: Path) -> bool:
    return folder.exists()


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("count", ["1", "2"])
async def test_a_port_that_several_share_is_in_use_for_another_program(
    kube: KubeServer, program: RouterProgram, tmp_path: Path, count: str
) -> None:
    await until_ready(program)
    port = program.rest.rpartition(":")[2]
    second = tmp_path / "second"
    second.mkdir()
    with router_program(second, **settings(kube, PROCESSES=count, REST_PORT=port)) as other:
        assert await asyncio.to_thread(other.process.wait, START_S) == 2
        assert f"port {port} of 127.0.0.1 is in use by another program" in other.log()
        assert "Traceback" not in other.log()
    assert program.ready()


def test_what_none_of_them_can_do_is_said_once(tmp_path: Path) -> None:
    given = {"PROCESSES": "2", "ROUTER_KUBECONFIG": str(tmp_path / "none.yaml")}
    with router_program(tmp_path, **given) as program:
        assert program.process.wait(START_S) == 2
        assert program.log().count("there is no way to a Kubernetes API") == 1
        assert "Traceback" not in program.log()


async def test_free_ports_are_found_once_for_all(kube: KubeServer, worker: FakeWorker, tmp_path: Path) -> None:
    given = settings(kube, REST_PORT="0", GRPC_PORT="0", ROUTER_LOG_FORMAT="json")
    with router_program(tmp_path, **given) as program:
        await eventually(lambda: program.log().count("router serves") == 2, what="both to serve", within_s=START_S)
        told = {(line["rest_port"], line["grpc_port"]) for line in _lines(program) if line["event"] == "router serves"}
        [(rest, port)] = told
        program.rest = f"http://127.0.0.1:{rest}"
        async with connection_to(program, 1) as http, connection_to(program, 2) as other:
            for connection in (http, other):
                assert (await connection.post("/api/v1/infer/one", json=BODY)).status_code == 200
            for _ in range(40):
                await infer_by_grpc(program, port)
            counted = await values(http, "modelmora_requests_total")
            assert min(counted.values()) > 1
            assert sum(counted.values()) == 40 + 2


def _lines(program: RouterProgram) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.log().splitlines()]
