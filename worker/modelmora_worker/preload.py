"""What a parent imports before it forks workers, so that each of them starts with its libraries in place.

Only imports: no tensor is computed, no gRPC channel or server made, no CUDA initialized and no thread of Python
started, none of which would survive the fork. (OpenBLAS starts a thread when NumPy is imported, and ends it itself
before a fork.)

A failed import must not kill the parent, which also serves engines that need none of this: `failure` keeps it, every
worker logs it, and the engine that does need it fails by MissingDependency.
"""

import importlib
import traceback
from typing import Final

from modelmora import garbage

# In this order: the parts of ours first, so that they are there whatever becomes of the rest.
MODULES: Final = (
    "modelmora_worker.process",
    "torch",
    "transformers",
    "sentence_transformers",
    "sentence_transformers.models",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "modelmora_worker.engines.embedding",
)


def _import_all() -> str:
    """What failed, as text; empty if nothing did."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything when it is imported
            return f"{name}: {''.join(traceback.format_exception_only(error)).strip()}"
    return ""


failure: Final = _import_all()

# What lives now lives as long as the parent: kept out of collection, its pages stay shared with the forks.
garbage.settle()
