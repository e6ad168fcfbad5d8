"""What our engine for embeddings does, without ours: the rivals serve this, so that only the servers differ."""

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

MAX_SIZE = 32  # as batching.maxSize by default
MAX_WAIT_S = 0.005  # as batching.maxWaitMilliseconds


class Minilm:
    """All-MiniLM, a batch in one pass, longest first."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)  # some servers would give it one
        self._model = SentenceTransformer(folder, device="cpu").eval()

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        with torch.inference_mode():
            features = self._model.preprocess([texts[index] for index in order])
            found = self._model.forward(features)["sentence_embedding"].numpy()
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors
