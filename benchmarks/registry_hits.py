"""A model that is there already: what it costs to take it, and whether many threads that do so are counted exactly."""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from report import Figure, figure, quantile
from rich.progress import track

from modelmora.registry import ModelHandle, ModelRegistry

_HITS = 20_000
_THREADS = 32
_PAIRS = 10_000  # of acquire and release, in each thread


class Model:
    """Small: a hit does not touch it."""


def hits() -> Iterator[Figure]:
    """Times of a hit, with a clock around each; what the clock itself takes is the baseline (NUM-23, SC-002)."""
    with ModelRegistry(policy="manual") as registry, registry.get_or_load("model", Model) as first:
        clock = _clocked(lambda: None, lambda _: None)
        taken = _clocked(lambda: registry.get_or_load("model", Model), ModelHandle.close)
        given_back = _clocked(lambda: registry.get_or_load("model", Model).close(), lambda _: None)
        finalized = _clocked(lambda: weakref.finalize(first, int), lambda finalizer: finalizer.detach())
        if registry.get_or_load("model", Model).model is not first.model:
            raise RuntimeError("two handles of one key have two models")
        awaited = asyncio.run(_awaited(registry))
        counted = registry.statistics()
    base = quantile(clock, 50)
    yield figure("hit, median", taken, "µs", baseline=base, at_most=1.0)
    yield figure("hit, p99 (SC-002: 100 ms)", taken, "µs", percentile=99, baseline=quantile(clock, 99), at_most=1e5)
    yield figure("hit and close, median", given_back, "µs", baseline=base)
    yield figure("hit, awaited, median", awaited, "µs", baseline=base)
    yield figure("weakref.finalize, median: what a handle does without", finalized, "µs", baseline=base)
    expected = 3 * _HITS + 1  # of all three ways, and the one for its identity
    yield Figure("hits that were not counted", expected - counted.hits, "", goal=0, holds=counted.hits == expected)


def _clocked(operation: Callable[[], object], undo: Callable[..., object]) -> list[float]:
    """Microseconds of each; what it returns is undone outside of the clock."""
    samples = []
    for _ in range(_HITS):
        begun = time.perf_counter_ns()
        result = operation()
        samples.append((time.perf_counter_ns() - begun) / 1e3)
        undo(result)
    return samples


async def _awaited(registry: ModelRegistry) -> list[float]:
    samples = []
    for _ in range(_HITS):
        begun = time.perf_counter_ns()
        handle = await registry.aget_or_load("model", Model)
        samples.append((time.perf_counter_ns() - begun) / 1e3)
        handle.close()
    return samples


def threads() -> Iterator[Figure]:
    """Pairs of acquire and release in 32 threads at once: how many a second, and what is left of them (FR-002)."""
    with ModelRegistry(policy="manual") as registry, registry.get_or_load("model", Model) as held:
        rates = [_rate(registry) for _ in track(range(3), description="32 threads")]
        [model] = registry.list_models()
        counted = registry.statistics()
        lost = 3 * _THREADS * _PAIRS - counted.hits
        if registry.get_or_load("model", Model).model is not held.model:
            raise RuntimeError("two handles of one key have two models")
    yield figure("32 threads, acquire + release", rates, "pairs/s")
    yield Figure(
        "32 threads, references too many or too few", abs(model.references - 1), "", goal=0, holds=model.references == 1
    )
    yield Figure("32 threads, hits that were not counted", lost, "", goal=0, holds=lost == 0)
    yield Figure("32 threads, loads", counted.misses, "", goal=1, holds=counted.misses == 1)


def _rate(registry: ModelRegistry) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        done = [pool.submit(_acquire_and_release, registry) for _ in range(_THREADS)]
        for future in done:
            future.result(timeout=600)
    return _THREADS * _PAIRS / (time.perf_counter() - begun)


def _acquire_and_release(registry: ModelRegistry) -> None:
    for _ in range(_PAIRS):
        registry.get_or_load("model", Model).close()
