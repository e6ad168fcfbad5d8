"""A worker without torch that does as its deployment's config.parameters say.

behaviour: serve | fail (says why, exit code 1) | crash (without a word) | hang (never serves) | deaf (ignores SIGTERM)
gate: a file that must exist before it serves; die: a file that makes it crash as soon as it exists;
goodbye: a file that it leaves when it was let to drain.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from modelmora.v1 import worker_pb2, worker_pb2_grpc

_STEP_S = 0.01
_DRAIN_S = 0.2
DIGEST = "d1ce57"
REASON = {"reason": "LoadFailed", "message": "it was told to fail", "remedy": "tell it otherwise", "where": "load"}


class DummyWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Serves the status only."""

    def __init__(self) -> None:
        self.phase = worker_pb2.WORKER_PHASE_LOADING

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802 - as in the protocol
        told = worker_pb2.WORKER_PHASE_UNSPECIFIED
        while True:
            if self.phase != told:
                told = self.phase
                yield self._update()
            await asyncio.sleep(_STEP_S)

    def Process(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as in the protocol
        raise NotImplementedError

    async def Drain(self, request: Any, context: Any) -> Any:  # noqa: N802 - as in the protocol
        raise NotImplementedError

    async def Assign(self, request: Any, context: Any) -> Any:  # noqa: N802 - as in the protocol
        raise NotImplementedError

    def _update(self) -> worker_pb2.StatusUpdate:
        return worker_pb2.StatusUpdate(
            phase=self.phase,
            pid=os.getpid(),
            phase_seconds={"load": 0.25},
            memory_bytes=10_000_000,
            artifact=worker_pb2.Artifact(digest=DIGEST, revision="main", bytes=7, files=1),
        )


def run(settings_json: str) -> None:
    """As a worker's entry is called."""
    code = asyncio.run(_serve(json.loads(settings_json)))
    sys.stdout.flush()
    os._exit(code)


async def _serve(settings: dict[str, Any]) -> int:
    loop = asyncio.get_running_loop()
    told = settings["deployment"]["spec"]["model"].get("config", {}).get("parameters", {})
    behaviour, stop = told.get("behaviour", "serve"), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if behaviour == "deaf" else stop.set)
    if parent := multiprocessing.parent_process():
        loop.add_reader(parent.sentinel, stop.set)
    server, servicer, healthy = grpc.aio.server(), DummyWorker(), health.HealthServicer()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    server.add_insecure_port(settings["address"])
    await server.start()
    try:
        if behaviour == "fail":
            _leave_message(settings)
            return 1
        return await _serve_until(stop, behaviour, told, servicer, healthy)
    finally:
        await server.stop(None)
        Path(settings["address"].removeprefix("unix:")).unlink(missing_ok=True)  # noqa: ASYNC240 - one call, at the end


async def _serve_until(
    stop: asyncio.Event, behaviour: str, told: dict[str, str], servicer: DummyWorker, healthy: Any
) -> int:
    while not stop.is_set():
        if behaviour == "crash" or _exists(told.get("die")):
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour != "hang" and ("gate" not in told or _exists(told["gate"])):
            servicer.phase = worker_pb2.WORKER_PHASE_SERVING
            await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        await asyncio.sleep(_STEP_S)
    if "goodbye" in told:
        await asyncio.sleep(_DRAIN_S)
        Path(told["goodbye"]).touch()  # noqa: ASYNC240 - one call, at the end
    return 0


def _exists(file: str | None) -> bool:
    return file is not None and Path(file).exists()


def _leave_message(settings: dict[str, Any]) -> None:
    Path(settings["termination_message_path"]).write_text(json.dumps(REASON))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    run(parser.parse_args().settings.read_text())
