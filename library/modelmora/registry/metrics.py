"""A registry's numbers for Prometheus: asked when somebody asks. Needs prometheus-client, which nothing else here does.

import prometheus_client
prometheus_client.REGISTRY.register(RegistryCollector(registry.default()))
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelmora.registry.entries import LoadedModel, Statistics
from modelmora.registry.models import ModelRegistry

_PREFIX = "modelmora_registry"


class RegistryCollector(Collector):
    """Of one registry; two in one exposition would have the same names."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Every family, with what it shows at this moment."""
        yield from _of_all(self._registry.statistics())
        yield from _of_models(self._registry.list_models())


def _of_all(counted: Statistics) -> Iterator[Metric]:
    gauges = (
        ("models", "Models that are loaded.", counted.models),
        ("loading", "Models that are being loaded.", counted.loading),
        ("references", "Handles to models, and callers that wait for one.", counted.references),
        ("bytes", "What counts against the memory limit.", counted.size_bytes),
        ("hit_ratio", "Hits of all requests, 0 to 1.", counted.hit_rate),
    )
    counters = (
        ("hits", "Requests that got a model without a load of their own.", counted.hits),
        ("misses", "Loads that were begun.", counted.misses),
        ("failures", "Loads that failed.", counted.failures),
        ("unloads", "Models that left, for whatever reason.", counted.unloads),
        ("evictions", "Models that left to make room, or by evict().", counted.evictions),
    )
    for name, words, value in gauges:
        yield GaugeMetricFamily(f"{_PREFIX}_{name}", words, value=value)
    for name, words, count in counters:
        yield CounterMetricFamily(f"{_PREFIX}_{name}", words, value=count)


def _of_models(models: list[LoadedModel]) -> Iterator[Metric]:
    sizes, references = Counter[str](), Counter[str]()
    for model in models:
        sizes[str(model.key)] += model.size_bytes  # keys that look alike are one label: they are added
        references[str(model.key)] += model.references
    yield _by_key("model_bytes", "What a model counts.", sizes)
    yield _by_key("model_references", "Handles to a model.", references)


def _by_key(name: str, words: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", words, labels=["key"])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
