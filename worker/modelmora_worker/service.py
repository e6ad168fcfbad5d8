"""WorkerService: batches in, answers out, on one stream for each router; its state; its end on request."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.json_format import Error as JsonFormatError
from google.protobuf.json_format import MessageToDict
from grpc_status import rpc_status
from pydantic import JsonValue

from modelmora.control import WORKER_METADATA
from modelmora.errors import FeatureUnavailable, InvalidRequest, MalformedRequest, ModelMoraError, PayloadTooLarge
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora.wire import values
from modelmora.wire.status import to_rpc
from modelmora_worker.engines import EngineInput
from modelmora_worker.entries import Done, Entry, EntryQueue
from modelmora_worker.inference import to_outputs
from modelmora_worker.lifecycle import Lifecycle, to_update
from modelmora_worker.stopping import Stopping

Requests = AsyncIterator[worker_pb2.ProcessRequest]
_END: Final = None
_FRAME_BYTES: Final = 1024  # of a message around its results


@dataclass(slots=True, eq=False)
class _Stream:
    """One router's stream: what it sent and has no answer for, and the answers that wait to be written.

    The outbox holds no more than the queue accepted, so that it needs no bound of its own.
    """

    open: dict[int, Entry] = field(default_factory=dict)
    outbox: asyncio.Queue[list[Done] | None] = field(default_factory=asyncio.Queue)
    half_closed: bool = False  # the router sends nothing more

    def reply(self, done: list[Done]) -> None:
        for item in done:
            self.open.pop(item.entry_id, None)
        self.outbox.put_nowait(done)
        self.end_if_finished()

    def cancel(self, entry_ids: Iterable[int]) -> None:
        for entry_id in entry_ids:
            entry = self.open.pop(entry_id, None)
            if entry is not None:
                entry.cancelled = True
        self.end_if_finished()

    def end_if_finished(self) -> None:
        if self.half_closed and not self.open:
            self.end()

    def end(self) -> None:
        """After what is in the outbox now."""
        self.outbox.put_nowait(_END)


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """See worker.proto."""

    def __init__(
        self, *, queue: EntryQueue, lifecycle: Lifecycle, stopping: Stopping, identity: str, max_message_bytes: int
    ) -> None:
        self._queue = queue
        self._lifecycle = lifecycle
        self._stopping = stopping
        self._identity = identity
        self._max_result_bytes = max_message_bytes - _FRAME_BYTES
        self._streams: set[_Stream] = set()

    def end_streams(self) -> None:
        """Every Process stream ends once its answers are written."""
        for stream in self._streams:
            stream.end()

    async def Process(  # type: ignore[override]  # noqa: N802 - the name in the protocol; writes by the context
        self,
        request_iterator: Requests,
        context: grpc.aio.ServicerContext[worker_pb2.ProcessRequest, worker_pb2.ProcessResponse],
    ) -> None:
        stream = _Stream()
        self._streams.add(stream)
        try:
            await context.send_initial_metadata(((WORKER_METADATA, self._identity),))
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(request_iterator, stream), name="process-reader")
                while (done := await stream.outbox.get()) is not _END:
                    for response in self._responses(done):
                        await context.write(response)
                reader.cancel()
        finally:
            self._streams.discard(stream)
            stream.cancel(list(stream.open))

    async def Status(  # noqa: N802 - as Process
        self,
        request: worker_pb2.StatusRequest,  # noqa: ARG002 - gRPC's
        context: grpc.aio.ServicerContext[worker_pb2.StatusRequest, worker_pb2.StatusUpdate],  # noqa: ARG002 - gRPC's
    ) -> AsyncIterator[worker_pb2.StatusUpdate]:
        async for state in self._lifecycle.watch():
            yield to_update(state, pid=os.getpid())

    async def Drain(  # noqa: N802 - as Process
        self,
        request: worker_pb2.DrainRequest,
        context: grpc.aio.ServicerContext[worker_pb2.DrainRequest, worker_pb2.DrainResponse],  # noqa: ARG002 - gRPC's
    ) -> worker_pb2.DrainResponse:
        statistics = self._queue.statistics()
        self._stopping.drain(request.timeout_seconds if request.timeout_seconds > 0 else None)
        return worker_pb2.DrainResponse(pending=statistics.queued + statistics.running)

    async def Assign(  # noqa: N802 - as Process
        self,
        request: worker_pb2.AssignRequest,  # noqa: ARG002 - gRPC's
        context: grpc.aio.ServicerContext[worker_pb2.AssignRequest, worker_pb2.AssignResponse],
    ) -> worker_pb2.AssignResponse:
        error = FeatureUnavailable(
            "a worker that waits for its model is not in this release",
            remedy="start the worker with a deployment",
        )
        await context.abort_with_status(rpc_status.to_status(to_rpc(error)))
        raise AssertionError("abort_with_status always raises")

    async def _read(self, requests: Requests, stream: _Stream) -> None:
        try:
            async for request in requests:
                match request.WhichOneof("kind"):
                    case "batch":
                        self._accept(request.batch, stream)
                    case "cancel":
                        stream.cancel(request.cancel.entry_ids)
        finally:
            stream.half_closed = True
            stream.end_if_finished()

    def _accept(self, batch: worker_pb2.Batch, stream: _Stream) -> None:
        entries, refused = _decoded(batch, stream.open)
        if refused:
            stream.outbox.put_nowait(refused)
        if not entries:
            return
        stream.open |= {entry.entry_id: entry for entry in entries}
        try:
            self._queue.submit(entries, stream.reply)
        except ModelMoraError as error:
            stream.reply([Done(entry.entry_id, error) for entry in entries])

    def _responses(self, done: list[Done]) -> list[worker_pb2.ProcessResponse]:
        """One message for a batch, or one for each entry where together they would be too large for one."""
        results = [self._result(item) for item in done]
        if sum(result.ByteSize() for result in results) <= self._max_result_bytes:
            return [worker_pb2.ProcessResponse(results=results)]
        return [worker_pb2.ProcessResponse(results=[self._bounded(result)]) for result in results]

    def _bounded(self, result: worker_pb2.EntryResult) -> worker_pb2.EntryResult:
        if result.ByteSize() <= self._max_result_bytes:
            return result
        error = PayloadTooLarge(
            f"the answer of model {self._queue.model_id} has {result.ByteSize()} bytes; a message may have "
            f"{self._max_result_bytes}",
            model_id=self._queue.model_id,
            remedy="ask for fewer inputs in one request",
        )
        return worker_pb2.EntryResult(entry_id=result.entry_id, error=to_rpc(error))

    def _result(self, done: Done) -> worker_pb2.EntryResult:
        answer = done.answer
        if not isinstance(answer, ModelMoraError):
            try:
                output = worker_pb2.Output(values=to_outputs(answer, model_id=self._queue.model_id))
                return worker_pb2.EntryResult(entry_id=done.entry_id, output=output, inference_ms=done.inference_ms)
            except ModelMoraError as error:
                answer = error
        return worker_pb2.EntryResult(entry_id=done.entry_id, error=to_rpc(answer), inference_ms=done.inference_ms)


def _decoded(batch: worker_pb2.Batch, known: dict[int, Entry]) -> tuple[list[Entry], list[Done]]:
    """The entries that can be read, and the answers for those that cannot."""
    entries: list[Entry] = []
    refused: list[Done] = []
    seen = set(known)
    for entry in batch.entries:
        if entry.entry_id in seen:
            refused.append(Done(entry.entry_id, _twice(entry)))
            continue
        seen.add(entry.entry_id)
        try:
            read = EngineInput(values.from_values(entry.input), _parameters(entry))
        except ModelMoraError as error:
            refused.append(Done(entry.entry_id, error.located(request_id=entry.request_id)))
            continue
        entries.append(Entry(entry.entry_id, read, entry.request_id))
    return entries, refused


def _parameters(entry: worker_pb2.BatchEntry) -> dict[str, JsonValue]:
    """The parameters of an entry; none that cannot be read may end the stream, which carries others too.

    Raises:
        InvalidRequest: they are no JSON, for example NaN, or nested too deep.
    """
    try:
        found: dict[str, Any] = MessageToDict(entry.parameters)
    except (ValueError, JsonFormatError, RecursionError) as error:
        raise InvalidRequest(
            f"parameters are no JSON: {error}", field="parameters", remedy="send finite numbers, and nest less"
        ) from error
    return found


def _twice(entry: worker_pb2.BatchEntry) -> MalformedRequest:
    return MalformedRequest(
        f"the entry id {entry.entry_id} is in use on this stream", field="entryId", request_id=entry.request_id
    )
