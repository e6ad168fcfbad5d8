"""One batch through an engine, on the device thread: whatever the engine does, each entry gets an answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from modelmora.errors import InferenceFailed, InvalidRequest, ModelMoraError
from modelmora.v1 import types_pb2
from modelmora.wire import values
from modelmora_worker.engines import Engine, EngineInput, Outputs

_log = structlog.get_logger(__name__)
_LONGEST_TEXT: Final = 500

Answer: TypeAlias = Outputs | ModelMoraError


@dataclass(frozen=True, slots=True)
class BatchAnswers:
    """One answer for each entry, in order."""

    answers: list[Answer]
    seconds: float  # in the engine


def run_batch(engine: Engine, batch: Sequence[EngineInput], *, model_id: str) -> BatchAnswers:
    """Asks the engine; if it raises on several entries at once, asks it again for each alone. Never raises."""
    started = time.perf_counter()
    answers = _ask(engine, batch, model_id)
    if answers is None:
        answers = [answer for entry in batch for answer in _ask(engine, [entry], model_id) or []]
    return BatchAnswers(answers, time.perf_counter() - started)


def to_outputs(answer: Outputs, *, model_id: str) -> dict[str, types_pb2.Value]:
    """The messages of an engine's outputs.

    Raises:
        InferenceFailed: the engine answered with something that cannot travel.
    """
    try:
        return values.to_values(answer, field="output")
    except (InvalidRequest, AttributeError, TypeError) as error:
        text = error.message if isinstance(error, InvalidRequest) else f"it is of type {type(answer).__name__}"
        raise InferenceFailed(
            f"the engine of model {model_id} answered with something that cannot travel: {text}",
            model_id=model_id,
            remedy="let infer() return a mapping of names to texts, bytes or arrays for each entry",
        ) from error


def _ask(engine: Engine, batch: Sequence[EngineInput], model_id: str) -> list[Answer] | None:
    """None: the engine raised on several entries, and nobody knows which."""
    try:
        answers = list(engine.infer(batch))
    except ModelMoraError as error:
        return [error.located(model_id=model_id)] if len(batch) == 1 else None
    except BaseException as error:  # noqa: BLE001 - also SystemExit and panics in Rust; the process serves on
        if len(batch) > 1:
            return None
        _log.warning("engine raised", model=model_id, exc_info=error)
        return [_failed(error, model_id)]
    if len(answers) != len(batch):
        return [_miscounted(len(answers), len(batch), model_id) for _ in batch]
    return [answer.located(model_id=model_id) if isinstance(answer, ModelMoraError) else answer for answer in answers]


def _failed(error: BaseException, model_id: str) -> InferenceFailed:
    text = str(error).strip()[:_LONGEST_TEXT]
    return InferenceFailed(
        f"the engine of model {model_id} failed on this input: {type(error).__name__}" + (f": {text}" if text else ""),
        model_id=model_id,
        remedy="try another input; the worker's log has the traceback",
    )


def _miscounted(got: int, expected: int, model_id: str) -> InferenceFailed:
    return InferenceFailed(
        f"the engine of model {model_id} gave {got} answers for {expected} entries",
        model_id=model_id,
        remedy="let infer() return one answer for each entry of the batch, in order",
    )
