"""From the name of an engine to its class: the built-in ones by task, a user's own by python:module:Class."""

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from modelmora.errors import InvalidEngine, MissingDependency
from modelmora_worker.engines import Engine

_FIELD: Final = "spec.runtime.engine"
_OWN: Final = "python:"
_DOCS: Final = "docs/engines.md shows one in 20 lines"


@dataclass(frozen=True, slots=True)
class BuiltIn:
    tasks: frozenset[str]
    module: str
    attribute: str


# Loaded by name, so that naming an engine imports no torch.
BUILT_IN: Final = {
    "sentence-transformers": BuiltIn(frozenset({"txt2embed"}), "modelmora_worker.engines.embedding", "EmbeddingEngine"),
}


@dataclass(frozen=True, slots=True)
class EngineName:
    """Where the class of an engine is."""

    module: str
    attribute: str
    own: bool  # a user's own


def resolve(engine: str | None, task: str, *, model_id: str = "") -> EngineName:
    """The place of the engine that a deployment asks for; without a name, the built-in engine of the task.

    Raises:
        InvalidEngine: there is none of that name, or none for that task.
    """
    if engine and engine.startswith(_OWN):
        return _own(engine, model_id)
    if engine:
        return _named(engine, task, model_id)
    for built_in in BUILT_IN.values():
        if task in built_in.tasks:
            return EngineName(built_in.module, built_in.attribute, own=False)
    raise InvalidEngine(
        f"no built-in engine of this release does the task {task} of model {model_id}",
        model_id=model_id,
        field=_FIELD,
        remedy=f"give runtime.engine your own class, python:module:Class ({_DOCS})",
    )


def load_class(name: EngineName, *, model_id: str = "") -> type[Engine]:
    """Imports the module and checks the class. Executes the module.

    Raises:
        MissingDependency: a package that the module imports is not installed.
        InvalidEngine: no such module or class, or a class that is no engine.
    """
    label = f"{name.module}:{name.attribute}"
    try:
        module = importlib.import_module(name.module)
    except ModuleNotFoundError as error:
        _raise_not_found(error, name, model_id)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise InvalidEngine(
            f"the module of the engine {label} of model {model_id} fails on import: {type(error).__name__}: {error}",
            model_id=model_id,
            field=_FIELD,
            remedy=f"import {name.module} in a Python of the worker to see where",
        ) from error
    found: Any = getattr(module, name.attribute, None)
    if problem := _problem(found):
        raise InvalidEngine(
            f"the engine {label} of model {model_id} {problem}", model_id=model_id, field=_FIELD, remedy=_DOCS
        )
    kind: type[Engine] = found
    return kind


def _own(engine: str, model_id: str) -> EngineName:
    module, _, attribute = engine.removeprefix(_OWN).partition(":")
    if not module or not attribute.isidentifier():
        raise InvalidEngine(
            f"the engine {engine!r} of model {model_id} does not name a module and a class",
            model_id=model_id,
            field=_FIELD,
            remedy="write python:module:Class",
        )
    return EngineName(module, attribute, own=True)


def _named(engine: str, task: str, model_id: str) -> EngineName:
    built_in = BUILT_IN.get(engine)
    if built_in is None:
        raise InvalidEngine(
            f"model {model_id} asks for the engine {engine!r}, which this release does not have",
            model_id=model_id,
            field=_FIELD,
            remedy=f"use {' or '.join(sorted(BUILT_IN))}, or your own class, python:module:Class",
        )
    if task not in built_in.tasks:
        raise InvalidEngine(
            f"the engine {engine} does {', '.join(sorted(built_in.tasks))}; model {model_id} has the task {task}",
            model_id=model_id,
            field=_FIELD,
            remedy="leave runtime.engine out, or change spec.model.task",
        )
    return EngineName(built_in.module, built_in.attribute, own=False)


def _raise_not_found(error: ModuleNotFoundError, name: EngineName, model_id: str) -> NoReturn:
    missing = error.name or ""
    if name.own and (name.module == missing or name.module.startswith(f"{missing}.")):
        raise InvalidEngine(
            f"the module {missing} of the engine {name.module}:{name.attribute} of model {model_id} is not on the "
            "worker's Python path",
            model_id=model_id,
            field=_FIELD,
            remedy="install it beside the worker, or bring it along in spec.runtime.files",
        ) from error
    remedy = f"install the package of {missing} beside the worker" if name.own else "pip install 'modelmora[worker]'"
    raise MissingDependency(
        f"the engine of model {model_id} needs the module {missing}, which is not installed",
        model_id=model_id,
        field=_FIELD,
        remedy=remedy,
    ) from error


def _problem(found: object) -> str | None:
    if found is None:
        return "does not exist: its module has no such class"
    if not inspect.isclass(found):
        return f"is no class but a {type(found).__name__}"
    if not callable(getattr(found, "infer", None)):
        return "has no method infer(batch)"
    try:
        inspect.signature(found).bind(object())
    except TypeError:
        return "cannot be constructed from one context: its __init__ must take (self, context)"
    except ValueError:
        return None  # a class without a signature, written in C: its call will tell
    return None
