"""A collector of spans for tests: OTLP by gRPC and by HTTP, on free ports of this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True, slots=True)
class Collected:
    """A span as it arrived; ids in hexadecimal digits."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    begin: int
    end: int
    error: str
    service: str


@dataclass
class Collector:
    """Keeps what it is sent."""

    spans: list[Collected] = field(default_factory=list)
    grpc_url: str = ""
    http_url: str = ""

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = _attributes(resource.resource)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(_collected(span, service))

    def named(self, name: str) -> list[Collected]:
        return [span for span in self.spans if span.name == name]


def _collected(span: Any, service: str) -> Collected:
    return Collected(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.message,
        service,
    )


def _attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


class _Service(TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802 - the name in the protocol
        self._collector.take(request)
        return ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Until the block ends."""
    collector = Collector()
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(_Service(collector), server)
    collector.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    runner = await _http(collector)
    try:
        yield collector
    finally:
        await runner.cleanup()
        await server.stop(None)


async def _http(collector: Collector) -> web.AppRunner:
    async def take(request: web.Request) -> web.Response:
        collector.take(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.http_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner
