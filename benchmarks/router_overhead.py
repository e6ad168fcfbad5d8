"""What is added to a model that takes 50 ms, over gRPC and REST, by one client and by ten; the share of the queue."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

import httpx
import models
from loads import Load, Outcome, drive, texts, without_errors
from prometheus_client.parser import text_string_to_metric_families
from report import Figure, figure
from rich.progress import track

from tests.support.servers import Server

_MODEL_MS = 50.0
_ADDED_MS = 100.0  # REQ-PERF-001
_SHARE = 0.01  # REQ-QUEUE-004b
_CLIENTS = (1, 10)


def measure(*, rounds: int, seconds: float) -> Iterator[Figure]:
    """The figures of the 50 ms model."""
    with models.room() as folder:
        spec = models.own(models.FIXED_TIME, folder, parameters={"seconds": _MODEL_MS / 1e3})
        with models.served(folder, {"fifty": spec}) as server:
            yield _queue_share(server, seconds)
            outcomes: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
            for _ in track(range(rounds), description="50 ms model"):
                for protocol, load in _loads(server, seconds).items():
                    for clients in _CLIENTS:
                        outcomes[protocol, clients] += drive(Load(**{**vars(load), "clients": clients}))
    without_errors([each for several in outcomes.values() for each in several])
    for (protocol, clients), several in outcomes.items():
        for percentile in (50, 99):
            added = [outcome.percentile(percentile) - _MODEL_MS for outcome in several]
            yield figure(
                f"added to 50 ms, {protocol}, clients: {clients}, p{percentile}", added, "ms", at_most=_ADDED_MS
            )


def _loads(server: Server, seconds: float) -> Mapping[str, Load]:
    body = json.dumps({"input": {"text": "hello"}}).encode()
    grpc = Load(target=server.grpc, payloads=texts("fifty", ["hello"]), seconds=seconds, warm_up=2)
    return {
        "gRPC": grpc,
        "REST": Load(**{**vars(grpc), "target": f"{server.rest}/api/v1/infer/fifty", "payloads": [body]}),
    }


def _queue_share(server: Server, seconds: float) -> Figure:
    """Of a caller who is alone, from the router's own metrics: from arrival to dispatch ÷ from arrival to answer."""
    before = _sums(server)
    load = Load(target=server.grpc, payloads=texts("fifty", ["hello"]), seconds=seconds, clients=1, warm_up=0)
    without_errors(drive(load))
    waited, lasted = (after - earlier for after, earlier in zip(_sums(server), before, strict=True))
    return Figure(
        "share of the queue in a request of 50 ms", waited / lasted, "", goal=_SHARE, holds=waited / lasted < _SHARE
    )


def _sums(server: Server) -> tuple[float, float]:
    names = ("modelmora_queue_wait_seconds_sum", "modelmora_request_duration_seconds_sum")
    exposition = httpx.get(f"{server.rest}/metrics").text
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    waited, lasted = (sum(sample.value for sample in samples if sample.name == name) for name in names)
    return waited, lasted
