"""How fast memory passes: (a) into the arena, (b) handed over, attached and read in full, (c) copied out.

Each beside the same pass over private memory of the same process, in turns. The hand-over alone is from `send` here to
an array there that can be used; beside it stands what a bare byte over a socket takes, in turns as well.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from report import Figure, figure, quantile
from rich.progress import track
from tensors_other import Pair, paired, timed

from modelmora.tensors import SharedTensor, mappings, memory

SIZES = {"1 MB": 10**6, "10 MB": 10**7, "100 MB": 10**8, "1 GB": 10**9}
FROM = 10**7  # of the goals
_A, _B, _C = "(a) write into the arena", "(b) hand-over + attach + full read", "(c) copy out"
Samples = Mapping[str, list[float]]


def measure(*, rounds: int, largest: int) -> Iterator[Figure]:
    """The passes by size, then the hand-over and the views over all sizes."""
    sizes = {name: size for name, size in SIZES.items() if size <= largest}
    handed: dict[str, list[float]] = {}
    bytes_ms: list[float] = []
    views: dict[str, list[float]] = {}
    with paired() as pair:
        for name, size in sizes.items():
            samples = _passes(pair, size, rounds, name)
            yield from _throughput(name, size, samples)
            cold = [seconds * 1e3 for seconds in samples["hand-over"]]
            yield figure(f"hand-over in (b), caches cold from the copies, {name}, p50", cold, "ms")
            title = f"hand-over in (b), caches cold from the copies, {name}, p99"
            yield figure(title, cold, "ms", percentile=99, at_most=1.0)
            handed[name], beside = _handed(pair, size, rounds)
            bytes_ms += beside
            views[name] = [seconds * 1e3 for seconds in _views(pair, size)]
    yield from _flat("hand-over of a handle", handed)
    yield figure("a bare byte over a socket, p50", bytes_ms, "ms")
    yield figure("a bare byte over a socket, p99", bytes_ms, "ms", percentile=99)
    yield from _flat("view: np.asarray and np.from_dlpack", views)
    yield from _attached(sizes, rounds)


def _passes(pair: Pair, size: int, rounds: int, name: str) -> Samples:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    samples: dict[str, list[float]] = defaultdict(list)
    tensor = pair.session.empty(size, np.uint8)
    _pass(pair, tensor, source, target)  # maps and warms all
    for _ in track(range(rounds), description=f"passes, {name}"):
        for what, seconds in _pass(pair, tensor, source, target).items():
            samples[what].append(seconds)
    return samples


def _pass(pair: Pair, tensor: SharedTensor, source: Any, target: Any) -> dict[str, float]:  # noqa: ANN401 - arrays
    private = timed(np.copyto, target, source)
    write = timed(np.copyto, tensor.numpy(), source)
    pair.begin("passes", len(source))
    begun = time.perf_counter()
    pair.session.send(tensor)
    there = pair.end()
    return {
        _A: write,
        f"{_A}, private": private,
        _B: there["read"] - begun,
        f"{_B}, private": there["private read"],
        _C: there["copy out"],
        f"{_C}, private": there["private copy"],
        "hand-over": there["received"] - begun,
        "read alone": there["again"],
    }


def _throughput(name: str, size: int, samples: Samples) -> Iterator[Figure]:
    goal = size >= FROM
    for what in (_A, _B, _C):
        rates = [size / seconds / 1e9 for seconds in samples[what]]
        private = [size / seconds / 1e9 for seconds in samples[f"{what}, private"]]
        title = f"{what}, {name}"
        beside = quantile(private, 50)
        yield figure(title, rates, "GB/s", baseline=beside, at_least=10.0 if goal else None)
        yield figure(f"{title}, in GiB", [rate * 1e9 / 2**30 for rate in rates], "GiB/s")
        ratios = [ours / theirs for ours, theirs in zip(rates, private, strict=True)]
        yield figure(f"{title} ÷ private memory", ratios, "×", at_least=0.9 if goal else None)
    both = [a + b for a, b in zip(samples[_A], samples[_B], strict=True)]
    yield figure(f"a + b, {name}", [seconds * 1e3 for seconds in both], "ms")
    yield figure(f"a + b, {name}, throughput", [size / seconds / 1e9 for seconds in both], "GB/s")
    again = [p / s for s, p in zip(samples["read alone"], samples[f"{_B}, private"], strict=True)]
    yield figure(f"full read alone, {name} ÷ private memory", again, "×")


def _handed(pair: Pair, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds from `send` here to an array there, of a tensor that nobody copies in between; and of a byte."""
    tensor = pair.session.empty(size, np.uint8)
    turns = [(_hand(pair, tensor), _byte(pair)) for _ in range(rounds + 1)][1:]
    return [ours for ours, _ in turns], [byte for _, byte in turns]


def _hand(pair: Pair, tensor: SharedTensor) -> float:
    pair.begin("receive")
    begun = time.perf_counter()
    pair.session.send(tensor)
    received, _ = pair.end()
    return float(received - begun) * 1e3


def _byte(pair: Pair) -> float:
    pair.begin("receive_byte")
    begun = time.perf_counter()
    pair.plain.sendall(b".")
    return float(pair.end() - begun) * 1e3


def _views(pair: Pair, size: int) -> list[float]:
    pair.begin("views", size)
    pair.session.send(pair.session.empty(size, np.uint8))
    seconds: list[float] = pair.end()
    return seconds


def _flat(what: str, samples: Mapping[str, Sequence[float]]) -> Iterator[Figure]:
    """p50 and p99 by size, and what the largest costs more than the smallest."""
    for name, each in samples.items():
        yield figure(f"{what}, {name}, p50", each, "ms")
        yield figure(f"{what}, {name}, p99 (SC-004)", each, "ms", percentile=99, at_most=1.0)
    first, *_, last = samples
    more = quantile(samples[last], 50) - quantile(samples[first], 50)
    title = f"{what}, {last} costs more than {first}, p50"
    yield Figure(title, more, "ms", goal=0.1, holds=more <= 0.1, samples=len(samples[last]))


def _attached(sizes: Mapping[str, int], rounds: int) -> Iterator[Figure]:
    """Mapping an arena that was not known: once in its life."""
    for name, size in sizes.items():
        whole = mappings.PAGE_BYTES * -(-size // mappings.PAGE_BYTES)
        fd, _ = memory.create(whole, None)
        milliseconds = [timed(mappings.foreign, fd, whole) * 1e3 for _ in range(rounds)]
        yield figure(f"attach of a new arena, {name}, p50", milliseconds, "ms")
        yield figure(f"attach of a new arena, {name}, p99", milliseconds, "ms", percentile=99, at_most=1.0)
        os.close(fd)
