"""The test inference: a worker serves only after its model gave one sound answer."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import structlog
from pydantic import JsonValue

from modelmora.errors import HealthInferenceFailed, InvalidRequest, ModelMoraError
from modelmora.spec import ModelDeployment
from modelmora.wire.values import Array, InputValue, Items, to_values
from modelmora_worker.engines import Engine, EngineInput, Outputs
from modelmora_worker.inference import run_batch

_log = structlog.get_logger(__name__)
_FIELD: Final = "spec.health.inference.input"
_EMBEDDINGS: Final = "embeddings"
_SENTENCE: Final = "A short sentence that every model should be able to read."
_BUILT_IN: Final[Mapping[str, Items]] = {"txt2embed": [_SENTENCE], "txt2txt": [_SENTENCE], "txt2img": [_SENTENCE]}


def prove(engine: Engine, deployment: ModelDeployment) -> None:
    """Asks the model once, and looks at the answer.

    Raises:
        HealthInferenceFailed: it failed, is empty, has numbers that are not finite, or vectors of another size.
    """
    model_id = deployment.model_id
    answer = run_batch(engine, [test_input(deployment)], model_id=model_id).answers[0]
    if isinstance(answer, ModelMoraError):
        _log.warning("test inference failed", model=model_id, cause=answer.message, exc_info=answer.__cause__)
        raise HealthInferenceFailed(
            f"the test inference of model {model_id} failed: {answer.message}",
            model_id=model_id,
            field=answer.context.field and _FIELD,
            remedy=answer.context.remedy,
        ) from answer
    if problem := problem_of(answer, vector_size=deployment.spec.model.config.vector_size) or _unsendable(answer):
        raise HealthInferenceFailed(
            f"the answer of model {model_id} to its test inference {problem}",
            model_id=model_id,
            remedy="check the files of the model and spec.model.config; or set spec.health.inference.input",
        )


def test_input(deployment: ModelDeployment) -> EngineInput:
    """What the deployment says, else a built-in input of the task.

    Raises:
        HealthInferenceFailed: neither is there, or the input is of no kind that can be sent.
    """
    test = deployment.spec.health.inference
    if test.input:
        named = {name: _items(name, value, deployment.model_id) for name, value in test.input.items()}
        return EngineInput(named, test.parameters)
    built_in = _BUILT_IN.get(deployment.spec.model.task)
    if built_in is None:
        raise HealthInferenceFailed(
            f"nobody knows how to test model {deployment.model_id}: the task {deployment.spec.model.task} has no "
            "built-in input",
            model_id=deployment.model_id,
            field=_FIELD,
            remedy='give one, for example {"text": "…"}',
        )
    return EngineInput({"text": built_in}, test.parameters)


def problem_of(answer: Outputs, *, vector_size: int | None) -> str | None:
    """What is wrong with an answer, as the end of a sentence; None if it is sound."""
    if not isinstance(answer, Mapping):
        return f"is of type {type(answer).__name__}, not a mapping of names to values"
    if not answer:
        return "is empty"
    for name, value in answer.items():
        if problem := _value_problem(value):
            return f"has the output {name}, which {problem}"
    return _size_problem(answer, vector_size)


def _unsendable(answer: Outputs) -> str | None:
    """Every request would fail by it, once it serves."""
    try:
        to_values(answer, field="output")
    except InvalidRequest as error:
        return f"cannot travel: {error.message}"
    return None


def _size_problem(answer: Outputs, vector_size: int | None) -> str | None:
    if vector_size is None:
        return None
    vectors = answer.get(_EMBEDDINGS)
    got = vectors.shape[-1] if isinstance(vectors, np.ndarray) and vectors.ndim else None
    return (
        None if got == vector_size else f"has vectors of {got} numbers; spec.model.config.vectorSize is {vector_size}"
    )


def _value_problem(value: InputValue) -> str | None:
    if isinstance(value, np.ndarray):
        return _array_problem(value)
    if not isinstance(value, str | bytes | list | tuple):
        return f"is of type {type(value).__name__}"
    return None if value and all(value) else "is empty"


def _array_problem(array: Array) -> str | None:
    if array.size == 0:
        return "is empty"
    if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        return "has numbers that are not finite (NaN or infinite)"
    return None


def _items(name: str, value: JsonValue, model_id: str) -> Items:
    """As the router reads a request: a text or texts; a number or nested lists of them as an array."""
    match value:
        case str():
            return [value]
        case list() if value and all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        case bool() | int() | float() | list() if value != []:
            return _numbers(name, value, model_id)
    raise _bad_input(name, model_id)


def _numbers(name: str, value: JsonValue, model_id: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _bad_input(name, model_id) from error
    if array.dtype == object or not math.prod(array.shape) or array.dtype.kind not in "bif":
        raise _bad_input(name, model_id)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _bad_input(name: str, model_id: str) -> HealthInferenceFailed:
    return HealthInferenceFailed(
        f"the test input {name} of model {model_id} is neither texts nor numbers",
        model_id=model_id,
        field=f"{_FIELD}.{name}",
        remedy="give a text, a list of texts, or lists of numbers of equal length",
    )
