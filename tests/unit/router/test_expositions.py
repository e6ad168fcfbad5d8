"""The numbers of several processes as one exposition: nothing lost, nothing twice, each with its process."""

import math
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from modelmora_router.expositions import Together, read, written
from modelmora_router.metrics import Meters
from tests.support.routing import deployment

TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}


def registry(times: int) -> CollectorRegistry:
    """Of a process in which everything happened so often."""
    one = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["model"], registry=one)
    histogram = Histogram("seconds", "Time.", ["model"], buckets=(0.1, 1.0), registry=one)
    for _ in range(times):
        counter.labels('a "b"\\\n').inc()
        histogram.labels("a").observe(0.5, TRACE)
    Gauge("gpu", "No GPU.", registry=one).set(math.nan)
    return one


def sent(one: CollectorRegistry) -> list[Metric]:
    """As another process gets them."""
    return read(written(one))


def together(parts: Mapping[int, Iterable[Metric] | None]) -> str:
    text: bytes = generate_openmetrics(Together(parts))
    return text.decode()


def values(text: str, name: str, **labels: str) -> dict[str, float]:
    """By process."""
    samples = [sample for family in openmetrics(text) for sample in family.samples if sample.name == name]
    return {each.labels["process"]: each.value for each in samples if labels.items() <= each.labels.items()}


def test_every_series_of_every_process_is_there_with_its_number() -> None:
    text = together({1: sent(registry(3)), 2: sent(registry(5)), 3: registry(7).collect()})
    assert values(text, "requests_total", model='a "b"\\\n') == {"1": 3, "2": 5, "3": 7}
    assert values(text, "seconds_count", model="a") == {"1": 3, "2": 5, "3": 7}
    assert values(text, "seconds_bucket", le="0.1") == {"1": 0, "2": 0, "3": 0}
    assert values(text, "seconds_bucket", le="+Inf") == {"1": 3, "2": 5, "3": 7}
    assert [math.isnan(value) for value in values(text, "gpu").values()] == [True] * 3


def test_a_family_is_told_once() -> None:
    parts = {1: sent(registry(1)), 2: sent(registry(1))}
    for text in (together(parts), generate_latest(Together(parts)).decode()):
        assert text.count("# TYPE seconds histogram") == 1
    assert {family.name: family.type for family in prometheus(text)}["requests"] == "counter"


def test_exemplars_come_along() -> None:
    text = together({1: sent(registry(1)), 2: registry(1).collect()})
    samples = [sample for family in openmetrics(text) for sample in family.samples if sample.exemplar]
    assert {sample.labels["process"] for sample in samples} == {"1", "2"}
    assert all(sample.exemplar and sample.exemplar.labels == TRACE for sample in samples)
    assert all(sample.exemplar and sample.exemplar.value == 0.5 and sample.exemplar.timestamp for sample in samples)


def test_a_process_that_says_nothing_is_missing_and_that_is_said() -> None:
    text = together({1: registry(2).collect(), 2: None})
    assert values(text, "requests_total") == {"1": 2}
    assert values(text, "modelmora_router_process_up") == {"1": 1, "2": 0}


async def test_all_numbers_of_a_router_survive_the_way() -> None:
    meters = Meters()
    meters.of(deployment("one")).failed("INTERNAL_ERROR", 1.0)
    there = read(await meters.written(written))
    assert {metric.name for metric in there} >= {"modelmora_requests", "modelmora_request_duration_seconds"}
    names = [(metric.name, metric.documentation, metric.type, metric.unit) for metric in meters.registry.collect()]
    assert [(metric.name, metric.documentation, metric.type, metric.unit) for metric in there] == names
