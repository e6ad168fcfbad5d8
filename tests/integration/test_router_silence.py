"""A worker that falls silent without an end of its connections: as on a node that is cut off the network."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from modelmora.control import Key, Worker
from modelmora_router.replicas import Replica
from modelmora_router.settings import RouterSettings
from tests.support.routing import eventually
from tests.unit.router.test_replicas import RememberingOwner

# Serves health as a worker does; at a line of input it holds the interpreter for one long call.
_PROGRAM = """
import asyncio, sys
from grpc_health.v1 import health_pb2_grpc
from modelmora.wire.health import HealthService
from modelmora_worker.listening import listener

async def main(address):
    health, server = HealthService([]), listener(address)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await server.start()
    health.set(serving=True)
    print("listens", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    busy = 1
    for _ in range(30):
        busy = pow(3, 6_000_000)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def address(tmp_path: object) -> str:
    return f"unix:{tmp_path}/w.sock"


@pytest.fixture
async def worker(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, address, stdin=pipe, stdout=pipe)
    assert process.stdout
    await process.stdout.readline()
    yield process
    os.kill(process.pid, signal.SIGCONT)
    process.kill()
    await process.communicate()


@pytest.mark.slow
async def test_a_worker_that_falls_silent_is_noticed(worker: asyncio.subprocess.Process, address: str) -> None:
    replica = Replica(
        Worker("w1", Key("default", "one"), address, address), RememberingOwner(), RouterSettings(), model_id="one"
    )
    task = asyncio.create_task(replica.run())
    await eventually(lambda: replica._healthy)
    worker.send_signal(signal.SIGSTOP)
    await eventually(lambda: not replica._healthy, within_s=30)
    worker.send_signal(signal.SIGCONT)
    await eventually(lambda: replica._healthy)
    replica.retire()
    await task


@pytest.mark.slow
async def test_a_worker_that_is_busy_is_not_taken_for_silent(worker: asyncio.subprocess.Process, address: str) -> None:
    replica = Replica(
        Worker("w1", Key("default", "one"), address, address), RememberingOwner(), RouterSettings(), model_id="one"
    )
    task = asyncio.create_task(replica.run())
    await eventually(lambda: replica._healthy)
    assert worker.stdin
    worker.stdin.write(b"\n")
    with pytest.raises(TimeoutError):
        await eventually(lambda: not replica._healthy, within_s=18)
    replica.retire()
    await task
