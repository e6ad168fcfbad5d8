"""A request with a large array at a worker's own socket, to an engine that does nothing: shared memory beside bytes.

The worker is a process of its own, as in a pod; the client is the SDK, which sends bytes over the same socket when it
is told to share nothing. One request at a time.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import models
import numpy as np
from report import Figure, figure
from rich.progress import track

from modelmora import Client

SHARED, IN_PLACE, BYTES = "shared memory", "shared memory, made in place", "bytes"
_SIZES: Final = {"10 MB": 10_000_000, "100 MB": 100_000_000}
_ENGINE: Final = """
class Engine:
    def __init__(self, context):
        pass

    def infer(self, batch):
        return [{"text": ["taken"]} for _ in batch]
"""
_STARTED_WITHIN_S: Final = 60.0


def measure(*, rounds: int, largest: int) -> Iterator[Figure]:
    """p50 and p99 by size and transport, and shared memory in parts of bytes; ways take turns within a round."""
    latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
    with _worker() as socket, Client(f"unix:{socket}") as sharing, Client(f"unix:{socket}") as plain:
        plain._sharing = None  # noqa: SLF001 - the same client, but for this
        for size, count in [each for each in _SIZES.items() if each[1] <= largest]:
            array = np.arange(count, dtype=np.uint8)
            _ms(sharing, array), _ms(plain, array)  # the first opens the session and its arena
            place = _placed(sharing, array)
            for _ in track(range(rounds), description=f"requests with {size}"):
                latencies[size, SHARED].append(_ms(sharing, array))
                latencies[size, IN_PLACE].append(_ms(sharing, place))
                latencies[size, BYTES].append(_ms(plain, array))
    for (size, way), samples in latencies.items():
        baseline = None if way == BYTES else figure("", latencies[size, BYTES], "ms").value
        yield figure(f"request with {size}, 1 client, p50: {way}", samples, "ms", baseline=baseline)
        yield figure(f"request with {size}, 1 client, p99: {way}", samples, "ms", percentile=99)


def _ms(client: Client, array: "np.ndarray[Any, Any]") -> float:
    begun = time.perf_counter()
    assert client.infer("taker", array).output["text"] == ["taken"]
    return (time.perf_counter() - begun) * 1e3


def _placed(client: Client, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """As a program has it that fills its arrays where they are handed over from."""
    place = client.empty(array.shape, array.dtype)
    place[...] = array
    return place


@contextmanager
def _worker() -> Iterator[Path]:
    with models.room() as folder:
        kind = {"apiVersion": "modelmora.io/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "taker"}}
        settings = {
            "deployment": kind | {"spec": models.own(_ENGINE, folder)},
            "worker_id": "taker-0",
            "address": f"unix:{folder}/w.sock",
            "client_socket": f"{folder}/taker.sock",
            "session_quota_bytes": 2**30,
            "max_message_bytes": 256 * 2**20,
            "cache_dir": f"{folder}/cache",
            "files_dir": f"{folder}/files",
            "log_level": "warning",
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "modelmora_worker", "--settings", str(folder / "settings.json")]
        process = subprocess.Popen(command)
        try:
            yield _found(folder / "taker.sock", process)
        finally:
            process.terminate()
            process.wait(timeout=_STARTED_WITHIN_S)


def _found(socket: Path, process: "subprocess.Popen[bytes]") -> Path:
    ends_at = time.monotonic() + _STARTED_WITHIN_S
    while not socket.exists():
        assert process.poll() is None, "the worker ended"
        assert time.monotonic() < ends_at, "the worker does not serve"
        time.sleep(0.05)
    return socket
