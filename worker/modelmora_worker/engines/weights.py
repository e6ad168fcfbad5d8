"""Refuses what would execute code while it is loaded: pickled weights, and classes that a model's files bring along."""

import json
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import JsonValue

from modelmora.errors import LoadFailed, UnsafeWeights

_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
# Saved by trainers beside the weights; nothing loads them.
_HARMLESS: Final = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"})
_TRUSTED_PREFIX: Final = "sentence_transformers."


def refuse_unsafe(folder: Path, *, model_id: str) -> None:
    """Looks at every folder of the model that could be loaded.

    Raises:
        UnsafeWeights: a folder has pickled weights and no safetensors, or names a class that is not a trusted one.
        LoadFailed: there are no weights at all.
    """
    safe = {file.parent for file in folder.rglob("*.safetensors")}
    for file in sorted(folder.rglob("*")):
        if file.suffix in _PICKLES and file.name not in _HARMLESS and file.parent not in safe:
            raise UnsafeWeights(
                f"the weights of model {model_id} are pickled: {file.relative_to(folder)}; loading them may execute "
                "anything",
                model_id=model_id,
                file=str(file.relative_to(folder)),
                remedy="convert them to safetensors: AutoModel.from_pretrained(folder).save_pretrained(folder)",
            )
    if not safe:
        raise LoadFailed(
            f"model {model_id} has no *.safetensors in {folder}",
            model_id=model_id,
            file=str(folder),
            remedy="name the folder that holds config.json and model.safetensors",
        )
    _refuse_foreign_modules(folder, model_id)
    _refuse_hidden_shards(folder, model_id)


def _refuse_hidden_shards(folder: Path, model_id: str) -> None:
    """What an index names is loaded: it must be among the files that were hashed and held against their pins."""
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        said = read_json(index, model_id=model_id)
        names = said.get("weight_map") if isinstance(said, dict) else None
        for name in sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []:
            path = PurePosixPath(name)
            if path.is_absolute() or any(part.startswith(".") for part in path.parts):
                raise UnsafeWeights(
                    f"{index.relative_to(folder)} of model {model_id} names the weights {name!r}, which are hidden or "
                    "outside the model",
                    model_id=model_id,
                    file=str(index.relative_to(folder)),
                    remedy="fetch the model again; an index names the *.safetensors beside it",
                )


def _refuse_foreign_modules(folder: Path, model_id: str) -> None:
    file = folder / "modules.json"
    modules = read_json(file, model_id=model_id) if file.exists() else []
    for module in modules if isinstance(modules, list) else [modules]:
        name = str(module.get("type", "")) if isinstance(module, dict) else ""
        if not name.startswith(_TRUSTED_PREFIX):
            raise UnsafeWeights(
                f"modules.json of model {model_id} names the class {name!r}, which is none of sentence-transformers",
                model_id=model_id,
                file="modules.json",
                remedy="use a model without code of its own, or serve it by an engine of yours (python:module:Class)",
            )


def check_readable(folder: Path, *, model_id: str) -> None:
    """Reads the headers of the weights, so that a broken file is named before a library stumbles over it.

    Raises:
        LoadFailed: a file is cut off, or is no safetensors.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - of the worker's extra

    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise LoadFailed(
                f"the file {file.relative_to(folder)} of model {model_id} is damaged: {error}",
                model_id=model_id,
                file=str(file.relative_to(folder)),
                remedy="fetch it again, and pin its sha256 in spec.model.integrity",
            ) from error


def read_json(file: Path, *, model_id: str) -> JsonValue:
    """What a configuration file of the model says.

    Raises:
        LoadFailed: it is missing or no JSON.
    """
    try:
        found: JsonValue = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadFailed(
            f"the file {file.name} of model {model_id} cannot be read: {error}",
            model_id=model_id,
            file=file.name,
            remedy="fetch the model again",
        ) from error
    return found
