"""The numbers of several router processes as one exposition: each series says by a label whose it is. No I/O.

Between the processes they travel as JSON, not in a format of Prometheus: to parse that takes Python tens of times as
long, in a process that has requests to serve.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

PROCESS: Final = "process"


class Together(Collector):
    """The families of all processes, by their numbers; nothing of one that did not answer."""

    def __init__(self, parts: Mapping[int, Iterable[Metric] | None]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, part in self._parts.items():
            for metric in part or ():
                family = families.setdefault(metric.name, _empty(metric))
                family.samples += [_of_process(sample, number) for sample in metric.samples]
        return [*families.values(), self._up()]

    def _up(self) -> Metric:
        family = GaugeMetricFamily(
            "modelmora_router_process_up", "1 for a router process whose numbers are shown here.", labels=[PROCESS]
        )
        for number, part in self._parts.items():
            family.add_metric([str(number)], float(part is not None))
        return family


def _empty(metric: Metric) -> Metric:
    return Metric(metric.name, metric.documentation, metric.type, metric.unit)


def _of_process(sample: Sample, number: int) -> Sample:
    return sample._replace(labels={**sample.labels, PROCESS: str(number)})


# ---------------------------------------------------------------------------------------------------- between them


def written(families: Collector) -> bytes:
    """As JSON, exemplars included."""
    return json.dumps([_plain(metric) for metric in families.collect()], separators=(",", ":")).encode()


def _plain(metric: Metric) -> list[Any]:
    samples = [[sample.name, sample.labels, sample.value, sample.exemplar] for sample in metric.samples]
    return [metric.name, metric.documentation, metric.type, metric.unit, samples]


def read(text: bytes) -> list[Metric]:
    """What `written` wrote."""
    return [_metric(*plain) for plain in json.loads(text)]


def _metric(name: str, documentation: str, kind: str, unit: str, samples: list[list[Any]]) -> Metric:
    metric = Metric(name, documentation, kind, unit)
    metric.samples = [
        Sample(sample, labels, value, None, Exemplar(*exemplar) if exemplar else None)
        for sample, labels, value, exemplar in samples
    ]
    return metric
