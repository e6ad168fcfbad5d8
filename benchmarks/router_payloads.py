"""Large requests: what a tensor costs on its way through router and worker, beside a bare server and a bare proxy.

One client, one request at a time, a small answer. The bare server is one hop, the bare proxy two, as ModelMora is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import models
from loads import Load, drive, without_errors
from report import Figure, figure
from rich.progress import track
from rival_processes import bare_and_proxy

from modelmora.v1 import types_pb2

OURS, BARE, PROXY = "ModelMora", "bare server", "bare proxy"
_SIZES = {"100 kB": 100_000, "1 MB": 1_000_000, "10 MB": 10_000_000}
_TAKER = """
class Engine:
    def __init__(self, context):
        pass

    def infer(self, batch):
        return [{"text": ["taken"]} for _ in batch]
"""


def measure(*, rounds: int, seconds: float) -> Iterator[Figure]:
    """p50 by size and system, and ours in multiples of the proxy's."""
    latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
    with _systems() as systems:
        for _ in track(range(rounds), description="large requests"):
            for size, count in _SIZES.items():
                for system, target in systems.items():
                    latencies[size, system].append(_p50_ms(target, count, seconds))
    for (size, system), samples in latencies.items():
        yield figure(f"request with a tensor of {size}, 1 client, p50: {system}", samples, "ms")
    for size in _SIZES:
        pairs = zip(latencies[size, OURS], latencies[size, PROXY], strict=True)
        ratios = [ours / proxy for ours, proxy in pairs]
        yield figure(f"request with a tensor of {size}, p50: ModelMora ÷ bare proxy", ratios, "×")


@contextmanager
def _systems() -> Iterator[Mapping[str, str]]:
    with (
        bare_and_proxy("taker.py") as (bare, proxy),
        models.room() as folder,
        models.served(folder, {"taker": models.own(_TAKER, folder)}) as server,
    ):
        yield {BARE: bare, PROXY: proxy, OURS: server.grpc}


def _p50_ms(target: str, size: int, seconds: float) -> float:
    tensor = types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_UINT8, shape=[size], data=bytes(size))
    request = types_pb2.InferenceRequest(model_id="taker", input={"tensor": types_pb2.Value(tensor=tensor)})
    [outcome] = drive(Load(target=target, payloads=[request.SerializeToString()], seconds=seconds, clients=1))
    without_errors([outcome])
    return outcome.percentile(50)
