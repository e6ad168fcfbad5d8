"""The worker as a process: its signals, its parent, its last words, its exit code."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from tests.support.entries import empty_entry, outputs_of
from tests.support.workers import (
    DEADLINE_S,
    ENGINE,
    batch,
    entry,
    results,
    scripted,
    settings_json,
    short_folder,
    until_exists,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def start(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """A fresh process, as `python -m modelmora_worker` starts one."""
    (folder / "settings.json").write_text(settings_json(folder, **settings))
    command = [sys.executable, "-m", "modelmora_worker", "--settings", f"{folder}/settings.json", *arguments]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)


@asynccontextmanager
async def started(folder: Path, *arguments: str, **settings: Any) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = start(folder, *arguments, **settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Any]:
    await until_exists(folder / "w.sock")
    async with grpc.aio.insecure_channel(f"unix:{folder}/w.sock") as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        async with asyncio.timeout(DEADLINE_S):
            async for update in stub.Status(worker_pb2.StatusRequest()):
                if update.phase >= worker_pb2.WORKER_PHASE_SERVING:
                    break
        yield stub


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, DEADLINE_S)


async def gone(pid: int) -> None:
    """Waits until no process has that pid, or only a dead one that its new parent has not collected yet."""
    async with asyncio.timeout(DEADLINE_S):
        while state(pid) not in {"", "Z"}:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.req("REQ-LIFE-005a", "REQ-LIFE-005b", "RM-1.3e", "ENT-3")
async def test_one_process_a_model_and_its_end_unloads_it(folder: Path) -> None:
    async with started(folder) as process, connected(folder) as stub:
        call = stub.Process()
        await call.write(batch(entry(1)))
        [result] = (await results(call, 1)).values()
        assert outputs_of(result)["pid"][0] == process.pid != os.getpid()
        await stub.Drain(worker_pb2.DrainRequest())
        assert await ended(process) == 0
        assert not (folder / "w.sock").exists()


@pytest.mark.req("REQ-QUEUE-001d", "REQ-QUEUE-006a", "REQ-QUEUE-006c")
async def test_two_routers_share_batches_as_large_as_the_deployment_says(folder: Path) -> None:
    deployment = scripted(folder, batching={"maxSize": 3})
    async with started(folder, deployment=deployment), connected(folder) as a, connected(folder) as b:
        one, other = a.Process(), b.Process()
        await one.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await one.write(batch(entry(2), entry(3)))
        await read_so_far(one)
        urgent = entry(4)
        urgent.priority = types_pb2.PRIORITY_CRITICAL
        await other.write(batch(entry(2), entry(3), urgent))
        await read_so_far(other)
        (folder / "go").touch()
        found, others = await results(one, 3), await results(other, 3)
    calls = {f"a{n}": call_of(found[n]) for n in found} | {f"b{n}": call_of(others[n]) for n in others}
    # The test inference was call 1. What has no priority, as an older router sends it, is NORMAL.
    assert calls == {"a1": 2, "b4": 3, "a2": 4, "a3": 4, "b2": 4, "b3": 5}


@pytest.mark.req("EDGE-3")
async def test_a_bad_input_of_one_router_fails_no_other(folder: Path) -> None:
    async with started(folder), connected(folder) as a, connected(folder) as b:
        one, other = a.Process(), b.Process()
        await one.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        await one.write(batch(entry(2, **{"raise": "no such word"}), entry(3)))
        await other.write(batch(entry(2), entry(3, exit=True)))
        await asyncio.gather(read_so_far(one), read_so_far(other))
        (folder / "go").touch()
        found, others = await results(one, 3), await results(other, 2)
    assert [found[n].HasField("error") for n in (1, 2, 3)] == [False, True, False]
    assert [others[n].HasField("error") for n in (2, 3)] == [False, True]


async def read_so_far(call: Any) -> None:
    """Returns when the worker has read what was written before: it refuses an entry without a value at once."""
    empty = empty_entry(1000)
    await call.write(batch(empty))
    assert 1000 in await results(call, 1)


def call_of(result: worker_pb2.EntryResult) -> int:
    """The number of the engine's call that answered."""
    found: Any = outputs_of(result)["embeddings"]
    return int(found[0, 0])


