"""The figures of the prototype, at its sizes: what a copy out, a whole life of a tensor, and an operation cost."""

import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import shared_memory
from typing import Any, Final

import numpy as np
from report import Figure, figure, quantile
from rich.progress import track
from tensors_other import paired, read, timed

from modelmora.tensors import mappings, memory

_MIB: Final = 2**20
_SIZES: Final = {"1 MB": 10**6, "10 MB": 10**7, "100 MB": 10**8}
_COPY_OUT_GIB: Final = {"1 MB": 4.6, "10 MB": 5.4, "100 MB": 5.3}
_CYCLE_MIB: Final = {"1 MB": 130, "10 MB": 717, "100 MB": 1.37 * 1024}


def measure(*, rounds: int) -> Iterator[Figure]:
    """NUM-24, NUM-25, NUM-30, and operations on a view beside those on private memory (SC-008)."""
    with paired() as pair:
        for name, size in _SIZES.items():
            source = np.ones(size, np.uint8)
            tensor = pair.session.put(source)
            out = [_copy_out(pair, tensor, size) for _ in track(range(rounds), description=f"copy out, {name}")]
            yield figure(f"copy out, {name} (NUM-24)", out, "GiB/s", at_least=_COPY_OUT_GIB[name])
            pooled = [_pooled(pair, source) for _ in track(range(rounds), description=f"cycle, {name}")]
            goal = _CYCLE_MIB[name]
            yield figure(f"create + write + read, {name}, pooled (NUM-25)", pooled, "MiB/s", at_least=goal)
            fresh = [size / timed(_fresh, source, read) / _MIB for _ in range(rounds)]
            yield figure(f"create + write + read, {name}, of a new arena (NUM-25)", fresh, "MiB/s", at_least=goal)
        yield from _compared(rounds)
        yield from _operations(pair, rounds)


def _copy_out(pair: Any, tensor: Any, size: int) -> float:  # noqa: ANN401 - of `paired`
    pair.begin("passes", size)
    pair.session.send(tensor)
    return float(size / pair.end()["copy out"] / 2**30)


def _pooled(pair: Any, source: Any) -> float:  # noqa: ANN401 - of `paired`
    def cycle() -> None:
        pair.begin("frames", 1)
        tensor = pair.session.empty(len(source), np.uint8)
        np.copyto(tensor.numpy(), source)
        pair.session.send(tensor)
        pair.end()

    return float(len(source) / timed(cycle) / _MIB)


def _fresh(source: Any, look: Callable[[Any], object]) -> None:  # noqa: ANN401 - an array
    """An arena that is made for this one tensor, and gone after it."""
    size = mappings.PAGE_BYTES * -(-len(source) // mappings.PAGE_BYTES)
    fd, mapped = memory.create(size, None)
    np.copyto(mapped[: len(source)], source)
    look(memory.foreign(fd, size)[: len(source)])
    os.close(fd)


def _compared(rounds: int) -> Iterator[Figure]:
    """Create + copy + compare + drop of 100 MB, beside the same by multiprocessing.shared_memory (NUM-30)."""
    source = np.ones(10**8, np.uint8)

    def ours() -> None:
        _fresh(source, lambda seen: np.array_equal(seen, source))

    def theirs() -> None:
        block = shared_memory.SharedMemory(create=True, size=len(source))
        array: Any = np.ndarray(len(source), np.uint8, block.buf)
        np.copyto(array, source)
        assert np.array_equal(array, source)
        del array
        block.close()
        block.unlink()

    turns = [(timed(ours), timed(theirs)) for _ in track(range(rounds), description="create, compare, drop")]
    rates = [[len(source) / seconds / 1e9 for seconds in way] for way in zip(*turns, strict=True)]
    name = "create + copy + compare + drop, 100 MB"
    yield figure(f"{name}, of a new arena (NUM-30)", rates[0], "GB/s", baseline=quantile(rates[1], 50), at_least=1.8)
    yield figure(f"{name}: multiprocessing.shared_memory", rates[1], "GB/s")


def _operations(pair: Any, rounds: int) -> Iterator[Figure]:  # noqa: ANN401 - of `paired`
    for name, size in {"1 MB": 10**6, "10 MB": 10**7, "100 MB": 10**8}.items():
        pair.begin("operations", rounds)
        pair.session.send(np.ones(size // 4, np.float32))
        turns: list[Mapping[str, tuple[float, float]]] = pair.end()
        for operation in turns[0]:
            more = [100 * (turn[operation][0] / turn[operation][1] - 1) for turn in turns]
            yield figure(f"{operation} of a view of {name} costs more (SC-008)", more, "%", at_most=5.0)
