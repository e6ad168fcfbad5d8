from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from modelmora.errors import InferenceFailed, InternalError, InvalidRequest, ModelMoraError, PayloadTooLarge
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc
from modelmora_worker.entry import Done
from modelmora_worker.responses import Writer
from tests.support.entries import outputs_of

WRITER = Writer("m", 1_000_000)


def read(messages: list[bytes]) -> dict[int, worker_pb2.EntryResult]:
    responses = [worker_pb2.ProcessResponse.FromString(message) for message in messages]
    return {result.entry_id: result for response in responses for result in response.results}


def refusal(answer: Any) -> ModelMoraError:
    """What becomes of an answer, beside one that is good."""
    found = read(WRITER.write([Done(1, answer), Done(2, {"text": "good"})]))
    assert found[2].HasField("output")
    assert found[1].WhichOneof("kind") == "error"
    return from_rpc(found[1].error)


def test_a_batch_is_one_message_with_every_answer_as_it_was() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    done = [Done(7, {"e": array, "t": ["a", "b"]}, 1.5), Done(9, {"p": b"png"}), Done(8, InvalidRequest("no"))]
    messages = WRITER.write(done)
    assert len(messages) == 1
    found = read(messages)
    values = outputs_of(found[7])
    np.testing.assert_array_equal(np.asarray(values["e"]), array)
    assert values["t"] == ["a", "b"]
    assert outputs_of(found[9]) == {"p": [b"png"]}
    assert found[7].inference_ms == 1.5
    assert isinstance(from_rpc(found[8].error), InvalidRequest)


def test_what_is_too_large_together_goes_one_by_one() -> None:
    large = {"data": np.zeros(400_000, np.uint8)}
    messages = WRITER.write([Done(n, large) for n in range(3)])
    assert len(messages) == 3
    assert set(read(messages)) == {0, 1, 2}
    assert max(map(len, messages)) <= WRITER.max_message_bytes


def test_what_is_too_large_alone_fails_alone() -> None:
    found = read(WRITER.write([Done(1, {"data": np.zeros(1_000_000, np.uint8)}), Done(2, {"text": "good"})]))
    assert isinstance(from_rpc(found[1].error), PayloadTooLarge)
    assert found[2].HasField("output")


class Broken(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise OSError(name)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        yield "a"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        3,
        ["a"],
        {"a": object()},
        {"a": []},
        {"a": np.array([object()])},
        {"good": "x", "bad": 1},
        {1: "a"},
        {"\ud800": "a"},
        {"a": "\ud800"},
        Broken(),
    ],
    ids=[
        "nothing",
        "a number",
        "a list",
        "an object",
        "an empty list",
        "an array of objects",
        "a number beside",
        "a number as name",
        "a surrogate as name",
        "a surrogate",
        "a broken mapping",
    ],
)
def test_an_answer_that_cannot_travel_is_the_engines_fault_and_fails_alone(answer: Any) -> None:
    error = refusal(answer)
    assert isinstance(error, InferenceFailed)
    assert "cannot travel" in error.message
    assert error.context.remedy


def test_an_error_whose_text_is_no_unicode_is_an_error_all_the_same() -> None:
    assert isinstance(refusal(InvalidRequest("\ud800")), InternalError)
