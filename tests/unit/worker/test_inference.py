import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.errors import InferenceFailed, InvalidRequest
from modelmora_worker.engines import EngineInput
from modelmora_worker.inference import count_tokens, run_batch

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


def echo(batch: Sequence[EngineInput]) -> list[dict[str, list[str]]]:
    return [{"text": entry.texts()} for entry in batch]


def picky(batch: Sequence[EngineInput]) -> list[dict[str, list[str]]]:
    if any(entry.texts() == ["bad"] for entry in batch):
        raise ValueError("bad word")
    return echo(batch)


@pytest.mark.req("REQ-INFER-003")
def test_one_bad_entry_does_not_fail_its_neighbours() -> None:
    engine = Calling(picky)
    answers = run_batch(engine, entries("a", "bad", "b"), model_id="m").answers
    assert [answers[0], answers[2]] == [{"text": ["a"]}, {"text": ["b"]}]
    assert isinstance(answers[1], InferenceFailed)
    assert "ValueError: bad word" in answers[1].message
    assert isinstance(answers[1].__cause__, ValueError)
    assert engine.calls == [3, 1, 2, 1, 1]


@pytest.mark.req("REQ-INFER-003")
@pytest.mark.parametrize("bad", range(32))
def test_one_bad_entry_of_many_costs_few_calls(bad: int) -> None:
    engine = Calling(picky)
    texts = [f"t{n}" for n in range(32)]
    texts[bad] = "bad"
    answers = run_batch(engine, entries(*texts), model_id="m").answers
    assert [n for n, answer in enumerate(answers) if isinstance(answer, InferenceFailed)] == [bad]
    assert len(engine.calls) == 1 + 2 * math.log2(32)


@pytest.mark.req("REQ-INFER-003")
@given(st.lists(st.sampled_from(["good", "bad"]), min_size=1, max_size=70))
def test_exactly_the_bad_entries_fail_each_with_its_place(kinds: list[str]) -> None:
    texts = [kind if kind == "bad" else f"good {n}" for n, kind in enumerate(kinds)]
    engine = Calling(picky)
    answers = run_batch(engine, entries(*texts), model_id="m").answers
    for text, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, InferenceFailed) if text == "bad" else answer == {"text": [text]}
    assert len(engine.calls) <= 2 * len(texts) - 1


def test_a_good_batch_is_one_call() -> None:
    engine = Calling(picky)
    run_batch(engine, entries("a", "b"), model_id="m")
    assert engine.calls == [2]


def test_an_error_in_place_of_an_answer_is_that_entrys() -> None:
    error = InvalidRequest("no", field="input.text")
    engine = Calling(lambda _: [GOOD, error])
    answers = run_batch(engine, entries("a", "b"), model_id="m").answers
    assert answers[0] == GOOD
    assert isinstance(answers[1], InvalidRequest)
    assert answers[1].context.model_id == "m"
    assert engine.calls == [2]


@pytest.mark.parametrize(
    "answer",
    [[], [GOOD] * 3, None, 7, "ab", {"a": 1, "b": 2}, itertools.repeat(GOOD)],
    ids=["none", "too-many", "None", "number", "text", "mapping", "without-end"],
)
def test_what_is_no_list_of_answers_fails_every_entry(answer: Any) -> None:
    answers = run_batch(Calling(lambda _: answer), entries("a", "b"), model_id="m").answers
    assert [type(each) for each in answers] == [InferenceFailed, InferenceFailed]
    assert all("1 entry" in each.message for each in answers if isinstance(each, InferenceFailed))


def test_an_engine_that_drops_a_bad_entry_is_asked_until_it_is_known_which() -> None:
    engine = Calling(lambda batch: echo([entry for entry in batch if entry.texts() != ["bad"]]))
    answers = run_batch(engine, entries("a", "bad", "b"), model_id="m").answers
    assert [answers[0], answers[2]] == [{"text": ["a"]}, {"text": ["b"]}]
    assert isinstance(answers[1], InferenceFailed)
    assert "0 answers for 1 entry" in answers[1].message


class Panic(BaseException):
    """As libraries in Rust raise one."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "raised",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        Panic("index"),
        MemoryError(),
        Mute(),
        ValueError("\ud800"),
        InvalidRequest("no"),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_whatever_an_engine_raises_becomes_an_answer(raised: BaseException) -> None:
    def infer(_: Sequence[EngineInput]) -> Any:
        raise raised

    answers = run_batch(Calling(infer), entries("a", "b"), model_id="m").answers
    expected = InvalidRequest if isinstance(raised, InvalidRequest) else InferenceFailed
    assert [type(answer) for answer in answers] == [expected, expected]
    assert all(str(answer).encode() for answer in answers)


def test_what_raises_while_it_is_read_is_the_engines_failure_too() -> None:
    answers = run_batch(Calling(lambda batch: (1 // 0 for _ in batch)), entries("a"), model_id="m").answers
    assert isinstance(answers[0], InferenceFailed)
    assert "ZeroDivisionError" in answers[0].message


class Counting(Calling):
    def __init__(self, counted: Any) -> None:
        super().__init__(echo)
        self._counted = counted

    def count_tokens(self, batch: Sequence[EngineInput]) -> Any:
        if isinstance(self._counted, BaseException):
            raise self._counted
        return self._counted


@pytest.mark.parametrize(
    ("counted", "expected"),
    [([3, 5], [3, 5]), ([3], [0, 0]), (None, [0, 0]), (["x", 1], [0, 0]), ([-1, 2], [0, 2]), (SystemExit(1), [0, 0])],
    ids=str,
)
def test_token_counts_are_the_engines_or_none(counted: Any, expected: list[int]) -> None:
    assert count_tokens(Counting(counted), entries("a", "b"), model_id="m") == expected


def test_an_engine_that_cannot_count_has_no_token_counts() -> None:
    assert count_tokens(Calling(echo), entries("a", "b"), model_id="m") == [0, 0]
