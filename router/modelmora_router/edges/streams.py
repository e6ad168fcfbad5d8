"""InferStream: many requests and answers on one stream, each answer as soon as it is there.

The stream has a bounded number of places. A request takes one before it is read and gives it back when its answer has
been written, so a caller that does not read its answers is no longer read from: gRPC's flow control does the rest.
Answers that wait for it count in the bytes that the router holds, and a caller that takes none of them for a while is
given up. A request that fails is answered with its error; only what makes the stream itself unreadable ends it. When
the stream ends, however that is, what still waits is withdrawn.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog

from modelmora.errors import DeadlineExceeded, InvalidRequest, MemoryFull, ModelMoraError
from modelmora.v1.types_pb2 import InferenceResponse, Part
from modelmora_router import admission
from modelmora_router.calls import Payload
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.grpc_calls import TRACE_KEY, Caller, Context, known, response_of, status_of
from modelmora_router.tracing import context_of

log = structlog.get_logger(__name__)

PART_BYTES: Final = 1024 * 1024

_Task: TypeAlias = "asyncio.Task[None]"


class _NotRead(Exception):
    """The caller takes no answer."""


@dataclass(slots=True, eq=False)
class Conversation:
    """One stream. Its reader is the task that runs it; each request has a task of its own until its answer is out."""

    plane: DataPlane
    context: Context
    caller: Caller
    max_unanswered: int
    write_timeout_s: float
    _places: asyncio.Semaphore = field(init=False)
    _unanswered: set[str] = field(default_factory=set)
    _waiting: dict[str, _Task] = field(default_factory=dict)  # of those, what is not being written yet
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC writes one message at a time
    _ended: bool = False

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.max_unanswered)

    async def run(self) -> None:
        """Returns when the caller has half-closed and has every answer.

        Raises:
            ModelMoraError: the stream itself cannot be read, or nothing on it could be served, or the caller takes no
                answer.
        """
        _ = self.caller.namespace, self.caller.client  # what is wrong with the metadata is wrong with all requests
        failure: ModelMoraError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._read(group)
                except ModelMoraError as error:  # one that left the group would not let a message be written to its end
                    failure = error
                    self._withdraw()
        except* _NotRead:
            failure = DeadlineExceeded(
                f"the caller took no answer for {self.write_timeout_s:g} s",
                remedy="read answers as they come, or raise the setting write_timeout_s",
            )
        if failure:
            raise failure

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while await self._read_one(group):
            pass  # and keeps nothing of it while it waits for the next

    async def _read_one(self, group: asyncio.TaskGroup) -> bool:
        await self._places.acquire()
        payload: Payload | Any = await self.context.read()
        if payload is grpc.aio.EOF:
            return False
        self._take(payload, payload.message().request_id, group)
        return True

    def _take(self, payload: Payload, given_id: str, group: asyncio.TaskGroup) -> None:
        request_id = given_id or admission.request_id("")
        if request_id in self._unanswered:
            group.create_task(self._refuse_second(request_id), name="answer on a stream")
            return
        self._unanswered.add(request_id)
        task = group.create_task(self._answer(payload, request_id), name="answer on a stream")
        self._waiting[request_id] = task

    def _withdraw(self) -> None:
        """Nothing is written any more, but for a message that is half written: gRPC could not end the stream in it."""
        self._ended = True
        for task in self._waiting.values():
            task.cancel()

    # ------------------------------------------------------------------------------------------------ answers

    async def _answer(self, payload: Payload, request_id: str) -> None:
        try:
            outcome = await self._outcome(payload, request_id)
            del payload  # its bytes are no longer counted, and its caller may take its time to read
            del self._waiting[request_id]
            with ExitStack() as held:
                try:
                    held.enter_context(self.plane.answered(len(outcome)))
                except MemoryFull as error:
                    outcome = self._no_room(error, request_id, len(outcome))
                await self._write(request_id, outcome)
        finally:
            self._unanswered.discard(request_id)
            self._places.release()

    async def _outcome(self, payload: Payload, request_id: str) -> bytes:
        try:
            call = self.caller.call(
                payload,
                request_id=request_id,
                traceparent=context_of(self.caller.metadata.get(TRACE_KEY, "")),
            )
        except ModelMoraError as error:
            self.plane.refused(error)
            return _error_response(error, request_id)
        try:
            return response_of(await self.plane.infer(call))
        except Exception as error:  # noqa: BLE001 - the request's top
            return _error_response(error, request_id)

    def _no_room(self, cause: MemoryFull, request_id: str, size_bytes: int) -> bytes:
        log.warning("an answer found no room", request_id=request_id, bytes=size_bytes, why=cause.message)
        error = MemoryFull(
            f"the answer has {size_bytes} bytes, for which the router has no room while it waits to be read",
            remedy="read answers as they come and send the request again, or raise the setting max_held_bytes",
            retry_after_s=cause.context.retry_after_s,
        )
        return _error_response(error, request_id)

    async def _refuse_second(self, request_id: str) -> None:
        error = InvalidRequest(
            "another request of this id is unanswered on the stream",
            field="requestId",
            remedy="give each request of a stream an id of its own",
        )
        try:
            await self._write(request_id, _error_response(error, request_id))
        finally:
            self._places.release()

    async def _write(self, request_id: str, response: bytes) -> None:
        for message in messages_of(response, request_id):
            async with self._writing:  # parts of other answers may go between ours
                if self._ended:
                    return
                await self._put(message)

    async def _put(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(self.write_timeout_s):
                await self.context.write(message)
        except TimeoutError:
            self._ended = True
            raise _NotRead from None
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            self._ended = True  # the caller is gone; the reader is about to hear of it


def _error_response(error: Exception, request_id: str) -> bytes:
    # The id is returned as it was given, so that it can be matched; in the details only one that can be shown.
    shown = request_id if admission.is_request_id(request_id) else admission.request_id("")
    response = InferenceResponse(request_id=request_id, error=status_of(known(error, request_id=shown)))
    return response.SerializeToString()


def messages_of(data: bytes, request_id: str) -> Iterator[bytes]:
    """The response as it goes out: in one message or, where that would be a large one, in parts."""
    if len(data) <= PART_BYTES:
        yield data
        return
    for index, start in enumerate(range(0, len(data), PART_BYTES)):
        end = start + PART_BYTES
        part = Part(index=index, last=end >= len(data), data=data[start:end])
        yield InferenceResponse(request_id=request_id, part=part).SerializeToString()
