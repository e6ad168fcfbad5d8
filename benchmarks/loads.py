"""Load on a server as values, and what came of it. The generator itself is load.py, a process of its own.

In a closed loop each client sends its next request when the last one is answered: it finds the greatest throughput. In
an open loop requests are sent at their time whatever became of the others, and the latency of each counts from the time
at which it was to be sent: a server that stands still is not forgiven those that nobody sent meanwhile.
"""

import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from report import quantile

from modelmora.v1 import types_pb2

INFER = "/modelmora.v1.InferenceService/Infer"
INFER_STREAM = "/modelmora.v1.InferenceService/InferStream"
_GENERATOR = Path(__file__).resolve().parent / "load.py"
_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests to one target, by `clients` in a closed loop or `rate` a second in an open one."""

    target: str  # host:port or unix:path for gRPC, a URL for HTTP
    payloads: Sequence[bytes]  # requests as they go on the wire, sent in turns
    seconds: float
    clients: int = 0
    rate: float = 0.0
    connections: int = 1  # of HTTP/2; on HTTP/1.1 every client has its own
    method: str = INFER
    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    warm_up: int = 20  # requests before, that do not count
    request_timeout_s: float = 30.0
    ends_after: int = 0  # requests in all, in a closed loop; 0: the time decides


@dataclass
class Outcome:
    """What came of a load."""

    name: str = ""
    latencies_ms: list[float] = field(default_factory=list)  # of the requests that were answered well
    errors: Counter[str] = field(default_factory=Counter)  # by code
    elapsed_s: float = 0.0
    received_bytes: int = 0
    late_ms: float = 0.0  # how late the generator itself was at worst, in an open loop

    @property
    def sent(self) -> int:
        return len(self.latencies_ms) + self.errors.total()

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.latencies_ms) / self.elapsed_s

    def percentile(self, percentile: int) -> float:
        """Of the latencies, ms; infinite if nothing was answered."""
        return quantile(self.latencies_ms, percentile) if self.latencies_ms else float("inf")


def drive(*loads: Load, meanwhile: Callable[[], None] | None = None) -> list[Outcome]:
    """Puts all of the loads on at once; `meanwhile` runs here while they are on."""
    longest = max(load.seconds + load.request_timeout_s for load in loads)
    command = [sys.executable, str(_GENERATOR)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as generator:
        watchdog = threading.Timer(2 * longest + _START_S, generator.kill)
        watchdog.start()
        try:
            return _exchange(generator, loads, meanwhile)
        finally:
            watchdog.cancel()
            generator.kill()


def _exchange(
    generator: subprocess.Popen[bytes], loads: Sequence[Load], meanwhile: Callable[[], None] | None
) -> list[Outcome]:
    if generator.stdin is None or generator.stdout is None:
        raise RuntimeError("the load generator has no pipes")
    pickle.dump(loads, generator.stdin)
    generator.stdin.close()
    if not generator.stdout.readline():
        raise RuntimeError("the load generator ended before it began; see above")
    if meanwhile:
        meanwhile()
    outcomes: list[Outcome] = pickle.load(generator.stdout)  # a process of our own wrote it
    return outcomes


def without_errors(outcomes: Sequence[Outcome]) -> None:
    """A figure of a run with failures would be no figure.

    Raises:
        RuntimeError: requests failed; by code.
    """
    failed = {outcome.name: dict(outcome.errors) for outcome in outcomes if outcome.errors}
    if failed:
        raise RuntimeError(f"requests failed: {failed}")


def texts(model_id: str, sentences: Sequence[str], **fields: types_pb2.Priority | float) -> list[bytes]:
    """Requests for one text each, as gRPC sends them."""
    return [
        types_pb2.InferenceRequest(
            model_id=model_id,
            input={"text": types_pb2.Value(text=types_pb2.Text(items=[sentence]))},
            **fields,  # type: ignore[arg-type]  # priority, timeout_seconds
        ).SerializeToString()
        for sentence in sentences
    ]
