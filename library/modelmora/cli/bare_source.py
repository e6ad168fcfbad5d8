"""A source without a manifest: `modelmora serve hf://org/name` becomes the ModelDeployment that one would write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelmora.errors import InvalidManifest
from modelmora.sources import default_model_id, parse
from modelmora.spec import ModelDeployment

_MODEL_FILES: Final = ("config.json", "modules.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is to be served: manifests, and deployments that stand in none."""

    paths: Sequence[Path]
    deployments: Sequence[ModelDeployment]


def is_source(word: str) -> bool:
    """Whether this is the URI of a model and not the path of a manifest."""
    return "://" in word


def deployment_of(uri: str, *, task: str) -> ModelDeployment:
    """The deployment for a bare source; its id is the repository, the package or the folder.

    Raises:
        InvalidSource: no URI that can be fetched.
        InvalidManifest: nothing of the URI can be a name.
    """
    model_id = default_model_id(parse(uri))
    manifest = {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": _object_name(model_id)},
        "spec": {"model": {"id": model_id, "task": task, "source": {"uri": uri}}},
    }
    return ModelDeployment.parse(manifest, file=uri)


def _object_name(model_id: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model_id.rpartition("/")[2].lower()).strip("-")[:63].strip("-")


def checked_path(word: str) -> Path:
    """The path of manifests.

    Raises:
        InvalidManifest: it does not exist, or it is the folder of a model.
    """
    path = Path(word)
    if not path.exists():
        raise InvalidManifest(
            f"{word} does not exist", file=word, remedy="give a manifest, a folder of them, or a URI like hf://org/name"
        )
    if path.is_dir() and any((path / name).exists() for name in _MODEL_FILES):
        uri = path.resolve().as_uri()
        raise InvalidManifest(
            f"{word} is a model, not a folder of manifests", file=word, remedy=f"serve it with `modelmora serve {uri}`"
        )
    return path
