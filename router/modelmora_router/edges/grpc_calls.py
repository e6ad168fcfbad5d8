"""Between a gRPC call and the router: who calls, what is asked, how it ends. Nothing here is of one service alone."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
import structlog
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from modelmora.errors import InternalError, InvalidRequest, ModelMoraError
from modelmora.spec import ModelRef, Priority
from modelmora.v1 import types_pb2
from modelmora.wire.status import abbreviated, to_rpc
from modelmora_router import admission
from modelmora_router.calls import Answer, InferenceCall, Payload
from modelmora_router.settings import RouterSettings
from modelmora_router.tracing import context_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAMESPACE_KEY: Final = "modelmora-namespace"
REQUEST_ID_KEY: Final = "x-request-id"
CLIENT_KEY: Final = "modelmora-client"
IDEMPOTENT_KEY: Final = "modelmora-idempotent"
TRACE_KEY: Final = "traceparent"
_PRIORITIES: Final = {0: None, **{int(priority): priority for priority in Priority}}

# A memo of a pure function: clients ask for the same few models again and again.
parsed: Final = lru_cache(maxsize=4096)(ModelRef.parse)


class Caller:
    """What the metadata says. Ends a failed call with rich status details."""

    def __init__(self, context: Context, settings: RouterSettings, *, request_id: str = "") -> None:
        self._context = context
        self._settings = settings
        self.metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        # Every error names its request: one that the caller did not name, or not by something that can be shown, too.
        self.given_id = request_id or self.metadata.get(REQUEST_ID_KEY, "") or admission.request_id("")
        self._shown_id = self.given_id if admission.is_request_id(self.given_id) else admission.request_id("")
        self.traceparent = context_of(self.metadata.get(TRACE_KEY, ""))

    @property
    def namespace(self) -> str:
        return admission.namespace(self.metadata.get(NAMESPACE_KEY, ""), self._settings.default_namespace)

    @property
    def client(self) -> str:
        return admission.client(self.metadata.get(CLIENT_KEY, ""), address_of(self._context.peer()))

    def call(
        self,
        payload: Payload,
        *,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> InferenceCall:
        """The call that a message asks for; of many on one stream, each has its own id and place in the trace.

        Raises:
            MalformedRequest: it cannot be read.
            InvalidRequest: an id, a priority or metadata that are none.
        """
        request = payload.message()
        now = time.monotonic()
        time_left_s: float | None = self._context.time_remaining()  # the types of gRPC know no call without an end
        if request.priority not in _PRIORITIES:
            raise InvalidRequest(
                f"priority {request.priority} is unknown", field="priority", remedy="use CRITICAL, HIGH, NORMAL or LOW"
            )
        return InferenceCall(
            namespace=self.namespace,
            ref=parsed(request.model_id),
            payload=payload,
            priority=_PRIORITIES[request.priority],
            timeout_s=request.timeout_seconds if request.HasField("timeout_seconds") else None,
            deadline=None if time_left_s is None else now + time_left_s,
            request_id=admission.request_id(self.given_id if request_id is None else request_id),
            received_at=now,
            client=self.client,
            headers=self.metadata,
            traceparent=self.traceparent if traceparent is None else traceparent,
            idempotent=admission.idempotent(self.metadata.get(IDEMPOTENT_KEY, "")),
        )

    async def answered(self, work: Awaitable[T]) -> T:
        """The result of the work; its error ends the call."""
        self._context.set_trailing_metadata(((TRACE_KEY, self.traceparent),))
        try:
            return await work
        except Exception as error:  # noqa: BLE001 - the request's top
            failure = known(error, request_id=self._shown_id)
        return await self._abort(failure)

    async def _abort(self, error: ModelMoraError) -> NoReturn:
        status = rpc_status.to_status(status_of(error))
        traced: Any = _Traced(status.code, status.details, (*status.trailing_metadata, (TRACE_KEY, self.traceparent)))
        await self._context.abort_with_status(traced)


@dataclass(frozen=True, slots=True)
class _Traced(grpc.Status):
    """A status with more trailing metadata than its details: aborting a call drops what was set before."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def status_of(error: ModelMoraError) -> Status:
    """The message for an error, cut to what clients take."""
    return to_rpc(abbreviated(error))


def known(error: Exception, *, request_id: str) -> ModelMoraError:
    """The error for the caller; of one that nobody foresaw, only the log has more."""
    if isinstance(error, ModelMoraError):
        return error.located(request_id=request_id)
    log.error("request failed", request_id=request_id, exc_info=error)
    unforeseen = InternalError("the router failed on this request", remedy="see its log, and report it")
    return unforeseen.located(request_id=request_id)


def address_of(peer: str) -> str:
    """Where a call comes from, without the port: of "ipv4:192.0.2.7:5000" or "ipv6:%5B::1%5D:5000"."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    return unquote(rest).rpartition(":")[0].strip("[]")


def response_of(answer: Answer) -> bytes:
    """The InferenceResponse for an answer: what the worker wrote of it, and the rest behind, where it prevails."""
    rest = types_pb2.InferenceResponse(
        model_id=answer.model_id,
        version=answer.version,
        timing=types_pb2.Timing(queue_ms=answer.queue_ms, inference_ms=answer.inference_ms, total_ms=answer.total_ms),
        request_id=answer.request_id,
    )
    return answer.output + rest.SerializeToString()
