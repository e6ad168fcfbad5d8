"""What the router tells of each request: two lines in the log, from its arrival to its end, and the numbers."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from modelmora.errors import (
    MemoryFull,
    ModelMoraError,
    RateLimited,
    RequestCancelled,
    ServerError,
    WorkerUnavailable,
    code_of,
)
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.metrics import Meters, ModelMeters
from modelmora_router.spans import SpanSink
from modelmora_router.tracing import trace_id

log = structlog.get_logger(__name__)
_level: Final = logging.getLogger(__name__)  # asked before a line is put together that nobody wants

_SHED: Final[Mapping[type[ModelMoraError], str]] = {RateLimited: "RateLimit", MemoryFull: "HeldBytes"}
_CANCELLED: Final = code_of(RequestCancelled)


class Outcomes:
    """Of a router's requests. The meters of a request are those of its model; None: it has reached none."""

    def __init__(self, meters: Meters, spans: SpanSink | None, *, slow_s: float) -> None:
        self._meters = meters
        self._spans = spans
        self._slow_ms = slow_s * 1e3

    def received(self, call: InferenceCall) -> None:
        if _level.isEnabledFor(logging.DEBUG):
            log.debug("request received", **_names(call), namespace=call.namespace, size_bytes=call.size_bytes)

    def completed(self, call: InferenceCall, answer: Answer, meters: ModelMeters) -> None:
        meters.answered(answer, traceparent=call.traceparent)
        if self._spans:
            self._spans.answered(call, answer)
        if _level.isEnabledFor(logging.DEBUG):
            log.debug("request completed", **_names(call), **_times(answer))
        if answer.total_ms > self._slow_ms:
            log.warning("request was slow", **_names(call), **_times(answer))

    def failed(self, call: InferenceCall, error: ModelMoraError, meters: ModelMeters | None) -> None:
        self._count_failed(call, error, meters)
        if self._spans:
            self._spans.failed(call, error)
        # What callers do wrong, and refusals under load, come in floods: they are not news.
        level = logging.WARNING if isinstance(error, ServerError | WorkerUnavailable) else logging.DEBUG
        if _level.isEnabledFor(level):
            log.log(level, "request failed", **_names(call), code=error.code, why=error.message)

    def withdrawn(self, call: InferenceCall, meters: ModelMeters | None) -> None:
        """Its caller left."""
        if meters:
            meters.failed(_CANCELLED, time.monotonic() - call.received_at)
        if self._spans:
            self._spans.failed(call, RequestCancelled("the caller left"))
        if _level.isEnabledFor(logging.DEBUG):
            log.debug("request failed", **_names(call), code=_CANCELLED, why="the caller left")

    def _count_failed(self, call: InferenceCall, error: ModelMoraError, meters: ModelMeters | None) -> None:
        if meters is None:
            self._meters.refused(error.code)
            return
        meters.failed(error.code, time.monotonic() - call.received_at)
        if reason := _SHED.get(type(error)):
            meters.shed(reason)


def _names(call: InferenceCall) -> dict[str, Any]:
    """What every line about a request says."""
    return {"model": call.ref.model_id, "request_id": call.request_id, "trace_id": trace_id(call.traceparent)}


def _times(answer: Answer) -> dict[str, Any]:
    return {
        "version": answer.version,
        "queue_ms": round(answer.queue_ms),
        "inference_ms": round(answer.inference_ms),
    }
