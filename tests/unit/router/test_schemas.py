"""The bodies of REST: what is understood, and what is refused by which path."""

import base64
import json
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelmora.errors import InferenceFailed, InvalidRequest, MalformedRequest, PayloadTooLarge
from modelmora.spec import Priority
from modelmora.v1.types_pb2 import DATA_TYPE_BF16, Tensor, Value
from modelmora.wire.values import from_values, to_values
from modelmora_router.edges.schemas import (
    dump_json,
    inference_body,
    input_values,
    output_json,
    parameters_struct,
    priority_of,
)

PIXEL = base64.b64encode(b"\x89PNG").decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hello", ["hello"]),
        (["a", "ä"], ["a", "ä"]),
        ({"base64": PIXEL}, [b"\x89PNG"]),
        ([{"base64": PIXEL}] * 2, [b"\x89PNG"] * 2),
    ],
    ids=["text", "texts", "image", "images"],
)
def test_texts_and_images_are_understood(value: object, expected: object) -> None:
    assert from_values(input_values({"x": value})) == {"x": expected}


@pytest.mark.parametrize(
    ("value", "dtype"), [([[1, 2], [3, 4]], np.int64), ([[0.5, 1]], np.float32), ([True, False], np.bool_)]
)
def test_nested_lists_of_numbers_are_tensors(value: list[Any], dtype: type) -> None:
    array = from_values(input_values({"x": value}))["x"]
    assert isinstance(array, np.ndarray)
    assert array.dtype == dtype
    assert array.tolist() == value


@pytest.mark.req("RM-1.4d", "REQ-REG-003")
@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "input.x"),
        ([0.5, 1e39], "input.x"),
        ({"base64": PIXEL, "mediaType": 5}, "input.x[0]"),
        (json.loads("[" * 40 + "1" + "]" * 40), "input.x"),
        (json.loads("[" * 80 + "1" + "]" * 80), "input.x"),
        (7, "input.x"),
        (None, "input.x"),
        (True, "input.x"),
        ({"text": "a"}, "input.x"),
        (["a", 1], "input.x[1]"),
        ([[1, 2], [3]], "input.x"),
        ([1, "a"], "input.x"),
        ([10**30], "input.x"),
        ("\ud800", "input.x"),
        ({"base64": "&"}, "input.x[0].base64"),
        ({"base64": 1}, "input.x[0]"),
        ([{"base64": PIXEL}, "a"], "input.x[1]"),
    ],
    ids=repr,
)
def test_a_value_that_is_none_is_refused_by_its_path(value: object, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        input_values({"x": value})
    assert caught.value.context.field == field
    assert caught.value.context.remedy


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"input": NaN}', b'{"input": Infinity}', b'{"input": 1e999}', b"\xff", b"[" * 100_000, b"1" * 5000],
    ids=["empty", "cut", "NaN", "Infinity", "1e999", "not UTF-8", "deep", "long number"],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        inference_body(body)


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        inference_body(b'{"input": 3, "priorty": "HIGH", "timeoutSeconds": "soon"}')
    for field in ("input", "priorty", "timeoutSeconds"):
        assert field in caught.value.message


@pytest.mark.req("REQ-QUEUE-001a")
@pytest.mark.parametrize(
    ("given", "expected"),
    [("HIGH", Priority.HIGH), ("medium", Priority.NORMAL), (1, Priority.CRITICAL), (None, None)],
)
def test_a_priority_is_a_name_or_a_number(given: str | int | None, expected: Priority | None) -> None:
    assert priority_of(given) is expected


@pytest.mark.parametrize("given", ["URGENT", "", 0, 5])
def test_an_unknown_priority_is_refused(given: str | int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        priority_of(given)
    assert caught.value.context.field == "priority"


def test_parameters_with_half_a_surrogate_are_refused() -> None:
    assert parameters_struct({}) is None
    with pytest.raises(InvalidRequest) as caught:
        parameters_struct({"a": "\ud800"})
    assert caught.value.context.field == "parameters"


def test_parameters_with_a_number_beyond_those_of_json_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parameters_struct({"a": [10**400]})
    assert caught.value.context.field == "parameters"


def test_too_many_parameters_are_refused_before_they_become_a_message() -> None:
    with pytest.raises(PayloadTooLarge):
        parameters_struct({"a": [0] * 100_000})


def test_more_inputs_than_a_model_can_have_are_refused() -> None:
    body = json.dumps({"input": {f"input{number}": "a" for number in range(65)}}).encode()
    with pytest.raises(InvalidRequest) as caught:
        inference_body(body)
    assert caught.value.context.field == "input"


@pytest.mark.parametrize("value", [[1, "x" * 100_000, *"a" * 1000], [["x" * 100_000, *"a" * 1000]]])
def test_a_long_text_among_numbers_does_not_make_every_element_so_long(value: list[Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            input_values({"x": value})
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # it were 400 MB
    finally:
        tracemalloc.stop()


@pytest.mark.req("RM-1.4f")
def test_outputs_are_plain_json() -> None:
    output = to_values({"embeddings": np.array([[0.5]], dtype=np.float32), "text": ["ä"], "image": [b"\x89PNG"]})
    shown = json.loads(dump_json(output_json(output)))
    assert shown == {"embeddings": [[0.5]], "text": ["ä"], "image": [{"base64": PIXEL, "mediaType": ""}]}


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_output_that_json_cannot_say_is_an_error_not_invalid_json(number: float) -> None:
    with pytest.raises(InferenceFailed):
        dump_json(output_json(to_values({"x": np.array([number])})))


def test_an_output_of_a_type_that_numpy_lacks_is_numbers_too() -> None:
    shown = output_json(to_values({"x": np.array([[1.5], [-2]]).astype(ml_dtypes.bfloat16)}))
    assert dump_json(shown) == b'{"x":[[1.5],[-2.0]]}'


def test_an_output_that_contradicts_itself_is_an_error() -> None:
    with pytest.raises(InferenceFailed):
        output_json({"x": Value(tensor=Tensor(datatype=DATA_TYPE_BF16, shape=[1], data=b"\0"))})
