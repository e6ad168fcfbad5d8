"""WorkerService: batches in, answers out, on one stream for each router; its state; its end on request."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.json_format import Error as JsonFormatError
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from pydantic import JsonValue

from modelmora.control import WORKER_METADATA
from modelmora.errors import FeatureUnavailable, InvalidRequest, MalformedRequest, ModelMoraError
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora.v1.types_pb2 import InferenceRequest
from modelmora.wire import values
from modelmora.wire.status import to_rpc
from modelmora_worker.entries import EntryQueue
from modelmora_worker.entry import Done, Entry
from modelmora_worker.lifecycle import Lifecycle, to_update
from modelmora_worker.responses import Writer
from modelmora_worker.stopping import Stopping

Requests = AsyncIterator[worker_pb2.ProcessRequest]
_END: Final = None
_MOST_UNREAD: Final = 64  # messages
# Routers that send none, or one that this release does not know, are older or newer than it.
_PRIORITIES: Final = {priority.value: priority for priority in Priority}
_NAME: Final = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


@dataclass(slots=True, eq=False)
class _Stream:
    """One router's stream: what it sent and has no answer for, and the messages that wait to be written.

    While a router does not read its answers, nothing more of it is read: so the outbox needs no other bound.
    """

    writer: Writer
    open: dict[int, Entry] = field(default_factory=dict)
    outbox: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    half_closed: bool = False  # the router sends nothing more

    def written(self, done: Sequence[Done]) -> list[bytes]:
        return self.writer.write(done)

    def reply(self, entries: Iterable[Entry], messages: Iterable[bytes]) -> None:
        for entry in entries:
            self.open.pop(entry.sent_id, None)
        self.send(messages)
        self.end_if_finished()

    def left(self, entry: Entry) -> None:
        """Its values are its own: nobody is to hear of that."""

    def send(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            self.outbox.put_nowait(message)

    async def until_read(self) -> None:
        """Returns when few enough messages wait; ends by cancellation, with the stream."""
        while self.outbox.qsize() > _MOST_UNREAD:
            self.sent.clear()
            await self.sent.wait()

    def take(self, sent_ids: Iterable[int]) -> list[Entry]:
        """The entries of those numbers that have no answer yet; they get none any more."""
        taken = [entry for sent_id in sent_ids if (entry := self.open.pop(sent_id, None))]
        self.end_if_finished()
        return taken

    def end_if_finished(self) -> None:
        if self.half_closed and not self.open:
            self.end()

    def end(self) -> None:
        """After what is in the outbox now."""
        self.outbox.put_nowait(_END)


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """See worker.proto."""

    def __init__(
        self, *, queue: EntryQueue, writer: Writer, lifecycle: Lifecycle, stopping: Stopping, identity: str
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._lifecycle = lifecycle
        self._stopping = stopping
        self._identity = identity
        self._streams: set[_Stream] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """As generated, but for Process: what it writes are bytes already."""
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, server)
        process: grpc.RpcMethodHandler[worker_pb2.ProcessRequest, bytes] = grpc.stream_stream_rpc_method_handler(
            self.Process, request_deserializer=worker_pb2.ProcessRequest.FromString
        )
        server.add_registered_method_handlers(_NAME, {"Process": process})  # over the one of that name

    def end_streams(self) -> None:
        """Every Process stream ends once its answers are written."""
        for stream in self._streams:
            stream.end()

    async def Process(  # type: ignore[override]  # noqa: N802 - the name in the protocol; writes by the context
        self,
        request_iterator: Requests,
        context: grpc.aio.ServicerContext[worker_pb2.ProcessRequest, bytes],
    ) -> None:
        stream = _Stream(self._writer)
        self._streams.add(stream)
        try:
            await context.send_initial_metadata(((WORKER_METADATA, self._identity),))
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(request_iterator, stream), name="process-reader")
                while (message := await stream.outbox.get()) is not _END:
                    await context.write(message)
                    stream.sent.set()
                reader.cancel()
        finally:
            self._streams.discard(stream)
            self._queue.cancel(stream.take(list(stream.open)))

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
                        self._queue.cancel(stream.take(request.cancel.entry_ids))
                await stream.until_read()
        finally:
            stream.half_closed = True
            stream.end_if_finished()

    def _accept(self, batch: worker_pb2.Batch, stream: _Stream) -> None:
        entries, refused = _decoded(batch, stream)
        if refused:
            stream.send(stream.written(refused))
        if not entries:
            return
        stream.open |= {entry.sent_id: entry for entry in entries}
        try:
            self._queue.submit(entries)
        except ModelMoraError as error:
            stream.reply(entries, stream.written([Done(entry.sent_id, error) for entry in entries]))


def _decoded(batch: worker_pb2.Batch, stream: _Stream) -> tuple[list[Entry], list[Done]]:
    """The entries that can be read, and the answers for those that cannot."""
    entries: dict[int, Entry] = {}
    refused: list[Done] = []
    for entry in batch.entries:
        try:
            if entry.entry_id in stream.open or entry.entry_id in entries:
                raise _twice(entry)
            entries[entry.entry_id] = _read(entry, stream)
        except ModelMoraError as error:
            refused.append(Done(entry.entry_id, error.located(request_id=entry.request_id)))
    return list(entries.values()), refused


def _read(entry: worker_pb2.BatchEntry, stream: _Stream) -> Entry:
    request = _request(entry)
    return Entry(
        sent_id=entry.entry_id,
        owner=stream,
        values=values.from_values(request.input),
        parameters=parameters_of(request),
        priority=_PRIORITIES.get(entry.priority, Priority.NORMAL),
        alone=entry.alone,
        request_id=entry.request_id,
        traceparent=entry.traceparent,
    )


def _request(entry: worker_pb2.BatchEntry) -> InferenceRequest:
    try:
        return InferenceRequest.FromString(entry.request)
    except DecodeError as error:
        raise MalformedRequest(
            "the request of the entry is no such message", field="request", remedy="send an InferenceRequest"
        ) from error


def parameters_of(request: InferenceRequest) -> dict[str, JsonValue]:
    """The parameters of a request; none that cannot be read may end the stream, which carries others too.

    Raises:
        InvalidRequest: they are no JSON, for example NaN, or nested too deep.
    """
    try:
        found: dict[str, Any] = MessageToDict(request.parameters)
    except (ValueError, JsonFormatError, RecursionError) as error:
        raise InvalidRequest(
            f"parameters are no JSON: {error}", field="parameters", remedy="send finite numbers, and nest less"
        ) from error
    return found


def _twice(entry: worker_pb2.BatchEntry) -> MalformedRequest:
    return MalformedRequest(
        f"the entry id {entry.entry_id} is in use on this stream", field="entryId", request_id=entry.request_id
    )
