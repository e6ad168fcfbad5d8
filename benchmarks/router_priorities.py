"""CRITICAL while LOW floods: an engine of fixed service time, at 1.5 times what it can do."""

from collections.abc import Iterator

import models
from loads import Load, Outcome, drive, texts, without_errors
from report import Absent, Figure, figure

from modelmora.v1 import types_pb2

_SERVICE_S = 0.02
_BATCH = 4
_CRITICAL_RATE = 10.0
_OVERLOAD = 1.5


def measure(*, seconds: float) -> Iterator[Figure | Absent]:
    """The figures of mixed priorities."""
    with models.room() as folder:
        spec = models.own(
            models.FIXED_TIME,
            folder,
            parameters={"seconds": _SERVICE_S},
            batching={"maxSize": _BATCH},
            queue={"maxLength": 100},  # so that the flood passes it within the run
        )
        with models.served(folder, {"slow": spec}) as server:
            yield from _figures(server.grpc, seconds=seconds)


def _figures(target: str, *, seconds: float) -> Iterator[Figure]:
    low = texts("slow", ["a flood"], priority=types_pb2.PRIORITY_LOW)
    critical = Load(
        target=target,
        payloads=texts("slow", ["at once"], priority=types_pb2.PRIORITY_CRITICAL),
        seconds=seconds,
        rate=_CRITICAL_RATE,
        name="CRITICAL",
    )
    capacity = drive(Load(target=target, payloads=low, seconds=seconds, clients=50, name="capacity"))
    unloaded = drive(critical)
    without_errors([*capacity, *unloaded])
    flood = Load(target=target, payloads=low, seconds=seconds, rate=_OVERLOAD * capacity[0].per_second, name="LOW")
    urgent, flooded = drive(critical, flood)
    yield Figure("mixed priorities, capacity of the engine", capacity[0].per_second, "req/s")
    yield from _critical(unloaded[0], urgent)
    yield from _flood(flooded)


def _critical(unloaded: Outcome, urgent: Outcome) -> Iterator[Figure]:
    alone = unloaded.percentile(99)
    yield figure("mixed priorities, CRITICAL unloaded, p99", unloaded.latencies_ms, "ms", percentile=99)
    yield figure(
        "mixed priorities, CRITICAL at 1.5 × capacity, p99",
        urgent.latencies_ms,
        "ms",
        percentile=99,
        baseline=alone,
        at_most=2 * alone,
    )
    yield figure("mixed priorities, CRITICAL at 1.5 × capacity, p50", urgent.latencies_ms, "ms")
    failed = urgent.errors.total()
    named = ", ".join(urgent.errors) or "none"
    name = f"mixed priorities, CRITICAL failed: {named}"
    yield Figure(name, failed, "requests", goal=0, holds=failed == 0, samples=urgent.sent)


def _flood(low: Outcome) -> Iterator[Figure]:
    yield Figure("mixed priorities, LOW sent", low.sent, "requests")
    yield Figure("mixed priorities, LOW answered", len(low.latencies_ms), "requests")
    for code, count in low.errors.items():
        yield Figure(f"mixed priorities, LOW shed: {code}", count, "requests")
    yield figure("mixed priorities, LOW, p99 of those answered", low.latencies_ms or [0.0], "ms", percentile=99)
