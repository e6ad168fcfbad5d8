"""Spans by OpenTelemetry, in the background, to a collector. Only imported where they are wanted: needs [tracing].

Which are exported is for OpenTelemetry to say: OTEL_TRACES_SAMPLER, and whether the caller samples its trace. Its queue
is bounded; what does not fit is dropped.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from modelmora.errors import ModelMoraError
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.settings import TracingSettings
from modelmora_router.spans import Span, failed_span, spans_of
from modelmora_router.tracing import TRACE_HEADER, TraceParent, parsed

_CLOSE_S: Final = 2.0  # how long the last spans may take to leave
_HEX: Final = 16


class OtlpSpans:
    """Where the spans of a router go."""

    def __init__(self, provider: TracerProvider, ids: "_Ids") -> None:
        self._tracer = provider.get_tracer("modelmora_router")
        self._ids = ids

    def answered(self, call: InferenceCall, answer: Answer) -> None:
        """A request got its answer, just now."""
        self._export(call, spans_of(call, answer, now=time.time_ns()))

    def failed(self, call: InferenceCall, error: ModelMoraError) -> None:
        """A request got none, just now."""
        waited_s = time.monotonic() - call.received_at
        self._export(call, [failed_span(call, error, waited_s=waited_s, now=time.time_ns())])

    def _export(self, call: InferenceCall, spans: Iterable[Span]) -> None:
        own = parsed(call.traceparent)
        if own is None:
            return  # of no request from outside
        request, *children = spans
        self._ids.next = own
        root = self._tracer.start_span(
            request.name,
            _parent(call, own),
            SpanKind.SERVER,
            request.attributes,
            start_time=request.begin,
        )
        for child in children:
            inner = self._tracer.start_span(
                child.name, set_span_in_context(root), attributes=child.attributes, start_time=child.begin
            )
            inner.end(child.end)
        if request.error:
            root.set_status(Status(StatusCode.ERROR, request.error))
        root.end(request.end)


class _Ids(IdGenerator):
    """Random ones, but for the span whose ids were told to others before it was made."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.next: TraceParent | None = None

    def generate_trace_id(self) -> int:
        return int(self.next.trace_id, _HEX) if self.next else self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        told, self.next = self.next, None
        return int(told.span_id, _HEX) if told else self._random.generate_span_id()


def _parent(call: InferenceCall, own: TraceParent) -> Context:
    """The caller's span; none where the trace begins here."""
    caller = parsed(call.headers.get(TRACE_HEADER, ""))
    if caller is None or caller.trace_id != own.trace_id:
        return Context()
    flags = TraceFlags(int(caller.flags, _HEX))
    context = SpanContext(int(caller.trace_id, _HEX), int(caller.span_id, _HEX), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context), Context())


@contextmanager
def opened(settings: TracingSettings) -> Iterator[OtlpSpans]:
    """Spans leave while the block runs, the last ones within a short while after it."""
    ids = _Ids()
    resource = Resource.create({"service.name": settings.service_name})
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    exporter = _exporter(settings)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OtlpSpans(provider, ids)
    finally:
        _close(provider, exporter)


def _exporter(settings: TracingSettings) -> SpanExporter:
    # Without arguments: endpoint, headers, certificates and timeouts are in the environment, by their standard names.
    return GrpcExporter() if settings.exporter_otlp_protocol == "grpc" else HttpExporter()


def _close(provider: TracerProvider, exporter: SpanExporter) -> None:
    """OpenTelemetry gives a collector that does not answer half a minute; the end of a program must not wait for it."""
    closing = threading.Thread(target=provider.shutdown, name="close of tracing", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        exporter.shutdown()  # ends its waits between attempts
