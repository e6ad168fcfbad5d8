"""ModelMora: many medium-sized models on few GPUs.

from modelmora import Client

with Client("localhost:9000") as client:
    result = client.infer("sentence-transformers/all-MiniLM-L6-v2", "Good morning")
    result.output["embeddings"]  # float32 array, [1, 384]
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelmora.client import AsyncClient, Client, InferenceRequest, InferenceResult, Model

__all__ = ["AsyncClient", "Client", "InferenceRequest", "InferenceResult", "Model"]


def __getattr__(name: str) -> object:
    # Lazily: a worker imports this package too, and has no use for the client.
    if name in __all__:
        return getattr(import_module("modelmora.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
