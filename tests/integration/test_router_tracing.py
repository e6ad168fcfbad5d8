"""One trace from the caller through the router to the worker, and its spans in a real collector."""

from collections.abc import AsyncIterator

import pytest

from modelmora.errors import MissingDependency
from modelmora_router import exporting as exporting_module
from modelmora_router.exporting import exporting
from modelmora_router.settings import TracingSettings, read
from modelmora_router.tracing import parsed
from tests.support.collector import Collector, collecting
from tests.support.fake_worker import FakeWorker
from tests.support.routing import deployment, eventually, request, running_router

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@pytest.mark.req("REQ-OBS-004", "RM-2.6g")
async def test_the_trace_of_a_rest_caller_reaches_the_worker_and_comes_back(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        answer = await router.http.post(
            "/api/v1/infer/one", json={"input": {"text": "a"}}, headers={"traceparent": HEADER}
        )
    own = parsed(answer.headers["traceparent"])
    assert own is not None
    assert own.trace_id == TRACE
    assert worker.received[0].traceparent == answer.headers["traceparent"]


@pytest.mark.req("REQ-OBS-004")
async def test_the_trace_of_a_grpc_caller_reaches_the_worker_and_comes_back(worker: FakeWorker) -> None:
    async with running_router(deployment()) as router:
        router.work(worker)
        asked = router.inference.Infer(request("a"), metadata=(("traceparent", HEADER),))
        await asked
        metadata = [*(await asked.initial_metadata() or ()), *(await asked.trailing_metadata() or ())]
    own = parsed(str(dict(metadata)["traceparent"]))
    assert own is not None
    assert own.trace_id == TRACE
    assert worker.received[0].traceparent == dict(metadata)["traceparent"]


@pytest.mark.req("REQ-OBS-004")
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_the_spans_of_a_request_reach_a_collector(
    protocol: str, collector: Collector, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = collector.grpc_url if protocol == "grpc" else collector.http_url
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with exporting(read(TracingSettings)) as spans:
        async with running_router(deployment(), spans=spans) as router:
            router.work(worker)
            answer = await router.inference.Infer(request("a"), metadata=(("traceparent", HEADER),))
            refused = await router.http.post("/api/v1/infer/none", json={"input": {"text": "a"}})
            await eventually(lambda: len(collector.spans) == 4 and collector.spans)

    failed, done = sorted(collector.named("request"), key=lambda span: not span.error)
    (queue,), (inference,) = collector.named("queue"), collector.named("inference")
    assert (done.trace_id, done.parent, done.service) == (TRACE, SPAN, "modelmora-router")
    assert f"00-{TRACE}-{done.span_id}-01" == worker.received[0].traceparent
    assert {queue.parent, inference.parent} == {done.span_id}
    assert {queue.trace_id, inference.trace_id} == {TRACE}
    assert done.begin == queue.begin <= inference.begin <= inference.end == done.end
    assert done.attributes["modelmora.request_id"] == answer.request_id
    assert failed.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert failed.parent == ""
    assert failed.trace_id == refused.headers["traceparent"].split("-")[1]


async def test_what_the_caller_does_not_sample_is_not_exported(
    collector: Collector, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with exporting(read(TracingSettings)) as spans:
        async with running_router(deployment(), spans=spans) as router:
            router.work(worker)
            await router.inference.Infer(request("a"), metadata=(("traceparent", HEADER.removesuffix("01") + "00"),))
            other = f"00-{'1' * 32}-{SPAN}-01"
            await router.inference.Infer(request("b"), metadata=(("traceparent", other),))
            await eventually(lambda: len(collector.spans) >= 3)
    assert {span.trace_id for span in collector.spans} == {"1" * 32}


async def test_a_collector_that_is_not_there_keeps_nobody(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with exporting(read(TracingSettings)) as spans:
        async with running_router(deployment(), spans=spans) as router:
            router.work(worker)
            for _ in range(20):
                assert (await router.inference.Infer(request("a"))).request_id


def test_without_an_endpoint_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with exporting(read(TracingSettings)) as spans:
        assert spans is None


def test_an_endpoint_without_the_library_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting_module, "_PACKAGES", ("opentelemetry", "there_is_no_such_package"))
    settings = TracingSettings(exporter_otlp_endpoint="http://127.0.0.1:9")
    with pytest.raises(MissingDependency) as refused, exporting(settings):
        pass
    assert "modelmora[tracing]" in refused.value.context.remedy