@pytest.mark.req("REQ-OBS-003b", "REQ-OBS-003c")
async def test_the_log_tells_of_a_request_by_its_ids(folder: Path) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    asked, failing = entry(1), entry(2, **{"raise": "no such word"})
    asked.traceparent = failing.traceparent = f"00-{trace_id}-00f067aa0ba902b7-01"
    async with started(folder, log_level="debug") as process, connected(folder) as stub:
        call = stub.Process()
        await call.write(batch(asked, failing))
        await results(call, 2)
        await stub.Drain(worker_pb2.DrainRequest())
        await ended(process)
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    told = {(line["event"], line["request_id"]): line for line in lines if "request_id" in line}
    assert set(told) == {
        ("request started", "r-1"),
        ("request completed", "r-1"),
        ("request started", "r-2"),
        ("request failed", "r-2"),
    }
    assert {(line["trace_id"], line["model"], line["worker"]) for line in told.values()} == {
        (trace_id, "org/scripted", "w-1")
    }
    failed = told["request failed", "r-2"]
    assert failed["level"] == "warning"
    assert "ValueError: no such word" in failed["exception"]


async def test_arguments_of_the_deployment_are_the_engines(folder: Path) -> None:
    engine = ENGINE.replace("self.calls = 0", "import sys; self.calls = int(sys.argv[2])")
    async with started(folder, "--more", "40", deployment=scripted(folder, engine=engine)), connected(folder) as stub:
        call = stub.Process()
        await call.write(batch(entry(1)))
        [result] = (await results(call, 1)).values()
        found: Any = outputs_of(result)["embeddings"]
        assert found[0, 0] == 42  # after the test inference


async def test_a_file_of_settings_that_is_not_there_is_named(folder: Path) -> None:
    process = start(folder, "--settings", f"{folder}/none.json")
    assert await ended(process) == 1
    assert f"{folder}/none.json" in (folder / "log").read_text()
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.req("IMP-1")
async def test_sigterm_finishes_what_runs_then_ends_with_0(folder: Path) -> None:
    async with started(folder) as process, connected(folder) as stub:
        call = stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/go")))
        await until_exists(folder / "started")
        process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            async for update in stub.Status(worker_pb2.StatusRequest()):
                if update.phase == worker_pb2.WORKER_PHASE_DRAINING:
                    break
        (folder / "go").touch()
        assert (await results(call, 1))[1].HasField("output")
        assert await ended(process) == 0
        assert not (folder / "w.sock").exists()


async def test_a_second_sigterm_ends_at_once(folder: Path) -> None:
    async with started(folder, drain_timeout_s=3600.0) as process, connected(folder) as stub:
        call = stub.Process()
        await call.write(batch(entry(1, started=f"{folder}/started", until=f"{folder}/never")))
        await until_exists(folder / "started")
        process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            async for update in stub.Status(worker_pb2.StatusRequest()):
                if update.phase == worker_pb2.WORKER_PHASE_DRAINING:
                    break
        process.terminate()
        assert await ended(process) == 0


async def test_sigterm_while_it_loads_ends_with_0(folder: Path) -> None:
    parameters = {"started": f"{folder}/started", "until": f"{folder}/never"}
    health = {"inference": {"input": {"text": "test"}, "parameters": parameters}}
    async with started(folder, deployment=scripted(folder, health=health)) as process:
        await until_exists(folder / "started")
        process.terminate()
        assert await ended(process) == 0
        assert not (folder / "w.sock").exists()


async def test_sigterm_while_it_fetches_does_not_wait_for_the_files(folder: Path) -> None:
    deployment = scripted(folder)
    with (folder / "model" / "endless.bin").open("wb") as file:
        file.truncate(1 << 40)  # nothing on the disk, and most of an hour to hash
    async with started(folder, deployment=deployment) as process:
        await until_exists(folder / "w.sock")
        async with grpc.aio.insecure_channel(f"unix:{folder}/w.sock") as channel, asyncio.timeout(DEADLINE_S):
            status = worker_pb2_grpc.WorkerServiceStub(channel).Status(worker_pb2.StatusRequest(), wait_for_ready=True)
            async for update in status:
                if "import" in update.phase_seconds:  # of the two things it does at once, only the fetch is left
                    break
        process.terminate()
        assert await ended(process) == 0
        assert not (folder / "w.sock").exists()


async def test_ctrl_c_is_the_parents_business(folder: Path) -> None:
    async with started(folder) as process, connected(folder) as stub:
        process.send_signal(signal.SIGINT)
        call = stub.Process()
        await call.write(batch(entry(1)))
        assert (await results(call, 1))[1].HasField("output")


@pytest.mark.req("RM-1.3e", "IMP-1")
async def test_a_killed_parent_takes_its_worker_with_it(folder: Path) -> None:
    (folder / "settings.json").write_text(settings_json(folder, exit_with_parent=True))
    program = (
        "import subprocess, sys, time\n"
        f"w = subprocess.Popen([sys.executable, '-m', 'modelmora_worker', '--settings', '{folder}/settings.json'])\n"
        "print(w.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)  # noqa: ASYNC220 - short
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        async with connected(folder):
            pass
        parent.kill()
        parent.wait()
        await gone(pid)
        assert not (folder / "w.sock").exists()
    finally:
        parent.stdout.close()
        parent.kill()
        if state(pid) not in {"", "Z"}:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.req("REQ-LIFE-010a")
async def test_a_failed_load_leaves_its_reason_and_ends_with_1(folder: Path) -> None:
    deployment = scripted(folder, model={"source": {"uri": "file:///nowhere/at/all"}})
    async with started(folder, deployment=deployment) as process:
        assert await ended(process) == 1
        words = json.loads((folder / "last-words.json").read_text())
        assert words["reason"] == "SourceNotFound"
        assert words["where"] == "fetch"
        assert "/nowhere/at/all" in words["message"]
        assert words["remedy"]
        assert "Traceback" not in (folder / "log").read_text()
        assert not (folder / "w.sock").exists()


async def test_the_last_words_fit_a_termination_message_in_any_script(folder: Path) -> None:
    engine = "class Engine:\n    def infer(self, batch): pass\n"
    engine += "    def __init__(self, context): raise ValueError('\u6a21\u578b\\ud800\\n' * 5000)\n"
    async with started(folder, deployment=scripted(folder, engine=engine)) as process:
        assert await ended(process) == 1
        words = (folder / "last-words.json").read_bytes()
        assert len(words) <= 4096
        assert json.loads(words)["reason"] == "LoadFailed"


@pytest.mark.req("LC-36")
async def test_a_package_that_an_engine_needs_is_named(folder: Path) -> None:
    deployment = scripted(folder, engine="import a_package_that_nobody_has\n")
    async with started(folder, deployment=deployment) as process:
        assert await ended(process) == 1
        words = json.loads((folder / "last-words.json").read_text())
        assert words["reason"] == "MissingDependency"
        assert "a_package_that_nobody_has" in words["message"]
        assert "install" in words["remedy"]


@pytest.mark.parametrize(("name", "value"), [("drain_timeout_s", -1), ("deployment", {"kind": "Pod"}), ("nonsense", 1)])
async def test_a_wrong_setting_is_named(folder: Path, name: str, value: object) -> None:
    async with started(folder, **{name: value}) as process:
        assert await ended(process) == 1
        log = (folder / "log").read_text()
        assert "worker did not start" in log
        assert "Traceback" not in log


async def test_an_address_that_cannot_be_bound_is_told_without_a_traceback(folder: Path) -> None:
    async with started(folder, address=f"unix:{folder}/no/such/folder/w.sock") as process:
        assert await ended(process) == 1
        words = json.loads((folder / "last-words.json").read_text())
        assert (words["reason"], words["where"]) == ("AddressInUse", "start")
        assert "no/such/folder" in words["message"]
        assert "Traceback" not in (folder / "log").read_text()


async def test_the_memory_of_a_worker_is_its_own(folder: Path) -> None:
    """What Status tells is of that process, not of its parent."""
    async with started(folder) as process, connected(folder) as stub:
        update = await stub.Status(worker_pb2.StatusRequest()).read()
        assert update.pid == process.pid
        assert 0 < update.memory_bytes <= rss(process.pid)


def rss(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.req("REQ-DEPLOY-001")
async def test_a_wish_to_end_is_heard_while_our_own_code_is_imported(folder: Path) -> None:
    (folder / "settings.json").write_text(settings_json(folder))
    command = [sys.executable, "-X", "importtime", "-m", "modelmora_worker", "--settings", f"{folder}/settings.json"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        while b"modelmora.errors" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0  # not by the signal: the first process of a container would not even end


async def test_only_the_first_start_counts_from_the_wish_for_it(folder: Path) -> None:
    pod = {"started_at": 1.0, "first_start_file": str(folder / "started")}
    seconds = []
    for _ in range(2):
        async with started(folder, **pod) as process, connected(folder) as stub:
            async for update in stub.Status(worker_pb2.StatusRequest()):
                seconds.append(dict(update.phase_seconds))
                break
            process.terminate()
            await ended(process)
    first, second = seconds
    assert first["spawn"] > 1e9
    assert "spawn" not in second


async def test_it_is_known_to_live_before_it_serves(folder: Path) -> None:
    health = f"unix:{folder}/health.sock"
    async with started(folder, health_address=health) as process:
        await until_exists(folder / "health.sock")
        async with grpc.aio.insecure_channel(health) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="live")
            assert (await stub.Check(asked, timeout=DEADLINE_S)).status == health_pb2.HealthCheckResponse.SERVING
        process.terminate()
        await ended(process)
