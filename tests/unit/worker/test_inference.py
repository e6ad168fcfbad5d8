from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from modelmora.errors import InferenceFailed, InvalidRequest
from modelmora_worker.engines import EngineInput
from modelmora_worker.inference import run_batch, to_outputs

GOOD = {"text": "good"}


class Calling:
    """An engine that is one function; counts its calls."""

    def __init__(self, infer: Callable[[Sequence[EngineInput]], Any]) -> None:
        self._infer = infer
        self.calls: list[int] = []

    def infer(self, batch: Sequence[EngineInput]) -> Any:
        self.calls.append(len(batch))
        return self._infer(batch)


def entries(*texts: str) -> list[EngineInput]:
    return [EngineInput({"text": [text]}) for text in texts]


def picky(batch: Sequence[EngineInput]) -> list[dict[str, str]]:
    if any(entry.texts() == ["bad"] for entry in batch):
        raise ValueError("bad word")
    return [GOOD for _ in batch]


@pytest.mark.req("REQ-INFER-003")
def test_one_bad_entry_does_not_fail_its_neighbours() -> None:
    engine = Calling(picky)
    answers = run_batch(engine, entries("a", "bad", "b"), model_id="m").answers
    assert [answers[0], answers[2]] == [GOOD, GOOD]
    assert isinstance(answers[1], InferenceFailed)
    assert "ValueError: bad word" in answers[1].message
    assert engine.calls == [3, 1, 1, 1]


def test_a_good_batch_is_one_call() -> None:
    engine = Calling(picky)
    assert run_batch(engine, entries("a", "b"), model_id="m").answers == [GOOD, GOOD]
    assert engine.calls == [2]


def test_an_error_in_place_of_an_answer_is_that_entrys() -> None:
    error = InvalidRequest("no", field="input.text")
    answers = run_batch(Calling(lambda _: [GOOD, error]), entries("a", "b"), model_id="m").answers
    assert answers[0] == GOOD
    assert isinstance(answers[1], InvalidRequest)
    assert answers[1].context.model_id == "m"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_answers_fails_every_entry(count: int) -> None:
    answers = run_batch(Calling(lambda _: [GOOD] * count), entries("a", "b"), model_id="m").answers
    assert [type(answer) for answer in answers] == [InferenceFailed, InferenceFailed]


@pytest.mark.parametrize("answer", [None, 3, {"a": object()}, {"a": []}, {"a": np.array([object()])}, ["a"]])
def test_an_answer_that_cannot_travel_is_the_engines_fault(answer: Any) -> None:
    with pytest.raises(InferenceFailed, match="cannot travel"):
        to_outputs(answer, model_id="m")


class Panic(BaseException):
    """As libraries in Rust raise one."""


@pytest.mark.parametrize("raised", [SystemExit(3), Panic("index out of bounds"), MemoryError(), InvalidRequest("no")])
def test_whatever_an_engine_raises_becomes_an_answer(raised: BaseException) -> None:
    def infer(_: Sequence[EngineInput]) -> Any:
        raise raised

    [answer] = run_batch(Calling(infer), entries("a"), model_id="m").answers
    assert isinstance(answer, InvalidRequest if isinstance(raised, InvalidRequest) else InferenceFailed)
