"""Settings of workers, engines that need no torch, and a worker that runs inside the test."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora_worker.lifecycle import Failure
from modelmora_worker.server import Worker
from modelmora_worker.settings import WorkerSettings, read
from modelmora_worker.stopping import Stopping
from tests.support.entries import entry_of
from tests.support.manifests import manifest

DEADLINE_S = 60.0

# Travels to the worker as one of runtime.files. Its parameters say what it does to a request.
ENGINE = """
import os
import time
from pathlib import Path

import numpy as np


class Engine:
    def __init__(self, context):
        self.settings = context.parameters
        if "raise" in self.settings:
            raise RuntimeError(self.settings["raise"])
        self.calls = 0

    def infer(self, batch):
        self.calls += 1
        return [self.answer(entry) for entry in batch]

    def answer(self, entry):
        wishes = entry.parameters
        if "started" in wishes:
            Path(wishes["started"]).touch()
        until = Path(wishes.get("until", "/"))
        while not until.exists() and until.parent.exists():
            time.sleep(0.002)
        if "raise" in wishes:
            raise ValueError(wishes["raise"])
        if "exit" in wishes:
            raise SystemExit(3)
        if "lock" in wishes:
            return {"lock": object()}
        if "bytes" in wishes:
            return {"data": np.zeros(int(wishes["bytes"]), np.uint8)}
        if self.settings.get("nan"):
            return {"embeddings": np.full((1, 4), np.nan)}
        return {"embeddings": np.full((len(entry.texts()), 4), self.calls, np.float32), "pid": np.array([os.getpid()])}
"""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket (at most 107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix="mm-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings_json(folder: Path, *, deployment: Mapping[str, Any] | None = None, **settings: Any) -> str:
    """Settings of a worker that keeps everything in `folder`; without a deployment, one with the engine above."""
    known = {
        "deployment": deployment or scripted(folder),
        "worker_id": "w-1",
        "address": f"unix:{folder}/w.sock",
        "cache_dir": str(folder / "cache"),
        "files_dir": str(folder / "files"),
        "termination_message_path": str(folder / "last-words.json"),
        "drain_timeout_s": 10.0,
    }
    return json.dumps(known | settings)


def scripted(folder: Path, *, engine: str = ENGINE, **spec: Any) -> dict[str, Any]:
    """A deployment of the engine above; its module gets a name of its own for each folder."""
    module = f"engine_{folder.name.replace('-', '_').lower()}"
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.txt").write_text("1")
    runtime = {"engine": f"python:{module}:Engine", "files": [{"path": f"{module}.py", "content": engine}]}
    source = {"uri": f"file://{folder}/model"}
    model = {"id": "org/scripted", "source": source} | spec.pop("model", {})
    return manifest("scripted", model=model, runtime=runtime, **spec)


@dataclass(slots=True)
class RunningWorker:
    """A worker inside the test."""

    settings: WorkerSettings
    stopping: Stopping
    task: asyncio.Task[Failure | None]
    channel: grpc.aio.Channel
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = worker_pb2_grpc.WorkerServiceStub(self.channel)

    async def serving(self) -> worker_pb2.StatusUpdate:
        return await self.phase(worker_pb2.WORKER_PHASE_SERVING)

    async def phase(self, phase: worker_pb2.WorkerPhase.ValueType) -> worker_pb2.StatusUpdate:
        """The first state of that phase or a later one."""
        async with asyncio.timeout(DEADLINE_S):
            async for update in self.stub.Status(worker_pb2.StatusRequest()):
                if update.phase >= phase:
                    return worker_pb2.StatusUpdate.FromString(update.SerializeToString())
        raise AssertionError("the status ended before that")

    async def stop(self) -> Failure | None:
        self.stopping.drain()
        async with asyncio.timeout(DEADLINE_S):
            return await self.task


@asynccontextmanager
async def worker_in(folder: Path, **settings: Any) -> AsyncIterator[RunningWorker]:
    """A worker on a socket in `folder`, in this process; it has ended at the end."""
    parsed = read(settings_json(folder, **settings))
    stopping = Stopping(parsed.drain_timeout_s)
    task = asyncio.create_task(Worker(parsed, stopping).run(), name="worker")
    async with grpc.aio.insecure_channel(parsed.address) as channel:
        try:
            yield RunningWorker(parsed, stopping, task, channel)
        finally:
            stopping.end_now()
            await asyncio.wait({task}, timeout=DEADLINE_S)


def entry(entry_id: int, texts: str | Sequence[str] = "hello", **parameters: Any) -> worker_pb2.BatchEntry:
    """One entry with texts."""
    return entry_of(entry_id, {"text": texts}, **parameters)


def batch(*entries: worker_pb2.BatchEntry) -> worker_pb2.ProcessRequest:
    return worker_pb2.ProcessRequest(batch=worker_pb2.Batch(entries=entries))


def cancel(*entry_ids: int) -> worker_pb2.ProcessRequest:
    return worker_pb2.ProcessRequest(cancel=worker_pb2.Cancel(entry_ids=entry_ids))


async def results(call: Any, count: int) -> dict[int, worker_pb2.EntryResult]:
    """Reads until so many entries have their answer."""
    found: dict[int, worker_pb2.EntryResult] = {}
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            response = await call.read()
            assert response is not grpc.aio.EOF, f"the stream ended after {sorted(found)}"
            found |= {result.entry_id: result for result in response.results}
    return found


async def until_exists(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.005)
