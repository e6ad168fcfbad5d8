"""A worker without a model: a real WorkerService and grpc.health.v1 on a unix socket, scripted by a test.

Its outputs tell what it was given: `text` comes back as it is, `embeddings` holds the length of each text.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc

from modelmora.control import WORKER_METADATA, Key, Worker
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora.wire.health import HealthService
from tests.support.entries import output_of, texts_of

Respond = Callable[[worker_pb2.BatchEntry], worker_pb2.EntryResult]


def echo(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    """The texts, and their lengths as float32 [n, 1]."""
    texts = texts_of(entry)
    lengths = np.array([[len(text)] for text in texts], dtype=np.float32)
    output = output_of(text=texts, embeddings=lengths)
    return worker_pb2.EntryResult(entry_id=entry.entry_id, output=output, inference_ms=1.5, batch_size=1)


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Works on one entry after the other, each when the test lets it."""

    def __init__(self, worker_id: str, address: str, respond: Respond) -> None:
        self.worker_id = self.identity = worker_id
        self.address = address
        self.respond = respond
        self.received: list[worker_pb2.BatchEntry] = []
        self.finished: list[worker_pb2.BatchEntry] = []
        self.cancelled: list[int] = []
        self.streams = 0
        self.health = HealthService(["modelmora.v1.WorkerService"])
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._drained = asyncio.Event()
        self.server: grpc.aio.Server | None = None

    # ---------------------------------------------------------------- for the test

    async def listen(self) -> None:
        self.server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.http2.max_ping_strikes", 0)]
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    @property
    def texts(self) -> list[str]:
        """The first text of every entry that came in, in their order."""
        return [texts_of(entry)[0] for entry in self.received]

    def listed(self, key: Key, *, terminating: bool = False) -> Worker:
        return Worker(self.worker_id, key, self.address, self.address, terminating)

    def serve(self, *, serving: bool = True) -> None:
        self.health.set(serving=serving)

    def hold(self) -> None:
        """From now on nothing is worked on."""
        self._may_run.clear()

    def release(self) -> None:
        self._may_run.set()

    def drain(self) -> None:
        """Ends every stream in order; what was not worked on is dropped."""
        self.serve(serving=False)
        self._drained.set()

    async def die(self) -> None:
        """Breaks every connection, as a killed process does."""
        assert self.server
        await self.server.stop(None)

    # ---------------------------------------------------------------- for the router

    async def Process(self, requests: AsyncIterator[worker_pb2.ProcessRequest], context: Any) -> Any:  # type: ignore[override]  # noqa: N802 - the name in the protocol
        self.streams += 1
        await context.send_initial_metadata(((WORKER_METADATA, self.identity),))
        entries: asyncio.Queue[worker_pb2.BatchEntry] = asyncio.Queue(100)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(requests, entries))
            while (result := await self._next_result(entries)) is not None:
                await context.write(worker_pb2.ProcessResponse(results=[result]))
            reader.cancel()

    async def _next_result(self, entries: asyncio.Queue[worker_pb2.BatchEntry]) -> worker_pb2.EntryResult | None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work(entries))
            drained = group.create_task(self._drained.wait())
            await asyncio.wait([work, drained], return_when=asyncio.FIRST_COMPLETED)
            result = work.result() if work.done() else None
            work.cancel()
            drained.cancel()
        return result

    async def _work(self, entries: asyncio.Queue[worker_pb2.BatchEntry]) -> worker_pb2.EntryResult:
        entry = await entries.get()
        await self._may_run.wait()
        self.finished.append(entry)
        return self.respond(entry)

    async def _read(
        self, requests: AsyncIterator[worker_pb2.ProcessRequest], entries: asyncio.Queue[worker_pb2.BatchEntry]
    ) -> None:
        async for request in requests:
            self.cancelled.extend(request.cancel.entry_ids)
            for entry in request.batch.entries:
                self.received.append(entry)
                entries.put_nowait(entry)

    async def Status(self, request: Any, context: Any) -> Any:  # type: ignore[override]  # noqa: N802 - as above
        raise NotImplementedError("the router does not ask for it")

    async def Drain(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        raise NotImplementedError("the router does not ask for it")

    async def Assign(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        raise NotImplementedError("the router does not ask for it")


@asynccontextmanager
async def fake_worker(
    worker_id: str, *, respond: Respond = echo, serving: bool = True, listening: bool = True
) -> AsyncIterator[FakeWorker]:
    """A worker that listens until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mm-") as folder:
        worker = FakeWorker(worker_id, f"unix:{Path(folder) / 'w.sock'}", respond)
        worker.serve(serving=serving)
        if listening:
            await worker.listen()
        try:
            yield worker
        finally:
            worker.release()
            if worker.server:
                await worker.server.stop(None)
