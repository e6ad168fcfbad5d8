"""One batch through an engine, on the device thread: whatever the engine does, each entry gets an answer."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

import structlog

from modelmora.errors import InferenceFailed, ModelMoraError
from modelmora_worker.engines import Engine, EngineInput, Outputs, TokenCounter

_log = structlog.get_logger(__name__)
_LONGEST_TEXT: Final = 500

Answer: TypeAlias = Outputs | ModelMoraError


@dataclass(frozen=True, slots=True)
class BatchAnswers:
    """One answer for each entry, in order."""

    answers: list[Answer]
    seconds: float  # in the engine


def run_batch(engine: Engine, batch: Sequence[EngineInput], *, model_id: str) -> BatchAnswers:
    """Asks the engine; where it fails on several entries, asks again for each half. Never raises.

    So one bad entry of n costs 2·log₂(n) more calls, of which each is shorter than the last, and fails alone.
    """
    started = time.perf_counter()
    answers = _ask(engine, batch, model_id)
    return BatchAnswers(answers, time.perf_counter() - started)


def count_tokens(engine: Engine, batch: Sequence[EngineInput], *, model_id: str) -> list[int]:
    """As the engine counts them; 0 for each entry if it fails at that. Never raises."""
    if not isinstance(engine, TokenCounter):
        return [0] * len(batch)
    try:
        counts = [int(count) for count in islice(engine.count_tokens(batch), len(batch) + 1)]
    except BaseException as error:  # noqa: BLE001 - as in _answers; infer() will tell what is wrong with the entry
        _log.warning("engine cannot count tokens", model=model_id, exc_info=error)
        return [0] * len(batch)
    return [max(0, count) for count in counts] if len(counts) == len(batch) else [0] * len(batch)


def _ask(engine: Engine, batch: Sequence[EngineInput], model_id: str) -> list[Answer]:
    answers = _answers(engine, batch, model_id)
    if not isinstance(answers, ModelMoraError):
        return answers
    if len(batch) == 1:
        return [answers]
    _log.debug("batch failed, trying its halves", model=model_id, entries=len(batch), cause=answers.message)
    middle = len(batch) // 2
    return [*_ask(engine, batch[:middle], model_id), *_ask(engine, batch[middle:], model_id)]


def _answers(engine: Engine, batch: Sequence[EngineInput], model_id: str) -> list[Answer] | ModelMoraError:
    """One call; an error is of the whole batch."""
    try:
        answers = _listed(engine.infer(batch), len(batch))
    except ModelMoraError as raised:
        return raised.located(model_id=model_id)
    except BaseException as raised:  # noqa: BLE001 - also SystemExit and panics in Rust; the process serves on
        return _failed(raised, model_id)
    if answers is None or len(answers) != len(batch):
        error = _miscounted(answers, len(batch), model_id)
        _log.warning("engine miscounts", model=model_id, cause=error.message)  # heard, also where halves mend it
        return error
    return [answer.located(model_id=model_id) if isinstance(answer, ModelMoraError) else answer for answer in answers]


def _listed(answers: Iterable[Answer] | None, expected: int) -> list[Answer] | None:
    """At most one too many: an engine may answer without end."""
    if not isinstance(answers, Iterable) or isinstance(answers, str | bytes | dict):
        return None
    return list(islice(answers, expected + 1))


def _failed(error: BaseException, model_id: str) -> InferenceFailed:
    """With the exception as its cause, for whoever logs it."""
    text = _said(error)
    failed = InferenceFailed(
        f"the engine of model {model_id} failed on this input: {type(error).__name__}" + (f": {text}" if text else ""),
        model_id=model_id,
        remedy="try another input; the worker's log has the traceback",
    )
    failed.__cause__ = error
    return failed


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - an exception of the engine's own may fail at this too
        text = f"its text cannot be had: {type(broken).__name__}"
    return text.strip()[:_LONGEST_TEXT].encode(errors="replace").decode()


def _miscounted(answers: Sequence[Answer] | None, expected: int, model_id: str) -> InferenceFailed:
    entries = "1 entry" if expected == 1 else f"{expected} entries"
    got = "no list of answers" if answers is None else f"{min(len(answers), expected)} answers"
    got = f"more than {got}" if answers is not None and len(answers) > expected else got
    return InferenceFailed(
        f"the engine of model {model_id} gave {got} for {entries}",
        model_id=model_id,
        remedy="let infer() return one answer for each entry of the batch, in order",
    )
