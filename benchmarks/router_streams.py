"""Large results: ten of about 3 MB, as one message each and in parts over InferStream (NUM-06, NUM-07).

Beside a bare server that has the bytes at hand and sends them in parts of 1 MB, one hop instead of two.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc
import models
from loads import INFER, INFER_STREAM, Load, drive, texts, without_errors
from report import Absent, Figure, figure
from rich.progress import track
from rival_processes import free_address, running

from modelmora.v1 import inference_pb2_grpc, types_pb2

_BYTES = 3_000_000
_RESULTS = 10
_MEGABYTE = 1e6
_GOALS = {1: 31.92, 10: 33.31}  # MB/s, NUM-06
_CHUNK = 1.048576  # MB, as the router cuts large answers
_GOAL_CHUNK_MS = 23.53  # NUM-07


@dataclass(frozen=True)
class Way:
    """How results are asked for, and of whom."""

    target: str
    method: str
    kinds: tuple[str, ...] = ("made", "prepared")  # for each result anew, or once


def measure(*, rounds: int) -> Iterator[Figure | Absent]:
    """MB/s by way, number of clients, and whether the engine makes each result anew."""
    bare = free_address()
    with models.room() as folder, running("large.py", bare, str(_BYTES), listens=bare):
        spec = models.own(models.LARGE, folder, parameters={"bytes": _BYTES})
        with models.served(folder, {"large": spec}) as server:
            ways = {
                "bare stream": Way(bare, INFER_STREAM, ("prepared",)),
                "bare message": Way(bare, INFER, ("prepared",)),
                "one message": Way(server.grpc, INFER),
            }
            if _streams(server.grpc):
                ways["InferStream"] = Way(server.grpc, INFER_STREAM)
            else:
                yield Absent("large results over InferStream", "the server does not offer InferStream")
            yield from _figures(ways, rounds=rounds)


def _streams(target: str) -> bool:
    """Whether the server answers on a stream."""
    request = types_pb2.InferenceRequest.FromString(texts("large", ["prepared"])[0])
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            return any(not answer.HasField("error") for answer in stub.InferStream(iter([request]), timeout=30))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return False
            raise


def _figures(ways: Mapping[str, Way], *, rounds: int) -> Iterator[Figure]:
    rates: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for _ in track(range(rounds), description="large results"):
        for name, way in ways.items():
            for kind in way.kinds:
                for clients in _GOALS:
                    rates[kind, name, clients].append(_megabytes_per_second(way, kind, clients))
    for (kind, name, clients), samples in rates.items():
        plural = "client" if clients == 1 else "clients"
        title = f"{_RESULTS} results of 3 MB each, {kind}, {name}, {clients} {plural}"
        ours = name == "InferStream"
        yield figure(title, samples, "MB/s", at_least=_GOALS[clients] if ours else None)
        if ours and clients == 1:
            chunks = [_CHUNK / rate * 1e3 for rate in samples]
            yield figure(f"{title}, a chunk of 1 MB", chunks, "ms", at_most=_GOAL_CHUNK_MS)


def _megabytes_per_second(way: Way, kind: str, clients: int) -> float:
    load = Load(
        target=way.target,
        payloads=texts("large", [kind]),
        seconds=60,
        clients=clients,
        connections=clients,
        method=way.method,
        warm_up=clients,
        ends_after=_RESULTS * clients,
    )
    [outcome] = drive(load)
    without_errors([outcome])
    return outcome.received_bytes / outcome.elapsed_s / _MEGABYTE
