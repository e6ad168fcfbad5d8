"""How tensors travelled, for Prometheus: asked when somebody asks. Needs prometheus-client, as nothing else here does.

import prometheus_client
prometheus_client.REGISTRY.register(TensorsCollector())
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from modelmora.tensors.counters import statistics

_PREFIX: Final = "modelmora_tensors"


class TensorsCollector(Collector):
    """Of this process, for its whole life."""

    def collect(self) -> Iterator[Metric]:
        """Every family, with what it shows at this moment."""
        counted = statistics()
        sent = CounterMetricFamily(
            f"{_PREFIX}_sent", "Large arrays that went to another process.", labels=["transport"]
        )
        sent_bytes = CounterMetricFamily(f"{_PREFIX}_sent_bytes", "Of them, the bytes.", labels=["transport"])
        for transport, count, size in (
            ("shm", counted.shm, counted.shm_bytes),
            ("bytes", counted.bytes, counted.bytes_bytes),
        ):
            sent.add_metric([transport], count)
            sent_bytes.add_metric([transport], size)
        fallbacks = CounterMetricFamily(
            f"{_PREFIX}_fallbacks", "Times that shared memory was wanted and could not be had.", labels=["reason"]
        )
        for reason, count in counted.fallbacks.items():
            fallbacks.add_metric([reason], count)
        yield from (sent, sent_bytes, fallbacks)
        yield CounterMetricFamily(f"{_PREFIX}_copied_bytes", "Bytes copied into arenas.", value=counted.puts_bytes)
