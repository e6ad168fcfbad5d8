"""What the way through router and worker costs: a model that does nothing, beside servers that do nothing else.

The echo is one hop: less than any router can do. The proxy is the simplest router there is: two hops, a call each.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import models
from loads import Load, Outcome, drive, texts, without_errors
from report import Figure, figure
from rich.progress import track
from rival_processes import bare_and_proxy

OURS, ECHO, PROXY = "ModelMora", "bare echo", "bare proxy"
TWO = "ModelMora, two router processes"
_SHAPES = {
    "1 client": Load(target="", payloads=(), seconds=0, clients=1),
    "10 clients": Load(target="", payloads=(), seconds=0, clients=10, connections=4),
    "100 clients": Load(target="", payloads=(), seconds=0, clients=100, connections=4),
    "open loop, 500 req/s": Load(target="", payloads=(), seconds=0, rate=500, connections=4),
}

Rounds = Mapping[tuple[str, str], list[Outcome]]


def measure(*, rounds: int, seconds: float) -> Iterator[Figure]:
    """The figures of the no-op model."""
    with _systems() as systems:
        outcomes = _rounds(systems, rounds=rounds, seconds=seconds)
        yield from _figures(outcomes, list(systems))


@contextmanager
def _systems() -> Iterator[dict[str, str]]:
    """Names and addresses of all that is compared."""
    with bare_and_proxy("echo.py") as (echo, proxy), _ours() as ours:
        yield {ECHO: echo, PROXY: proxy, **ours}


@contextmanager
def _ours() -> Iterator[dict[str, str]]:
    """With one router process, on a laptop, and with two, as in a cluster."""
    with models.room() as folder, models.room() as other:
        spec, same = models.own(models.NOOP, folder), models.own(models.NOOP, other)
        with (
            models.served(folder, {"noop": spec}) as one,
            models.routed(other, "noop", same, processes=2) as two,
        ):
            yield {OURS: one.grpc, TWO: two}


def _rounds(systems: Mapping[str, str], *, rounds: int, seconds: float) -> Rounds:
    """Every system in every round, so that all see the same machine."""
    outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    payloads = texts("noop", ["hello"])
    for _ in track(range(rounds), description="no-op model"):
        for shape, load in _SHAPES.items():
            for system, address in systems.items():
                made = {**vars(load), "target": address, "payloads": payloads, "seconds": seconds, "name": system}
                outcomes[shape, system] += drive(Load(**made))
    without_errors([each for several in outcomes.values() for each in several])
    return outcomes


def _figures(outcomes: Rounds, systems: list[str]) -> Iterator[Figure]:
    def p50(shape: str, system: str) -> list[float]:
        return [each.percentile(50) for each in outcomes[shape, system]]

    def p99(shape: str, system: str) -> list[float]:
        return [each.percentile(99) for each in outcomes[shape, system]]

    def rate(shape: str, system: str) -> list[float]:
        return [each.per_second for each in outcomes[shape, system]]

    for system in systems:
        ours = system == OURS
        yield _row("1 client, p50", system, p50("1 client", system), "ms", at_most=1.3 if ours else None)
    for clients, goal in (("10 clients", None), ("100 clients", 2500)):
        for system in systems:
            at_least = goal if system == OURS else None
            yield _row(clients, system, rate(clients, system), "req/s", at_least=at_least)
    for system in systems:
        at_most = 5.0 if system == OURS else None
        shape = "open loop, 500 req/s"
        yield _row(f"{shape}, p99", system, p99(shape, system), "ms", at_most=at_most)
        yield _row(f"{shape}, p50", system, p50(shape, system), "ms")
    late = [each.late_ms for system in systems for each in outcomes["open loop, 500 req/s", system]]
    yield figure("no-op model, open loop: how late the load generator itself was at worst", late, "ms")
    yield _clients_compared(rate("100 clients", OURS), rate("10 clients", OURS))


def _row(
    what: str,
    system: str,
    samples: list[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    return figure(f"no-op model, {what}: {system}", samples, unit, at_most=at_most, at_least=at_least)


def _clients_compared(hundred: list[float], ten: list[float]) -> Figure:
    ratios = [many / few for many, few in zip(hundred, ten, strict=True)]
    return figure("no-op model, throughput of 100 clients ÷ of 10 clients (SC-005)", ratios, "×", at_least=1.0)
