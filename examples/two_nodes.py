"""Two nodes of a pipeline, each in a thread of its own, that need the same model: it is loaded once.

python examples/two_nodes.py
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np

from modelmora.registry import ModelHandle, ModelRegistry

Vectors: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"

TEXTS: Final = ["a model registry", "shared memory", "one model for many"]


class Embedder:
    """A table of random vectors, one for each word: 100 MB."""

    def __init__(self) -> None:
        self.table = np.random.default_rng(7).random((200_000, 125), dtype=np.float32)

    def embed(self, text: str) -> Vectors:
        rows = [sum(word.encode()) % len(self.table) for word in text.split()]
        return np.asarray(self.table[rows].mean(axis=0))


def load() -> Embedder:
    """What would be slow: only the first node to ask pays for it."""
    print("loading the embedder")
    return Embedder()


class Indexer:
    """Makes vectors of texts."""

    def __init__(self, models: ModelRegistry) -> None:
        self.embedder: ModelHandle[Embedder] = models.get_or_load("embedder", load)

    def run(self, texts: Iterable[str]) -> Vectors:
        return np.stack([self.embedder.model.embed(text) for text in texts])


class Searcher:
    """Finds the vector that is nearest to a question."""

    def __init__(self, models: ModelRegistry) -> None:
        self.embedder: ModelHandle[Embedder] = models.get_or_load("embedder", load)

    def run(self, index: Vectors, question: str) -> int:
        distances = np.linalg.norm(index - self.embedder.model.embed(question), axis=1)
        return int(distances.argmin())


def main() -> None:
    """Starts both nodes at the same moment, runs them, and shows what the registry has, and what is left."""
    with ModelRegistry() as models, ThreadPoolExecutor() as pool:
        indexing, searching = pool.submit(Indexer, models), pool.submit(Searcher, models)
        indexer, searcher = indexing.result(timeout=60), searching.result(timeout=60)
        found = searcher.run(indexer.run(TEXTS), "many share one model")
        print(f"found: {TEXTS[found]}")
        print(f"the same model: {indexer.embedder.model is searcher.embedder.model}")
        [one] = models.list_models()
        print(f"references: {one.references}, loads: {models.statistics().misses}, MB: {one.size_bytes / 1e6:.0f}")
        indexer.embedder.close()
        searcher.embedder.close()
    print(f"models left: {len(models.list_models())}")


if __name__ == "__main__":
    main()
