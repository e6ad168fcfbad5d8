"""What Prometheus is told of a registry."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from modelmora.errors import LoadFailed
from modelmora.registry.metrics import RegistryCollector
from tests.support.registries import MB, World


@pytest.mark.req("FR-008b", "NUM-22")
def test_prometheus_gets_models_bytes_hits_misses_evictions_and_the_hit_rate() -> None:
    world = World()
    registry = world.registry(limit_bytes=100 * MB)
    exposition = CollectorRegistry()
    exposition.register(RegistryCollector(registry))
    for _ in range(3):
        world.use(registry, "a", 40 * MB)
    world.use(registry, "b", 70 * MB)
    with pytest.raises(LoadFailed):
        registry.get_or_load("broken", lambda: None)
    with registry.get_or_load(1, world.loader(1)), registry.get_or_load("1", world.loader("1")):
        text = generate_latest(exposition).decode()
    found = {
        (sample.name.removeprefix("modelmora_registry_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found == {
        ("models",): 3,
        ("loading",): 0,
        ("references",): 2,
        ("bytes",): 70 * MB,
        ("hits_total",): 2,
        ("misses_total",): 5,
        ("failures_total",): 1,
        ("unloads_total",): 1,
        ("evictions_total",): 1,
        ("hit_ratio",): pytest.approx(2 / 7),
        ("model_bytes", "b"): 70 * MB,
        ("model_bytes", "1"): 0,
        ("model_references", "b"): 0,
        ("model_references", "1"): 2,  # 1 and "1" look alike
    }
