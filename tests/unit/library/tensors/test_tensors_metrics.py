"""What Prometheus is told of tensors."""

import pytest
from prometheus_client import CollectorRegistry

from modelmora.tensors import counters
from modelmora.tensors.metrics import TensorsCollector


@pytest.mark.req("US3-AS2", "FR-006")
def test_every_way_that_a_tensor_went_is_counted() -> None:
    registry = CollectorRegistry()
    registry.register(TensorsCollector())

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"modelmora_tensors_{name}_total", labels) or 0.0

    names = ("sent", "sent_bytes")
    before = {(name, way): value(name, transport=way) for name in names for way in ("shm", "bytes")}
    fell_back, copied = value("fallbacks", reason="QUOTA_EXCEEDED"), value("copied_bytes")
    counters.count_sent("shm", 10)
    counters.count_sent("bytes", 7)
    counters.count_fallback("QUOTA_EXCEEDED")
    counters.count_put(5)
    grown = {key: value(key[0], transport=key[1]) - count for key, count in before.items()}
    assert grown == {("sent", "shm"): 1, ("sent", "bytes"): 1, ("sent_bytes", "shm"): 10, ("sent_bytes", "bytes"): 7}
    assert value("fallbacks", reason="QUOTA_EXCEEDED") == fell_back + 1
    assert value("copied_bytes") == copied + 5
