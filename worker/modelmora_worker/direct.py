"""InferenceService at the worker's own socket: for the callers that share its machine, and its memory.

Their requests stand in the same line as those of the routers and go into the same batches. There is no queue before
it, no wake, no route: who calls here calls this one worker.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from uuid import uuid4

import grpc
import numpy as np
import structlog
from grpc_status import rpc_status

from modelmora.errors import (
    DeadlineExceeded,
    FeatureUnavailable,
    InternalError,
    InvalidRequest,
    ModelMoraError,
    ModelNotFound,
)
from modelmora.spec import ModelDeployment, ModelRef, Priority
from modelmora.tensors import Listener
from modelmora.tensors.allocator import rounded
from modelmora.v1 import inference_pb2, inference_pb2_grpc
from modelmora.v1.types_pb2 import InferenceRequest, InferenceResponse, Timing
from modelmora.wire import values
from modelmora.wire.status import abbreviated, to_rpc
from modelmora_worker.direct_use import DirectMeter
from modelmora_worker.engines import Outputs
from modelmora_worker.entries import EntryQueue
from modelmora_worker.entry import Done, Entry
from modelmora_worker.responses import FRAME_BYTES, too_large, written
from modelmora_worker.service import parameters_of
from modelmora_worker.shared_values import Results, SharedValues

_Context = grpc.aio.ServicerContext[InferenceRequest, bytes]
_log = structlog.get_logger(__name__)
_SERVICE: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_PRIORITIES: Final = {priority.value: priority for priority in Priority}


@dataclass(eq=False, slots=True)
class _Call:
    """One call, as the queue knows it."""

    model_id: str
    max_bytes: int  # of the answer's message
    shared: SharedValues
    results: Results | None
    done: Done | None = None
    answered: "asyncio.Future[bytes]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def written(self, done: Sequence[Done]) -> list[bytes]:
        """Its only answer; what is to be in shared memory is written there."""
        [self.done] = done
        if isinstance(self.done.answer, ModelMoraError):
            return []
        place = self.results.place if self.results else None
        try:
            message = written(self.done.answer, model_id=self.model_id, place=place)
            return [self._bounded(message, self.done.answer)]
        except ModelMoraError as error:
            self.done = Done(self.done.sent_id, error)
            return []

    def _bounded(self, message: bytes, answer: Outputs) -> bytes:
        if len(message) <= self.max_bytes - FRAME_BYTES:
            return message
        needed_bytes = sum(rounded(value.nbytes) for value in answer.values() if isinstance(value, np.ndarray))
        raise too_large(self.model_id, len(message), self.max_bytes, needed_bytes=needed_bytes)

    def reply(self, entries: Sequence[Entry], messages: Sequence[bytes]) -> None:  # noqa: ARG002 - it knows its own
        if self.answered.done():
            return
        if messages:
            self.answered.set_result(messages[0])
        elif self.done and isinstance(self.done.answer, ModelMoraError):
            self.answered.set_exception(self.done.answer)

    def left(self, entry: Entry) -> None:  # noqa: ARG002 - its only one
        self.shared.done()


class DirectService(inference_pb2_grpc.InferenceServiceServicer):
    """See inference.proto."""

    def __init__(
        self,
        *,
        queue: EntryQueue,
        deployment: ModelDeployment,
        sessions: Listener | None,
        meter: DirectMeter,
        max_bytes: int,
    ) -> None:
        self._max_bytes = max_bytes
        self._queue = queue
        self._deployment = deployment
        self._sessions = sessions
        self._meter = meter

    def add_to(self, server: grpc.aio.Server) -> None:
        """As generated, but for Infer: what it answers are bytes already."""
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, server)
        infer: grpc.RpcMethodHandler[InferenceRequest, bytes] = grpc.unary_unary_rpc_method_handler(
            self.Infer, request_deserializer=InferenceRequest.FromString
        )
        server.add_registered_method_handlers(_SERVICE, {"Infer": infer})  # over the one of that name

    async def Infer(self, request: InferenceRequest, context: _Context) -> bytes:  # type: ignore[override]  # noqa: N802 - the name in the protocol
        request_id = request.request_id or uuid4().hex
        try:
            with self._meter.call():
                return await self._infer(request, context, request_id)
        except ModelMoraError as error:
            failure = error
        except Exception:  # noqa: BLE001 - the request's top
            _log.exception("worker has a bug", model=self._deployment.model_id, request_id=request_id)
            failure = InternalError("the worker failed on this request", remedy="see its log, and report it")
        return await _abort(context, failure, model_id=self._deployment.model_id, request_id=request_id)

    async def InferAsync(self, request: InferenceRequest, context: Any) -> NoReturn:  # noqa: ANN401, N802 - as Infer
        await _abort(context, _of_routers("a job to ask for later"), model_id=request.model_id, request_id="")

    async def InferStream(self, requests: Any, context: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401, ARG002, N802 - as Infer
        await _abort(context, _of_routers("a stream of requests"), model_id="", request_id="")

    async def _infer(self, request: InferenceRequest, context: _Context, request_id: str) -> bytes:
        received_at = time.monotonic()
        self._check(request)
        limit_s = _limit_s(request, context)
        entry, call = self._submitted(request, request_id)
        try:
            async with asyncio.timeout(limit_s):
                output = await call.answered
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit_s:g} s", remedy="allow more time") from None
        finally:
            if not call.answered.done() or call.answered.cancelled():
                self._queue.cancel([entry])
        total_ms = (time.monotonic() - received_at) * 1e3
        inference_ms = call.done.inference_ms if call.done else 0.0
        return output + self._rest(request_id, total_ms, inference_ms)

    def _check(self, request: InferenceRequest) -> None:
        asked = ModelRef.parse(request.model_id) if request.model_id else None
        mine = self._deployment
        if asked and (asked.model_id != mine.model_id or asked.version not in {None, mine.version}):
            raise ModelNotFound(
                f"model {request.model_id!r} is not at this socket, but {mine.model_id}@{mine.version}",
                field="modelId",
                remedy="ask the router, which knows all models",
            )
        if not request.input:
            raise InvalidRequest("the request has no input", field="input", remedy="give at least one input")

    def _submitted(self, request: InferenceRequest, request_id: str) -> tuple[Entry, _Call]:
        shared = SharedValues.of(request.shared_memory, self._sessions)
        try:
            call = _Call(self._deployment.model_id, self._max_bytes, shared, shared.results())
            entry = Entry(
                sent_id=1,
                owner=call,
                values=values.from_values(request.input, regions=shared.region),
                parameters=parameters_of(request),
                priority=self._priority(request),
                request_id=request_id,
            )
            self._queue.submit([entry])
        except BaseException:
            shared.done()
            raise
        return entry, call

    def _priority(self, request: InferenceRequest) -> Priority:
        default = Priority[self._deployment.spec.queue.default_priority]
        return _PRIORITIES.get(request.priority, default)

    def _rest(self, request_id: str, total_ms: float, inference_ms: float) -> bytes:
        timing = Timing(queue_ms=max(0.0, total_ms - inference_ms), inference_ms=inference_ms, total_ms=total_ms)
        rest = InferenceResponse(
            model_id=self._deployment.model_id,
            version=self._deployment.version,
            timing=timing,
            request_id=request_id,
        )
        return rest.SerializeToString()


def _limit_s(request: InferenceRequest, context: _Context) -> float | None:
    given = request.timeout_seconds if request.HasField("timeout_seconds") else math.inf
    if not given > 0:
        raise InvalidRequest(f"timeoutSeconds is {given:g}", field="timeoutSeconds", remedy="give a number above 0")
    left: float | None = context.time_remaining()
    limit = min(given, math.inf if left is None else left)
    return None if limit == math.inf else limit


def _of_routers(what: str) -> FeatureUnavailable:
    return FeatureUnavailable(f"{what} is not to be had at the socket of a worker", remedy="ask the router")


async def _abort(context: Any, error: ModelMoraError, *, model_id: str, request_id: str) -> NoReturn:  # noqa: ANN401 - of any method
    known = abbreviated(error.located(model_id=model_id, request_id=request_id))
    await context.abort_with_status(rpc_status.to_status(to_rpc(known)))
    raise AssertionError("abort_with_status always raises")
