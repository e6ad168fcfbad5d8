from typing import Any

import numpy as np
import pytest

from modelmora.errors import HealthInferenceFailed, InvalidRequest
from modelmora.spec import ModelDeployment
from modelmora_worker.engines import EngineInput, Outputs
from modelmora_worker.proving import problem_of, prove, test_input
from tests.support.manifests import manifest

test_input.__test__ = False  # type: ignore[attr-defined]  # its name, not a test


class Answering:
    """An engine that always gives the same answer, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[EngineInput] = []

    def infer(self, batch: list[EngineInput]) -> list[Any]:
        self.asked += batch
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in batch]


def deployment(**spec: Any) -> ModelDeployment:
    return ModelDeployment.parse(manifest(**spec))


VECTORS = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "is empty"),
        (None, "NoneType"),
        ({"embeddings": np.empty((0, 4))}, "is empty"),
        ({"embeddings": np.array([[np.nan]])}, "not finite"),
        ({"embeddings": np.array([[np.inf]])}, "not finite"),
        ({"text": ""}, "is empty"),
        ({"text": ["a", ""]}, "is empty"),
        ({"text": 3}, "of type int"),
        ({"text": [3]}, "cannot travel: output.text is a list of int"),
        ({"embeddings": np.array([object()])}, "cannot travel: output.embeddings has the dtype object"),
        (ValueError("no weights"), "ValueError: no weights"),
        (InvalidRequest("input.text is missing", field="input.text"), "input.text is missing"),
    ],
)
@pytest.mark.req("REQ-LIFE-009")
def test_an_unsound_answer_fails_the_model(answer: Any, says: str) -> None:
    with pytest.raises(HealthInferenceFailed, match=says) as caught:
        prove(Answering(answer), deployment())  # type: ignore[arg-type]
    assert caught.value.context.model_id == "org/minilm"


@pytest.mark.parametrize("answer", [{"embeddings": VECTORS}, {"text": "yes"}, {"n": np.array([0])}, {"image": b"png"}])
def test_a_sound_answer_is_sound(answer: Outputs) -> None:
    assert problem_of(answer, vector_size=None) is None


@pytest.mark.parametrize(("size", "sound"), [(4, True), (5, False)])
def test_the_vectors_have_the_declared_size(size: int, sound: bool) -> None:
    problem = problem_of({"embeddings": VECTORS}, vector_size=size)
    assert (problem is None) is sound
    assert sound or "vectorSize is 5" in str(problem)


def test_asks_what_the_deployment_says() -> None:
    health = {"inference": {"input": {"text": ["a", "b"], "x": [[1, 2.5]]}, "parameters": {"k": 1}}}
    engine = Answering({"embeddings": VECTORS})
    prove(engine, deployment(health=health))  # type: ignore[arg-type]
    [asked] = engine.asked
    assert asked.texts() == ["a", "b"]
    assert asked.parameters == {"k": 1}
    np.testing.assert_array_equal(asked.values["x"], np.array([[1, 2.5]], np.float32))


def test_a_task_of_ones_own_needs_an_input() -> None:
    own = deployment(model={"task": "my-task"}, runtime={"engine": "python:a:B"})
    with pytest.raises(HealthInferenceFailed) as caught:
        test_input(own)
    assert caught.value.context.field == "spec.health.inference.input"


@pytest.mark.parametrize("value", [[], {}, None, [[1], [1, 2]], ["a", 1]])
def test_an_input_that_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(HealthInferenceFailed) as caught:
        test_input(deployment(health={"inference": {"input": {"text": value}}}))
    assert caught.value.context.field == "spec.health.inference.input.text"
