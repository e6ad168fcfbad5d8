"""N callers of one model: one registry beside one process each, their memory and the time of all their loads.

Both arms are processes of their own that live for the whole run and take turns, and memory is what only they use (USS).
Processes load one after the other, so that they do not take the machine from each other. Of N loads that are alike,
(N - 1) / N can be saved: that bound is the baseline of each figure. Times are not alike where memory takes longer to
touch that the machine has not handed out lately: then N loads cost more than N times the first, and more is saved.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import psutil
from report import Absent, Figure, figure, quantile
from rich.progress import track

from modelmora.registry import ModelRegistry
from modelmora.registry.memory import Memory

_MEGABYTE = 1_000_000
_LEAST_SAVED = 0.6  # SC-001
_ANSWER_S = 300.0


@dataclass(frozen=True)
class Held:
    """What one process has when its callers have their models."""

    load_s: float  # of all of them
    bytes: int


def measure(counts: Sequence[int], *, size_mb: int, rounds: int) -> Iterator[Figure | Absent]:
    """The figures for each N (SC-001, NUM-20, NUM-21, NUM-32)."""
    for count in counts:
        needed = int(1.2 * count * size_mb * _MEGABYTE)
        if (Memory().free_bytes() or needed) < needed:
            yield Absent(
                f"{count} × {size_mb} MB", f"this machine has not the {needed / 1e9:.1f} GB for {count} copies"
            )
            continue
        yield from _compared(count, size_mb, rounds)


def _compared(count: int, size_mb: int, rounds: int) -> Iterator[Figure]:
    shared: list[Held] = []
    apart: list[list[Held]] = []
    with ExitStack() as processes:
        registry = processes.enter_context(_process(count, size_mb))
        others = [processes.enter_context(_process(1, size_mb)) for _ in range(count)]
        for number in track(range(rounds), description=f"{count} × {size_mb} MB"):
            for first in (True, False):  # the arms begin in turns
                if first == bool(number % 2):
                    shared += _turn([registry])
                else:
                    apart.append(_turn(others))
    name = f"{count} callers of {size_mb} MB"
    yield from _figures(
        f"{name}, memory",
        [held.bytes / _MEGABYTE for held in shared],
        [sum(held.bytes for held in several) / _MEGABYTE for several in apart],
        "MB",
        bound=(count - 1) / count,
    )
    yield from _figures(
        f"{name}, time to load",
        [held.load_s * 1e3 for held in shared],
        [sum(held.load_s for held in several) * 1e3 for several in apart],
        "ms",
        bound=(count - 1) / count,
    )


def _figures(name: str, shared: list[float], apart: list[float], unit: str, *, bound: float) -> Iterator[Figure]:
    yield figure(f"{name}, one process each", apart, unit)
    yield figure(f"{name}, one registry", shared, unit, baseline=quantile(apart, 50))
    saved = [100 * (1 - one / many) for one, many in zip(shared, apart, strict=True)]
    yield figure(f"{name}, saved (baseline: the bound)", saved, "%", baseline=100 * bound, at_least=100 * _LEAST_SAVED)


# ------------------------------------------------------------------------------------------------ processes


def _turn(processes: Sequence[Connection]) -> list[Held]:
    """All of them load, one after the other, then all give back."""
    held = [_loaded(process) for process in processes]
    for process in processes:
        _released(process)
    return held


@contextmanager
def _process(callers: int, size_mb: int) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, callers, size_mb), daemon=True)
    process.start()
    try:
        _released(here)  # its libraries are imported
        yield here
    finally:
        here.close()
        process.join(_ANSWER_S)


def _loaded(process: Connection) -> Held:
    process.send("load")
    return _answer(process)


def _released(process: Connection) -> None:
    process.send("release")
    _answer(process)


def _answer(process: Connection) -> Held:
    if not process.poll(_ANSWER_S):
        raise RuntimeError(f"a process of the benchmark did not answer within {_ANSWER_S} s")
    held: Held = process.recv()
    return held


def _serve(benchmark: Connection, callers: int, size_mb: int) -> None:
    """In the process: loads for all of its callers, then gives all back, until nobody asks any more."""
    registry = ModelRegistry(policy="manual")
    while True:
        try:
            command = benchmark.recv()
        except EOFError:
            return
        if command == "load":
            begun = time.perf_counter()
            handles = [registry.get_or_load("model", lambda: _synthetic(size_mb)) for _ in range(callers)]
            load_s = time.perf_counter() - begun
            if any(handle.model is not handles[0].model for handle in handles):
                raise RuntimeError("two handles of one key have two models")
            benchmark.send(Held(load_s, psutil.Process().memory_full_info().uss))
        else:
            handles = []
            registry.evict()
            benchmark.send(Held(0.0, psutil.Process().memory_full_info().uss))


def _synthetic(size_mb: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """As many bytes as a model of that size, every page of them touched."""
    return np.ones(size_mb * _MEGABYTE, dtype=np.uint8)
